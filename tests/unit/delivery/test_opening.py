"""Hosts, addresses and TLS: which connection a message gets."""

from __future__ import annotations

import pytest

from pigeonry.domain.message import Options
from pigeonry.domain.outcome import Deferred, Delivered, Refused
from pigeonry.domain.tenant import SendingDomain
from pigeonry.ports.network import DnsFailure, MailExchanger

TLS = ("PIPELINING", "STARTTLS")


def two_hosts(stage, **first):
    """to.test with mx1 (as the script says) and mx2 (good)."""
    stage.names.exchangers["to.test"] = (MailExchanger(10, "mx1.to.test"), MailExchanger(20, "mx2.to.test"))
    script = stage.site("mx1only.test", "198.51.100.1", **first)
    stage.names.hosts["mx1.to.test"] = ("198.51.100.1",)
    stage.site("mx2only.test", "198.51.100.2")
    stage.names.hosts["mx2.to.test"] = ("198.51.100.2",)
    return script


@pytest.mark.parametrize(
    "first",
    [
        {"refuse": True},
        {"replies": {"GREETING": b"554 no service"}},
        {"replies": {"GREETING": b"421 busy"}},
        {"replies": {"GREETING": b"CUT"}},
        {"replies": {"EHLO": b"CUT"}},
        {"replies": {"EHLO": b"421 busy"}},
        {"replies": {"GREETING": b"HTTP/1.1 400"}},
        {"replies": {"MAIL": b"550 5.7.1 not you"}},
    ],
)
def test_next_host_is_tried_within_the_attempt(stage, first):
    two_hosts(stage, **first)
    stage.deliver(stage.pending())
    assert isinstance(stage.outcomes[1], Delivered)
    assert stage.outcomes[1].attempt.mx_host == "mx2.to.test"


def test_sender_refused_by_all_hosts_is_refused(stage):
    two_hosts(stage, replies={"MAIL": b"550 5.7.1 not you"})
    stage.scripts["198.51.100.2"].replies = {"MAIL": b"550 5.7.1 nor here"}
    stage.deliver(stage.pending())
    assert isinstance(stage.outcomes[1], Refused)
    assert stage.outcomes[1].reply.text == "nor here"


def test_next_address_of_a_host_is_tried(stage):
    stage.site("to.test", "198.51.100.1", refuse=True)
    stage.scripts["198.51.100.2"] = type(stage.scripts["198.51.100.1"])()
    stage.names.hosts["mx.to.test"] = ("198.51.100.1", "198.51.100.2")
    stage.deliver(stage.pending())
    assert isinstance(stage.outcomes[1], Delivered)


@pytest.mark.parametrize(("answers", "outcome"), [(12, Delivered), (13, Deferred)])
def test_number_of_addresses_tried_of_a_host_is_bounded(stage, answers, outcome):
    script = stage.site("to.test", "198.51.100.9")
    stage.names.hosts["mx.to.test"] = tuple(f"198.51.100.{n}" for n in range(10, 20))
    stage.scripts[f"198.51.100.{answers}"] = script
    stage.deliver(stage.pending())
    assert isinstance(stage.outcomes[1], outcome)


@pytest.mark.parametrize(("good", "outcome"), [(1, Delivered), (2, Delivered), (3, Deferred)])
def test_dead_addresses_of_the_first_host_do_not_keep_from_the_next(stage, good, outcome):
    script = stage.site("other.test", "198.51.100.9")
    stage.names.exchangers["to.test"] = tuple(MailExchanger(10 * n, f"mx{n}.to.test") for n in range(4))
    for n in range(4):
        stage.names.hosts[f"mx{n}.to.test"] = tuple(f"198.51.100.{100 + 10 * n + each}" for each in range(6))
    stage.scripts[f"198.51.100.{100 + 10 * good}"] = script
    stage.deliver(stage.pending())
    assert isinstance(stage.outcomes[1], outcome)


def test_host_without_address_is_deferred_as_not_found(stage):
    stage.site()
    stage.names.hosts["mx.to.test"] = DnsFailure
    stage.deliver(stage.pending())
    assert isinstance(stage.outcomes[1], Deferred)
    assert stage.outcomes[1].code == 498


def test_tls_is_used_where_offered_and_forgets_what_came_before(stage):
    stage.site(offers=TLS)
    stage.deliver(stage.pending())
    attempt = stage.outcomes[1].attempt
    assert attempt.tls
    assert attempt.certificate_verified
    assert stage.servers[0].commands.count(b"EHLO me.test") == 2


