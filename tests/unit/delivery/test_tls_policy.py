"""What recipients' domains and hosts demand of TLS: nothing goes in clear that must not, and nothing is kept back for less."""

from __future__ import annotations

import copy

import pytest

from pigeonry.delivery.demand import ANY_TLS, NO_POLICY, DomainTls, combined
from pigeonry.delivery.policies import DomainPolicies
from pigeonry.domain.message import Options
from pigeonry.domain.outcome import Deferred, Delivered
from pigeonry.ports.network import DnsFailure, MailExchanger, TlsaAnswer
from pigeonry.protocol.tls.mta_sts import StsPolicy
from support.certificates import Certificate

TLS = ("PIPELINING", "STARTTLS")
EVER = (-20_000, 20_000)  # virtual time begins long ago
ROOT = Certificate("root", authority=True, days=EVER)
LEAF = Certificate("mx.to.test", issuer=ROOT, days=EVER)
GOOD = LEAF.tlsa(3, 1, 1).text()
BAD = ROOT.tlsa(3, 1, 1).text()
ENFORCED = StsPolicy("enforce", 86_400, ("mx.to.test",))


class Sts:
    """Policies from a table."""

    def __init__(self, **policies: StsPolicy) -> None:
        self.policies = {name.replace("_", "."): policy for name, policy in policies.items()}
        self.asked = 0

    async def policy(self, domain: str) -> StsPolicy | None:
        self.asked += 1
        return self.policies.get(domain)


def published(stage, *records, base="mx.to.test"):
    stage.names.tlsas["mx.to.test"] = TlsaAnswer(base, records)


def enforced(stage, policy=ENFORCED, *, authentic=False):
    stage.policies = DomainPolicies(stage.names, sts=Sts(to_test=policy))
    if authentic:
        stage.names.exchangers["to.test"] = (MailExchanger(10, "mx.to.test", authentic=True),)


def result(stage, **message):
    stage.deliver(stage.pending(**message))
    return stage.outcomes[1]


@pytest.mark.parametrize("record", [GOOD, ROOT.tlsa(2, 0, 1).text()])
def test_a_certificate_that_the_records_allow_counts_as_verified(stage, record):
    stage.site(offers=TLS, handshakes=["unverified"], chain=LEAF.chain)
    published(stage, record)
    found = result(stage, options=Options(require_tls=True))
    assert isinstance(found, Delivered)
    assert found.attempt.certificate_verified
    assert len(stage.servers) == 1


@pytest.mark.parametrize(
    "script",
    [
        {"offers": ("PIPELINING",)},
        {"offers": TLS, "replies": {"STARTTLS": b"454 4.7.0 not now"}},
        {"offers": TLS, "replies": {"STARTTLS": b"CUT"}},
        {"offers": TLS, "handshakes": [False]},
        {"offers": TLS, "chain": (ROOT.der,)},
        {"offers": TLS, "chain": ()},
    ],
    ids=["none offered", "refused", "cut", "handshake", "another certificate", "no certificate known"],
)
def test_where_records_are_nothing_goes_otherwise(stage, script):
    stage.site(**{"chain": LEAF.chain, **copy.deepcopy(script)})
    published(stage, GOOD)
    assert isinstance(result(stage), Deferred)
    assert stage.arrived == []


def test_a_host_that_fails_its_records_is_passed_over(stage):
    stage.site(offers=TLS, chain=LEAF.chain)
    published(stage, BAD)
    stage.site("other.test", "198.51.100.2", offers=TLS)
    stage.names.exchangers["to.test"] = (MailExchanger(10, "mx.to.test"), MailExchanger(20, "mx.other.test"))
    assert result(stage).attempt.mx_host == "mx.other.test"


def test_records_of_which_none_can_be_used_still_demand_encryption(stage):
    stage.site(offers=TLS, handshakes=["unverified", "unverified"])
    published(stage, "1 0 1 " + "ab" * 32)
    assert result(stage).attempt.tls


@pytest.mark.parametrize("script", [{"offers": ("PIPELINING",)}, {"offers": TLS, "handshakes": [False, False]}])
def test_and_nothing_goes_in_clear_there(stage, script):
    stage.site(**copy.deepcopy(script))
    published(stage, "1 0 1 " + "ab" * 32)
    assert isinstance(result(stage), Deferred)
    assert stage.arrived == []


def test_forged_records_keep_from_the_host(stage):
    stage.site(offers=TLS)
    stage.names.tlsas["mx.to.test"] = DnsFailure
    assert isinstance(result(stage), Deferred)
    assert stage.servers == []


def test_the_server_is_asked_for_the_name_that_the_records_stand_below(stage):
    leaf = Certificate("real.test", issuer=ROOT, days=EVER)
    stage.site(offers=TLS, chain=leaf.chain)
    published(stage, ROOT.tlsa(2, 0, 1).text(), base="real.test")
    assert isinstance(result(stage), Delivered)
    assert stage.servers[0].asked_for == "real.test"


def test_broken_tls_that_is_remembered_is_no_way_round_records(stage, run_dispatcher):
    script = stage.site(offers=TLS, handshakes=[False], chain=LEAF.chain)
    stage.names.exchangers["next.test"] = (MailExchanger(10, "mx.to.test"),)

    async def main() -> None:
        dispatcher = stage.dispatcher(messages_per_connection=1)
        async with run_dispatcher(dispatcher):
            dispatcher.dispatch(stage.pending())
            await stage.clock.sleep(5.0)
            published(stage, GOOD)
            dispatcher.dispatch(stage.pending("user@next.test"))
            await stage.clock.sleep(5.0)

    stage.play(main())
    assert [stage.outcomes[n].attempt.tls for n in (1, 2)] == [False, True]
    assert script.handshakes == []


