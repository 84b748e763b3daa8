import re
from email.utils import parsedate_to_datetime

from pigeonry.compose.identity import IdentitySource


def test_each_message_has_its_own_message_id_and_boundary(identities: IdentitySource) -> None:
    one, two = identities.make("example.org"), identities.make("example.org")
    assert re.fullmatch(r"20260101000000\.[0-9a-f]{16}@example\.org", one.message_id)
    assert one.message_id.partition("@")[0] != "" != two.message_id
    assert one.boundary.startswith(b"=_")


def test_date_and_trace_show_the_time_of_acceptance(identities: IdentitySource) -> None:
    identity = identities.make("example.org")
    assert identity.date == b"Thu, 01 Jan 2026 00:00:00 +0000"
    assert parsedate_to_datetime(identity.date.decode()).timestamp() == int(identity.now)
    assert re.fullmatch(
        rb"Received: by mx\.example\.net with HTTP id [0-9a-f]{24};\r\n Thu, 01 Jan 2026 00:00:00 \+0000\r\n",
        identity.received,
    )
