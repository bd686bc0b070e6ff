"""Tuning gives every method the same trials on the dev split alone, can be killed, and says what it did."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bench.core.errors import RequestError
from bench.store.labels import labels, tuned
from bench.store.store import Store
from bench.sweep import expand, tuning
from bench.sweep.progress import Silent
from bench.sweep.request import Execution, RunRequest
from bench.sweep.scheduler import Sweep
from bench.sweep.search_space import TuneTarget, spaces
from bench.sweep.tuning import Search, Tuner
from bench.training.job import Job
from tests import factories
from tests.conftest import Bench, write_split
from tests.report import pages
from tests.sweep.test_scheduler import start, whole_records
from tests.training import fakes

pytest.importorskip("optuna")


@pytest.fixture
def runs(mirror: Path, tiny_model: Path) -> Any:
    def call(methods: str = "lora,head", seeds: str = "0,1", **request: Any) -> list[expand.RunSpec]:
        asked = {"train": {"steps": "40"}, **request}
        return expand.expand(
            RunRequest(
                methods=tuple(methods.split(",")),
                task=("glue/sst2",),
                model=(str(tiny_model),),
                seeds=tuple(seeds.split(",")),
                data_dir=mirror,
                **asked,
            )  # fmt: skip
        )

    return call


def wanted(*targets: str, trials: int | None = 6, prune: str = "none") -> Search:
    return Search(tuple(map(TuneTarget.parse, targets)), trials, prune)


def scored(best: float, steps: int = 40) -> Any:
    """Runs whose dev score falls with the distance, in decades, of the learning rate from the best one."""

    def outcome(job: Job) -> dict[str, Any]:
        record = fakes.record(job)
        score = 0.9 - 0.1 * abs(math.log10(job.spec["train"]["lr"] / best))
        record["curve"] = [
            {"step": step, "loss": 1.0, "lr": 0.1, "dev_score": score * step / steps} for step in (10, 20, 30, 40)
        ]
        return record

    return outcome


def sweep(store: Store, groups: Any, executor: Any, plain: Any = (), **options: Any) -> Sweep:
    store.prepare()
    made = Sweep(list(plain), store, Execution(**options), Silent(), lambda: executor, Tuner(groups))
    made.trials.prepare()
    return made


def test_every_method_gets_the_same_trials_and_the_best_goes_to_every_seed(runs: Any, tmp_path: Path) -> None:
    _, groups = tuning.groups(wanted("lr"), runs())
    store, executor = Store(tmp_path), fakes.Fake(scored(3e-3), slots=2)
    done = sweep(store, groups, executor)
    done.run()
    assert len(executor.submitted) == len(set(executor.submitted)) == 2 * (6 + 2)
    final = store.records()[0]
    assert sorted((r["spec"]["method"]["name"], r["spec"]["seed"]) for r in final) == [
        ("head", 0), ("head", 1), ("lora", 0), ("lora", 1)
    ]  # fmt: skip
    for record in final:
        found = record["tuning"]
        rates = [trial["lr"] for trial in found["trials"]]
        default = type(groups[0].base.method)().lr if record["spec"]["method"]["name"] == "lora" else 5e-3
        assert found["best_of"] == len(rates) == len(set(rates)) == 6
        assert rates[0] == default and all(default / 10.001 <= rate <= default * 10.001 for rate in rates)
        assert rates[1] < default / 3 and rates[2] > default * 3, "the first ones are spread evenly"
        best = min(rates, key=lambda rate: abs(math.log10(rate / 3e-3)))
        assert found["chosen"] == {"lr": best} and record["spec"]["train"]["lr"] == best
        assert record["spec"]["method"]["lr"] == best and record["spec"]["tuning"]["trial"] is None
    trials = done.trials.records()[0]
    assert {record["spec"]["seed"] for record in trials} == {0} and len(trials) == 12
    again = fakes.Fake(scored(3e-3))
    sweep(store, groups, again).run()
    assert again.submitted == []


@pytest.mark.parametrize("prune", ["none", "median", "halving"])
def test_the_lowest_loss_wins_where_trials_are_judged_by_the_loss(runs: Any, tmp_path: Path, prune: str) -> None:
    """Where answers are generated the dev score is the loss, though more of the main score is better."""
    rates = [1e-9, 1e-8, 1e-3, 1e-2, 1e-7, 1e-6]

    def outcome(job: Job) -> dict[str, Any]:
        record = fakes.record(job)
        loss = 1.0 + abs(math.log10(job.spec["train"]["lr"] / 1e-2))
        points = [{"step": step, "loss": loss, "lr": 0.1, "dev_score": loss} for step in (10, 20, 30, 40)]
        return record | {"curve": points, "dev_score": {"name": "loss", "higher_is_better": False}}

    search = wanted(f"lr={'|'.join(map(str, rates))}", trials=None, prune=prune)
    specs = runs("lora", train={"steps": "40", "checkpoint": "last"})
    assert specs[0].task.higher_is_better
    group = tuning.groups(search, specs)[1][0]
    executor = fakes.Fake(outcome)
    sweep(Store(tmp_path), [group], executor).run()
    (final, *_) = Store(tmp_path).records()[0]
    assert final["tuning"]["chosen"] == {"lr": 1e-2}
    group.history = [outcome(Job(spec.run_id, spec.spec, (), None, "", None)) for spec in group.trials[:4]]
    later, points = group.trials[4], (10, 20, 30, 40)

    def pruned_at(loss: float) -> bool:
        tuner = Tuner([group])
        return any([tuner.prunes(later, {"step": step, "steps": 50, "dev_score": loss}) for step in points])

    assert not pruned_at(0.5), "it is the best so far"
    assert pruned_at(99.0) is (prune != "none")


def test_a_method_option_does_not_swallow_a_training_option_of_its_name(runs: Any) -> None:
    asked = {"set": ("train.warmup=0.0,0.3",)}
    _, groups = tuning.groups(wanted("adalora.warmup=0.05|0.2", trials=None), runs("adalora", **asked))
    assert len({group.key for group in groups}) == 2


def test_a_search_that_is_stopped_anywhere_goes_on_as_if_it_had_not_been(runs: Any, tmp_path: Path) -> None:
    search, generator = wanted("lr"), random.Random(0)
    whole = fakes.Fake(scored(1e-2))
    sweep(Store(tmp_path / "whole"), tuning.groups(search, runs())[1], whole).run()
    pieces: list[str] = []
    for _ in range(50):
        left = generator.randint(1, 3)

        def outcome(job: Job) -> dict[str, Any]:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            pieces.append(job.run_id)
            return scored(1e-2)(job)

        try:
            sweep(Store(tmp_path / "pieces"), tuning.groups(search, runs())[1], fakes.Fake(outcome)).run()
            break
        except KeyboardInterrupt:
            continue
    assert sorted(pieces) == sorted(whole.submitted), "the same trials, none twice"
    found = [Store(tmp_path / name).records()[0] for name in ("whole", "pieces")]
    assert [r["tuning"]["chosen"] for r in found[0]] == [r["tuning"]["chosen"] for r in found[1]]


@pytest.mark.parametrize("prune", ["median", "halving"])
def test_trials_that_are_behind_are_stopped_and_stay_stopped(runs: Any, tmp_path: Path, prune: str) -> None:
    _, groups = tuning.groups(wanted("lr", trials=8, prune=prune), runs("head", seeds="0"))

    class Streams(fakes.Fake):
        """Sends a trial's dev scores one by one and obeys when it is told to stop."""

        def events(self, timeout: float) -> list[dict[str, Any]]:
            if not self.jobs:
                return []
            job = self.jobs[0]
            record = self.outcome(job)
            assert record is not None
            seen = self.seen.setdefault(job.run_id, [])
            if job.run_id not in self.stopped and len(seen) < len(record["curve"]):
                seen.append(record["curve"][len(seen)])
                return [{"run_id": job.run_id, "event": "step", "steps": 40, "seconds": 1.0, **seen[-1]}]
            if job.run_id in self.stopped:
                record |= {"status": "interrupted", "curve": seen}
            self.records[job.run_id] = record
            self.jobs.pop(0)
            return [{"run_id": job.run_id, "event": "exit", "code": 0, "why": ""}]

        seen: dict[str, Any] = {}

    store, executor = Store(tmp_path), Streams(scored(5e-3))
    sweep(store, groups, executor).run()
    (final,) = store.records()[0]
    statuses = [trial["status"] for trial in final["tuning"]["trials"]]
    assert statuses.count("pruned") >= 1 and statuses[0] == "ok" and len(statuses) == 8
    assert final["tuning"]["chosen"] == {"lr": 5e-3}
    short = [trial["run_id"] for trial in final["tuning"]["trials"] if trial["status"] == "pruned"]
    assert sorted(executor.stopped) == sorted(short)
    again = Streams(scored(5e-3))
    sweep(store, tuning.groups(wanted("lr", trials=8, prune=prune), runs("head", seeds="0"))[1], again).run()
    assert again.submitted == []