def test_an_enforced_policy_is_met_by_a_host_that_it_names_with_a_certificate(stage):
    stage.site(offers=TLS)
    enforced(stage)
    found = result(stage)
    assert isinstance(found, Delivered)
    assert found.attempt.certificate_verified


@pytest.mark.parametrize(
    "script",
    [
        {"offers": ("PIPELINING",)},
        {"offers": TLS, "handshakes": ["unverified", "unverified"]},
        {"offers": TLS, "handshakes": [False, False]},
        {"offers": TLS, "replies": {"STARTTLS": b"454 4.7.0 not now"}},
    ],
    ids=["none offered", "certificate", "handshake", "refused"],
)
@pytest.mark.parametrize("options", [Options(), Options(require_tls=False), Options(skip_verification=True)])
def test_what_does_not_meet_an_enforced_policy_gets_nothing(stage, script, options):
    stage.site(**copy.deepcopy(script))
    enforced(stage)
    assert isinstance(result(stage, options=options), Deferred)
    assert stage.arrived == []


def test_a_host_that_an_enforced_policy_does_not_name_is_not_even_asked(stage):
    stage.site(offers=TLS)
    enforced(stage, StsPolicy("enforce", 86_400, ("other.test",)))
    assert isinstance(result(stage), Deferred)
    assert stage.servers == []


@pytest.mark.parametrize("mode", ["testing", "none"])
def test_a_policy_that_is_not_enforced_keeps_nothing_back(stage, mode):
    stage.site(offers=("PIPELINING",))
    enforced(stage, StsPolicy(mode, 86_400, ("other.test",)))
    assert isinstance(result(stage), Delivered)


def test_records_go_before_a_policy_where_the_whole_way_is_authentic(stage):
    stage.site(offers=TLS, handshakes=["unverified"], chain=LEAF.chain)
    published(stage, GOOD)
    enforced(stage, StsPolicy("enforce", 86_400, ("other.test",)), authentic=True)
    assert isinstance(result(stage), Delivered)


def test_a_policy_is_no_way_round_records(stage):
    stage.site(offers=TLS, chain=LEAF.chain)
    published(stage, BAD)
    enforced(stage, authentic=True)
    assert isinstance(result(stage), Deferred)


@pytest.mark.parametrize(("handshakes", "outcome"), [(["unverified"], Deferred), ([True], Delivered)])
def test_both_must_be_met_where_the_way_to_the_host_is_not_authentic(stage, handshakes, outcome):
    stage.site(offers=TLS, handshakes=handshakes, chain=LEAF.chain)
    published(stage, GOOD)
    enforced(stage)
    assert isinstance(result(stage), outcome)


def test_domains_of_one_site_each_keep_to_their_own_policy(stage):
    """They share the connection as long as it will do for the next message."""
    stage.site(offers=TLS, handshakes=["unverified", "unverified", True])
    for domain in ("plain.test", "last.test"):
        stage.names.exchangers[domain] = stage.names.exchangers["to.test"]
    enforced(stage)
    pendings = [stage.pending("a@plain.test"), stage.pending("b@to.test"), stage.pending("c@last.test")]
    stage.deliver(*pendings, connections_per_path=1)
    assert [stage.outcomes[n].attempt.certificate_verified for n in (1, 2, 3)] == [False, True, True]
    assert len(stage.servers) == 3


@pytest.mark.parametrize(
    ("table", "outcome"),
    [
        ({"to.test": "encrypt"}, Deferred),
        ({"*.test": "encrypt"}, Deferred),
        ({"*": "verify"}, Deferred),
        ({"*.to.test": "verify"}, Delivered),
        ({"other.test": "verify"}, Delivered),
    ],
)
def test_configuration_demands_tls_of_domains(stage, table, outcome):
    stage.site(offers=("PIPELINING",))
    stage.policies = DomainPolicies(stage.names, required=table)
    assert isinstance(result(stage), outcome)


@pytest.mark.parametrize(("level", "outcome"), [("encrypt", Delivered), ("verify", Deferred)])
def test_configuration_says_whether_any_certificate_will_do(stage, level, outcome):
    stage.site(offers=TLS, handshakes=["unverified", "unverified"])
    stage.policies = DomainPolicies(stage.names, required={"to.test": level})
    assert isinstance(result(stage), outcome)


def test_what_was_dropped_for_want_of_room_is_learnt_before_a_message_goes(stage):
    stage.site(offers=("PIPELINING",))
    stage.site("other.test", "198.51.100.2")
    sts = Sts(to_test=ENFORCED)
    stage.policies = DomainPolicies(stage.names, sts=sts, domains_max=1)
    stage.deliver(stage.pending("a@other.test"), stage.pending(), stage.pending("a@other.test"), stage.pending())
    assert [type(stage.outcomes[n]) for n in (1, 2, 3, 4)] == [Delivered, Deferred, Delivered, Deferred]


def test_a_domain_that_wants_nothing_costs_no_struct_of_its_own(stage):
    stage.site()
    stage.policies = DomainPolicies(stage.names, sts=Sts())
    stage.deliver(stage.pending())
    assert stage.policies.known("user@to.test") is NO_POLICY
    assert combined(ANY_TLS, NO_POLICY) is ANY_TLS
    assert combined(ANY_TLS, DomainTls("to.test", authentic=True)) is not ANY_TLS
