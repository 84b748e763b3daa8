from __future__ import annotations

import pytest

from pigeonry.delivery.classify import reason_of
from pigeonry.domain.reply import EnhancedStatus, Reply


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(450, "Greylisted, come back", EnhancedStatus(2, 0)), "greylisted"),
        (Reply(451, "recipient is graylisted"), "greylisted"),
        (Reply(421, "too many messages from your IP"), "espblock"),
        (Reply(452, "mailbox full", EnhancedStatus(2, 2)), "generic"),
        (Reply(550, "no such user", EnhancedStatus(1, 1)), "bounce"),
        (Reply(550, "no such user"), "bounce"),
        (Reply(550, "policy", EnhancedStatus(7, 1)), "espblock"),
        (Reply(554, "Service unavailable; blocked using zen.spamhaus.org"), "blacklisted"),
        (Reply(554, "looks like spam"), "espblock"),
    ],
)
def test_reason_is_chosen_by_status_and_words(reply, reason):
    assert reason_of(reply) == reason
