import errno

import apsw
import pytest

from pigeonry.stores.sqlite import failure


def error(extended: int) -> apsw.Error:
    raised = apsw.Error()
    raised.extendedresult = extended
    return raised


@pytest.mark.parametrize("code", [apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC, apsw.SQLITE_CORRUPT])
def test_a_failed_sync_and_what_is_not_understood_is_uncertain(code: int) -> None:
    assert failure.uncertain(error(code))


@pytest.mark.parametrize("code", [apsw.SQLITE_FULL, apsw.SQLITE_IOERR_WRITE, apsw.SQLITE_BUSY, apsw.SQLITE_NOMEM])
def test_what_was_never_written_is_certain(code: int) -> None:
    assert not failure.uncertain(error(code))


def test_a_segment_that_could_not_be_written_is_certain_and_counts_as_no_space() -> None:
    no_space = OSError(errno.ENOSPC, "No space left on device")
    assert not failure.uncertain(no_space)
    assert failure.full(no_space)


def test_no_space_is_known_with_and_without_a_result_code() -> None:
    assert failure.full(error(apsw.SQLITE_FULL))
    assert failure.full(apsw.FullError("database or disk is full"))
    assert not failure.uncertain(apsw.FullError("database or disk is full"))
    assert not failure.full(error(apsw.SQLITE_BUSY))


def test_a_failed_sync_is_told_from_all_else() -> None:
    assert failure.unsynced(error(apsw.SQLITE_IOERR_FSYNC))
    assert not failure.unsynced(error(apsw.SQLITE_FULL))
    assert not failure.unsynced(OSError(errno.ENOSPC, "No space left on device"))
