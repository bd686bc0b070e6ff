"""The shape of the code in numbers: packages, the arrows between them, lines, longest file and function.

python tests/structure.py
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

# A package imports only from packages before it.
ORDER = (
    "core", "store", "data", "models", "methods", "tasks", "training", "planner", "sweep", "analysis", "report", "cli",
)  # fmt: skip
OUTSIDE = ("pretraining",)  # makes the shipped models; no part of a run, imported by nothing


def modules() -> dict[str, Path]:
    """Every module by its dotted name, ``methods/`` and ``tasks/`` as the packages that they are mapped to."""
    found = {}
    for folder in ("bench", "methods", "tasks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if parts[0] == "bench" else ("bench", *parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def package(module: str) -> str:
    """The package that a module is in; empty for those at the top of ``bench``."""
    name = module.split(".")[1:2]
    return name[0] if name and name[0] in (*ORDER, *OUTSIDE) else ""


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of ``bench`` that a file imports anywhere, for type checking too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bench":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "bench")


def arrows() -> Counter[tuple[str, str]]:
    """How many imports go from one package to another."""
    known = modules()
    found: Counter[tuple[str, str]] = Counter()
    for name, path in known.items():
        for other in set(imports(path, known)):
            if package(name) and package(other) and package(name) != package(other):
                found[package(name), package(other)] += 1
    return found


def functions() -> list[tuple[int, str]]:
    """Lines and name of every function, longest first."""
    found = []
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.append(((node.end_lineno or 0) - node.lineno + 1, f"{name}.{node.name}"))
    return sorted(found, reverse=True)


def main() -> None:
    """Print the numbers."""
    files = modules()
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in files.items()}
    longest = max(lines, key=lambda name: lines[name])
    length, function = functions()[0]
    found = arrows()
    per_package = Counter[str]()
    for name, count in lines.items():
        per_package[package(name) or "(top)"] += count
    print = sys.stdout.write
    print(f"modules at the top of bench/: {len(list((ROOT / 'bench').glob('*.py')))}\n")
    print(f"packages: {len({package(name) for name in files} - {''})}; arrows between them: {len(found)}, ")
    print(f"imports that cross: {sum(found.values())}\n")
    print(f"longest file: {longest}, {lines[longest]} lines\n")
    print(f"longest function: {function}, {length} lines; over 50: {sum(count > 50 for count, _ in functions())}\n")
    print(f"lines: {sum(lines.values()):,} in {len(files)} files\n")
    print("".join(f"  {name:12} {per_package[name]:6,}\n" for name in ("(top)", *ORDER, *OUTSIDE)))


if __name__ == "__main__":
    main()
