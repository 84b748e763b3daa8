"""What must be there before a node or a command opens a data folder: the folder, and its seal key.

A seal key is made together with a new data folder and never again: a key made later could not open what was sealed
before, and would hide that the right one is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pigeonry.domain.errors import Conflict
from pigeonry.net.disk import LocalDisk
from pigeonry.net.environment import SystemIds
from pigeonry.net.sealing import SealKeyError, load_seal, make_seal_key

if TYPE_CHECKING:
    from pigeonry.ports.disk import FileLock

__all__ = ["COORDINATOR_FILE", "DIRECTORY_FILE", "IDENTITY_FILE", "claim", "prepare"]

COORDINATOR_FILE: Final = "coordinator.db"
DIRECTORY_FILE: Final = "directory.db"
IDENTITY_FILE: Final = "identity.db"


def prepare(data: str, seal_key: str) -> None:
    """Make a new installation's folder and seal key; check an old one's.

    Raises:
        SealKeyError: The key is missing, unreadable or open to others; or it cannot be made.
    """
    folder = Path(data)
    new = not (folder / DIRECTORY_FILE).exists()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SealKeyError(f"The data folder {folder} cannot be made: {error.strerror}.") from None
    if new and not Path(seal_key).exists():
        make_seal_key(Path(seal_key), SystemIds())
        return
    load_seal(Path(seal_key))


def claim(folder: str) -> FileLock:
    """The right to run on a folder; it ends with this process.

    Raises:
        Conflict: Another process has it.
    """
    lock = LocalDisk(folder).lock(f"{folder}/lock")
    if lock is None:
        raise Conflict(f"{folder} is in use by another process.")
    return lock
