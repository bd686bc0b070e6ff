"""The charts' data: which figures stand where, and in whose colour."""

import pytest

from bench.report.html.chart_curves import thinned
from bench.report.html.chart_list import charts
from bench.report.html.chart_pareto import front
from bench.store.labels import ranked
from tests import factories
from tests.report.pages import report, scene


def by_key(records):
    return {chart.key: chart for chart in charts(scene(records))}


def test_charts_show_every_method_in_one_colour(four, tmp_path):
    _, page = report(four, tmp_path)
    assert list(page.charts) == [
        "Trade-offs", "Score against trained parameters", "What the training peak consists of",
        "Peak memory over phases", "Training loss", "Dev score",
    ]  # fmt: skip
    inks = {trace["name"]: trace["meta"]["ink"] for trace in page.charts["Training loss"]["data"]}
    assert len(set(inks.values())) == 4
    for name in ("Trade-offs", "Score against trained parameters", "Peak memory over phases", "Dev score"):
        traces = [trace for trace in page.charts[name]["data"] if "front" not in trace["meta"]]
        assert {trace["name"]: trace["meta"]["ink"] for trace in traces} == inks
    split = page.charts["What the training peak consists of"]
    assert [trace["name"] for trace in split["data"]] == ["weights", "gradients", "optimizer", "activations", "other"]
    row = split["layout"]["yaxis"]["ticktext"].index("full")
    bars = sum(trace["x"][row] for trace in split["data"])
    assert bars == pytest.approx(four[0]["memory"]["train_peak_bytes"] / 1e6, rel=1e-3)


def test_the_trade_off_chart_offers_every_measured_axis(four):
    chart = by_key(four)["pareto"]
    keys = [choice["key"] for choice in chart.choices]
    assert keys[:2] == ["score", "train_peak_bytes"] and "reserved_peak_bytes" not in keys
    assert {"train_samples_per_second", "inference_latency_ms", "trainable", "checkpoint_bytes"} <= set(keys)
    assert {key: len(chart.columns[key]) for key in keys} == dict.fromkeys(keys, 4)
    merged = chart.columns["merged_inference_latency_ms"]
    assert sorted(value is None for value in merged) == [False, True, True, True]
    assert next(choice for choice in chart.choices if choice["key"] == "train_samples_per_second")["least"] is False


def test_the_front_is_what_nothing_else_beats():
    points = [(1, 1), (2, 3), (3, 2), (4, 4), (4, 3.5), (2, 3)]
    assert front(points, True, False) == [(1, 1), (2, 3), (4, 4)]
    assert front(points, True, True) == [(1, 1)]
    assert front(points, False, False) == [(4, 4)]
    assert front([], True, True) == []


def test_a_method_has_one_line_over_its_sizes():
    made = []
    for rank, score in ((4, 0.7), (8, 0.8), (16, 0.75)):
        record = factories.record("lora", rank=rank)
        record["parameters"]["trainable"], record["scores"]["accuracy"] = 1000 * rank, score
        made.append(record)
    line, points = by_key(made)["capacity"].traces
    assert line["x"] == [4000, 8000, 16000] and line["y"] == pytest.approx([70, 80, 75])
    assert line["mode"] == "lines" and sorted(points["x"]) == line["x"]


def test_bars_of_a_share_end_where_shares_do(monkeypatch):
    from bench.analysis.configurations import Configuration
    from bench.report.html import chart_pareto

    made = scene([factories.record(method) for method in ("lora", "full")])
    monkeypatch.setattr(Configuration, "margin", 0.9)
    for trace in chart_pareto.chart(made).traces[1:]:
        bars, (score,) = trace["error_y"], trace["y"]
        assert (bars["array"], bars["arrayminus"]) == (pytest.approx([100 - score]), pytest.approx([score]))


def test_a_score_of_nothing_is_drawn():
    """A Matthews correlation of 0 is what a model gives that says one class alone."""
    collapsed = factories.record("lora")
    collapsed["scores"], collapsed["main_score"] = {"matthews_correlation": 0.0}, "matthews_correlation"
    assert by_key([collapsed])["capacity"].traces[-1]["y"] == [0]


def test_learning_rates_are_drawn_where_they_were_tried():
    assert "learning-rate" not in by_key([factories.record("lora")])
    tuned = factories.record("lora")
    tuned["tuning"] = {"trials": [{"lr": 1e-2, "dev_score": 0.7}, {"lr": 1e-3, "dev_score": 0.8}, {"lr": None}]}
    trials, final = by_key([tuned])["learning-rate"].traces
    assert trials["x"] == [1e-3, 1e-2] and trials["y"] == pytest.approx([80, 70]) and final["x"] == [1e-3]
    tuned["dev_score"] = {"name": "loss", "higher_is_better": False}
    chart = by_key([tuned])["learning-rate"]
    assert [trace["y"] for trace in chart.traces] == [[0.8, 0.7]] and "judged by loss" in chart.note
    swept = [factories.record("lora", lr=rate) for rate in (1e-3, 1e-4)]
    for record in swept:
        record["spec"]["train"]["lr"] = record["spec"]["method"]["lr"]
    (points,) = by_key(swept)["learning-rate"].traces
    assert sorted(points["x"]) == [1e-4, 1e-3]


