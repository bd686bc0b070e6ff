"""Published figures: matched by model, task and metric, with their source and how their setting differs."""

import csv
import json
from pathlib import Path

import pytest

from bench.report.published import matching
from tests import factories
from tests.report.pages import report

FOLDER = Path(__file__).parents[2] / "results" / "published"


def on(model, task, **changes):
    record = factories.record("lora", task=task)
    record["spec"]["model"]["name"] = model
    record |= changes
    return record


def test_every_table_says_where_it_comes_from():
    for path in FOLDER.glob("*.json"):
        about = json.loads(path.read_text())
        assert "arXiv" in about["source"] and about["read_from"] and about["differs"]
        with path.with_suffix(".csv").open(newline="") as file:
            assert len(list(csv.DictReader(file))) > 1


def test_figures_of_the_same_model_task_and_metric_match():
    found = {
        (figure.method, figure.trainable): figure for figure in matching([on("FacebookAI/roberta-base", "glue/sst2")])
    }
    assert found["full", 125e6].score == pytest.approx(0.948) and found["lora", 0.3e6].score == pytest.approx(0.951)
    assert "max length 512 there, 128 here" in found["full", 125e6].differs
    rte = matching([on("roberta-base", "glue/rte")])
    assert any("starts from its MNLI weights" in note for note in rte[0].differs)


@pytest.mark.parametrize(
    "record",
    [
        on("minilm", "glue/sst2"),
        on("roberta-base", "glue/cola"),  # ranked by accuracy here, by Matthews correlation there
        on("roberta-base", "trec"),
        on("roberta-base", "glue/sst2", main_score=None, scores={}),
    ],
)
def test_other_settings_match_nothing(record):
    assert matching([record]) == []


def test_memory_of_the_lst_paper_stands_beside_runs_on_its_model(tmp_path):
    record = on("t5-base", "glue/sst2")
    (lora,) = [figure for figure in matching([record]) if figure.method == "lora"]
    assert lora.trainable == 3_819_876 and lora.train_peak_bytes == pytest.approx(12.6e3 * 2**20) and lora.average
    assert "batch size 100 there, 32 here" in lora.differs and "precision" not in " ".join(lora.differs)
    _, page = report([record], tmp_path)
    assert "arXiv 2206.06522, table 1" in page.said and "13.2 GB" in page.said


def test_they_are_drawn_apart_from_the_runs(tmp_path):
    _, page = report([on("roberta-base", "glue/sst2")], tmp_path)
    traces = page.charts["Score against trained parameters"]["data"]
    (shown,) = [trace for trace in traces if trace["name"] == "published"]
    assert shown["meta"]["ink"] == "muted" and shown["marker"]["symbol"] == "diamond-open" and len(shown["x"]) == 5
    assert "Another setting, so no test of these runs" in page.said
