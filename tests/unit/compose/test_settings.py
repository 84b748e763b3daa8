import time

import msgspec
import pytest

from pigeonry.compose.settings import DEFAULTS, check_pool, control_parameters, read_settings
from pigeonry.domain.errors import BadRequest
from pigeonry.domain.message import Options
from support.composing import sending_domain

NOW = 1_767_225_600.0


def test_a_request_without_settings_has_the_defaults() -> None:
    assert read_settings({"from": ["a"], "to": ["b"]}, now=NOW) is DEFAULTS


@pytest.mark.parametrize(
    ("text", "flag"),
    [("yes", True), ("True", True), ("1", True), (" on ", True), ("no", False), ("FALSE", False), ("0", False)],
)
def test_booleans_are_read_in_every_way_that_clients_write_them(text: str, flag: bool) -> None:
    settings = read_settings({"o:dkim": [text], "o:require-tls": [text], "o:skip-verification": [text]}, now=NOW)
    assert settings.options == Options(dkim=flag, require_tls=flag, skip_verification=flag)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("o:testmode", "perhaps"),
        ("o:deliverytime", "soon"),
        ("o:deliverytime", "nan"),
        ("o:deliverytime", "inf"),
        ("o:deliverytime", "-5"),
        ("o:deliverytime", str(NOW + 8 * 86_400)),
        ("o:tag", "x" * 129),
        ("o:tag", "é"),
        ("o:sending-ip", "192.0.2.1"),
        ("o:sending-ip-pool", "x" * 64),
        ("o:sending-ip-pool", "é"),
        ("o:archive-to", "https://example.org"),
        ("o:secondary-dkim", "a/b"),
        ("o:deliver-within", "1h"),
        ("template", "welcome"),
        ("h:X-Mailgun-Variables", "[1]"),
        ("h:X-Mailgun-Variables", "{"),
        ("h:X-Mailgun-Variables", "[" * 5_000),
        ("h:X-Mailgun-Variables", '{"a":' * 65 + "1" + "}" * 65),
        ("h:X-Mailgun-Variables", '{"a":[{"b":' * 500 + "1" + "}]}" * 500),
        ("h:X-Mailgun-Variables", '{"a":"\\ud800"}'),
        ("h:X-Mailgun-Variables", '{"a":NaN}'),
        ("h:X-Mailgun-Variables", '{"a":1e999}'),
        ("h:X-Mailgun-Drop-Message", "perhaps"),
    ],
)
def test_a_bad_or_impossible_setting_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_settings({name: [value]}, now=NOW)
    assert name.removeprefix("h:X-Mailgun-Drop-Message") in caught.value.text


@pytest.mark.parametrize(
    "name",
    [
        "o:tracking",
        "o:tracking-clicks",
        "o:tracking-opens",
        "o:time-zone-localize",
        "o:deliverytime-optimize-period",
        "o:new",
    ],
)
def test_niceties_and_unknown_options_have_no_effect(name: str) -> None:
    assert msgspec.structs.asdict(read_settings({name: ["yes"]}, now=NOW)) == msgspec.structs.asdict(DEFAULTS)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        (str(int(NOW) + 60), NOW + 60),
        (f"{NOW + 60.5}", NOW + 60.5),
        ("Thu, 01 Jan 2026 00:01:00 -0000", NOW + 60),
        ("Thu, 01 Jan 2026 00:01:00 GMT", NOW + 60),
        ("Thu, 01 Jan 2026 01:01:00 +0100", NOW + 60),
        ("Thu, 01 Jan 2026 00:00:00 +0000", 0.0),
        ("0", 0.0),
        (" ", 0.0),
        (str(NOW + 7 * 86_400), NOW + 7 * 86_400),
    ],
)
def test_delivery_times_are_epochs_or_dates_and_past_ones_mean_now(text: str, at: float) -> None:
    assert read_settings({"o:deliverytime": [text]}, now=NOW).deliver_at == at


def test_tags_are_told_apart_without_case_and_those_over_ten_are_dropped() -> None:
    tags = ["A", "a", " b ", "", *map(str, range(20))]
    assert read_settings({"o:tag": tags}, now=NOW).tags == ("A", "b", *map(str, range(8)))
    assert read_settings({"o:tag": ["x" * 128]}, now=NOW).tags == ("x" * 128,)


def test_options_are_together_at_most_16_kb() -> None:
    assert read_settings({"v:a": ["x" * 16_381]}, now=NOW).variables == {"a": "x" * 16_381}
    with pytest.raises(BadRequest, match="16 KB"):
        read_settings({"v:a": ["x" * 16_382]}, now=NOW)


def test_user_variables_are_cut_to_4_kb_in_events_and_stay_json() -> None:
    settings = read_settings({"v:a": ["x" * 2_000], "v:b": ["y" * 2_000], "v:c": ["z" * 2_000]}, now=NOW)
    cut = settings.event_variables()
    assert len(bytes(cut)) <= 4_096
    assert list(msgspec.json.decode(cut)) == ["a", "b"]


def test_control_headers_of_a_message_are_read_as_parameters() -> None:
    head = (
        b"From: a@b\r\nX-Mailgun-Tag: one\r\nx-mailgun-tag: two\r\nX-Mailgun-Drop-Message: yes\r\n"
        b'X-Mailgun-Variables: {"a":\r\n 1}\r\nX-Mailgun-Track: yes\r\nX-Mailgun-Deliver-By: 5\r\n'
    )
    assert control_parameters(head) == {
        "o:tag": ["one", "two"],
        "o:testmode": ["yes"],
        "h:X-Mailgun-Variables": ['{"a": 1}'],
        "o:deliverytime": ["5"],
    }


def test_variables_may_be_nested_as_deep_as_anybody_needs() -> None:
    document = '{"a":' * 64 + "1" + "}" * 64
    settings = read_settings({"h:X-Mailgun-Variables": [document]}, now=NOW)
    assert bytes(settings.event_variables()) == document.encode()


def test_a_date_without_a_known_zone_is_utc_wherever_the_server_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        settings = read_settings({"o:deliverytime": ["Thu, 01 Jan 2026 00:01:00 -0000"]}, now=NOW)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert settings.deliver_at == NOW + 60


def test_a_pool_may_be_named_only_where_the_domain_may_use_it() -> None:
    settings = read_settings({"o:sending-ip-pool": ["more"]}, now=NOW)
    assert settings.options.pool == "more"
    check_pool(settings, sending_domain(pool="own", pools=("more",)))
    check_pool(settings, sending_domain(pool="more"))
    check_pool(DEFAULTS, None)
    for domain in (sending_domain(pool="own"), None):
        with pytest.raises(BadRequest, match="o:sending-ip-pool was refused: the domain has no pool more"):
            check_pool(settings, domain)
