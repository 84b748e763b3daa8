from __future__ import annotations

import msgspec

from pigeonry.domain.event import Reject, Rejected, decode_event, encode_event
from pigeonry.events.show import show, splice
from support.events import T0, accepted, delivered

BASE = "https://api.example:8443"


def test_what_is_ours_alone_is_taken_out_and_the_url_put_in():
    event = show(accepted(1, T0), base_url=BASE)
    assert "domain" not in event
    assert "account" not in event
    assert event["storage"] == {"key": "k" * 22, "url": f"{BASE}/v3/domains/mail.example/messages/{'k' * 22}"}
    assert event["message"]["headers"]["message-id"] == "1@mail.example"


def test_order_of_keys_is_that_of_the_log():
    logged = list(msgspec.json.decode(accepted(1, T0)))
    shown = list(splice(accepted(1, T0), base_url=BASE))
    assert shown == [key for key in logged if key not in {"domain", "account"}]


def test_domain_of_the_recipient_is_added_where_the_log_has_none():
    assert show(accepted(1, T0, recipient="a@b@there.example"), base_url=BASE)["recipient-domain"] == "there.example"
    known = delivered(1, T0, recipient_domain="known.example")
    assert show(known, base_url=BASE)["recipient-domain"] == "known.example"


def test_timestamp_keeps_its_microseconds_and_variables_every_digit():
    variables = b'{"n":123456789012345678901234567890,"x":1e400,"y":0.10}'
    event = msgspec.structs.replace(decode_event(accepted(1, 1521243339.873676)), user_variables=msgspec.Raw(variables))
    octets = msgspec.json.encode(splice(encode_event(event), base_url=BASE))
    assert b'"timestamp":1521243339.873676,' in octets
    assert variables in octets


def test_event_without_a_stored_message_has_no_url():
    rejected = Rejected(
        id="r",
        timestamp=T0,
        domain="mail.example",
        account="acc",
        message=decode_event(accepted(1, T0)).message,
        reject=Reject("quota"),
    )
    event = show(encode_event(rejected), base_url=BASE)
    assert "storage" not in event
    assert event["reject"] == {"reason": "quota"}
