"""A command reads a folder's records once and analyses them once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.analysis import analysis
from bench.cli.parser import main
from bench.report import serve
from bench.store.store import Store
from tests import factories
from tests.conftest import Bench
from tests.report.pages import stored


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often records were read, by folder name, and analysed."""
    calls: Counter[str] = Counter()
    read, gather = Store.records, analysis.gather

    def counted_read(store: Store) -> Any:
        calls[store.folder.name] += 1
        return read(store)

    def counted_gather(*arguments: Any) -> Any:  # once for each task and model of an analysis
        calls["analysed"] += 1
        return gather(*arguments)

    monkeypatch.setattr(Store, "records", counted_read)
    monkeypatch.setattr(analysis, "gather", counted_gather)
    return calls


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("one", "two"):
        made = [factories.record(method, seed=seed) for method in ("lora", "head") for seed in (0, 1)]
        stored(tmp_path / name, made, lambda record: 0.8 if record["spec"]["method"]["name"] == "lora" else 0.6)
    return tmp_path / "one", tmp_path / "two"


def test_report_and_stats(folders: tuple[Path, Path], counted: Counter[str], tmp_path: Path) -> None:
    one = folders[0]
    assert (
        main(["report", str(one), "--format", "md", "--to", str(tmp_path / "t.md"), "--html", str(tmp_path / "r.html")])
        == 0
    )
    assert counted == {"one": 1, "analysed": 1}
    counted.clear()
    assert main(["stats", str(one)]) == 0
    assert counted == {"one": 1, "analysed": 1}


def test_view(folders: tuple[Path, Path], counted: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def served(self: serve.Server, open_browser: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(serve.Server, "run", served)
    assert main(["view", str(folders[0]), "--no-browser", "--port", "0"]) == 0
    assert counted == {"one": 1, "analysed": 1}


def test_compare_and_check(folders: tuple[Path, Path], counted: Counter[str], tmp_path: Path) -> None:
    one, two = folders
    assert main(["compare", str(one), str(two), "--html", str(tmp_path / "c.html")]) == 0
    assert counted == {"one": 1, "two": 1}
    counted.clear()
    assert main(["baseline", str(one), "--out", str(tmp_path / "b.json")]) == 0
    assert main(["check", str(two), "--baseline", str(tmp_path / "b.json")]) == 0
    assert counted == {"one": 1, "two": 1}


def test_run_analyses_once_for_the_table_and_the_report(
    bench_here: Bench, counted: Counter[str], tiny_model: Path
) -> None:
    wanted = ("run", "--methods", "lora,head", "--model", tiny_model, "--task", "glue/sst2", "--steps", 4, "--quiet")
    assert bench_here(*wanted, "--out", "out").returncode in (0, 1)
    assert counted["analysed"] == 1
    before = counted["out"]
    assert bench_here(*wanted, "--out", "out").returncode in (0, 1)
    assert counted["analysed"] == 2 and counted["out"] - before < before, "nothing ran: not read again at the end"
