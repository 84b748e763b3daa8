from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pigeonry.capture.box import Box, Captured


class HereAndNow:
    """A lane that runs work where it stands."""

    async def run(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        return work(*args, **kwargs)

    def close(self) -> None:
        return


def mail(subject: str = "s") -> Captured:
    return Captured(0, 12.5, "a@x.test", ("b@y.test", "c@y.test"), "id@x.test", "A <a@x.test>", "b@y.test", subject, 0)


@pytest.fixture
async def box(tmp_path: Path) -> Box:
    made = Box(str(tmp_path / "inbox.db"), HereAndNow(), messages_max=3, octets_max=100)
    await made.open()
    return made


async def test_what_was_put_is_there_after_opening_again(tmp_path: Path, box: Box) -> None:
    number = await box.put(mail(), b"octets")
    again = Box(str(tmp_path / "inbox.db"), HereAndNow())
    await again.open()
    found = await again.get(number)
    assert found is not None
    assert found[0].forward_paths == ("b@y.test", "c@y.test")
    assert found[1] == b"octets"
    await again.close()
    await box.close()


async def test_the_oldest_make_room_for_the_newest(box: Box) -> None:
    for number in range(5):
        await box.put(mail(str(number)), b"x")
    assert [found.subject for found in await box.newest()] == ["4", "3", "2"]
    await box.put(mail("large"), b"x" * 99)
    assert [found.subject for found in await box.newest()] == ["large", "4"]
    await box.put(mail("too large"), b"x" * 200)
    assert [found.subject for found in await box.newest()] == ["too large"]
    await box.close()


async def test_pages_go_back_in_time(box: Box) -> None:
    for number in range(3):
        await box.put(mail(str(number)), b"x")
    newest = await box.newest(limit=1)
    assert [found.subject for found in await box.newest(before=newest[0].id)] == ["1", "0"]
    await box.close()


async def test_ids_go_on_rising_after_all_was_forgotten(box: Box) -> None:
    first = await box.put(mail(), b"x")
    await box.clear()
    assert await box.newest() == []
    assert await box.put(mail(), b"x") > first
    await box.close()


async def test_a_try_is_the_first_once(box: Box) -> None:
    assert await box.first_try(b"k")
    assert not await box.first_try(b"k")
    assert await box.first_try(b"k")
    assert await box.first_try(b"other")
    await box.close()
