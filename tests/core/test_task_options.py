"""Options of tasks: checked before anything runs, kept in the record, the same in the process that does the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.core import registry, task_options
from bench.core.errors import RequestError
from bench.core.protocols import DataSource
from bench.report.html.reproduce_command import reproduce
from bench.store.labels import groups
from bench.sweep import expand as specs
from bench.sweep.request import RunRequest
from tests.conftest import Bench

FORM = {"form": "auto", "template": None, "words": []}
PLUGIN = Path(__file__).parents[1] / "plugins" / "task_options.py"


def expand(*sets: str, task: str = "tiny/cut", model: Path) -> list[specs.RunSpec]:
    return specs.expand(
        RunRequest(methods=("head",), task=(task,), model=(str(model),), set=sets, train={"steps": 2}, plugin=(PLUGIN,))
    )


def test_options_reach_the_specification_and_their_lists_multiply(tiny_model: Path) -> None:
    plain = expand(model=tiny_model)
    assert plain[0].spec["task"]["options"] == {**FORM, "keep": 4, "end": "left", "skip": []}
    found = expand("task.keep=2,3", "task.end=right", "task.skip=the,a", model=tiny_model)
    assert [spec.spec["task"]["options"] for spec in found] == [
        {**FORM, "keep": keep, "end": "right", "skip": ["the", "a"]} for keep in (2, 3)
    ]
    assert len({spec.run_id for spec in [*plain, *found]}) == 3
    (same,) = expand("task.keep=4", model=tiny_model)
    assert same.run_id == plain[0].run_id, "a default that is written out is the same run"


def test_a_task_without_options_leaves_the_specification_as_it_was() -> None:
    class Plain:
        name = "plain"

    assert task_options.declared(Plain()) == {} == task_options.plain(Plain())  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="Unknown option of plain 'keep'"):
        task_options.variants(Plain(), {"keep": "3"})  # type: ignore[arg-type]


def test_the_process_of_a_run_builds_the_very_same_task(tiny_model: Path) -> None:
    (spec,) = expand("task.keep=2", "task.skip=the", model=tiny_model)
    kept = json.loads(json.dumps(spec.spec["task"]))
    assert task_options.rebuild(kept, DataSource()) == spec.task != registry.task_entry("tiny/cut").value


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("task.kep=3",), ["Unknown option of tiny/cut 'kep'. Did you mean 'keep'?"]),
        (("task.keep=0", "task.end=middle"), ["task.keep: is 0, but must be at least 1", "task.end: Unknown value"]),
        (("tusk.keep=3",), ["Unknown owner of an option", "Did you mean 'task'?"]),
    ],
)
def test_wrong_options_are_all_named(tiny_model: Path, sets: tuple[str, ...], said: list[str]) -> None:
    with pytest.raises(RequestError) as refused:
        expand(*sets, model=tiny_model)
    for words in said:
        assert words in str(refused.value)


def test_runs_with_options_from_a_plan_file(bench_here: Bench, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(
        f'methods = ["head"]\ntask = "tiny/cut"\nmodel = "{tiny_model}"\nplugin = ["{PLUGIN}"]\n'
        'steps = 2\nout = "out"\n[set.task]\nkeep = [1, 2]\n'
    )
    done = bench_here("run", "--plan", "plan.toml", "--quiet")
    assert done.returncode in (0, 1), done.stderr
    found = [json.loads(path.read_text()) for path in sorted((tmp_path / "out/runs").glob("*.json"))]
    assert sorted(record["spec"]["task"]["options"]["keep"] for record in found) == [1, 2]
    assert [name for name, _ in groups(found)] == ["tiny/cut keep=1", "tiny/cut keep=2"]
    assert "tiny/cut keep=1" in done.stdout
    assert "--set task.keep=" in reproduce(found[0]["spec"])


def test_show_prints_the_options(bench_here: Bench) -> None:
    done = bench_here("show", "tiny/cut", "--plugin", PLUGIN)
    assert "--set task.OPTION=VALUE" in done.stdout and "words that are kept" in done.stdout
