"""Which version of the code made a run: hashes of the source files that decide its result.

A run's specification holds three, and its ``run_id`` covers them: ``method`` and ``task`` (the defining file with the
files that it imports) and ``harness`` (everything that all runs share). Command line, sweep, planner, analysis and
report decide no result and are in none of them.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path

HARNESS = ("core", "data", "models", "training", "tasks.formulations", "tasks.metrics")
_PLUGGABLE = ("bench.methods", "bench.tasks")


@functools.cache
def harness() -> str:
    """First 16 hex digits of a SHA-256 over the packages of ``HARNESS``: names and bytes of all their modules."""
    files = {}
    for package in HARNESS:
        for root in _roots(f"bench.{package}"):
            files |= {f"{package}/{path.relative_to(root).as_posix()}": path for path in root.rglob("*.py")}
    return _digest(files[name] for name in sorted(files)) if files else ""


def of_file(file: Path, version: str = "") -> str:
    """First 16 hex digits of a SHA-256 over a method's or task's file and, recursively, the files that it imports.

    Imports that count are those of ``bench.methods``, ``bench.tasks`` and, for a plug-in, of modules beside it.

    Args:
        file: the file that defines the method or task.
        version: of another package that does the work, where one does.
    """
    return _digest(sorted(_closure(file)), version)


def _digest(files: Iterable[Path], version: str = "") -> str:
    digest = hashlib.sha256(version.encode())
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _closure(file: Path) -> set[Path]:
    found, waiting = {file}, [file]
    while waiting:
        here = waiting.pop()
        new = {path for name in _imported(here) for path in _candidates(name, here) if path.is_file()} - found
        found |= new
        waiting += new
    return found


def _imported(file: Path) -> Iterator[str]:
    """Dotted names that may be modules: ``from a import b`` gives a and a.b."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level <= 1:
            prefix = f"{node.module}." if node.module else ""
            yield from (name for alias in node.names for name in (prefix + alias.name, node.module or alias.name))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _candidates(name: str, importer: Path) -> Iterator[Path]:
    for package in _PLUGGABLE:
        if name.startswith(f"{package}."):
            parts = name.removeprefix(f"{package}.").split(".")
            yield from (root.joinpath(*parts).with_suffix(".py") for root in _roots(package))
            return
    if name.split(".")[0] != "bench":
        yield importer.parent.joinpath(*name.split(".")).with_suffix(".py")


@functools.cache
def _roots(package: str) -> tuple[Path, ...]:
    """The folders of a package, found without importing it where it is mapped from elsewhere."""
    spec = importlib.util.find_spec(package)
    return tuple(Path(folder) for folder in (spec.submodule_search_locations or ())) if spec else ()
