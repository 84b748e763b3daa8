import pytest

from pigeonry.admission.gate import Gate
from pigeonry.domain.errors import Overloaded, TooLarge
from pigeonry.domain.tenant import SendingDomain


class Store:
    reason: str | None = None

    def reason_to_shed(self) -> str | None:
        return self.reason


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def gate(store: Store) -> Gate:
    return Gate(store, in_flight_octets_max=100, message_octets_max=60)  # type: ignore[arg-type]


def test_octets_in_flight_are_bounded_to_the_octet(gate: Gate) -> None:
    gate.enter(60)
    gate.enter(40)
    with pytest.raises(Overloaded) as caught:
        gate.enter(1)
    assert caught.value.retry_after_s
    gate.leave(40)
    gate.enter(40)
    assert gate.in_flight_octets == 100


def test_a_message_over_its_own_limit_is_too_large_and_takes_no_room(gate: Gate) -> None:
    with pytest.raises(TooLarge):
        gate.enter(61)
    assert gate.in_flight_octets == 0


def test_a_store_that_sheds_lets_nothing_in(gate: Gate, store: Store) -> None:
    store.reason = "the queue is long"
    with pytest.raises(Overloaded) as caught:
        gate.enter(1)
    assert "queue" not in caught.value.text
    store.reason = None
    gate.enter(1)
    assert gate.in_flight_octets == 1


def test_a_disabled_domain_may_not_send(gate: Gate) -> None:
    domain = SendingDomain(id="0", name="d.example", account="a", created_at=0.0, state="disabled")
    refusal = gate.refusal(domain)
    assert refusal is not None
    assert "d.example is not allowed to send" in refusal.text
    assert gate.refusal(SendingDomain(id="0", name="d", account="a", created_at=0.0)) is None
