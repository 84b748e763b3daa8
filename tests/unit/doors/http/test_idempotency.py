import msgspec
import pytest

from pigeonry.domain.errors import StoreBusy, StoreInDoubt
from support.http_door import World, multipart

KEY = {"idempotency-key": "order-17"}


async def test_the_same_request_again_gets_the_same_answer_and_sends_nothing(world: World) -> None:
    first = await world.post({}, headers=KEY)
    again = await world.post({}, headers=KEY)
    assert first.status == again.status == 200
    assert first.body == again.body
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert len(world.store.accepted) == 1
    record = world.store.accepted[0].idempotency
    assert record is not None
    assert record.response == first.body
    assert record.expires_at == 1_767_225_600.5 + 86_400
    assert world.coordinator.held == {}


async def test_other_content_under_the_same_key_is_422(world: World) -> None:
    await world.post({}, headers=KEY)
    answer = await world.post({"text": "other"}, headers=KEY)
    assert answer.status == 422
    assert len(world.store.accepted) == 1
    assert world.coordinator.held == {}


async def test_a_request_that_runs_is_409_for_a_second(world: World) -> None:
    await world.post({}, headers=KEY)
    record = world.store.accepted[0].idempotency
    assert record is not None
    await world.coordinator.acquire(f"idem:{record.scope.hex()}", owner="another", ttl_s=60)
    answer = await world.post({}, headers=KEY)
    assert answer.status == 409
    assert answer.headers["retry-after"] == "1"


async def test_a_key_holds_in_its_domain_only(world: World) -> None:
    await world.post({}, headers=KEY)
    await world.post({"from": "a@second.example"}, domain="second.example", headers=KEY)
    assert len(world.store.accepted) == 2


async def test_a_key_is_not_answered_from_what_the_owner_before_had_asked(world: World) -> None:
    await world.post({}, headers=KEY)
    domains = world.domains.domains
    domains["example.org"] = msgspec.structs.replace(domains["example.org"], account="other")
    answer = await world.post({}, headers=KEY, key="key-other")
    assert answer.status == 200
    assert "idempotent-replayed" not in answer.headers
    assert len(world.store.accepted) == 2


async def test_a_request_that_failed_leaves_its_key_free(world: World) -> None:
    assert (await world.post({"to": "nonsense"}, headers=KEY)).status == 400
    world.store.fails = StoreBusy("Not in time.")
    assert (await world.post({}, headers=KEY)).status == 503
    world.store.fails = None
    assert (await world.post({"text": "other"}, headers=KEY)).status == 200
    assert world.coordinator.held == {}


async def test_a_request_in_doubt_keeps_its_key_until_what_was_stored_is_void(world: World) -> None:
    world.store.fails = StoreInDoubt("Not confirmed in time.")
    assert (await world.post({}, headers=KEY)).status == 503
    world.store.fails = None
    assert (await world.post({}, headers=KEY)).status == 409
    world.coordinator.held.clear()  # its time is over
    assert (await world.post({}, headers=KEY)).status == 200


async def test_another_boundary_is_no_other_content(world: World) -> None:
    fields: dict[str, str | list[str]] = {"from": "al@example.org", "to": "bo@example.com", "subject": "s", "text": "t"}
    for boundary, size in (("one", 10_000), ("two", 77)):
        body, headers = multipart(fields, [("attachment", "a", "", b"x" * 200)], boundary)
        chunks = [body[n : n + size] for n in range(0, len(body), size)]
        answer = await world.ask("POST", "/v3/example.org/messages", chunks, headers={**headers, **KEY})
        assert answer.status == 200
    body, headers = multipart(fields, [("attachment", "a", "", b"x" * 199 + b"y")])
    assert (await world.ask("POST", "/v3/example.org/messages", body, headers={**headers, **KEY})).status == 422
    assert len(world.store.accepted) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "with blank", "\u00e9", "a\x7f"])
async def test_a_key_that_is_none_is_refused(world: World, key: str) -> None:
    answer = await world.post({}, headers={"idempotency-key": key})
    assert answer.status == 400
    assert "Idempotency-Key" in answer.json["message"]


async def test_a_key_whose_door_died_is_free_once_what_it_stored_is_known(world: World) -> None:
    await world.post({}, headers=KEY)
    record = world.store.accepted[0].idempotency
    assert record is not None
    assert record.place == "1/1"
    world.store.accepted.clear()
    await world.coordinator.acquire(f"idem:{record.scope.hex()}", owner="dead@2/7", ttl_s=60)
    assert (await world.post({}, headers=KEY)).status == 409
    world.store.over.add("2/7")
    assert (await world.post({}, headers=KEY)).status == 200
    assert world.coordinator.held == {}


async def test_a_key_of_a_door_that_names_no_place_is_kept_to_its_end(world: World) -> None:
    world.store.over.add("")
    await world.post({}, headers=KEY)
    record = world.store.accepted[0].idempotency
    assert record is not None
    await world.coordinator.acquire(f"idem:{record.scope.hex()}", owner="dead@", ttl_s=60)
    assert (await world.post({}, headers=KEY)).status == 409