def test_a_configuration_whose_trials_all_fail_fails_and_says_why(runs: Any, tmp_path: Path) -> None:
    plain, groups = tuning.groups(wanted("lora.lr", trials=2), runs(seeds="0"))

    def outcome(job: Job) -> dict[str, Any] | None:
        return None if "tuning" in job.spec else fakes.record(job)

    store = Store(tmp_path)
    sweep(store, groups, fakes.Fake(outcome), plain).run()
    found = {record["spec"]["method"]["name"]: record for record in store.records()[0]}
    assert found["head"]["status"] == "ok" and "tuning" not in found["head"]
    assert found["lora"]["status"] == "failed" and "none of 2 trials has a dev score" in found["lora"]["error"]
    assert found["lora"]["tuning"]["chosen"] is None


def test_grids_ranges_and_several_options(runs: Any, tmp_path: Path) -> None:
    _, (grid,) = tuning.groups(wanted("lr=1e-3|1e-2", "lora.alpha=8|16|32", trials=None), runs("lora", seeds="0"))
    executor = fakes.Fake(scored(1e-2))
    sweep(Store(tmp_path / "a"), [grid], executor).run()
    tried = {(run.method.lr, run.method.alpha) for run in grid.trials}  # type: ignore[attr-defined]
    assert tried == {(lr, alpha) for lr in (1e-3, 1e-2) for alpha in (8.0, 16.0, 32.0)}
    _, (both,) = tuning.groups(wanted("lr=1e-4:1e-3", "lora.rank=2:8", trials=7), runs("lora", seeds="0"))
    sweep(Store(tmp_path / "b"), [both], fakes.Fake(scored(1e-2))).run()
    assert all(1e-4 <= run.method.lr <= 1e-3 and run.method.rank in range(2, 9) for run in both.trials)  # type: ignore[attr-defined]
    assert len({run.method.rank for run in both.trials}) > 2  # type: ignore[attr-defined]


