"""The gate's verdicts on made-up records: each kind of figure, both directions, and what cannot be compared."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import jsonschema
import pytest

from bench.analysis import baseline, regression_check
from bench.core.errors import RequestError
from tests import factories

Record = dict[str, Any]
METHODS = ("full", "lora", "head")
SEEDS = (0, 1, 2)


@pytest.fixture
def records() -> list[Record]:
    return [factories.record(method, seed=seed) for method in METHODS for seed in SEEDS]


@pytest.fixture
def known(records: list[Record], tmp_path: Path) -> dict[str, Any]:
    """A baseline as it is read back from its file."""
    path = tmp_path / "base.json"
    path.write_text(baseline.dumps(baseline.make(records)))
    return baseline.read(path)


def changed(records: list[Record], change: Callable[[Record], object], method: str = "lora") -> list[Record]:
    """The records again, those of one method changed."""
    found = copy.deepcopy(records)
    for record in found:
        if record["spec"]["method"]["name"] == method:
            change(record)
    return found


def verdicts(known: dict[str, Any], records: list[Record]) -> dict[tuple[str, str], str]:
    """What is not as it was: verdict by label and measure."""
    found = regression_check.check(known, records).findings
    return {(f.label, f.measure): f.verdict for f in found if f.verdict != regression_check.SAME}


def test_nothing_changed(known: dict[str, Any], records: list[Record]) -> None:
    result = regression_check.check(known, records)
    assert {finding.verdict for finding in result.findings} == {regression_check.SAME} and result.notes == []
    assert {finding.measure for finding in result.findings} >= {
        "trainable", "train_peak_bytes", "accuracy", "f1", "train loss", "speed", "check: loss is finite",
    }  # fmt: skip


def test_the_file_follows_its_schema_and_says_what_a_check_may_differ_by(known: dict[str, Any]) -> None:
    jsonschema.validate(known, baseline.schema())
    (lora,) = [run for run in known["runs"] if run["label"] == "lora"]
    assert lora["counts"] == {"trainable": 221_954, "total": 22_935_940}
    assert lora["scores"]["accuracy"]["higher_is_better"] and not lora["scores"]["train loss"]["higher_is_better"]
    assert 1.25 <= lora["speed"]["tolerance"] < 1.6 <= lora["speed"]["tolerance_elsewhere"]
    assert known["comparisons"] == 3 * 4


def test_a_loss_among_the_scores_is_better_when_lower(records: list[Record]) -> None:
    def at(loss: float) -> list[Record]:
        more = {"loss": loss, "loss_unseen": loss, "accuracy_unseen": 2 - loss}
        return changed(records, lambda r: r["scores"].update(more))

    known = baseline.make(at(1.0))
    (lora,) = [run for run in known["runs"] if run["label"] == "lora"]
    assert {name: lora["scores"][name]["higher_is_better"] for name in ("loss", "loss_unseen", "accuracy_unseen")} == {
        "loss": False, "loss_unseen": False, "accuracy_unseen": True,
    }  # fmt: skip
    names = [("lora", name) for name in ("loss", "loss_unseen", "accuracy_unseen")]
    for early in (False, True):
        for name in ("loss", "loss_unseen"):
            lora["scores"][name]["higher_is_better"] = early  # as baselines had it once
        assert verdicts(known, at(1.5)) == dict.fromkeys(names, regression_check.REGRESSION)
        assert verdicts(known, at(0.5)) == dict.fromkeys(names, regression_check.BETTER)


def test_runs_that_newer_ones_replaced_leave_no_mark_on_the_environment(records: list[Record]) -> None:
    older = copy.deepcopy(records)
    for record in older:
        record["environment"]["torch"], record["created_at"] = "1.0", "2020-01-01T00:00:00+00:00"
    assert baseline.make([*older, *records]) == {**baseline.make(records), "made_at": ANY}


def test_one_parameter_more_or_less_fails(known: dict[str, Any], records: list[Record]) -> None:
    for by in (1, -1):
        found = changed(records, lambda r, by=by: r["parameters"].update(trainable=r["parameters"]["trainable"] + by))  # type: ignore[misc]
        assert verdicts(known, found) == {("lora", "trainable"): regression_check.REGRESSION}


def test_one_byte_more_fails_and_one_less_is_better(known: dict[str, Any], records: list[Record]) -> None:
    def grow(by: int) -> list[Record]:
        return changed(records, lambda r: r["memory"].update(train_peak_bytes=r["memory"]["train_peak_bytes"] + by))

    assert verdicts(known, grow(1)) == {("lora", "train_peak_bytes"): regression_check.REGRESSION}
    assert verdicts(known, grow(-1)) == {("lora", "train_peak_bytes"): regression_check.BETTER}


def test_memory_on_another_stack_has_a_tolerance(known: dict[str, Any], records: list[Record]) -> None:
    newer = copy.deepcopy(records)
    for record in newer:
        record["environment"]["torch"] = "2.8.0"
    for times, wanted in ((1.09, None), (1.11, regression_check.REGRESSION)):
        found = changed(
            newer,
            lambda r, by=times: r["memory"].update(train_peak_bytes=int(r["memory"]["train_peak_bytes"] * by)),  # type: ignore[misc]
        )
        assert verdicts(known, found).get(("lora", "train_peak_bytes")) == wanted
    said = {f.measure: f.said for f in regression_check.check(known, newer).findings if f.label == "lora"}
    assert "torch 2.7.1 → 2.8.0" in said["train_peak_bytes"] and "another machine or stack" in said["speed"]


def test_a_score_within_its_noise_passes_and_beyond_it_fails(known: dict[str, Any], records: list[Record]) -> None:
    (lora,) = [run for run in known["runs"] if run["label"] == "lora"]
    tolerance = lora["scores"]["accuracy"]["tolerance"]

    def moved(by: float) -> dict[tuple[str, str], str]:
        return verdicts(known, changed(records, lambda r: r["scores"].update(accuracy=r["scores"]["accuracy"] + by)))

    assert moved(-0.99 * tolerance) == {}
    assert moved(-1.01 * tolerance) == {("lora", "accuracy"): regression_check.REGRESSION}
    assert moved(1.01 * tolerance) == {("lora", "accuracy"): regression_check.BETTER}


def test_where_lower_is_better_a_rise_fails(records: list[Record]) -> None:
    for record in records:
        record |= {"higher_is_better": False, "main_score": "error"}
        record["scores"] = {"error": 1 - record["scores"]["accuracy"]}
    known = baseline.make(records)
    worse = changed(records, lambda r: r["scores"].update(error=r["scores"]["error"] + 0.2))
    assert verdicts(known, worse) == {("lora", "error"): regression_check.REGRESSION}


def test_each_metric_has_its_own_direction(records: list[Record]) -> None:
    for record in records:
        record |= {"higher_is_better": False, "main_score": "perplexity"}
        record["scores"] |= {"perplexity": 20.0 + record["spec"]["seed"] / 10}
    known = baseline.make(records)
    better = changed(records, lambda r: r["scores"].update(accuracy=0.99, f1=0.99, perplexity=5.0))
    assert verdicts(known, better) == {
        ("lora", name): regression_check.BETTER for name in ("accuracy", "f1", "perplexity")
    }


def test_more_seeds_narrow_the_tolerance(known: dict[str, Any], records: list[Record]) -> None:
    (lora,) = [run for run in known["runs"] if run["label"] == "lora"]
    score = lora["scores"]["accuracy"]
    many = [factories.record("lora", seed=seed) for seed in range(30)]
    for record in many:
        record["scores"]["accuracy"] = score["mean"] - 0.9 * score["tolerance"]
    rest = [r for r in records if r["spec"]["method"]["name"] != "lora"]
    assert verdicts(known, [*rest, *many]) == {("lora", "accuracy"): regression_check.REGRESSION}


def test_other_data_add_the_examples_noise(known: dict[str, Any], records: list[Record]) -> None:
    (lora,) = [run for run in known["runs"] if run["label"] == "lora"]
    by = 1.2 * lora["scores"]["accuracy"]["tolerance"]
    other = changed(records, lambda r: r["scores"].update(accuracy=r["scores"]["accuracy"] - by))
    for record in other:
        record["spec"]["task"]["fingerprint"] = "another"
    result = regression_check.check(known, other)
    assert result.failures == [] and any("data of glue/sst2" in note for note in result.notes)
    assert {f.verdict for f in result.findings if f.measure == "train loss"} == {regression_check.SKIPPED}


def test_speed_is_a_ratio_so_that_a_slower_machine_passes(known: dict[str, Any], records: list[Record]) -> None:
    def slow(record: Record, steps: float, reference: float) -> None:
        speed = record["speed"]
        speed["step_seconds"] = [steps * value for value in speed["step_seconds"]]
        speed["reference_step_seconds"] = [reference * value for value in speed["reference_step_seconds"]]

    assert verdicts(known, changed(records, lambda r: slow(r, 3, 3))) == {}
    assert verdicts(known, changed(records, lambda r: slow(r, 2, 1))) == {
        ("lora", "speed"): regression_check.REGRESSION
    }
    assert verdicts(known, changed(records, lambda r: slow(r, 0.5, 1))) == {("lora", "speed"): regression_check.BETTER}


def test_what_cannot_be_compared_is_said(known: dict[str, Any], records: list[Record]) -> None:
    def elsewhere(record: Record) -> None:
        record["environment"]["device"] = "cuda"
        record["memory"]["source"] = "cuda"

    found = verdicts(known, changed(records, elsewhere))
    assert found == {
        ("lora", name): regression_check.SKIPPED for name in ("train_peak_bytes", "inference_peak_bytes", "speed")
    }
    older = changed(records, lambda r: r["speed"].pop("reference_step_seconds"))
    assert verdicts(known, older) == {("lora", "speed"): regression_check.SKIPPED}


def test_missing_failed_and_new_runs(known: dict[str, Any], records: list[Record]) -> None:
    some = [r for r in records if r["spec"]["method"]["name"] != "head"]
    some = [r for r in some if (r["spec"]["method"]["name"], r["spec"]["seed"]) != ("full", 2)]
    some = [*some, factories.failed("oom", "full", seed=2), factories.record("lst")]
    result = regression_check.check(known, some)
    told = {(f.label, f.verdict): f.said for f in result.findings if f.measure == "run"}
    assert "3 seeds" in told[("head", regression_check.MISSING)] and ("lst", regression_check.NEW) in told
    assert "seed 2 oom: CUDA out of memory" in told[("full", regression_check.REGRESSION)]
    assert {f.label for f in result.failures} == {"head", "full"}
    fewer = [r for r in records if r["spec"]["seed"] != 1]
    assert {f.said for f in regression_check.check(known, fewer).failures} == {"2 of 3 seeds; not there: 1"}


def test_other_seeds_will_do(known: dict[str, Any]) -> None:
    others = [factories.record(method, seed=seed) for method in METHODS for seed in (7, 8, 9)]
    assert regression_check.check(known, others).failures == []


def test_peaks_of_other_seeds_are_not_compared_where_the_baselines_own_differ(
    known: dict[str, Any], records: list[Record]
) -> None:
    def heavier(record: Record) -> None:
        record["memory"]["train_peak_bytes"] *= 2

    others = changed([factories.record(method, seed=seed) for method in METHODS for seed in (7, 8, 9)], heavier)
    assert verdicts(known, others)["lora", "train_peak_bytes"] == regression_check.REGRESSION
    (lora,) = [run for run in known["runs"] if run["method"]["name"] == "lora"]
    lora["bytes"]["train_peak_bytes"][1] //= 2
    assert verdicts(known, others)["lora", "train_peak_bytes"] == regression_check.SKIPPED
    mixed = [*others, *changed(records, heavier)]
    assert verdicts(known, mixed)["lora", "train_peak_bytes"] == regression_check.REGRESSION, (
        "a seed of the baseline's is exact"
    )


def test_a_check_that_passed_must_go_on_passing(known: dict[str, Any], records: list[Record]) -> None:
    worse = changed(records, lambda r: r["checks"].update({"save and load agree": "fail: logits differ by up to 3"}))
    assert verdicts(known, worse) == {("lora", "check: save and load agree"): regression_check.REGRESSION}


def test_options_that_one_side_does_not_know_yet_do_not_hide_a_run(
    known: dict[str, Any], records: list[Record]
) -> None:
    newer = changed(records, lambda r: r["spec"]["method"].update(novelty=False))
    result = regression_check.check(known, newer)
    assert result.failures == [] and result.notes == [
        "lora: only one side knows method.novelty; not looked at when matching."
    ]


def test_a_baseline_is_refused_where_it_would_hold_nothing(records: list[Record]) -> None:
    with pytest.raises(RequestError) as caught:
        baseline.make([records[0], factories.failed("oom", "lst"), factories.failed("failed", "lora")])
    assert len(caught.value.messages) == 3
    assert "full" in caught.value.messages[0] and "--seeds 0,1,2" in caught.value.messages[0]
    with pytest.raises(RequestError, match="no runs"):
        baseline.make([])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no file"),
        ("{", "is not JSON"),
        ("[1]", "JSON of another kind"),
        (json.dumps({"run_id": "0", "spec": {}}), "the record of one run"),
        (json.dumps({"tunebench_baseline": 2}), "format 2; this version of bench reads 1"),
        (json.dumps({"tunebench_baseline": 1}), 'baseline: "runs" is a required'),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "base.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RequestError) as caught:
        baseline.read(path)
    assert said in str(caught.value)


def test_an_edited_file_is_checked(known: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "edited.json"
    known["runs"][0]["scores"]["accuracy"]["tolerance"] = -1
    known["runs"][1]["seeds"] = [0, 1]
    path.write_text(json.dumps(known))
    with pytest.raises(RequestError, match="baseline.runs.0..scores.accuracy.tolerance: -1 "):
        baseline.read(path)
    known["runs"][0]["scores"]["accuracy"]["tolerance"] = 1
    path.write_text(json.dumps(known))
    with pytest.raises(RequestError, match="3 values for 2 seeds"):
        baseline.read(path)
    known["runs"][0]["speed"]["step_ratio"], known["runs"][1]["seeds"] = 0, [0, 1, 2]
    path.write_text(json.dumps(known))
    with pytest.raises(RequestError, match="runs.0..speed.step_ratio is not above 0"):
        baseline.read(path)
    path.write_text(json.dumps({**known, "runs": []}))
    with pytest.raises(RequestError, match="nothing would be checked"):
        baseline.read(path)


def test_options_are_written_as_they_are(records: list[Record], tmp_path: Path) -> None:
    for record in records:
        record["spec"]["method"]["lr"] = 0.00012345678901
    path = tmp_path / "base.json"
    path.write_text(baseline.dumps(baseline.make(records)))
    assert regression_check.check(baseline.read(path), records).failures == []
