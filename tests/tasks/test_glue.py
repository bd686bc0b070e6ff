"""The GLUE table against the real files, where a mirror is given with BENCH_DATA."""

import os
from pathlib import Path

import pytest

from bench.core import registry
from bench.core.errors import RequestError
from bench.core.protocols import DataSource, Task
from bench.tasks import glue

MAIN = {
    "glue/cola": "matthews_correlation",
    "glue/sst2": "accuracy",
    "glue/mrpc": "accuracy",
    "glue/qqp": "accuracy",
    "glue/stsb": "pearson",
    "glue/mnli": "accuracy",
    "glue/qnli": "accuracy",
    "glue/rte": "accuracy",
    "glue/wnli": "accuracy",
}
ROWS = {  # train, validation: sizes of the official release
    "glue/cola": (8551, 1043),
    "glue/sst2": (67349, 872),
    "glue/mrpc": (3668, 408),
    "glue/stsb": (5749, 1500),
    "glue/rte": (2490, 277),
    "glue/wnli": (635, 71),
}


def task(name: str) -> Task:
    found = registry.task_entry(name).value
    assert isinstance(found, Task)
    return found


@pytest.fixture(scope="module")
def mirror() -> DataSource:
    given = os.environ.get("BENCH_DATA")
    if not given or not Path(given, glue.DATASET).is_dir():
        pytest.skip(f"BENCH_DATA names no mirror that has {glue.DATASET}")
    return DataSource(Path(given))


@pytest.mark.parametrize("name", MAIN)
def test_registered(name: str) -> None:
    found = task(name)
    assert found.main_score == MAIN[name]
    assert found.kind == ("regression" if name == "glue/stsb" else "classification")
    assert found.higher_is_better and found.help


@pytest.mark.parametrize("name", ROWS)
def test_real_rows(name: str, mirror: DataSource) -> None:
    splits = task(name).load(mirror)
    assert (len(splits.train), len(splits.validation)) == ROWS[name]
    assert splits.source == f"mirror:nyu-mll/{name}"


@pytest.mark.parametrize(("name", "split"), [("glue/qnli", "validation"), ("glue/mnli", "validation_matched")])
def test_real_labels_where_the_mirror_has_no_train(name: str, split: str, mirror: DataSource) -> None:
    found = task(name)
    assert found._problems(found.read(mirror, split).dataset) == []  # type: ignore[attr-defined]  # a TextTask


def test_hidden_labels_of_a_test_split(mirror: DataSource) -> None:
    import dataclasses

    on_test = dataclasses.replace(registry.task_entry("glue/rte").value, validation_split="test")
    with pytest.raises(RequestError, match="is -1 .a hidden label, as test splits have. in 3000 rows"):
        on_test.load(mirror)
