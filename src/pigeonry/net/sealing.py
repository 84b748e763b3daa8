"""The seal key's file: read with care, made once. Where it lies the configuration says; never in the data folder.

Trust: the file must be the owner's alone; one that others can read is refused, as ssh refuses such keys.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pigeonry.protocol.sealing import SEAL_KEY_OCTETS, Seal

if TYPE_CHECKING:
    from pigeonry.ports.environment import IdSource

__all__ = ["CREDENTIAL", "SealKeyError", "load_seal", "make_seal_key"]

CREDENTIAL: Final = "pigeonry-seal"  # LoadCredential=pigeonry-seal:/path in the unit
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class SealKeyError(Exception):
    """The seal key cannot be used; the text says why and what to do."""


def load_seal(path: Path) -> Seal:
    """Read the key.

    Raises:
        SealKeyError: It is not there, has the wrong size, or others can read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SealKeyError(
            f"There is no seal key at {path}. Make one on a new installation; on an old one bring back the key that "
            "its domains were made with, or they cannot sign."
        ) from None
    except OSError as error:
        raise SealKeyError(f"The seal key {path} cannot be read: {error.strerror}.") from None
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(file.fileno()).st_mode & _OTHERS:
            raise SealKeyError(f"Others may read the seal key {path}: chmod 600 it, and think of it as known to them.")
        octets = file.read(SEAL_KEY_OCTETS + 1)
    if len(octets) != SEAL_KEY_OCTETS:
        raise SealKeyError(f"The seal key {path} must have exactly {SEAL_KEY_OCTETS} octets.")
    return Seal(octets)


def make_seal_key(path: Path, ids: IdSource) -> Seal:
    """Make a new key and its file (mode 600, durable). Only for ``init`` and ``dev``: never make one by the way.

    Raises:
        SealKeyError: There is a file already, or it cannot be written.
    """
    octets = ids.octets(SEAL_KEY_OCTETS)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise SealKeyError(f"There is a seal key at {path} already; it was left as it is.") from None
    except OSError as error:
        raise SealKeyError(f"The seal key {path} cannot be made: {error.strerror}.") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(octets)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return Seal(octets)