def test_octets_injected_before_tls_are_not_believed(stage):
    stage.site(offers=TLS, replies={"STARTTLS": b"220 go\r\n250-evil\r\n250 SIZE 1"})
    stage.deliver(stage.pending())
    assert isinstance(stage.outcomes[1], Delivered)


def test_unverified_certificate_still_encrypts_and_is_reported(stage):
    stage.site(offers=TLS, handshakes=["unverified", "unverified"])
    stage.deliver(stage.pending())
    assert isinstance(stage.outcomes[1], Delivered)
    assert stage.outcomes[1].attempt.tls
    assert not stage.outcomes[1].attempt.certificate_verified
    assert len(stage.servers) == 2


def test_broken_tls_falls_back_to_clear_and_is_remembered(stage):
    script = stage.site(offers=TLS, handshakes=[False])
    stage.deliver(stage.pending(), messages_per_connection=1)
    assert isinstance(stage.outcomes[1], Delivered)
    assert not stage.outcomes[1].attempt.tls
    assert script.handshakes == []
    assert len(stage.servers) == 2


@pytest.mark.parametrize("where", ["STARTTLS", "EHLO over TLS"])
def test_a_server_that_drops_who_asks_for_tls_is_spoken_to_in_clear(stage, where):
    stage.site(offers=TLS, handshakes=[True], replies={where: b"CUT"})
    stage.deliver(stage.pending())
    assert isinstance(stage.outcomes[1], Delivered)
    assert not stage.outcomes[1].attempt.tls


@pytest.mark.parametrize("where", ["STARTTLS", "EHLO over TLS"])
def test_a_server_that_drops_who_asks_for_tls_gets_nothing_that_requires_it(stage, where):
    stage.site(offers=TLS, handshakes=[True], replies={where: b"CUT"})
    stage.deliver(stage.pending(options=Options(require_tls=True)))
    assert isinstance(stage.outcomes[1], Deferred)
    assert stage.arrived == []


def test_refused_starttls_goes_on_in_clear(stage):
    stage.site(offers=TLS, replies={"STARTTLS": b"454 4.7.0 not now"})
    stage.deliver(stage.pending())
    assert isinstance(stage.outcomes[1], Delivered)
    assert len(stage.servers) == 1


@pytest.mark.parametrize(
    "script",
    [
        {"offers": ("PIPELINING",)},
        {"offers": TLS, "handshakes": [False, False]},
        {"offers": TLS, "handshakes": ["unverified", "unverified"]},
        {"offers": TLS, "replies": {"STARTTLS": b"454 4.7.0 not now"}},
    ],
)
def test_message_that_requires_tls_never_goes_in_clear(stage, script):
    stage.site(**script)
    stage.deliver(stage.pending(options=Options(require_tls=True)))
    assert isinstance(stage.outcomes[1], Deferred)
    assert stage.arrived == []


def test_any_certificate_will_do_when_verification_is_skipped(stage):
    stage.site(offers=TLS, handshakes=["unverified", "unverified"])
    stage.deliver(stage.pending(options=Options(require_tls=True, skip_verification=True)))
    assert isinstance(stage.outcomes[1], Delivered)
    assert stage.outcomes[1].attempt.tls


def test_domain_settings_stand_in_for_options_not_given(stage):
    stage.site(offers=("PIPELINING",))
    stage.domains["send.test"] = SendingDomain("id", "send.test", "acct", 0.0, require_tls=True)
    stage.deliver(stage.pending(), stage.pending(options=Options(require_tls=False)))
    assert isinstance(stage.outcomes[1], Deferred)
    assert isinstance(stage.outcomes[2], Delivered)


def test_a_certificate_that_is_remembered_as_bad_is_looked_at_again_when_it_must_verify(stage):
    stage.site(offers=TLS, handshakes=["unverified", "unverified", "unverified"])
    stage.deliver(stage.pending(), stage.pending(options=Options(require_tls=True)), connections_per_path=1)
    assert isinstance(stage.outcomes[1], Delivered)
    assert isinstance(stage.outcomes[2], Deferred)
    assert len(stage.arrived) == 1


def test_connection_in_clear_is_not_reused_for_a_message_that_requires_tls(stage):
    stage.site(offers=TLS, handshakes=[False])
    stage.deliver(
        stage.pending(), stage.pending(options=Options(require_tls=True)), stage.pending(), connections_per_path=1
    )
    assert [stage.outcomes[n].attempt.tls for n in (1, 2)] == [False, True]
    assert all(isinstance(outcome, Delivered) for outcome in stage.outcomes.values())
