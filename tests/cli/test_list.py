"""What bench list keeps: it is quick, as whole as what is imported, and never older than its files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.cli import describe
from bench.cli import list as listing
from tests import tiny

HEAVY = ("torch", "transformers", "datasets", "pandas", "scipy")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield


@pytest.mark.parametrize("what", ["methods", "tasks"])
def test_the_kept_table_is_what_importing_gives(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = describe.listing(what, ())
    assert listing.rows(what, ()) == imported
    monkeypatch.setattr(describe, "listing", lambda *_: pytest.fail("it was imported again"))
    assert listing.rows(what, ()) == imported


@pytest.mark.parametrize("what", ["methods", "tasks", "models"])
def test_a_list_imports_no_torch_the_second_time(what: str) -> None:
    code = (
        f"import sys; from bench.cli.parser import main; assert main(['list', '{what}']) == 0; "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    *lines, heavy = done.stdout.splitlines()
    assert heavy == "[]" and any(line.startswith(("lora ", "glue/sst2 ", "minilm ")) for line in lines)


@pytest.mark.parametrize("changed", ["a file of the package", "an installed package"])
def test_what_a_table_was_made_of_changes_it(changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing.rows("methods", ())
    if changed == "a file of the package":
        file = tmp_path / "new.py"
        file.write_text("1\n")
        before = [*listing._sources()]
        monkeypatch.setattr(listing, "_sources", lambda: iter([*before, file]))
    else:
        (tmp_path / "site" / "peft-99.dist-info").mkdir(parents=True)
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(describe, "listing", lambda *_: [{"name": "fresh"}])
    assert listing.rows("methods", ()) == [{"name": "fresh"}]


def test_the_sources_hold_every_method_and_task() -> None:
    there = {path.name for path in listing._sources()}
    assert {"lora.py", "lst.py", "glue.py", "registry.py", "options.py"} <= there


@pytest.mark.parametrize("damage", ["", "[]", '{"key": 1}', "{"])
def test_a_damaged_table_is_made_again(damage: str, tmp_path: Path) -> None:
    whole = listing.rows("tasks", ())
    path = tmp_path / "tunebench" / "lists" / "tasks.json"
    assert json.loads(path.read_text())["rows"] == whole
    path.write_text(damage)
    assert listing.rows("tasks", ()) == whole


def test_a_plugin_is_always_imported() -> None:
    listing.rows("methods", ())
    with tiny.registry_restored():
        found: list[dict[str, Any]] = listing.rows("methods", [Path(__file__).parents[1] / "plugins/scale_shift.py"])
    assert "scale-shift" in {row["name"] for row in found}