def test_spaces_keep_to_an_options_bounds(runs: Any) -> None:
    (run,) = runs("lora", seeds="0")
    found = spaces(run.method, [TuneTarget.parse("rank"), TuneTarget.parse("dropout"), TuneTarget.parse("lr")])
    assert (found["rank"].low, found["rank"].whole, found["rank"].log) == (1, True, True)
    assert found["dropout"].low == 0.0 and not found["dropout"].log and found["dropout"].high <= 1.0
    assert all(found["rank"].holds(found["rank"].at(share / 7)) for share in range(8))
    with pytest.raises(RequestError, match="is not a number: list its values, targets=A|B"):
        spaces(run.method, [TuneTarget.parse("targets")])


def test_tuning_never_sees_the_validation_split(
    bench_here: Bench, tiny_model: Path, mirror: Path, tmp_path: Path
) -> None:
    """Two mirrors with the same training rows and opposite validation labels lead to the same trials and choice."""
    chosen = []
    for name in ("right", "flipped"):
        data = tmp_path / name
        for split in ("train", "validation"):
            columns = pq.read_table(next((mirror / "nyu-mll/glue/sst2").glob(f"{split}-*"))).to_pydict()
            if split == "validation" and name == "flipped":
                columns["label"] = [1 - label for label in columns["label"]]
            write_split(data, "sst2", split, columns)
        bench_here("run", "--methods", "full", "--task", "glue/sst2", "--model", tiny_model, "--steps", 30, "--tune",
              "lr=1e-4|1e-2", "--quiet", "--out", name, BENCH_DATA=str(data))  # fmt: skip
        (record,) = Store(tmp_path / name).records()[0]
        trials = Store(tmp_path / name / "tuning").records()[0]
        assert all(trial["scores"] == {} and trial["predictions"] is None for trial in trials) and len(trials) == 2
        assert not list((tmp_path / name / "tuning/predictions").iterdir())
        dev = [(trial["lr"], trial["dev_score"]) for trial in record["tuning"]["trials"]]
        chosen.append((dev, record["tuning"]["chosen"], record["parameters"]["trained_sha256"]))
        score = record["scores"]["accuracy"]
        assert (score > 0.5) == (name == "right"), "the data really differ"
    assert chosen[0] == chosen[1]


