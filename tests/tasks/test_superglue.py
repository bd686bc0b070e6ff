"""SuperGLUE: rows made from the official ones, examples of several rows scored together, the real files of a mirror."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.core import registry
from bench.core.protocols import DataSource, GroupedPrediction, Splits
from bench.tasks import superglue
from tests.conftest import Bench

COPA = {
    "premise": ["It rained.", "He fell."], "choice1": ["The street got wet.", "He laughed."],
    "choice2": ["The sun shone.", "He slipped."], "question": ["effect", "cause"], "label": [0, 1], "idx": [0, 1],
}  # fmt: skip
MULTIRC = {
    "paragraph": ["p"] * 3 + ["q"] * 2, "question": ["who?", "who?", "why?", "how?", "how?"],
    "answer": list("abcde"), "label": [1, 0, 1, 0, 1],
    "idx": [
        {"paragraph": place[0], "question": place[1], "answer": answer}
        for answer, place in enumerate(((0, 0), (0, 0), (0, 1), (1, 2), (1, 2)))
    ],
}  # fmt: skip
RECORD = {
    "passage": ["Ann met Bob.\n@highlight\nBob smiled"], "query": ["@placeholder smiled at Ann"],
    "entities": [["Ann", "Bob", "Cy", "Bob"]], "answers": [["Bob"]], "idx": [{"passage": 7, "query": 0}],
}  # fmt: skip


def made(task: Any, rows: dict[str, list[Any]]) -> Any:
    import datasets

    return datasets.Dataset.from_dict(rows)


def task(name: str) -> Any:
    registry.load()
    return registry.task_entry(name).value


def test_copa_rows_are_choices_and_the_likelier_one_answers() -> None:
    copa = task("superglue/copa")
    rows = made(copa, superglue.copa(COPA, True))
    assert rows["label"] == [1, 0, 0, 1] and rows["group"] == [0, 0, 1, 1]
    assert rows["question"][2] == "He fell. What was the cause of this?" and rows["choice"][3] == "He slipped."
    assert isinstance(copa, GroupedPrediction)
    # both choices of the first look wrong, the second less so; of the other question the second looks right
    logits = np.array([[3.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 2.0]])
    predictions, references = copa.settle(logits, rows)
    assert (predictions, references) == ([1, 1], [0, 1])
    assert copa.score(predictions, references) == {"accuracy": 0.5}
    order = [3, 1, 0, 2]
    assert copa.settle(logits[order], rows.select(order))[0] == [1, 1], "rows may stand in any order"


def test_multirc_marks_of_a_question_are_scored_together() -> None:
    multirc = task("superglue/multirc")
    rows = made(multirc, superglue.multirc(MULTIRC, True))
    assert rows["group"] == ["0-0", "0-0", "0-1", "1-2", "1-2"] and rows["passage"] == [0, 0, 0, 1, 1]
    logits = np.array([[0, 1], [1, 0], [1, 0], [0, 1], [0, 1]])
    predictions, references = multirc.settle(logits, rows)
    assert predictions == [[1, 0], [0], [1, 1]] and references == [[1, 0], [1], [0, 1]]
    # chosen 3, right 3, both 2
    assert multirc.score(predictions, references) == {"f1_a": pytest.approx(4 / 6), "exact_match": pytest.approx(1 / 3)}


def test_record_entities_fill_the_gap() -> None:
    record = task("superglue/record")
    rows = made(record, superglue.record(RECORD, False))
    assert rows["query"] == ["Ann smiled at Ann", "Bob smiled at Ann", "Cy smiled at Ann"] and rows["label"] == [
        0,
        1,
        0,
    ]
    assert rows["passage"][0] == "Ann met Bob. Bob smiled" and rows["whole"] == [7] * 3
    predictions, references = record.settle(np.array([[0, 0], [0, 1], [0, 2]]), rows)
    assert (predictions, references) == (["Cy"], [["Bob"]])
    assert record.score(["the Bob!"], references) == {"answer_f1": 1.0, "answer_exact_match": 1.0}
    learned = superglue.record(RECORD, True)
    assert sorted(learned["label"]) == [0, 1], "as many wrong entities as right ones"


def test_spans_are_marked() -> None:
    columns = {"sentence1": ["a bank here"], "sentence2": ["the bank"], "start1": [2], "end1": [6], "start2": [4],
               "end2": [8], "label": [0], "word": ["bank"]}  # fmt: skip
    assert superglue.wic(columns, True) == {"sentence1": ["a *bank* here"], "sentence2": ["the *bank*"], "label": [0]}
    columns = {"text": ["Mark Tom told Pete that he lied ."], "span1_index": [0], "span1_text": ["Mark Tom"],
               "span2_index": [5], "span2_text": ["he"], "label": [1]}  # fmt: skip
    assert superglue.wsc(columns, True)["text"] == ["*Mark Tom* told Pete that #he# lied ."]


def test_a_group_name_stands_for_all() -> None:
    registry.load()
    assert registry.task_names("superglue") == tuple(
        f"superglue/{name}" for name in ("boolq", "cb", "copa", "multirc", "record", "wic", "wsc")
    )
    assert len(registry.task_names("glue")) == 9 and registry.task_names("glue/sst2") == ("glue/sst2",)


@pytest.mark.parametrize(
    ("name", "sizes"), [("superglue/copa", (800, 200)), ("superglue/cb", (250, 56)), ("superglue/wic", (5428, 638)),
                        ("trec", (5452, 500)), ("rotten_tomatoes", (8530, 1066))]
)  # fmt: skip
def test_real_rows(name: str, sizes: tuple[int, int]) -> None:
    given = os.environ.get("BENCH_DATA")
    if not given or not Path(given, superglue.DATASET).is_dir():
        pytest.skip(f"BENCH_DATA names no mirror that has {superglue.DATASET}")
    splits: Splits = task(name).load(DataSource(Path(given)))
    assert (len(splits.train), len(splits.validation)) == sizes


@pytest.fixture
def grouped(tmp_path: Path) -> Path:
    """A mirror with a COPA of 60 and 20 questions, a MultiRC of 90 and 30, and an MNLI with both validations."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(dataset: str, config: str, split: str, rows: dict[str, list[Any]]) -> None:
        folder = tmp_path / "grouped" / dataset / config
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(rows), folder / f"{split}-00000-of-00001.parquet")

    for split, times in (("train", 30), ("validation", 10)):
        write("aps/super_glue", "copa", split, {name: values * times for name, values in COPA.items()})
        many = {name: values * times for name, values in MULTIRC.items()}
        many["idx"] = [
            {**index, "paragraph": index["paragraph"] + 2 * (row // 5)} for row, index in enumerate(many["idx"])
        ]
        write("aps/super_glue", "multirc", split, many)
    for split in ("train", "validation_matched", "validation_mismatched"):
        pair = {"premise": ["good film", "bad film", "the film"] * 20, "hypothesis": ["a film"] * 60}
        write("nyu-mll/glue", "mnli", split, {**pair, "label": [0, 1, 2] * 20})
    return tmp_path / "grouped"


def test_runs_score_examples_of_several_rows_and_further_splits(
    bench_here: Bench, tiny_model: Path, tmp_path: Path, grouped: Path
) -> None:
    import json

    import pandas as pd

    tasks = "superglue/copa,superglue/multirc,glue/mnli"
    quick = ("--steps", 3, "--eval-size", 31, "--quiet", "--data-dir", grouped, "--out", "out")
    bench_here("run", "--methods", "head", "--model", tiny_model, "--task", tasks, *quick)
    records = [json.loads(path.read_text()) for path in (tmp_path / "out/runs").glob("*.json")]
    found = {record["spec"]["task"]["name"]: record for record in records}
    assert {record["status"] for record in records} == {"ok"}
    assert set(found["superglue/copa"]["scores"]) == {"accuracy"}
    assert set(found["superglue/multirc"]["scores"]) == {"f1_a", "exact_match"}
    assert set(found["glue/mnli"]["scores"]) == {"accuracy", "accuracy_mismatched"}
    kept = pd.read_parquet(tmp_path / "out" / found["superglue/copa"]["predictions"])
    assert len(kept) == 15, "31 rows hold 15 whole questions"
    share = (kept.prediction == kept.reference).mean()
    assert found["superglue/copa"]["scores"]["accuracy"] == pytest.approx(share)
    assert found["superglue/copa"]["stderr"] == pytest.approx(np.sqrt(share * (1 - share) / 15))
    assert len(pd.read_parquet(tmp_path / "out" / found["superglue/multirc"]["predictions"])) < 31
