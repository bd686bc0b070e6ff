"""Requests expand to the full product, each run once; plan files say the same; a dry run tells what would be done."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from bench.core.train_config import TrainSettings
from bench.sweep import eta, expand, grid
from bench.sweep.request import RunRequest
from tests import factories
from tests.conftest import Bench


@pytest.fixture
def expanded(mirror: Path, tiny_model: Path) -> Any:
    def call(methods: str, sets: tuple[str, ...] = (), **request: Any) -> list[expand.RunSpec]:
        asked = {"task": ("glue/sst2",), "model": (str(tiny_model),), "train": {"steps": "3"}, **request}
        return expand.expand(RunRequest(methods=tuple(methods.split(",")), set=sets, data_dir=mirror, **asked))

    return call


def values(runs: list[expand.RunSpec], part: str, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(run.spec[part][name] for name in names) for run in runs]


def test_the_full_product_has_every_combination_once(expanded: Any, tiny_model: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    twin.symlink_to(tiny_model)
    runs = expanded(
        "lora,lst,head",
        ("lst.heads=official,scaled", "train.batch_size=16,32"),
        task=("glue/sst2", "glue/rte"),
        model=(str(tiny_model), str(twin)),
        ranks=("2", "4"),
        seeds=("0", "1", "2"),
    )
    per_method = {"lora": 2, "lst": 2 * 2, "head": 1}
    shared = 2 * 2 * 2 * 3  # tasks, models, batch sizes, seeds
    counts = {name: sum(run.method.name == name for run in runs) for name in per_method}
    assert counts == {name: own * shared for name, own in per_method.items()}
    assert len({run.run_id for run in runs}) == len(runs) == 7 * shared
    lst = [run for run in runs if run.method.name == "lst"]
    cells = {
        (run.method.reduction, run.method.heads, run.task.name, run.source.name, run.spec["train"]["batch_size"],
         run.spec["seed"])
        for run in lst
    }  # fmt: skip
    names = ("glue/sst2", "glue/rte"), (str(tiny_model), str(twin))
    assert cells == set(itertools.product((2, 4), ("official", "scaled"), *names, (16, 32), (0, 1, 2)))


def test_repeated_values_and_defaults_make_no_second_run(expanded: Any) -> None:
    default = str(expanded("lora")[0].method.rank)
    assert len(expanded("lora", ranks=(default, "2", "2"))) == 2
    (alone,) = expanded("lora")
    assert alone.run_id in {run.run_id for run in expanded("lora", ranks=(default, "2"))}


def test_training_flags_may_list_values_too(expanded: Any) -> None:
    runs = expanded("lora,head", train={"steps": "3,6", "lr": "1e-3,1e-2"})
    assert len(runs) == 2 * 2 * 2
    assert set(values(runs, "train", "steps", "lr")) == set(itertools.product((3, 6), (1e-3, 1e-2)))


def test_an_option_that_is_a_list_is_one_value_and_bars_separate_several(expanded: Any) -> None:
    (one,) = expanded("lora", ("lora.targets=query,value",))
    assert one.method.targets == ("query", "value")
    two = expanded("lora", ("lora.targets=query|query,value",))
    assert [run.method.targets for run in two] == [("query",), ("query", "value")]


def test_one_methods_training_can_differ(expanded: Any) -> None:
    runs = expanded("lora,head", ("head.train.steps=9", "train.clip=0.5", "head.train.clip=0,1"))
    found = sorted((run.method.name, *values([run], "train", "steps", "clip")[0]) for run in runs)
    assert found == [("head", 9, 0.0), ("head", 9, 1.0), ("lora", 3, 0.5)]
    epochs = expanded("lora,head", ("head.train.epochs=2",))
    assert {run.method.name: run.spec["train"]["epochs"] for run in epochs} == {"lora": None, "head": 2.0}


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("lora.train.stepz=9",), "Unknown option of train 'stepz'. Did you mean 'steps'?"),
        (("lora.train.lr=9",), "write --set lora.lr=VALUE"),
        (("lora.lr=1", "train.lr=2"), "both set the same option"),
        (("train.clip=1,x",), "train.clip: 'x' is not a number"),
        (("lora.rank=2,,4",), "lora.rank: '' is not a whole number"),
    ],
)
def test_wrong_lists_are_refused(expanded: Any, sets: tuple[str, ...], said: str) -> None:
    with pytest.raises(expand.RequestError, match="^" + ".*" + said.replace("(", r"\(")):
        expanded("lora", sets)


def test_product_of_nothing_is_one_empty_choice() -> None:
    assert grid.product(TrainSettings, {}) == [{}]
    assert grid.product(TrainSettings, {"clip": "1", "steps": 4}) == [{"clip": "1", "steps": 4}]


PLAN = """
task = "glue/sst2"
model = "{model}"
steps = 5
seeds = [0, 1]
methods = ["lora", "lst"]
[set.lst]
reduction = 2
[set.lora.train]
steps = 9
[experiment.sizes]
ranks = [2, 4]
methods = ["lora"]
[experiment.heads]
methods = ["lst", "head"]
epochs = 2
seeds = 3
[experiment.heads.set.lst]
heads = ["official", "scaled"]
"""


def test_experiments_inherit_and_are_chosen(bench_here: Bench, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN.format(model=tiny_model))
    command = ("run", "--plan", "plan.toml", "--dry-run")
    every = bench_here(*command)
    assert every.returncode == 0 and "7 runs, 0 already there." in every.stdout, every.stderr
    sizes = bench_here(*command, "--experiment", "sizes").stdout
    assert "4 runs" in sizes and sizes.count(" 9 steps") == 4 and "rank=2" in sizes and "seed 1" in sizes
    heads = bench_here(*command, "--experiment", "heads").stdout
    assert "3 runs" in heads and "seed 3" in heads and "lora" not in heads and "9 steps" not in heads
    assert heads.count("reduction=2") == 2 and "heads=official" in heads
    flag = bench_here(*command, "--methods", "head", "--experiment", "sizes").stdout
    assert "2 runs" in flag, "a flag wins, and options of methods that are not run are left out"


@pytest.mark.parametrize(
    ("text", "extra", "said"),
    [
        ("", ["--experiment", "size"], "Unknown experiment 'size'. Did you mean 'sizes'?"),
        ("[experiment.b]\nout = 'x'\n", [], "experiment b: out holds for all experiments"),
        ("[experiment.b]\nmethds = 'x'\n", [], "experiment b: Unknown key 'methds'. Did you mean 'methods'?"),
        ("[experiment.b]\nmethods = 'lorra'\n", [], "experiment b: Unknown method 'lorra'"),
        ("[experiment.b.set]\nlora = 3\n", [], "write options as [set.METHOD]"),
    ],
)
def test_wrong_experiments_teach(
    bench_here: Bench, tiny_model: Path, tmp_path: Path, text: str, extra: list[str], said: str
) -> None:
    (tmp_path / "plan.toml").write_text(PLAN.format(model=tiny_model) + text)
    done = bench_here("run", "--plan", "plan.toml", "--dry-run", *extra)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_experiment_without_a_plan_is_refused(bench_here: Bench) -> None:
    done = bench_here("run", "--methods", "head", "--task", "glue/sst2", "--experiment", "a")
    assert done.returncode == 2 and "--plan FILE" in done.stderr


def test_time_is_scaled_from_the_nearest_runs_and_never_invented() -> None:
    record = factories.record("lora")
    twice = json.loads(json.dumps(record["spec"]))
    twice["train"]["steps"] *= 2
    speed = record["speed"]
    expected = speed["total_seconds"] + speed["train_seconds"]
    assert eta.seconds(twice, [record]) == (pytest.approx(expected), "the same method, task and model")
    twice["method"]["name"] = "new"
    assert eta.seconds(twice, [record]) == (pytest.approx(expected), "other methods on the same task and model")
    twice["train"]["batch_size"] = 7
    assert eta.seconds(twice, [record, factories.failed("oom")]) is None
    said = eta.sentence([twice, record["spec"]], [record], workers=1)
    assert "1 from the same method" in said and "1 more of unknown length" in said
    assert "unknown" in eta.sentence([twice], [record], workers=1)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (89.5, "90 s"), (91, "2 min"), (5399, "1 h 30 min"),
                           (12_000, "3 h 20 min")]
)  # fmt: skip
def test_durations(seconds: float, words: str) -> None:
    assert eta.duration(seconds) == words


def test_the_resolved_plan_is_kept_and_the_dry_run_counts(bench_here: Bench, tiny_model: Path, tmp_path: Path) -> None:
    command = ("run", "--methods", "head", "--model", tiny_model, "--task", "glue/sst2", "--steps", 2, "--out", "out",
               "--quiet")  # fmt: skip
    assert "Report" in bench_here(*command, "--seeds", 0).stdout
    dry = bench_here(*command, "--seeds", "0,1", "--dry-run")
    assert "2 runs, 1 already there." in dry.stdout
    assert "To do: 1, about" in dry.stdout and "(1 from the same method, task and model)" in dry.stdout
    (path,) = (tmp_path / "out/plans").iterdir()
    plan = json.loads(path.read_text())
    (run,) = plan["runs"]
    assert (tmp_path / f"out/runs/{run['run_id']}.json").is_file() and run["spec"]["train"]["steps"] == 2
    assert plan["asked"][0]["methods"] == ["head"] and plan["asked"][0]["model"] == [str(tiny_model)]
