"""Write files atomically, and lock them between processes."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import uuid
from pathlib import Path

from bench.core.errors import RequestError

# Errors of flock on disks without locks, as some network disks are.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_RUN_ID = re.compile(r"[0-9a-f]{16}")


def lock(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file until it is closed, and say whether it is locked; True on a disk without locks.

    The kernel drops a lock with the process that holds it, however that ends.

    Args:
        shared: other processes may lock it so too.
        wait: until no other process holds it.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def why_no_locks(path: Path) -> str | None:
    """The system's reason why the disk of a file has no locks; None where it has."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return error.strerror or "no locks"
    finally:
        os.close(descriptor)
    return None


def write_output(path: Path, data: bytes) -> None:
    """Write a file that a person named: a link's target, into a pipe or device, else whole or not at all.

    Raises:
        RequestError: when it is the record of a run, which nothing but a run may replace.
        OSError: when it cannot be written.
    """
    if path.parent.name == "runs" and path.suffix == ".json" and _RUN_ID.fullmatch(path.stem):
        raise RequestError(f"{path} is the record of a run; choose another file to write to.", code="exists")
    place = path.resolve() if path.is_symlink() else path
    if place.exists() and not place.is_file() and not place.is_dir():
        with place.open("wb") as file:
            file.write(data)
        return
    write_atomically(place, data)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file through a temporary one in its folder, so that it is there whole or as it was before.

    Raises:
        OSError: when the disk does not take it.
    """
    try:
        _write_and_rename(path, data)
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise
        _write_and_rename(path, data)  # another process removed the temporary file: its clock is a day ahead


def _write_and_rename(path: Path, data: bytes) -> None:
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # exists only when the disk or Ctrl-C stopped the write
