"""Generation and language-modelling tasks: what is read off a text, how references are grouped, whence rows come."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.core import registry, task_options
from bench.core.errors import RequestError
from bench.core.protocols import DataSource, Generates
from bench.tasks.generation import _gsm8k_style, final_number
from bench.tasks.prompted import PromptTask, Source, held_out
from bench.tasks.wikitext import articles

REAL = Path(os.environ.get("BENCH_DATA", "missing"))


@pytest.fixture(autouse=True)
def registered() -> None:
    registry.load()


def task(name: str, **given: str) -> PromptTask:
    return task_options.changed(registry.task_entry(name).value, given)  # type: ignore[return-value]


def mirror(root: Path, dataset: str, **splits: dict[str, list[object]]) -> DataSource:
    folder = root / dataset
    folder.mkdir(parents=True)
    for split, columns in splits.items():
        pq.write_table(pa.table(columns), folder / f"{split}-00000-of-00001.parquet")
    return DataSource(root)


@pytest.mark.parametrize(
    ("text", "number"),
    [("so 3+4 = 7\n#### 7", "7"), ("#### 1,080", "1080"), ("####  $-12.50 left", "-12.50"), ("#### 18.", "18"),
     ("#### 5.00", "5"), ("#### 5\n#### 6", "5"), ("the answer is 7", ""), ("####", "")],
)  # fmt: skip
def test_the_final_number_is_read_after_the_mark(text: str, number: str) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize(
    ("response", "answer"),
    [("2+2=4 The answer is: 4", "2+2=4\n#### 4"), ("so The answer is: $1,080.", "so\n#### 1,080"),
     ("a half The answer is: 3/4", "a half\n#### 3/4"), ("The answer is: 2\\sqrt{3}", "\n#### 2\\sqrt{3}"),
     ("The answer is: 10^{6}", "\n#### 10^{6}"), ("The answer is: 1, 2, 3", "\n#### 1, 2, 3"),
     ("If The answer is 7 we stop.\nThe answer is: 12", "If The answer is 7 we stop.\n#### 12"),
     ("it is 4", "it is 4"), ("x\n#### 4 The answer is: 4", "x\n#### 4 The answer is: 4")],
)  # fmt: skip
def test_metamaths_answers_are_marked_whole(response: str, answer: str) -> None:
    assert _gsm8k_style(response) == answer


def test_gsm8k_is_right_when_the_number_is() -> None:
    gsm8k = task("gsm8k")
    written = ["5+5\n#### 10", "it is 10", "#### 1,000", "#### 11"]
    wanted = ["reason\n#### 10", "#### 10", "#### 1000", "#### 10"]
    assert gsm8k.score(written, wanted) == {"exact_match": 0.5}
    assert gsm8k.each(written, wanted) == [1.0, 0.0, 1.0, 0.0]
    assert isinstance(gsm8k, Generates) and gsm8k.max_new_tokens == 256


def test_gsm8k_learns_from_metamathqa_and_is_scored_on_its_own_test(tmp_path: Path) -> None:
    mirror(
        tmp_path,
        "meta-math/MetaMathQA",
        train={
            "query": ["q1", "q2"],
            "response": ["2+2 is 4.\nThe answer is: 4", "x\n#### 5\nThe answer is: 5"],
            "type": ["a", "b"],
        },
    )
    source = mirror(tmp_path, "openai/gsm8k/main", train={"question": ["t"], "answer": ["#### 1"]},
                    test={"question": ["q"], "answer": ["#### 3"]})  # fmt: skip
    found = task("gsm8k", train="metamathqa").load(source)
    assert found.train["answer"][:] == ["2+2 is 4.\n#### 4", "x\n#### 5\nThe answer is: 5"]
    assert found.train["question"][:] == ["q1", "q2"] and found.validation["answer"][:] == ["#### 3"]
    assert "MetaMathQA" in found.source
    own = task("gsm8k").load(source)
    assert own.train["question"][:] == ["t"] and own.fingerprint != found.fingerprint


def test_e2e_groups_the_references_of_a_meaning_where_it_is_scored(tmp_path: Path) -> None:
    rows: dict[str, list[object]] = {
        "meaning_representation": ["a", "b", "a"],
        "human_reference": ["one", "two", "three"],
    }
    found = task("e2e_nlg").load(mirror(tmp_path, "tuetschek/e2e_nlg", train=rows, test=rows))
    assert len(found.train) == 3
    scored = found.validation[:]
    assert scored == {"meaning_representation": ["a", "b"], "human_reference": [["one", "three"], ["two"]]}
    e2e = task("e2e_nlg")
    assert e2e.targets(scored) == ["one", "two"] and e2e.references(scored) == [["one", "three"], ["two"]]
    exact = e2e.score(["three words and more here", "two"], [["one", "three words and more here"], ["two"]])
    assert exact["bleu"] == pytest.approx(100) and exact["rougeL"] == pytest.approx(1)
    assert e2e.each(["x"], [["x"]]) is None, "BLEU is of all examples together"


def test_a_context_is_part_of_the_prompt_only_where_there_is_one(tmp_path: Path) -> None:
    from bench.tasks.formulations.prompt_template import Template

    rows: dict[str, list[object]] = {
        "instruction": [f"do {i}" for i in range(20)], "context": ["", "facts"] * 10, "response": ["done"] * 20,
        "category": ["c"] * 20,
    }  # fmt: skip
    found = task("dolly").load(mirror(tmp_path, "databricks/databricks-dolly-15k", train=rows))
    assert (len(found.train), len(found.validation)) == (16, 4)
    assert not set(found.train["instruction"]) & set(found.validation["instruction"])
    template = Template(task("dolly").template)
    prompts = {template.fill(row) for row in found.train}
    assert "Instruction:\ndo 0\n\nResponse:" in prompts or "Instruction:\ndo 2\n\nResponse:" in prompts
    assert any("\n\nContext:\nfacts\n\nResponse:" in prompt for prompt in prompts)
    assert task("dolly").main_score == "loss" and not task("dolly").higher_is_better


def test_rows_are_held_out_the_same_way_every_time() -> None:
    train, held = held_out(100, 10)
    assert (train, held) == held_out(100, 10) and sorted(train + held) == list(range(100)) and len(held) == 10
    assert len(held_out(20, 1000)[1]) == 4, "a fifth at most"


def test_lines_become_articles() -> None:
    lines = ["", " = One = \n", "", " a = b \n", " = = Part = = \n", "", " c \n", "", " = Two = \n", "", " d \n"]
    assert articles(lines) == ["= One = \n a = b \n = = Part = = \n c", "= Two = \n d"]


def test_a_missing_train_split_says_how_to_learn_from_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source = mirror(tmp_path, "Salesforce/wikitext/wikitext-2-v1", validation={"text": ["a b"]}, test={"text": ["c"]})
    with pytest.raises(RequestError, match=r"'train'.*--set task.train_split=NAME"):
        task("wikitext").load(source)
    assert task("wikitext", train_split="validation").load(source).train["text"][:] == ["a b"]


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    rows: dict[str, list[object]] = {"question": ["q"], "answers": ["a"]}
    with pytest.raises(RequestError, match="Unknown column 'answer'. Did you mean 'answers'"):
        task("gsm8k").load(mirror(tmp_path, "openai/gsm8k/main", train=rows, test=rows))


def test_a_task_that_contradicts_itself_is_refused_where_it_is_defined() -> None:
    with pytest.raises(ValueError, match="Unknown metric 'blue'. Did you mean 'bleu'"):
        PromptTask(name="x", source=Source("d"), help="", metrics=("blue",), main_score="blue")
    with pytest.raises(ValueError, match="Unknown main score 'bleu'"):
        PromptTask(name="x", source=Source("d"), help="", metrics=("rougeL",), main_score="bleu")


def test_a_task_of_a_kind_needs_what_the_kind_asks_for() -> None:
    class Half:
        name, kind, labels, main_score, higher_is_better, help = "half", "generation", (), "loss", False, ""
        load = score = template = max_new_tokens = targets = None

    with pytest.raises(TypeError, match="task 'half' lacks references, each"):
        registry.register_task(Half())  # type: ignore[arg-type]


@pytest.mark.skipif(not (REAL / "openai/gsm8k").is_dir(), reason="BENCH_DATA names no mirror that has openai/gsm8k")
def test_every_real_gsm8k_answer_has_a_number() -> None:
    found = task("gsm8k").load(DataSource(REAL))
    assert (len(found.train), len(found.validation)) == (7473, 1319)
    assert all(final_number(text) for text in (*found.train["answer"], *found.validation["answer"]))
