"""``bench list``: available methods, tasks or models, without importing torch.

Methods are classes of torch modules, so the table of them is kept on disk.

Built-in methods and tasks change with the files of this package and with what is installed beside it; a table is used
only while both are as they were. Plugins may depend on anything: with one, everything is imported.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from bench.cli import describe, output
from bench.core.environment import cache_folder
from bench.core.files import write_atomically


def run(arguments: argparse.Namespace) -> int:
    """Do the command: one name per line, or JSON."""
    listed = rows(arguments.what, arguments.plugin)
    if arguments.json:
        json.dump(listed, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return 0
    width = max(len(row["name"]) for row in listed)
    for row in listed:
        output.line(f"{row['name']:<{width}}  {row['help']}")
    return 0


def rows(what: str, plugins: Sequence[Path]) -> list[dict[str, Any]]:
    """Rows of name, help and facts for ``methods``, ``tasks`` or ``models``.

    Raises:
        RequestError: when a plugin cannot be imported.
    """
    if what == "models" or plugins or entry_points(group="bench.plugins"):
        return describe.listing(what, plugins)
    path, key = cache_folder() / "lists" / f"{what}.json", _key()
    kept = _read(path, key)
    if kept is None:
        kept = describe.listing(what, ())
        _write(path, {"key": key, "rows": kept})
    return kept


def _key() -> str:
    """A SHA-256 over everything the built-in methods and tasks are made of."""
    digest = hashlib.sha256(sys.version.encode())
    for path in _sources():
        digest.update(f"{path}\n".encode() + path.read_bytes())
    for place in sys.path:
        digest.update(f"{place}\n".encode())
        if Path(place).is_dir():  # packages come and go, and change their version, by the names in there
            digest.update("\n".join(sorted(inside.name for inside in Path(place).iterdir())).encode())
    return digest.hexdigest()


def _sources() -> Iterator[Path]:
    """The Python files of this package, and of the two that are beside it in a checkout."""
    import bench.methods
    import bench.tasks

    for package in (bench, bench.methods, bench.tasks):
        for folder in package.__path__:
            yield from sorted(Path(folder).rglob("*.py"))


def _read(path: Path, key: str) -> list[dict[str, Any]] | None:
    try:
        kept = json.loads(path.read_bytes())
        found: list[dict[str, Any]] = kept["rows"]
        return found if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent or damaged: it is made again


def _write(path: Path, kept: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(kept).encode())
    except OSError:
        return  # a table that cannot be kept only costs time