def test_killed_searches_do_nothing_twice(tiny_model: Path, mirror: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [sys.executable, "-m", "bench", "run", "--methods", "head", "--task", "glue/sst2", "--steps", "60"]
    arguments += ["--model", str(tiny_model), "--tune", "lr", "--trials", "3", "--out", str(out)]
    process = start(arguments, mirror, tmp_path)
    deadline = time.monotonic() + 90
    while not whole_records(out / "tuning") and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    seen = whole_records(out / "tuning")
    start(arguments, mirror, tmp_path).communicate(timeout=120)
    final = whole_records(out / "tuning")
    assert seen and seen.items() <= final.items() and len(final) == 3
    (record,) = [json.loads(path.read_text()) for path in whole_records(out)]
    assert record["tuning"]["best_of"] == 3


WRONG = [
    (["--tune", "lrr"], "unknown-option", "'lr'"),
    (["--tune", "lst.lr"], "unknown-method", "'lst'"),
    (["--tune", "lr=3"], None, ""),
    (["--tune", "lr="], "invalid-value", "lr=1e-4:1e-2"),
    (["--tune", "lr=1e-2:1e-3"], "invalid-value", "lora.lr has the range 1e-2:1e-3"),
    (["--tune", "lr=a:b"], "invalid-value", "'a'"),
    (["--tune", "lr", "--trials", "0"], "invalid-value", "--trials: is 0"),
    (["--tune", "lr=1|2", "--trials", "9"], "too-large", "2 values"),
    (["--tune", "lr", "--prune", "mediam"], "unknown-value", "'median'"),
    (["--tune", "lr", "--lr", "0.1"], "conflict", "--lr"),
    (["--tune", "lr", "--set", "lora.lr=0.1"], "conflict", "--set lora.lr=0.1"),
    (["--tune", "rank", "--ranks", "2,4"], "conflict", "--ranks"),
    (["--tune", "lr", "--set", "train.dev_size=0"], "unsupported", "train.dev_size"),
    (["--trials", "3"], "missing", "--tune lr"),
]


@pytest.mark.parametrize(("extra", "code", "part"), WRONG, ids=[" ".join(extra) for extra, *_ in WRONG])
def test_wrong_requests_teach(
    bench_here: Bench, tiny_model: Path, extra: list[str], code: str | None, part: str
) -> None:
    done = bench_here("run", "--methods", "lora", "--task", "glue/sst2", "--model", tiny_model, "--dry-run", *extra)
    assert done.returncode == (2 if code else 0) and "Traceback" not in done.stderr, done.stderr
    assert part in done.stderr and (code is None or f"[{code}]" in done.stderr), done.stderr


def _tuned(method: str, seed: int, lr: float) -> dict[str, Any]:
    spec = factories.spec(method, seed)
    spec["method"]["lr"] = spec["train"]["lr"] = lr
    asked = {"options": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}}, "trials": 3, "prune": "median", "seed": 0}
    spec["tuning"] = {"group": f"{method:0>16}", **asked, "trial": None}
    trials = [{"lr": rate, "dev_score": 0.8 - rate, "steps": 400, "status": status, "run_id": "0" * 16}
              for rate, status in ((lr, "ok"), (lr * 2, "pruned"), (lr / 2, "failed"))]  # fmt: skip
    trials[2]["dev_score"] = None
    return factories.measured(spec) | {
        "tuning": {"best_of": 3, "options": ["lr"], "chosen": {"lr": lr}, "trials": trials}
    }


def test_the_report_shows_trials_and_says_best_of_how_many() -> None:
    from bench.report.html.chart_learning_rate import chart
    from bench.report.html.page import document
    from bench.report.inputs import Extras

    records = [_tuned("lora", 0, 1e-3), _tuned("lora", 1, 1e-3), _tuned("lst", 0, 2e-3)]
    assert set(labels(records).values()) == {"lora", "lst"}, "values that were tuned tell no configurations apart"
    drawn = chart(pages.scene(records))
    tried = [trace for trace in drawn.traces if "line" in trace]
    assert [(trace["name"], trace["x"]) for trace in tried] == [("lora", [1e-3, 2e-3]), ("lst", [2e-3, 4e-3])]
    page = document(records, Extras())
    assert "Score against learning rate" in page and "the best of 3 on the dev split, the same number" in page
    assert "No tuning" not in page
    mixed = [*records, factories.record("head")]
    assert (tuned(records) or "").endswith(" Chosen: lora lr=0.001, lst lr=0.002."), "what a person takes home"
    assert "not tuned: head." in (tuned(mixed) or "") and "not tuned: head" in document(mixed, Extras())
    assert tuned([factories.record("head")]) is None and "No tuning" in document([factories.record("head")], Extras())


def test_another_tuned_option_has_a_chart_of_its_own() -> None:
    from bench.report.html.chart_tuning import charts

    record = _tuned("lora", 0, 1e-3)
    record["tuning"] |= {"options": ["lr", "alpha"], "chosen": {"lr": 1e-3, "alpha": 16}}
    for trial, alpha in zip(record["tuning"]["trials"], (16, 8, 32), strict=True):
        trial["alpha"] = alpha
    (drawn,) = charts(pages.scene([record]))
    assert drawn.title == "Dev score against alpha" and drawn.traces[0]["x"] == [8, 16]
    assert drawn.traces[0]["marker"]["size"] == [7, 13]
    assert drawn.traces[0]["marker"]["symbol"] == ["circle-open", "circle"]
    assert charts(pages.scene([_tuned("lora", 0, 1e-3)])) == []
