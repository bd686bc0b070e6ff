"""TextTask on splits written by the test: what it accepts, what it refuses and how it says so, what it encodes."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bench.core.errors import RequestError
from bench.core.protocols import DataSource, Task
from bench.tasks.text_classification import TextTask

TASK = TextTask(
    name="own/pairs",
    dataset="owner/pairs",
    config="a",
    text=("left", "right"),
    labels=("no", "yes", "maybe"),
    metrics=("accuracy",),
    main_score="accuracy",
    help="",
)
REGRESSION = dataclasses.replace(
    TASK, text=("left",), kind="regression", labels=(), metrics=("pearson", "spearmanr"), main_score="pearson"
)
GOOD: dict[str, Any] = {"left": ["a b", "c", "d"], "right": ["b", "c", "a"], "label": [0, 2, 1]}


def write(mirror: Path, train: dict[str, Any], validation: dict[str, Any] = GOOD) -> DataSource:
    folder = mirror / "owner/pairs/a"
    folder.mkdir(parents=True)
    for split, rows in (("train", train), ("validation", validation)):
        pq.write_table(
            rows if isinstance(rows, pa.Table) else pa.table(rows), folder / f"{split}-00000-of-00001.parquet"
        )
    return DataSource(mirror)


def refusal(source: DataSource, task: TextTask = TASK) -> list[str]:
    with pytest.raises(RequestError) as caught:
        task.load(source)
    return caught.value.messages


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Words a to f as tokens 3 to 8; [CLS] left [SEP] right [SEP], with segment ids."""
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, **{word: 3 + i for i, word in enumerate("abcdef")}}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[PAD]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def test_satisfies_the_contract() -> None:
    assert isinstance(TASK, Task)


def test_load_gives_rows_source_and_fingerprint(tmp_path: Path) -> None:
    splits = TASK.load(write(tmp_path / "one", GOOD))
    assert splits.train[:] == splits.validation[:] == GOOD
    assert splits.source == "mirror:owner/pairs/a"
    assert len(splits.fingerprint) == 64
    assert TASK.load(write(tmp_path / "two", GOOD)).fingerprint == splits.fingerprint
    assert TASK.load(write(tmp_path / "three", {**GOOD, "label": [0, 2, 2]})).fingerprint != splits.fingerprint


def test_missing_columns_are_named_with_what_there_is(tmp_path: Path) -> None:
    (message,) = refusal(write(tmp_path, {"left": ["a"], "text": ["b"]}))
    assert message == (
        "Task 'own/pairs' cannot use mirror:owner/pairs/a, split 'train': "
        "no column 'right', 'label' (there: left, text)."
    )


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    train = {"left": ["a", None, None], "right": [1, 2, 3], "label": [0, 7, 3]}
    messages = refusal(write(tmp_path, train, {**GOOD, "label": [-1, -1, -1]}))
    assert [message.partition(": ")[2].partition(": ")[2] or message for message in messages]
    text = "\n".join(messages)
    assert "column 'left' has no text in 2 rows, the first is row 1 (counting from 0)" in text
    assert "column 'right' holds int64, not text" in text
    assert "column 'label' has the unknown label 3, 7 in 2 rows, the first is row 1 (counting from 0)" in text
    assert "the labels are 0 no, 1 yes, 2 maybe" in text
    assert "split 'validation': column 'label' is -1 (a hidden label, as test splits have) in 3 rows" in text
    assert len(messages) == 4


def test_one_unknown_label_names_its_row(tmp_path: Path) -> None:
    (message,) = refusal(write(tmp_path, {**GOOD, "label": [0, 1, None]}))
    assert "unknown label null in row 2 (counting from 0)" in message


@pytest.mark.parametrize("labels", [["no", "yes", "no"], [0.0, 1.0, 2.0]])
def test_labels_of_another_type(tmp_path: Path, labels: list[Any]) -> None:
    (message,) = refusal(write(tmp_path, {**GOOD, "label": labels}))
    assert "not class indices 0 to 2" in message


