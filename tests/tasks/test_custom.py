"""A person's own files as tasks: what is found in them, what is refused, and the page that explains it."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.core import registry, task_options
from bench.core.errors import RequestError
from bench.core.protocols import DataSource, Splits
from bench.data.sampling import groups_of, hold_out
from bench.store.schema import schema
from bench.tasks.custom import CustomTask
from tests import writers, zoo
from tests.conftest import Bench
from tests.tasks.custom_files import write_all, write_csv

PAGE = Path(__file__).parents[2] / "docs" / "your-own-data.md"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    registry.load()


def task(name: str, source: DataSource = DataSource(), **given: Any) -> CustomTask:  # noqa: B008 (frozen)
    found = task_options.resolved(task_options.changed(registry.task_entry(name).value, given), source)
    assert isinstance(found, CustomTask)
    return found


def load(name: str, **given: Any) -> Splits:
    return task(name, **given).load(DataSource())


def refusal(name: str, **given: Any) -> str:
    with pytest.raises(RequestError) as refused:
        load(name, **given)
    return str(refused.value)


def write(name: str, text: str | bytes) -> str:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def rows(count: int, labels: str = "ab") -> str:
    return "".join(f"some text {number},{labels[number % len(labels)]}\n" for number in range(count))


# -- what cells mean ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("forms", "labels"), [
    (("0", "1", "0.0", "1.0"), ("0", "1")), (("True", "false", "true", "False"), ("False", "True")),
    (("007", "7", "7.0", "8"), ("007", "7", "8")), (("neg", "Neg", "pos", "pos"), ("Neg", "neg", "pos")),
])  # fmt: skip
def test_numbers_and_truth_values_are_one_class_in_whatever_form(
    forms: tuple[str, ...], labels: tuple[str, ...]
) -> None:
    write("mixed.csv", "text,label\n" + "".join(f"some text {n},{forms[n % 4]}\n" for n in range(80)))
    found = task("mixed.csv")
    splits = found.load(DataSource())
    assert {label.lower() for label in found.labels} == {label.lower() for label in labels}
    counts = [*splits.train["label"], *splits.validation["label"]]
    assert len(counts) == 80 and set(counts) == set(range(len(labels)))


@pytest.mark.parametrize("missing", ["NaN", '"nan"', "null", '""'])
@pytest.mark.parametrize("column", ["text", "label", "score"])
def test_missing_values_are_empty_cells_and_scores_stay_scores(missing: str, column: str) -> None:
    def row(number: int) -> str:
        cells = {"text": f'"some text {number}"', "label": '"ab"'.replace("ab", "ab"[number % 2])}
        if column == "score":
            cells = {"text": cells["text"], "score": str(number * 0.37 % 5)}
        cells |= {column: missing} if number % 10 == 3 else {}
        return "{" + ", ".join(f'"{name}": {cell}' for name, cell in cells.items()) + "}\n"

    write("rows.jsonl", "".join(map(row, range(100))))
    found = task("rows.jsonl")
    assert found.kind == ("regression" if column == "score" else "classification")
    assert f"the column '{column}' is empty in 10 rows, the first is row 4" in refusal("rows.jsonl")
    splits = load("rows.jsonl", skip_empty="true")
    assert len(splits.train) + len(splits.validation) == 90


def test_parquet_categories_views_and_nan(tmp_path: Path) -> None:
    texts, labels = [f"some text {n}" for n in range(120)], ["neg", "pos"] * 60
    splits = pa.array(["train"] * 90 + ["validation"] * 30).dictionary_encode()
    columns = {"text": pa.array(texts).cast(pa.string_view()), "label": pa.array(labels).dictionary_encode()}
    pq.write_table(pa.table({**columns, "split": splits}), "rows.parquet")
    found = load("rows.parquet")
    assert (len(found.train), len(found.validation)) == (90, 30) and task("rows.parquet").labels == ("neg", "pos")
    scores = [float("nan") if n == 7 else n * 0.37 % 5 for n in range(120)]
    pq.write_table(pa.table({"text": texts, "score": scores}), "scores.parquet")
    assert task("scores.parquet").kind == "regression" and "empty in row 8" in refusal("scores.parquet")


def test_excels_line_names_the_separator() -> None:
    write("reviews.csv", b"\xef\xbb\xbfsep=;\r\ntext;label\r\n" + rows(40).replace(",", ";").encode())
    assert task("reviews.csv").labels == ("a", "b") and len(load("reviews.csv").train) == 32
    write("short.csv", "sep=;\ntext;label\n" + rows(40).replace(",", ";") + "one cell\n")
    assert "short.csv, line 43: 1 cell, but the first line names 2 columns" in refusal("short.csv")


def test_texts_that_differ_in_white_space_or_unicode_form_stay_together() -> None:
    forms = ("caf\u00e9 number {}", " caf\u00e9  number {}", "cafe\u0301 number {}", "caf\u00e9\u00a0number {}")
    write(
        "rows.csv", "text,label\n" + "".join(f"{forms[n % 4].format(n // 4)},{'ab'[n // 4 % 2]}\n" for n in range(160))
    )
    splits = load("rows.csv")
    train, held = ({text.split()[-1] for text in part["text"]} for part in (splits.train, splits.validation))
    assert held and not train & held


# -- what is found ------------------------------------------------------------------------------------------


def test_a_file_is_the_same_task_in_every_process(tmp_path: Path) -> None:
    write_all(tmp_path)
    found = task("reviews.csv")
    assert (found.kind, found.text, found.label, found.labels) == (
        "classification", ("review",), "stars", ("down", "up")
    )  # fmt: skip
    kept = json.loads(json.dumps({"name": "reviews.csv", "options": task_options.plain(found)}))
    assert task_options.rebuild(kept, DataSource()) == found
    splits = found.load(DataSource())
    again = task_options.rebuild(kept, DataSource()).load(DataSource())
    assert splits.train[:] == again.train[:] and splits.fingerprint == again.fingerprint
    assert splits.source == "file:reviews.csv"


@pytest.mark.parametrize(
    ("name", "kind", "text", "label", "sizes"),
    [
        ("ratings.tsv", "regression", ("text",), "score", (32, 8)),
        ("pairs.jsonl", "classification", ("premise", "hypothesis"), "label", (32, 8)),
        ("rows.parquet", "classification", ("text",), "label", (30, 5)),
        ("sst-train.csv", "classification", ("text",), "label", (30, 10)),
    ],
)
def test_kinds_columns_and_splits(
    tmp_path: Path, name: str, kind: str, text: tuple[str, ...], label: str, sizes: tuple[int, int]
) -> None:
    write_all(tmp_path)
    found = task(name)
    assert (found.kind, found.text, found.label) == (kind, text, label)
    splits = found.load(DataSource())
    assert (len(splits.train), len(splits.validation)) == pytest.approx(sizes, abs=2)
    assert splits.train.column_names == splits.validation.column_names


def test_held_out_rows_are_stratified_seeded_and_share_no_text(tmp_path: Path) -> None:
    texts = [f"text number {number // 2}" for number in range(200)]  # each twice
    labels = ["rare" if number < 40 else "common" for number in range(200)]
    write_csv(Path("data.csv"), ["text", "label"], zip(texts, labels, strict=True))
    splits = load("data.csv")
    assert Counter(splits.validation["label"]) == {0: 32, 1: 8}, "a fifth of each class"
    assert not set(splits.train["text"]) & set(splits.validation["text"])
    assert load("data.csv").validation[:] == splits.validation[:]
    assert load("data.csv", split_seed=1).validation[:] != splits.validation[:]


def test_dev_rows_share_no_text_with_the_rows_learned_from() -> None:
    """Else a method that learns rows by heart would be chosen; data without repeats is held out as any other."""
    texts = [f"text number {number // 6}" for number in range(360)]  # each six times
    write_csv(Path("data.csv"), ["text", "label"], zip(texts, ["no", "yes"] * 180, strict=True))
    splits = load("data.csv")
    assert splits.group == ("text",)
    train, dev = hold_out(len(splits.train), 1000, groups=groups_of(splits.train, splits.group))
    found = np.asarray(splits.train["text"])
    assert len(dev) >= 18 and not set(found[train]) & set(found[dev])
    write_csv(Path("other.csv"), ["text", "label"], [(f"text {n}", "yn"[n % 2]) for n in range(60)])
    assert load("other.csv").group is None
    pairs = [(f"one {n // 4}", f"two {n // 2}", "yn"[n % 2]) for n in range(200)]
    write_csv(Path("pairs.csv"), ["first", "second", "label"], pairs)
    both = load("pairs.csv", text="first,second")
    codes = groups_of(both.train, both.group)
    assert both.group == ("first", "second") and codes is not None and len(set(codes.tolist())) == len(codes) / 2


def test_spaces_around_column_names_are_none_of_theirs() -> None:
    write("data.csv", "text, label\n" + rows(40))
    assert task("data.csv").label == "label" and load("data.csv").train.column_names[:2] == ["text", "label"]


def test_an_infinite_number_is_no_number() -> None:
    scores = [float(n) for n in range(39)] + [float("inf")]
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(40)], "score": scores}), "data.parquet")
    assert "the label inf of row 40 is not a number" in refusal("data.parquet", kind="regression", label="score")


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [("a.jsonl", '{"text": "cut \\ud83d", "label": "a"}\n', "holds half a character"),
     ("b.jsonl", '{"text": ' + "[" * 100_000 + "\n", "line 1: nested too deeply"),
     ("c.json", "[" * 100_000, "is nested too deeply")],
)  # fmt: skip
def test_texts_that_cannot_be_read_are_named(name: str, text: str, why: str) -> None:
    assert why in refusal(write(name, text))


def test_groups_stay_together_and_empty_rows_may_be_left_out(tmp_path: Path) -> None:
    write_all(tmp_path)
    splits = load("authors.csv", group="author", skip_empty=True)
    assert not set(splits.train["author"]) & set(splits.validation["author"])
    assert len(splits.train) + len(splits.validation) == 39 and splits.group == "author"


def test_a_name_wins_over_a_guess_and_numbers_sort_as_numbers() -> None:
    write("data.csv", "note,stars,level\n" + "".join(f"a b c,{n % 3 + 9},{n % 2}\n" for n in range(40)))
    assert task("data.csv").labels == ("9", "10", "11")
    assert task("data.csv", label="level").labels == ("0", "1")
    assert task("data.csv", kind="regression").main_score == "pearson"


def test_cells_stay_texts_and_quotes_may_hold_lines() -> None:
    write("data.csv", 'text,label\n"NA, or\nnull",01\n' + "x y,1\n" * 10 + "z,01\n" * 10)
    found = task("data.csv", holdout=0.5)
    assert set(found.labels) == {"01", "1"}
    splits = found.load(DataSource())
    assert "NA, or\nnull" in [*splits.train["text"], *splits.validation["text"]]


def test_a_parquet_file_may_name_its_classes() -> None:
    import datasets

    names = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    columns = {"text": [f"text {number}" for number in range(20)], "label": [0, 1] * 10}
    datasets.Dataset.from_dict(columns, features=features).to_parquet("data.parquet")
    found = task("data.parquet")
    assert found.labels == ("no", "yes")
    splits = found.load(DataSource())
    pairs = zip(splits.train["text"], splits.train["label"], strict=True)
    assert {(int(text[5:]) % 2, label) for text, label in pairs} == {(0, 0), (1, 1)}


def test_a_changed_file_has_another_fingerprint() -> None:
    write("data.csv", "text,label\n" + rows(20))
    first = load("data.csv").fingerprint
    write("data.csv", "text,label\n" + rows(20).replace("text 3", "text x"))
    assert load("data.csv").fingerprint != first


def test_a_big_file_is_read_once_in_blocks_and_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.data import file_reader

    monkeypatch.setattr(file_reader, "_BLOCK", 4096)
    with Path("data.csv").open("w") as file:
        file.write("text,label\n")
        file.writelines(f"{'word ' * 20}{number},{'ab'[number % 2]}\n" for number in range(20_000))
    before = pa.total_allocated_bytes()
    table = file_reader.read(Path("data.csv"))
    assert table.rows.num_rows == 20_000 and table.rows["text"].num_chunks > 100
    assert pa.total_allocated_bytes() - before < 100_000, "the rows lie on disk, not in memory"

    def refuse(*given: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(file_reader, "_write", refuse)
    assert file_reader.read(Path("data.csv")).fingerprint == table.fingerprint


def test_a_task_file_says_what_no_guess_can_know(tmp_path: Path) -> None:
    write_all(tmp_path)
    write("mood.toml", 'data = "reviews.csv"\ntext = "review"\nlabel = "stars"\nrank_by = "f1_macro"\nholdout = 0.25\n')
    found = task("mood.toml")
    assert (found.name, found.main_score, found.metrics[0]) == ("mood.toml", "f1_macro", "f1_macro")
    assert len(found.load(DataSource()).validation) == pytest.approx(10, abs=2)


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        ("text,label\n", "has no rows below its column names"),
        ("stars\n4\n5\n", "has one column, 'stars'"),
        ("text,label\na,1\nb,2,3\n", "line 3: 3 cells, but the first line names 2 columns: b,2,3"),
        ('text,label\n"a\nb",1\nc\n', "line 4: 1 cell, but the first line names 2 columns: c\n  Is a cell missing, or"),
        ('text,label\n"a,1\nb,2\n', "line 2"),
        ("text,text\na,1\n", "two columns are called 'text'"),
        (b"text,label\nok,1\ncaf\xe9,1\n", "line 3: byte 0xe9 at character 4 is not UTF-8"),
        (b"text\xe9,label\nok,1\n", "line 1: byte 0xe9"),
        ("text,label\na,1\n".encode("utf-16"), "is UTF-16, not UTF-8"),
        (b"PK\x03\x04rest", "is a zip archive or spreadsheet, not text"),
        (b"\x00\x01\x02", "is binary data, not text"),
        ("text,label\n" + rows(20, "a"), "every label is 'a' (column 'label')"),
        ("text,label\n" + rows(4), "too few to hold some out"),
        ("text,label\n,a\n" + rows(20), "the column 'text' is empty in row 1. Leave"),
        ("text,label\nx y,\n" + rows(20), "the column 'label' is empty in row 1."),
        ("words,a,b\n" + "".join(f"w w w w {n},{n % 2},{n % 3}\n" for n in range(40)), "It may be a or b"),
        ("text,score\n" + "".join(f"t {n},{n / 7 if n != 3 else 'n/a'}\n" for n in range(99)),
         "the label 'n/a' of row 4 is not a number (column 'score')"),
        ("text;score\n" + "".join(f"t {n};{n},5\n" for n in range(99)),
         "Column 'score' has 99 numbers that are written with commas: write 2.71 for 2,71"),
    ],
)  # fmt: skip
def test_bad_files(content: str | bytes, said: str) -> None:
    assert said in refusal(write("data.csv", content))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data.jsonl", '{"text": "a"}\n{"text":\n', "line 2: not JSON: Expecting value at character 9."),
        ("data.jsonl", '[{"text": "a"},\n', "It looks like one list of all rows: name the file .json."),
        ("data.jsonl", "[1]\n", "line 1: must be one JSON object, {…}, not a list"),
        ("data.json", '{"a": 1}\n{"a": 2}\n', "name it .jsonl"),
        ("data.json", "[1, 2]", "item 0 is not"),
        ("data.parquet", "text", "not a readable parquet file"),
    ],
)
def test_bad_files_of_other_formats(name: str, content: str, said: str) -> None:
    assert said in refusal(write(name, content))


def test_one_column_has_no_label() -> None:
    write("data.csv", "text\n" + "a b c\n" * 20)
    assert "has one column, 'text'" in refusal("data.csv", kind="classification")


def test_labels_that_train_lacks() -> None:
    write("train.csv", "text,label\n" + rows(20))
    write("validation.csv", "text,label\n" + rows(9, "abz"))
    assert (
        "split 'validation': the label 'z' of row 3 is none of train's (a, b) (column 'label'; 2 more such rows)."
        in refusal("train.csv")
    )
    write("validation.csv", "text,lable\n" + rows(9))
    said = refusal("train.csv")
    assert "validation.csv has the columns text, lable; train.csv has text, label. By its name it is" in said
    assert "the validation split of train.csv: where it is not" in said and said.endswith("move it or rename it.")


def test_blanks_around_labels_make_no_classes_of_their_own() -> None:
    found = task(
        write("data.csv", "text,label\n" + "".join(f"t {n},{'ab'[n % 2]}{' ' * (n % 3)}\n" for n in range(30)))
    )
    assert found.labels == ("a", "b")
    counted = Counter(found.load(DataSource()).train["label"])
    assert set(counted) == {0, 1} and abs(counted[0] - counted[1]) <= 2


def test_a_split_column_with_another_word_is_refused() -> None:
    cells = ["train"] * 20 + ["test"] * 8 + [""] + ["train"] * 5
    write("data.csv", "text,label,split\n" + "".join(f"t {n},{'ab'[n % 2]},{word}\n" for n, word in enumerate(cells)))
    assert "the column 'split' says train, validation or test, but in row 29 it is ''" in refusal("data.csv")


def test_lines_that_end_in_a_carriage_return_alone() -> None:
    assert "old Mac files" in refusal(write("data.csv", b"text,label\ra,1\rb,0\r"))


def test_lists_and_objects_in_cells_are_said() -> None:
    chat = [{"role": "user", "content": "hello"}]
    lines = [json.dumps({"chat": chat, "tags": {"a": 1}, "label": "ab"[number % 2]}) for number in range(20)]
    found = task(write("data.jsonl", "\n".join(lines)), text="chat", label="label")
    assert any("chat, tags holds lists or objects, read as the text of their JSON" in note for note in found.notes)


def test_wrong_options_teach() -> None:
    write("data.csv", "text,label\n" + rows(20))
    assert "Unknown column of data.csv 'lable'. Did you mean 'label'?" in refusal("data.csv", label="lable")
    assert "both name the column 'text'" in refusal("data.csv", label="text", text="text")
    assert "task.rank_by: Unknown score of a classification 'pearson'" in refusal("data.csv", rank_by="pearson")
    assert "it has train" in refusal("data.csv", scored="test")
    assert "Unknown column of data.csv 'who'" in refusal("data.csv", group="who")
    said = refusal("dta.csv")
    assert "does not exist. Did you mean 'data.csv'? In " in said and said.endswith(": data.csv.")
    assert "nor does the folder gone" in refusal("gone/data.csv")
    assert "'hub:' names no data set: write hub:owner/name" in refusal("hub:")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rows.xlsx", "rows.xlsx is a spreadsheet: save its sheet as CSV (UTF-8). Files of rows end in .csv"),
        ("rows.csv.gz", "is compressed: unpack it first"),
        ("rows.txt", "give the texts as a .csv or .jsonl file with a column 'text'"),
        ("rows.doc", "files of this kind are not read"),
    ],
)
def test_files_of_other_kinds(name: str, said: str) -> None:
    write(name, "what is in it plays no part")
    assert said in refusal(name)


def test_a_folder_that_is_not_there() -> None:
    assert refusal("pictures/") == "There is no folder pictures/ with images."


def test_every_mistake_in_a_task_file_is_told() -> None:
    write("mood.toml", 'labell = "stars"\nholdout = 2\nkind = ["a"]\n')
    message = refusal("mood.toml")
    assert "Unknown key 'labell'. Did you mean 'label'?" in message
    assert "holdout: is 2, but must be at most 0.9" in message
    assert "kind is one value" in message and 'data = "reviews.csv"' in message
    assert "not valid TOML" in refusal(write("bad.toml", "data = \n"))
    assert "cannot be read: No such file" in refusal("nothing.toml")


# -- the Hub ------------------------------------------------------------------------------------------------


def test_a_mirrors_data_set(mirror: Path) -> None:
    found = task("hub:nyu-mll/glue:rte", DataSource(mirror))
    assert (found.text, found.labels) == (("sentence1", "sentence2"), ("0", "1"))
    splits = found.load(DataSource(mirror))
    assert (len(splits.train), len(splits.validation)) == (100, 50) and splits.source == "mirror:nyu-mll/glue/rte"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hub:nyu-mll/glue", "has several configurations in the mirror: rte, sst2, stsb"),
        ("hub:nyu-mll/glue:sst3", "Did you mean 'sst2'?"),
        ("hub:../secret", "is not a data set id"),
    ],
)
def test_names_the_mirror_lacks(
    mirror: Path, name: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(RequestError, match=re.escape(said)):
        task(name, DataSource(mirror))


@pytest.mark.parametrize(
    "said",
    [
        "Dataset 'o/n' is a gated dataset on the Hub. You must be authenticated to access it.",
        "Dataset 'o/n' doesn't exist on the Hub or cannot be accessed.",
        "Config name is missing. Please pick one among the available configs: ['a', 'b']",
    ],
)
def test_what_the_hub_refuses_is_passed_on(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*given: object, **named: object) -> None:
        raise datasets.exceptions.DatasetNotFoundError(said)

    monkeypatch.setattr("datasets.load_dataset", refuse)
    monkeypatch.setattr("bench.data.hub_datasets._hub_resolves", lambda endpoint: True)
    with pytest.raises(RequestError, match=re.escape(said.rstrip("."))):
        task("hub:o/n")


def test_no_network_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.data.hub_datasets._hub_resolves", lambda endpoint: False)
    with pytest.raises(RequestError, match="there is no network to"):
        task("hub:owner/name")


# -- the page -----------------------------------------------------------------------------------------------


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.strip().splitlines()]


def test_every_command_of_the_page_is_understood(bench_here: Bench, tiny_model: Path, tmp_path: Path) -> None:
    write_all(tmp_path)
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "mood.toml").write_text(toml)
    found = [command for command in commands() if "--model" not in command]
    assert len(found) == 10
    for command in found:
        done = bench_here(*shlex.split(command)[1:], "--model", tiny_model, "--dry-run")
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert "training rows" in done.stderr


def test_every_command_of_the_page_for_another_model_is_understood(bench_here: Bench, tmp_path: Path) -> None:
    write_all(tmp_path)
    models = {"smollm2-135m": writers.folder(tmp_path / "llama", "llama"), "vit-base": tmp_path / "vit"}
    zoo.backbone("vit", "image-classification").model.vit.save_pretrained(models["vit-base"])
    found = [command for command in commands() if "--model" in command]
    assert len(found) == 3
    for command in found:
        name = command.split("--model ")[1].split()[0]
        done = bench_here(*shlex.split(command)[1:], "--model", models[name], "--dry-run")
        assert done.returncode == 0 and "1 run, 0 already there" in done.stdout, f"{command}: {done.stderr}"


def test_the_first_command_of_the_page_runs(bench: Bench, tiny_model: Path, tmp_path: Path) -> None:
    write_all(tmp_path)
    done = bench(
        *shlex.split(commands()[0])[1:], "--model", tiny_model, "--steps", 3, "--max-length", 8, "--out", "out"
    )
    assert done.returncode in (0, 1), done.stderr
    told = re.search(r"^bench: reviews.csv: text.*$", PAGE.read_text(), re.MULTILINE)
    assert told is not None and told[0] in done.stderr
    found = [json.loads(path.read_text()) for path in (tmp_path / "out/runs").glob("*.json")]
    assert len(found) == 2
    for record in found:
        jsonschema.validate(record, schema())
        assert record["status"] == "ok" and record["spec"]["task"]["options"]["text"] == ["review"]
        assert record["data"]["train_rows"] + record["data"]["validation_rows"] <= 40
        assert record["data"]["train_cut"] > 0
    assert "training texts" in done.stderr and "were cut to 8 tokens" in done.stderr


def test_row_numbers_of_splits_are_disjoint() -> None:
    from bench.data.validation_split import make

    classes, groups = np.repeat([0, 1, 2], [50, 9, 1]), np.arange(60)
    train, validation = make(classes, groups, 0.2, 0)
    assert sorted([*train, *validation]) == list(range(60))
    assert Counter(classes[validation]) == {0: 10, 1: 2}, "a class of one row stays in train"


def test_parquet_rows_keep_their_types() -> None:
    pq.write_table(
        pa.table({"text": [f"t {n}" for n in range(30)], "label": [n / 7 for n in range(30)]}), "data.parquet"
    )
    found = task("data.parquet")
    assert found.kind == "regression" and found.load(DataSource()).train.features["label"].dtype == "float64"


# -- answers to write, and texts to model ---


def qa(count: int = 20, **more: Any) -> str:
    return "".join(
        json.dumps({"question": f"what is {n}?", "answer": f"it is the number {n}", **more}) + "\n"
        for n in range(count)
    )


def test_questions_and_answers_are_generation() -> None:
    found = task(write("qa.jsonl", qa(id=3)))
    assert (found.kind, found.text, found.label, found.main_score) == ("generation", ("question",), "answer", "rougeL")
    assert found.notes == ("prompt from 'question', answer from 'answer' (generation)", "not used: id")
    splits = found.load(DataSource())
    assert (len(splits.train), len(splits.validation)) == (16, 4)
    part = splits.validation[:]
    assert found.targets(part) == found.references(part) == part["answer"] and part["answer"][0].startswith("it is")
    assert found.score(part["answer"], part["answer"]) == {"rougeL": 1.0, "exact_match": 1.0}
    assert found.each(part["answer"][:1], ["another text"]) == [0.0]
    assert not task("qa.jsonl", rank_by="loss").higher_is_better


@pytest.mark.parametrize(
    ("columns", "text", "label"),
    [
        (("instruction", "input", "output"), ("instruction", "input"), "output"),
        (("dialogue", "summary"), ("dialogue",), "summary"),
        (("Prompt", "Completion"), ("Prompt",), "Completion"),
    ],
)
def test_names_that_ask_and_answer(columns: tuple[str, ...], text: tuple[str, ...], label: str) -> None:
    rows = [{name: f"{name} of {n} in many words" for name in columns} for n in range(20)]
    found = task(write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    assert (found.kind, found.text, found.label) == ("generation", text, label)


def test_few_short_answers_are_classes_unless_the_person_says_otherwise() -> None:
    rows = "".join(json.dumps({"question": f"is {n} even?", "answer": ("yes", "no")[n % 2]}) + "\n" for n in range(20))
    write("even.jsonl", rows)
    assert task("even.jsonl", label="answer").kind == "classification"
    found = task("even.jsonl", kind="generation")
    assert (found.kind, found.text, found.label) == ("generation", ("question",), "answer")


def test_a_text_column_alone_is_modelled() -> None:
    write("lines.jsonl", "".join(json.dumps({"id": n, "text": f"line number {n}"}) + "\n" for n in range(20)))
    found = task("lines.jsonl")
    assert (found.kind, found.text, found.label) == ("language-modelling", ("text",), "")
    assert found.main_score == "perplexity" and not found.higher_is_better
    splits = found.load(DataSource())
    assert found.texts(splits.validation[:2]) == splits.validation[:2]["text"]
    named = task(
        write("two.csv", "a,b\n" + "".join(f"x {n},y y y {n}\n" for n in range(20))), kind="language-modelling"
    )
    assert named.text == ("b",), "the column with the most words"


def test_a_run_builds_the_same_task_of_answers_again() -> None:
    found = task(write("qa.jsonl", qa()), template="{question}", max_new_tokens="9")
    spec = {"name": "qa.jsonl", "options": json.loads(json.dumps(task_options.plain(found)))}
    assert task_options.rebuild(spec, DataSource()) == found
    lines = task(write("lines.csv", "text\n" + "".join(f"line {n}\n" for n in range(20))))
    spec = {"name": "lines.csv", "options": json.loads(json.dumps(task_options.plain(lines)))}
    assert task_options.rebuild(spec, DataSource()) == lines


def test_what_cannot_be_written_or_modelled_is_refused() -> None:
    write("odd.csv", "a,b\n" + "".join(f"some {n},{n}\n" for n in range(20)))
    assert "which column asks, which answers?" in refusal("odd.csv", kind="generation")
    assert "one column of text and no label" in refusal("odd.csv", kind="language-modelling", label="b")
    assert "the column 'answer' is empty in row 21." in refusal(
        write("gap.jsonl", qa() + '{"question": "why?", "answer": " "}\n')
    )
    assert "Unknown score of a generation 'accuracy'" in refusal(write("qa.jsonl", qa()), rank_by="accuracy")
