"""What must be there before a node or a command opens a data folder: the folder, and its seal key.

A seal key is made together with a new data folder and never again: a key made later could not open what was sealed
before, and would hide that the right one is missing.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pigeonry.domain.errors import Conflict
from pigeonry.net.disk import LocalDisk
from pigeonry.net.environment import SystemIds
from pigeonry.net.sealing import load_seal, make_seal_key

if TYPE_CHECKING:
    from pigeonry.ports.disk import FileLock

__all__ = [
    "COORDINATOR_FILE",
    "DIRECTORY_FILE",
    "IDENTITY_FILE",
    "QUOTA_FILE",
    "RATES_FILE",
    "FolderUnusable",
    "check_owner",
    "claim",
    "prepare",
]

COORDINATOR_FILE: Final = "coordinator.db"
DIRECTORY_FILE: Final = "directory.db"
IDENTITY_FILE: Final = "identity.db"
QUOTA_FILE: Final = "quota.db"
RATES_FILE: Final = "rates.db"


class FolderUnusable(Exception):
    """The data folder cannot be used; the text says why and what to do."""


def check_owner(path: Path) -> None:
    """See that a folder or file is this user's, if it is there: what another user makes in it, its owner cannot open.

    Raises:
        FolderUnusable: It is another user's.
    """
    try:
        owner = path.stat().st_uid
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise FolderUnusable(f"{path} cannot be read: {error.strerror}.") from None
    if owner != os.geteuid():
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = f"#{owner}"
        raise FolderUnusable(f"{path} belongs to user {name}; run this as that user: sudo -u {name} ...")


def prepare(data: str, seal_key: str) -> None:
    """Make a new installation's folder and seal key; check an old one's.

    Raises:
        FolderUnusable: The folder cannot be made, or belongs to another user.
        SealKeyError: The key is missing, unreadable or open to others; or it cannot be made.
    """
    folder = Path(data)
    check_owner(folder / DIRECTORY_FILE)
    new = not (folder / DIRECTORY_FILE).exists()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise FolderUnusable(
            f"The data folder {folder} cannot be made: {error.strerror}. Make it for this user, or name another."
        ) from None
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
        raise Conflict(f"{folder} is in use by another process: end the `pigeonry` that runs on it, or name another.")
    return lock
