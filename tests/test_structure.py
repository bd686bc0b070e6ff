"""The shape of the package: imports point one way, a wheel installs one package, the type checker sees all of it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import get_args

import pytest

from bench.core import errors
from tests import structure

ROOT = structure.ROOT


def test_a_package_imports_only_from_packages_before_it() -> None:
    known = structure.modules()
    rank = {name: position for position, name in enumerate(structure.ORDER)}
    wrong = []
    for name, path in known.items():
        here = structure.package(name)
        for other in set(structure.imports(path, known)):
            there = structure.package(other)
            if not here or not there or here == there:
                continue
            if there in structure.OUTSIDE or (here in rank and rank[there] > rank[here]):
                wrong.append(f"{name} imports {other}")
    assert wrong == []


def test_every_folder_is_a_package_of_the_list() -> None:
    there = {path.name for path in (ROOT / "bench").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert there | {"methods", "tasks"} == {*structure.ORDER, *structure.OUTSIDE}
    assert {path.name for path in (ROOT / "bench").glob("*.py")} == {"__init__.py", "__main__.py", "api.py"}


def test_tests_mirror_the_packages() -> None:
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").rglob("*.py")}
    folders = {name for name in folders if not name.endswith(".py")}
    beside = {"data", "docs", "gpu", "parity", "plugins", "speed"}  # of several packages, or no tests
    assert folders - beside <= {*structure.ORDER, *structure.OUTSIDE}


def test_the_planted_upward_import_is_found(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from bench.cli import parser\n")
    assert list(structure.imports(file, structure.modules())) == ["bench.cli.parser"]


def test_training_and_sweep_know_no_method_and_no_task() -> None:
    from bench.core import registry

    registry.load()
    names = {*registry.methods(), *registry.tasks()}
    for name, path in structure.modules().items():
        if structure.package(name) not in ("training", "sweep"):
            continue
        strings = {
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        # Words with a meaning of their own here: a full measurement, a model's head, the text that forgetting reads.
        assert not strings & (names - {"full", "head", "wikitext"}), name
        imported = {structure.package(other) for other in structure.imports(path, structure.modules())}
        assert "methods" not in imported, name


def test_a_wheel_installs_only_bench(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(tmp_path), str(ROOT)],
        check=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("tunebench-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"bench"}
    modules = {f"{name.replace('.', '/')}" for name in structure.modules()}
    assert modules <= {name.removesuffix(".py").removesuffix("/__init__") for name in names}
    data = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "bench").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert data <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_no_pickle_and_no_eval() -> None:
    for path in structure.modules().values():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        called = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"eval", "exec"}, path
        modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not modules & {"pickle", "dill", "cloudpickle", "marshal"}, path


def test_every_request_error_has_a_code() -> None:
    allowed = {*get_args(errors.Code)}
    missing = []
    for name, path in structure.modules().items():
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "RequestError"):
                continue
            codes = [keyword.value.value for keyword in node.keywords if isinstance(keyword.value, ast.Constant)]
            single = isinstance(node.args[0], ast.Constant | ast.JoinedStr | ast.BinOp)  # others are Faults, by type
            if (single or codes) and not (codes and set(codes) <= allowed):
                missing.append(f"{name}:{node.lineno}")
    assert missing == []


@pytest.mark.parametrize("folder", ["methods", "tasks", "bench/core"])
def test_the_type_checker_sees_a_planted_error(folder: str, tmp_path: Path) -> None:
    laid_out = tmp_path / "bench"
    laid_out.mkdir()
    for source in (*(ROOT / "bench").iterdir(), ROOT / "methods", ROOT / "tasks"):
        (laid_out / source.name).symlink_to(source)
    target = laid_out / Path(folder).name
    target.unlink()
    target.mkdir()
    for source in (ROOT / folder).iterdir():
        (target / source.name).symlink_to(source)
    (target / "planted.py").write_text("def number() -> int:\n    return 'text'\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"),
         "--cache-dir", str(tmp_path / "cache"), "--follow-imports=silent", "-m", f"bench.{Path(folder).name}.planted"],
        cwd=tmp_path, env={**os.environ, "MYPYPATH": str(tmp_path)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1 and "planted.py:2" in done.stdout, done.stdout + done.stderr
