"""The folder of a comparison: one JSON file per run, written whole or not at all.

``DIR/runs/<run_id>.json`` holds the records, ``DIR/predictions`` and ``DIR/adapters`` what belongs to them,
``DIR/locks`` which process works on which run, ``DIR/corrupt`` files that could not be read. Several processes may use
a folder at once, and any of them may be killed at any moment.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.core.errors import RequestError
from bench.core.files import _RUN_ID, lock, why_no_locks, write_atomically
from bench.core.quiet import gc_paused
from bench.store.record import Record
from bench.store.schema import SCHEMA
from bench.store.validation import problems

_DAY_SECONDS = 86_400
_HUGE_EXPONENT = re.compile(rb"[eE]\+?\d{3}")  # only such a number can be beyond what a float holds
_HUGE_WHOLE = re.compile(rb"\d{19}")
# A waiter holds the lock for microseconds while it looks: trying again keeps that from reading as a claim.
_CLAIM_TRIES = 5
_POLL_SECONDS = 0.05


class OtherFormat(ValueError):
    """A record that another version of bench wrote."""


class Store:
    """The records below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._runs = self.folder / "runs"
        self._locks = self.folder / "locks"

    def prepare(self) -> None:
        """Create the folders and see that they can be written.

        Raises:
            RequestError: when they cannot; says why and how to choose another folder.
        """
        try:
            for folder in (self._runs, self._locks, self.folder / "predictions", self.folder / "adapters"):
                folder.mkdir(parents=True, exist_ok=True)
                probe = folder / f".{uuid.uuid4().hex}.tmp"
                probe.touch(exist_ok=False)
                probe.unlink()
        except OSError as error:
            reason = error.strerror or str(error)
            raise RequestError(
                f"The output folder {self.folder} cannot be written ({reason}: {error.filename}). "
                "Choose another with --out.",
                code="not-written",
            ) from error

    def warning(self) -> str | None:
        """A warning when the folder's disk has no file locks."""
        os.close(self._open_lock("0" * 16))
        reason = why_no_locks(self._path("locks", "0" * 16, ".lock"))
        return reason and (
            f"The disk of {self.folder} has no file locks ({reason}): do not start a second sweep on this folder "
            "while one is running. It would damage nothing, but do runs twice."
        )

    def held(self, run_id: str) -> bool:
        """Whether a process has claimed a run; False too where the disk has no locks."""
        try:
            descriptor = os.open(self._path("locks", run_id, ".lock"), os.O_RDONLY)
        except OSError:
            return False
        try:
            return not lock(descriptor, shared=True)
        finally:
            os.close(descriptor)

    def at_work(self) -> Iterator[str]:
        """The runs that a process has claimed."""
        for path in self._locks.glob("*.lock"):
            if _RUN_ID.fullmatch(path.stem) and self.held(path.stem):
                yield path.stem

    def write(self, record: Record) -> Path:
        """Write a record to its file in one step: readers see the earlier file, or this one, never a part.

        Numbers that are not finite become null, as JSON has no word for them.

        Returns:
            The file's path.

        Raises:
            ValueError: when the record does not follow the contract, so that it could not be read again.
            OSError: when the disk does not take it; an earlier record of this run is then left as it was.
        """
        record = _finite(record)
        if faults := problems(record):
            raise ValueError("this is not a record: " + "; ".join(faults[:5]))
        path = self._path("runs", record["run_id"], ".json")
        data = json.dumps(record, ensure_ascii=False, allow_nan=False, indent=1).encode("utf-8")
        try:
            _load(path)
        except OtherFormat as error:  # another version's record of this run is not written over
            self._set_aside(path, error)
        except (OSError, ValueError):
            pass
        write_atomically(path, data)
        return path

    def read(self, run_id: str) -> Record | None:
        """Return the record of a run, or None when there is none.

        Raises:
            RequestError: when its file was damaged; it has been set aside, so that the run can be done again.
        """
        path = self._path("runs", run_id, ".json")
        try:
            return _load(path)
        except FileNotFoundError:
            return None
        except OtherFormat as error:
            raise RequestError(f"{path} {error}", code="damaged") from error
        except ValueError as error:
            raise RequestError(self._set_aside(path, error), code="invalid-value") from error

    def records(self) -> tuple[list[Record], list[str]]:
        """Read every record, set damaged files aside, and remove temporary files of killed processes.

        Returns:
            The records by run id, and one sentence for each file that could not be read.
        """
        found, warnings = [], []
        with gc_paused():
            for path in sorted(self._runs.glob("[!.]*.json")):
                try:
                    found.append(_load(path))
                except (FileNotFoundError, IsADirectoryError):
                    continue  # another process set it aside between the listing and the reading; or no file at all
                except OtherFormat as error:
                    warnings.append(f"{path} {error}")
                except ValueError as error:
                    warnings.append(self._set_aside(path, error))
                except OSError as error:
                    warnings.append(f"{path} could not be read ({error.strerror}).")
        self._sweep()
        return found, warnings

    @contextlib.contextmanager
    def claim(self, run_id: str) -> Iterator[bool]:
        """Claim a run for this process: yields True when nobody else holds it, else False, without waiting.

        Where the disk has no locks it is always True: a run may then be done twice, which damages no record.

        The kernel drops a claim with the process that holds it, however that ends. Lock files stay where they
        are: removing one would let two processes lock two files of the same name.
        """
        descriptor = self._open_lock(run_id)
        try:
            held = False
            for attempt in range(_CLAIM_TRIES):
                if held := lock(descriptor):
                    break
                if attempt + 1 < _CLAIM_TRIES:
                    time.sleep(0.001 * 2**attempt)
            yield held
        finally:
            os.close(descriptor)

    def wait(self, run_id: str, timeout: float) -> bool:
        """Wait until no other process holds a run, at most ``timeout`` seconds; True when it is free.

        The holder may have finished it or died: look for its record, and claim it when there is none.
        """
        deadline = time.monotonic() + timeout
        descriptor = self._open_lock(run_id)
        try:
            while not lock(descriptor, shared=True):
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_POLL_SECONDS)
            return True
        finally:
            os.close(descriptor)

    def predictions_path(self, run_id: str) -> Path:
        """Where the per-example predictions of a run belong."""
        return self._path("predictions", run_id, ".parquet")

    def adapter_path(self, run_id: str) -> Path:
        """The folder where the trained weights of a run belong."""
        return self._path("adapters", run_id, "")

    def _path(self, part: str, run_id: str, suffix: str) -> Path:
        if not _RUN_ID.fullmatch(run_id):
            raise ValueError(f"{run_id!r} is not a run id: 16 hex digits")
        return self.folder / part / f"{run_id}{suffix}"

    def _open_lock(self, run_id: str) -> int:
        path = self._path("locks", run_id, ".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def _set_aside(self, path: Path, error: ValueError) -> str:
        """Move a damaged file to ``corrupt``, never over an earlier one; return what to tell the person."""
        folder = self.folder / "corrupt"
        try:
            folder.mkdir(exist_ok=True)
            for number in range(10_000):
                target = folder / (f"{path.name}.{number}" if number else path.name)
                with contextlib.suppress(FileExistsError):
                    # Creating the name first reserves it: a rename alone would replace what is there.
                    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
                    try:
                        path.replace(target)
                    except FileNotFoundError:
                        target.unlink()
                        return f"{path} was not a whole record ({error}); another process moved it."
                    return f"{path} is not a whole record ({error}); it was moved to {target}."
        except OSError as blocked:
            return f"{path} is not a whole record ({error}); it stays there ({blocked.strerror})."
        return f"{path} is not a whole record ({error}); it stays there (too many files in {folder})."

    def _sweep(self) -> None:
        for leftover in self._runs.glob(".*.tmp"):
            with contextlib.suppress(OSError):  # another process may sweep too, or the disk may be read-only
                if time.time() - leftover.stat().st_mtime > _DAY_SECONDS:
                    leftover.unlink()


def _load(path: Path) -> Record:
    """Read one file; ValueError says why it is not a record."""
    try:
        data = path.read_bytes()
        floats = _finite_float if _HUGE_EXPONENT.search(data) else None
        wholes = _bounded if _HUGE_WHOLE.search(data) else None
        record = json.loads(data, parse_constant=_refuse, parse_float=floats, parse_int=wholes)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if isinstance(record, dict) and isinstance(found := record.get("schema"), int) and found != SCHEMA:
        raise OtherFormat(f"was written by another version of bench (record format {found}, this one reads {SCHEMA}); "
                          "it stays as it is, and is not counted.")  # fmt: skip
    if faults := problems(record):
        raise ValueError("; ".join(faults[:3]) + (" …" if len(faults) > 3 else ""))
    if record["run_id"] != path.stem:
        raise ValueError(f"it holds the run {record['run_id']}")
    checked: Record = record
    return checked


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _bounded(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"{text[:20]}… is too large a number")
    return int(text)


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(member) for member in value]
    return value