def test_forgetting_is_the_rise_of_the_loss():
    made = [factories.record(method) for method in ("lora", "lst")]
    assert "forgetting" not in by_key(made)
    made[0]["forgetting"] = {"text": "wikitext", "base_loss": 3.0, "tuned_loss": 3.25}
    (bar,) = by_key(made)["forgetting"].traces
    assert bar["name"] == "lora" and bar["x"] == [0.25]


def test_tasks_and_methods_make_a_heatmap(tmp_path):
    made = [factories.record(method, task=task) for task in ("glue/rte", "glue/sst2") for method in ("lora", "head")]
    for record, score in zip(made, (0.8, 0.6, 0.5, 0.9), strict=True):
        record["scores"]["accuracy"] = score
    _, page = report(made, tmp_path)
    (heat,) = page.charts["Methods and tasks on minilm"]["data"]
    rows = page.charts["Methods and tasks on minilm"]["layout"]["yaxis"]["ticktext"]
    cells = dict(zip(rows, heat["text"], strict=True))
    assert cells == {"head": ["60.0", "90.0"], "lora": ["80.0", "50.0"]}
    assert dict(zip(rows, heat["z"], strict=True))["head"] == pytest.approx([0.25, 0.0])


def test_the_peak_of_every_phase_is_drawn(four):
    four[1]["memory"]["phases"]["initialization"] = {"peak_bytes": 7_000_000, "split": {}}
    phases = by_key(four)["phases"]
    assert phases.layout["xaxis"]["categoryarray"] == [
        "loaded", "forward", "backward", "step", "evaluation", "initialization",
    ]  # fmt: skip
    lora = next(trace for trace in phases.traces if trace["name"] == "lora")
    measured = four[1]["memory"]["phases"]
    assert lora["x"][-1] == "initialization" and lora["y"][-1] == 7
    assert lora["y"][2] == pytest.approx(measured["backward"]["peak_bytes"] / 1e6, rel=1e-3)
    assert len(next(trace for trace in phases.traces if trace["name"] == "lst")["x"]) == 5


def test_bars_of_memory_are_the_run_whose_peak_the_table_shows():
    made = [factories.record("lora", seed=seed) for seed in (0, 1)]
    for record, score, size in zip(made, (0.9, 0.8), (5, 7), strict=True):
        record["scores"]["accuracy"] = score
        record["memory"]["train_peak"]["activations"] += size * 10**6
        record["memory"]["train_peak_bytes"] = sum(record["memory"]["train_peak"].values())
        record["memory"]["phases"]["forward"] = {"peak_bytes": size * 10**6}
    found = by_key(made)
    drawn = sum(trace["x"][0] for trace in found["memory"].traces)
    assert drawn == pytest.approx(made[1]["memory"]["train_peak_bytes"] / 1e6)
    (line,) = found["phases"].traces
    assert 7.0 in line["y"]


def test_equal_trials_are_drawn_and_only_the_chosen_one_is_large():
    made = factories.record("lora")
    tried = [(0.0, 8, 0.5), (0.0, 16, 0.5), (0.1, 8, 0.5), (0.1, 16, 0.4)]
    trials = [
        {"lora.dropout": dropout, "lora.alpha": alpha, "dev_score": score, "status": "ok", "steps": 5}
        for dropout, alpha, score in tried
    ]
    options, chosen = ["lora.dropout", "lora.alpha"], {"lora.dropout": 0.0, "lora.alpha": 16}
    made["tuning"] = {"options": options, "chosen": chosen, "trials": trials, "best_of": 4}
    found = by_key([made])
    (dropout,), (alpha,) = found["tuned-0"].traces, found["tuned-1"].traces
    assert found["tuned-0"].layout["xaxis"]["type"] == "linear" and found["tuned-1"].layout["xaxis"]["type"] == "log"
    assert sorted(dropout["x"]) == [0.0, 0.0, 0.1, 0.1]
    assert [trace["marker"]["size"].count(13) for trace in (dropout, alpha)] == [1, 1]


def test_charts_without_measurements_are_left_out():
    assert charts(scene([factories.failed("oom")])) == []


def test_many_configurations_leave_bars_for_every_method():
    split = by_key(ranked(factories.sweep(200)))["memory"]
    shown = [label.split()[0] for label in split.layout["yaxis"]["ticktext"]]
    assert {name: shown.count(name) for name in shown} == {"full": 10, "lora": 10, "lst": 10, "head": 10}
    assert "The best 10 of each method" in split.note


def test_thinning_keeps_even_distances_and_the_last_point():
    assert thinned(range(1, 11), 5) == [2, 4, 6, 8, 10]
    assert thinned(range(1, 12), 4)[-1] == 11 and len(thinned(range(1, 12), 4)) <= 4
    assert thinned([1, 2], 5) == [1, 2]