def test_class_names_in_another_order_are_refused(tmp_path: Path) -> None:
    features = '{"left": {"dtype": "string", "_type": "Value"}, "right": {"dtype": "string", "_type": "Value"}, '
    features += '"label": {"names": ["yes", "no", "maybe"], "_type": "ClassLabel"}}'
    table = pa.table(GOOD).replace_schema_metadata({"huggingface": f'{{"info": {{"features": {features}}}}}'})
    (message,) = refusal(write(tmp_path, table))  # type: ignore[arg-type]  # a table carries metadata, a dict cannot
    assert "its labels are yes, no, maybe, the task's are no, yes, maybe" in message


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_regression_needs_finite_numbers(tmp_path: Path, value: float | None) -> None:
    (message,) = refusal(write(tmp_path, {**GOOD, "label": [1.5, value, 0.0]}), REGRESSION)
    assert "split 'train': column 'label' has no finite number in row 1 (counting from 0)" in message


def test_regression_refuses_texts_as_labels(tmp_path: Path) -> None:
    messages = refusal(write(tmp_path, {**GOOD, "label": ["1", "2", "3"]}), REGRESSION)
    assert "column 'label' holds string, not numbers" in messages[0]


def test_empty_split_is_refused() -> None:
    import datasets

    empty = datasets.Dataset.from_dict({"left": [], "right": [], "label": []})
    assert TASK._problems(empty) == ["it is empty"]


def test_encode_cuts_the_longer_text_and_does_not_pad(tokenizer: Any) -> None:
    rows = {"left": ["a b c d e f", "a"], "right": ["b", "c"], "label": [2, 0]}
    encoded = TASK.encode(rows, tokenizer, 7)
    assert encoded["input_ids"] == [[1, 3, 4, 5, 2, 4, 2], [1, 3, 2, 5, 2]]
    assert encoded["token_type_ids"] == [[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]
    assert encoded["attention_mask"] == [[1] * 7, [1] * 5]
    assert encoded["labels"] == [2, 0]
    assert encoded["cut"] == [True, False]


def test_special_tokens_that_a_text_spells_are_text() -> None:
    """A head on T5 or BART reads the state at the end-of-text token: another one inside made the batch ragged."""
    from bench.models import loading as found

    tokenizer = found.tokenizer(found.resolve("tiny-t5"))
    encoded = TASK.encode({"left": ["good </s> film <pad>"], "right": ["x"], "label": [0]}, tokenizer, 64)["input_ids"]
    assert [ids.count(tokenizer.eos_token_id) for ids in encoded] == [1], "the one that ends it"
    assert all(tokenizer.pad_token_id not in ids for ids in encoded)


def test_encode_gives_numbers_for_regression_and_only_what_the_tokenizer_has(tokenizer: Any) -> None:
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    encoded = REGRESSION.encode({"left": ["a", "b c"], "label": [1, 2.5]}, tokenizer, 8)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert list(encoded) == ["input_ids", "attention_mask", "labels", "cut"]
    assert encoded["input_ids"] == [[1, 3, 2], [1, 4, 5, 2]]
    assert encoded["labels"] == [1.0, 2.5] and type(encoded["labels"][0]) is float


def test_score() -> None:
    assert TASK.score([0, 1, 2, 2], [0, 1, 2, 1]) == {"accuracy": 0.75}
    assert REGRESSION.score([1.0, 2.0, 4.0], [0.0, 1.0, 3.0]) == {
        "pearson": pytest.approx(1.0),
        "spearmanr": pytest.approx(1.0),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "clasification"}, "Did you mean 'classification'"),
        ({"text": ()}, "takes one or two"),
        ({"text": ("a", "b", "c")}, "takes one or two"),
        ({"metrics": ("accurcy",)}, "Did you mean 'accuracy'"),
        ({"main_score": "f1"}, "main score: Unknown metric 'f1'"),
        ({"labels": ("one",)}, "a classification with 1 labels"),
        ({"kind": "regression"}, "a regression with 3 labels"),
    ],
)
def test_contradictory_tasks_are_refused_where_they_are_defined(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TASK, **change)
