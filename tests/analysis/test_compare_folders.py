"""bench compare: every metric's change and noise, marks, missing runs, and text that may be hostile."""

from __future__ import annotations

import copy
import html.parser
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.analysis import compare_folders
from bench.report.html import compare_page
from bench.store.store import Store
from tests import factories
from tests.conftest import Bench
from tests.tiny import place

Record = dict[str, Any]
SEEDS = (0, 1, 2)
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202e\x1b[31m[red]"


def records(*methods: str) -> list[Record]:
    return [factories.record(method, seed=seed) for method in methods for seed in SEEDS]


def write(folder: Path, made: list[Record], right: dict[str, float] | None = None) -> Path:
    """A store with records; with ``right``, also predictions: the same examples, a share of them answered right."""
    store = Store(folder)
    store.prepare()
    for record in copy.deepcopy(made):
        if right is not None:
            # The harder an example the oftener it is missed, by every seed; each seed misses a few of its own.
            hard = np.arange(500) / 500 + np.random.default_rng(record["spec"]["seed"]).normal(0, 0.02, 500)
            predictions = (hard < right[record["spec"]["method"]["name"]]).astype(int)
            record["scores"] = {"accuracy": float(predictions.mean())}
            table = {"row": range(500), "prediction": predictions, "reference": [1] * 500}
            path = store.predictions_path(record["run_id"])
            pq.write_table(pa.table({name: pa.array(values) for name, values in table.items()}), path)
        store.write(record)
    return folder


def compared(first: Path, second: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """label → metric → change, as JSON has it."""
    both = (Store(first).records()[0], Store(second).records()[0])
    plain = compare_folders.plain(compare_folders.compare((first, second), both, 0.05))
    rows: list[dict[str, Any]] = json.loads(json.dumps(plain))["configurations"]
    return {row["label"]: {change["metric"]: change for change in row["changes"]} for row in rows}


def test_paired_tests_where_predictions_are_there(tmp_path: Path) -> None:
    first = write(tmp_path / "a", records("lora", "full"), {"lora": 0.9, "full": 0.9})
    second = write(tmp_path / "b", records("lora", "full"), {"lora": 0.84, "full": 0.9})
    found = compared(first, second)
    lora, full = found["lora"]["accuracy"], found["full"]["accuracy"]
    assert lora["test"] == full["test"] == "t over seeds and examples"
    assert lora["change"] == pytest.approx(-0.06, abs=0.01) and lora["mark"] == "worse" and lora["p_holm"] < 0.01
    assert 0 < lora["noise"] < 0.02, "paired: far below the unpaired error over examples times √2"
    assert full["change"] == 0 and full["p_value"] == 1 and full["mark"] == ""


def test_seeds_that_do_not_vary_are_not_tested(tmp_path: Path) -> None:
    sides = []
    for name, accuracy in (("a", 0.5), ("b", 0.52)):
        made = records("lora")
        for record in made:
            record["scores"], record["stderr"] = {"accuracy": accuracy}, None
        sides.append(write(tmp_path / name, made))
    change = compared(*sides)["lora"]["accuracy"]
    assert change["p_value"] is None and change["mark"] == "" and change["test"] == "its seeds do not vary: not tested"


def test_losses_of_the_same_texts_are_paired(tmp_path: Path) -> None:
    """Texts differ more than methods do: without pairs their spread would hide the change."""
    rng = np.random.default_rng(0)
    tokens, mean = np.full(400, 20), rng.uniform(1, 5, 400)
    for name, better in (("a", 0.0), ("b", 0.05)):
        losses = mean - better + rng.normal(0, 0.01, 400)
        loss = float(losses.mean())
        record = factories.record("lora")
        record |= {"main_score": "perplexity", "higher_is_better": False, "stderr": 5.0}
        record["scores"] = {"perplexity": float(np.exp(loss)), "loss": loss}
        folder = write(tmp_path / name, [record])
        table = {
            "row": range(400),
            "prediction": [None] * 400,
            "reference": [None] * 400,
            "loss": losses,
            "tokens": tokens,
        }
        columns = pa.table({column: pa.array(values) for column, values in table.items()})
        pq.write_table(columns, Store(folder).predictions_path(record["run_id"]))
    found = compared(tmp_path / "a", tmp_path / "b")["lora"]
    for score in ("perplexity", "loss"):
        assert found[score]["test"] == "paired bootstrap" and found[score]["mark"] == "better"
    assert found["perplexity"]["noise"] < 0.1


def test_one_seed_uses_mcnemar(tmp_path: Path) -> None:
    one = [factories.record("lora")]
    first, second = write(tmp_path / "a", one, {"lora": 0.9}), write(tmp_path / "b", one, {"lora": 0.86})
    change = compared(first, second)["lora"]["accuracy"]
    assert change["test"] == "exact McNemar" and change["mark"] == "worse"
    lost = round(-500 * change["change"])
    assert lost > 15 and change["p_value"] == pytest.approx(2 * 0.5**lost), "examples were lost and none won"


def test_without_predictions_seeds_or_standard_errors(tmp_path: Path) -> None:
    better = records("lora")
    for record in better:
        record["scores"]["accuracy"] += 0.08
    first, second = write(tmp_path / "a", records("lora")), write(tmp_path / "b", better)
    change = compared(first, second)["lora"]["accuracy"]
    assert change["test"] == "Welch's t over seeds" and change["change"] == pytest.approx(0.08)
    first, second = write(tmp_path / "c", records("lora")[:1]), write(tmp_path / "d", better[:1])
    found = compared(first, second)["lora"]
    assert found["accuracy"]["test"] == "z from standard errors, unpaired" and found["accuracy"]["mark"] == "better"
    assert found["train loss"]["noise"] is None and "one seed" in found["train loss"]["test"]


def test_predictions_of_other_data_are_not_paired(tmp_path: Path) -> None:
    other = records("lora")
    for record in other:
        record["spec"]["task"]["fingerprint"] = "another"
    first, second = write(tmp_path / "a", records("lora"), {"lora": 0.9}), write(tmp_path / "b", other, {"lora": 0.9})
    assert compared(first, second)["lora"]["accuracy"]["test"] == "Welch's t over seeds"


def test_exact_figures_and_speed(tmp_path: Path) -> None:
    other = records("lora", "full")
    for record in other:
        if record["spec"]["method"]["name"] == "lora":
            record["parameters"]["trainable"] += 1
            record["memory"]["train_peak_bytes"] //= 2
            record["speed"]["step_seconds"] = [2 * value for value in record["speed"]["step_seconds"]]
        else:
            for name in ("step_seconds", "reference_step_seconds"):
                record["speed"][name] = [2 * value for value in record["speed"][name]]
    found = compared(write(tmp_path / "a", records("lora", "full")), write(tmp_path / "b", other))
    lora, full = found["lora"], found["full"]
    assert lora["trainable"]["mark"] == "changed" and lora["train_peak_bytes"]["mark"] == "better"
    assert lora["train_peak_bytes"]["change"] == pytest.approx(-0.5, abs=1e-6)
    assert lora["step in reference steps"]["mark"] == "worse"
    assert lora["step in reference steps"]["change"] == pytest.approx(1.0, abs=1e-6)
    assert full["step in reference steps"]["mark"] == "" and full["step_seconds"]["mark"] == "worse"
    assert full["reference_step_seconds"]["change"] == pytest.approx(1.0, abs=1e-6)


def test_a_small_change_of_speed_is_never_marked(tmp_path: Path) -> None:
    other = records("lora")
    for record in other:
        record["speed"]["step_seconds"] = [1.04 * value for value in record["speed"]["step_seconds"]]
    change = compared(write(tmp_path / "a", records("lora")), write(tmp_path / "b", other))["lora"]["step_seconds"]
    assert change["change"] == pytest.approx(0.04, abs=1e-6) and change["mark"] == ""


def test_the_command_names_what_is_missing_and_what_differs(tmp_path: Path, bench_here: Bench) -> None:
    newer = [*records("lora", "lst"), factories.failed("oom", "full", seed=0)]
    for record in newer:
        record["environment"]["torch"] = "2.8.0"
        record["memory"]["train_peak_bytes"] = (record["memory"]["train_peak_bytes"] or 0) + 5_000_000
    write(tmp_path / "a", records("lora", "full", "head"))
    write(tmp_path / "b", newer)
    done = bench_here("compare", "a", "b", "--html", "deep/changes.html", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    for said in ("Only in A, missing in B: head (glue/sst2 on minilm).", "Only in B, missing in A: lst",
                 "Did not finish: full (glue/sst2 on minilm), B, seed 0: oom: CUDA out of memory",
                 "Not the same: torch: 2.7.1 → 2.8.0",
                 "lora (glue/sst2 on minilm): peak memory 218 MB → 223 MB (+2.3 %), worse"):  # fmt: skip
        assert said in " ".join(done.stdout.split()), (said, done.stdout)
    text = (tmp_path / "deep" / "changes.html").read_text()
    assert "peak memory 218 MB" in text and "<script" not in text and "http:" not in text and "https:" not in text
    narrow = bench_here("compare", "a", "b", COLUMNS="50").stdout
    assert "Left out at this width" in narrow and "accuracy" in narrow
    assert {row["label"] for row in json.loads(bench_here("compare", "a", "b", "--json").stdout)["configurations"]} == {
        "lora", "full",
    }  # fmt: skip


def test_nothing_in_common(tmp_path: Path, bench_here: Bench) -> None:
    write(tmp_path / "a", records("lora"))
    write(tmp_path / "b", records("lst"))
    assert "have no run in common" in bench_here("compare", "a", "b", "--html", "x.html").stdout
    wrong = bench_here("compare", "nope", "neither")
    assert wrong.returncode == 2 and "nope does not exist" in wrong.stderr and "neither does not exist" in wrong.stderr


class Tags(html.parser.HTMLParser):
    """Collects tags and event attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.events: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.events += [name for name, _ in attrs if name.startswith("on")]


def test_hostile_names_are_text(tmp_path: Path, bench_here: Bench) -> None:
    made = [factories.record(HOSTILE, seed=seed, task=HOSTILE) for seed in SEEDS]
    for record in made:
        record["scores"][HOSTILE] = 0.5
        record["spec"]["model"]["name"] = HOSTILE
    other = [*copy.deepcopy(made), factories.failed("failed", HOSTILE, seed=9, task=HOSTILE)]
    for record in other:
        record |= {"error": HOSTILE} if record["status"] == "failed" else {}
        record["environment"]["device_name"] = HOSTILE
        record["spec"]["model"]["name"] = HOSTILE
        record["memory"]["train_peak_bytes"] = (record["memory"]["train_peak_bytes"] or 0) + 1
    folders = (tmp_path / "a", tmp_path / "b")
    found = compare_folders.compare(folders, (made, other), 0.05)
    parsed = Tags()
    parsed.feed(compare_page.document(found))
    assert not parsed.tags & {"script", "img"} and parsed.events == []
    write(folders[0], made)
    write(folders[1], other)
    printed = bench_here("compare", *folders).stdout
    assert "\x1b[31m" not in printed and "\u202e" not in printed and "[red]" in printed


def test_two_real_folders(tmp_path: Path) -> None:
    with place(tmp_path) as where:
        for seed in (0, 1):
            where.run("lora", sets=("lora.rank=2",), steps=12, seed=seed)
        found = compared(tmp_path / "out", tmp_path / "out")["lora"]
    assert found["accuracy"]["test"] == "t over seeds and examples" and found["accuracy"]["p_value"] == 1
    assert {change["mark"] for change in found.values()} == {""}
    assert found["step in reference steps"]["before"] > 0
