"""Each check, as a run makes it, catches a method that breaks just the promise it is about."""

from pathlib import Path

import pytest

from bench.store import record
from bench.tasks.formulations import learning_checks
from bench.training import checks
from tests import tiny

BROKEN = Path(__file__).parents[1] / "plugins" / "broken.py"
CHECKS = {
    "count equals formula",
    "loss finite",
    "only declared parameters moved",
    "trained differs from untrained",
    "beats majority",
    "every tensor is trained",
    "more than the head is used",
    "merged equals unmerged",
    "save and load reproduces",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with tiny.place(tmp_path_factory.mktemp("checks")) as made:
        yield made


def test_where_one_class_alone_is_scored_nothing_can_be_beaten():
    assert learning_checks.beats_majority([1, 1, 1], [1, 1, 1], "classification").startswith("skip: ")
    assert learning_checks.beats_majority([1, 0, 1], [1, 0, 1], "classification") == record.PASS


def failures(record):
    return {name: why for name, why in record["checks"].items() if why.startswith("fail")}


def test_a_sound_method_passes_every_check(place):
    record = place.run("sound", [BROKEN])
    assert record["status"] == "ok", record["traceback"]
    assert record["checks"] == dict.fromkeys(CHECKS, "pass")


@pytest.mark.parametrize(
    ("method", "check", "why"),
    [
        ("moves-frozen", "only declared parameters moved", "frozen parameters changed: bert.embeddings.word"),
        ("unfreezes", "only declared parameters moved", "became trainable during training: bert.embeddings.word"),
        ("merges-wrong", "merged equals unmerged", "after merging"),
        ("forgetful", "save and load reproduces", "after save and load"),
        ("counts-wrong", "count equals formula", "130 trainable parameters, the formula gives 131"),
        ("majority", "beats majority", "accuracy 0.5000, of the majority class 0.5000"),
    ],
)
def test_a_broken_promise_fails_its_check_and_no_other(place, method, check, why):
    record = place.run(method, [BROKEN])
    assert record["status"] == "ok", record["traceback"]
    assert list(failures(record)) == [check]
    assert why in record["checks"][check]


@pytest.mark.parametrize(("method", "why"), [("dead", "never received a gradient"), ("not-moved", "did not move")])
def test_a_method_that_does_nothing_beside_its_head_is_caught(place, method, why):
    found = failures(place.run(method, [BROKEN]))
    assert list(found) == ["every tensor is trained", "more than the head is used"]
    assert f"{why}: bert.encoder.layer.0" in found["every tensor is trained"]


def test_few_steps_are_enough_to_see_that_only_the_head_is_used(place):
    short = place.run("dead", [BROKEN], steps=2)["checks"]
    assert short["every tensor is trained"].startswith("skip: fewer than 3 steps")
    assert short["more than the head is used"].startswith("fail")


def test_training_what_no_output_depends_on_is_caught(place):
    record = place.run("idle", [BROKEN])
    assert record["checks"]["trained differs from untrained"].startswith("fail: outputs are identical")
    assert record["checks"]["count equals formula"] == "skip: the method has no formula"
    assert "merged equals unmerged" not in record["checks"]


def test_a_loss_that_is_no_number_ends_the_run(place):
    record = place.run("explodes", [BROKEN])
    assert record["status"] == "diverged" and record["scores"] == {}
    assert record["checks"]["loss finite"] == "fail: at step 1"


def test_settings_that_cannot_merge_are_skipped_with_the_methods_reason(place):
    record = place.run("forgetful", [BROKEN])
    assert record["checks"]["merged equals unmerged"] == "skip: forgetful: its hidden vector cannot be folded in"
    assert record["speed"]["merged_inference_latency_ms"] is None
    assert record["speed"]["merged_inference_samples_per_second"] is None


def test_inference_is_measured_unmerged_and_merged(place):
    speed = place.run("sound", [BROKEN])["speed"]
    for name in ("inference_latency_ms", "inference_samples_per_second"):
        assert speed[name] > 0 and speed[f"merged_{name}"] > 0
        assert speed[name] != speed[f"merged_{name}"]


@pytest.mark.parametrize(("method", "differ"), [("sound", True), ("ignores-seed", False)])
def test_two_seeds_must_end_in_different_weights(place, method, differ):
    first, second = (place.run(method, [BROKEN], seed=seed)["parameters"]["trained_sha256"] for seed in (0, 1))
    answer = checks.seeds_differ(second, {0: first})
    assert answer == ("pass" if differ else "fail: the trained weights equal those of seed 0")


def test_the_same_seed_twice_is_bit_identical(place):
    first, second = (place.run("sound", [BROKEN]) for _ in range(2))
    assert first["parameters"]["trained_sha256"] == second["parameters"]["trained_sha256"]
    assert [point["loss"] for point in first["curve"]] == [point["loss"] for point in second["curve"]]
