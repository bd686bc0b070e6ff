"""The table as Markdown, CSV, JSON and LaTeX, and the command that writes it."""

import csv
import io
import json
import re

import pytest

from bench.report.formats import FORMATS, write
from tests import factories
from tests.report.html.test_page import HOSTILE, hostile_records
from tests.report.pages import stored


@pytest.fixture
def seeds():
    made = [factories.record(method, seed=seed) for method in ("lora", "head") for seed in (0, 1)]
    for record, score in zip(made, (0.8, 0.9, 0.5, 0.6), strict=True):
        record["scores"]["accuracy"], record["stderr"] = score, 0.01
    return [*made, factories.failed("oom", "full")]


def test_csv_and_json_hold_plain_numbers_over_seeds(seeds):
    from_csv = list(csv.DictReader(io.StringIO(write(seeds, "csv"))))
    rows = json.loads(write(seeds, "json"))
    assert [row["label"] for row in rows] == [row["label"] for row in from_csv] == ["lora", "head", "full"]
    assert rows[0]["score"] == pytest.approx(0.85) and float(from_csv[0]["score"]) == pytest.approx(0.85)
    assert rows[0]["runs"] == 2 and rows[0]["train_peak_bytes"] == seeds[0]["memory"]["train_peak_bytes"]
    assert rows[2]["status"] == "oom" and rows[2]["score"] is None and from_csv[2]["score"] == ""
    assert rows[2]["error"].startswith("CUDA out of memory") and "--seeds 0,1" in rows[0]["command"]


@pytest.mark.parametrize("start", ["=", "\n=", "\t", " =", "@", "-"])
def test_no_cell_of_a_csv_is_a_formula(seeds, start):
    seeds[0]["spec"]["task"]["name"] = f"{start}cmd"
    cells = [cell for row in csv.reader(io.StringIO(write(seeds, "csv"))) for cell in row]
    assert all(cell.lstrip()[:1] not in "=@" or cell[:1] == "'" for cell in cells if cell.strip() and "cmd" in cell)
    assert any(cell.startswith("'") for cell in cells)


def test_markdown_is_one_table_per_task(seeds):
    lines = write([*seeds, factories.record("lora", task="glue/rte")], "md").splitlines()
    assert [line for line in lines if line.startswith("#")] == ["### glue/rte on minilm", "### glue/sst2 on minilm"]
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("|")]
    assert len({len(row) for row in rows[3:]}) == 1
    assert any(line.startswith("| lora | 2 | 85.0 ± ") for line in lines) and "| full | 1 | oom |" in "\n".join(lines)


def test_what_a_pasted_table_means_stands_below_it(seeds):
    seeds[2]["checks"]["beats majority"] = "fail: accuracy 0.5, of the majority class 0.6"
    seeds[0]["environment"]["workers"] = 2
    said = [
        "head (seed 0): check failed, beats majority: accuracy 0.5, of the majority class 0.6",
        "full (seed 0): oom: CUDA out of memory",
        "measured with concurrent runs: other runs were active",
        "± is half a 95 % interval",
    ]
    markdown, latex = write(seeds, "md"), write(seeds, "latex")
    for note in said:
        assert f"\n- {note}" in markdown
        assert "footnotesize " + note.replace("±", r"$\pm$").replace("%", r"\%") in latex


def test_latex_rows_have_as_many_cells_as_columns(seeds):
    text = write(seeds, "latex")
    columns = len(re.search(r"tabular}{(l r*|lr*)}", text).group(1))
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert [len(re.split(r"(?<!\\)&", row)) for row in rows] == [columns] * 4
    assert r"accuracy \%" in text and r"85.0 $\pm$ " in text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_cannot_leave_its_cell(text):
    made = hostile_records(text)
    rows = list(csv.DictReader(io.StringIO(write(made, "csv"))))
    assert len(rows) == 6 and not any(value.startswith(("=", "+", "-", "@")) for row in rows for value in row.values())
    assert len(json.loads(write(made, "json"))) == 6
    lines = [line for line in write(made, "md").splitlines() if line.startswith("|")]
    assert len(lines) == 2 * (2 + 3)
    assert not re.search(r"(?<!\\)[<>`]", "".join(lines))
    latex = write(made, "latex")
    cells = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(cells) == 2 * 4 and not re.search(r"(?<!\\)[#]", latex)


def test_no_runs_make_an_empty_table():
    assert [write([], kind) for kind in FORMATS] == [
        "No runs yet.\n", "", "[]\n", "% needs \\usepackage{booktabs}\n",
    ]  # fmt: skip


def test_the_command_writes_to_stdout_or_a_file(bench_here, tmp_path, seeds):
    stored(tmp_path / "store", seeds, lambda record: 0.8)
    done = bench_here("report", tmp_path / "store", "--format", "md")
    assert done.returncode == 0 and done.stdout.startswith("### glue/sst2 on minilm")
    assert not (tmp_path / "store" / "report.html").exists()
    done = bench_here("report", tmp_path / "store", "--format", "json", "--to", tmp_path / "new" / "t.json")
    assert done.returncode == 0 and len(json.loads((tmp_path / "new" / "t.json").read_text())) == 3


def test_wrong_requests_are_all_told_at_once(bench_here, tmp_path):
    done = bench_here("report", tmp_path, "--format", "mdd", "--image-format", "gif")
    assert done.returncode == 2 and "Did you mean 'md'? Known: csv, json, latex, md." in done.stderr
    assert "Known: png, svg" in done.stderr and "--images DIR" in done.stderr
    done = bench_here("report", tmp_path, "--to", "x.md")
    assert done.returncode == 2 and "--to is for --format" in done.stderr
    done = bench_here("report", tmp_path)
    assert done.returncode == 2 and "holds no records" in done.stderr
