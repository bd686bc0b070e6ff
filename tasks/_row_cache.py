"""Caches rows that take seconds to read from source files, in the user's cache folder, until a file changes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

Rows = dict[str, list[tuple[str, ...]]]


def kept(read: Callable[[], Rows], sources: Sequence[Path], code: Path) -> Rows:
    """The result of ``read``, cached for the same files.

    A cache that cannot be read, or is not what was written, is made again; one that cannot be written costs time only.

    Args:
        read: gives rows of texts by split.
        sources: the files that it reads: the cache is for their names, sizes and times of change.
        code: the file that ``read`` is written in; another version of it reads anew.
    """
    from bench.core.environment import cache_folder
    from bench.core.files import write_atomically

    state = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    key = hashlib.sha256(json.dumps([sys.version, state]).encode() + code.read_bytes()).hexdigest()
    path = cache_folder() / "rows" / f"{key[:32]}.json"
    found = _load(path)
    if found is None:
        found = read()
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(found).encode())
    return found


def _load(path: Path) -> Rows | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and all(
        isinstance(rows, list) and all(isinstance(row, list) and set(map(type, row)) == {str} for row in rows)
        for rows in found.values()
    )
    return {split: [tuple(row) for row in rows] for split, rows in found.items()} if whole else None
