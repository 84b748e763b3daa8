"""However a limit is asked for, what is granted never adds up to more than it, and what is dealt is fair."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pigeonry.ports.quota import Ask
from pigeonry.quota.negotiation import Pot, deal, decode_pot, encode_pot, negotiated

WEIGHTS = st.sampled_from([0.5, 1.0, 2.0, 7.0, 100.0])


@given(st.integers(0, 60), st.lists(st.tuples(st.integers(0, 40), WEIGHTS), max_size=8))
@settings(max_examples=300, deadline=None)
def test_what_is_dealt_is_all_there_is_nobodys_more_than_wanted_and_fair(units: int, wants: list[tuple[int, float]]):
    targets = deal(units, wants)
    assert sum(targets) == min(units, sum(want for want, _ in wants))
    assert all(0 <= target <= want for target, (want, _) in zip(targets, wants, strict=True))
    asking = [place for place, (want, _) in enumerate(wants) if want]
    if units >= len(asking):
        assert all(targets[place] for place in asking)
    else:
        assert [targets[place] for place in asking] == [1] * units + [0] * (len(asking) - units)
    for one in asking:
        for other in asking:
            if targets[one] < wants[one][0] and targets[other] > 1:  # who lacks some, and who has more than its first
                assert targets[other] / wants[other][1] <= (targets[one] + 1) / wants[one][1] + 1e-9


class Members(RuleBasedStateMachine):
    """Members who keep their word, over answers that may be lost; sessions that are over; limits that change."""

    def __init__(self) -> None:
        super().__init__()
        self.pot: Pot = ()
        self.limit = 12
        self.uses: dict[str, int] = {}  # what each may use, as it knows itself
        self.claims: dict[str, int] = {}  # what it says it keeps: what was begun may last longer than its session
        self.safe: dict[str, int] = {}
        self.over: set[str] = set()
        self.gone: set[str] = set()

    @rule(
        session=st.sampled_from("abc"),
        keep=st.integers(0, 12),
        want=st.integers(0, 15),
        weight=WEIGHTS,
        yields=st.booleans(),
        lost=st.booleans(),
    )
    def ask(self, session: str, *, keep: int, want: int, weight: float, yields: bool, lost: bool) -> None:
        former: set[str] = set()
        if session in self.over | self.gone:
            former, fresh = {session}, session + "'"
            if fresh in self.over | self.gone | self.uses.keys():
                return
            for known in (self.uses, self.safe, self.claims):
                known[fresh] = known.pop(session, 0)
            session = fresh
        keep = self.claims[session] = min(keep, self.claims.get(session, 0))
        self.uses[session] = min(keep, self.uses.get(session, 0))
        safe = self.safe[session] = min(keep, self.safe.get(session, 0))
        ask = Ask("x", self.limit, keep, want, safe, weight, yields)
        over, gone = self.over - former, self.gone - former
        pot, grant, _ = negotiated(self.pot, session, ask, former=former, over=over, gone=gone)
        self.pot = decode_pot(encode_pot(pot))
        if not lost:
            self.uses[session] = self.claims[session] = grant.units
            self.safe[session] = grant.safe
        assert sum(holding.granted for holding in self.pot) <= 12

    @rule(session=st.sampled_from("abc"))
    def end(self, session: str) -> None:
        """A session goes without attending: it uses its safe share from now on."""
        if session in self.uses and session not in self.gone:
            self.uses[session] = min(self.uses[session], self.safe[session])
            self.over.add(session)

    @rule(session=st.sampled_from("abc"))
    def forget(self, session: str) -> None:
        if session in self.over:
            self.over.remove(session)
            self.gone.add(session)
            self.uses[session] = self.safe[session] = 0

    @rule(limit=st.integers(1, 12))
    def change(self, limit: int) -> None:
        self.limit = limit

    @invariant()
    def never_more_than_the_limit(self) -> None:
        assert sum(self.uses.values()) <= 12


TestMembers = Members.TestCase
TestMembers.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
