"""The sentences: who is best or tied, what the leaner give up, what it rests on, and what may not be comparable."""

import re

import pytest

from bench.report.html.notes import rests_on, warnings
from bench.report.html.summary import answer
from bench.report.inputs import Extras
from bench.store.labels import ranked
from tests import factories
from tests.report.pages import report, scene, stored


def plain(html):
    return re.sub("<[^>]+>", "", html).replace("\u00a0", " ")


def test_the_answer_says_who_is_best_and_what_the_leaner_give_up(four):
    for record, score in zip(four, (0.90, 0.80, 0.70, 0.60), strict=True):
        record["scores"]["accuracy"], record["stderr"] = score, 0.01
    assert plain(answer(scene(four))) == (
        "full scores best: accuracy 90.0 ± 2.0 %. full peaks at 515 MB in training; "
        "lora gives up 10.0 ± 2.8 points for 42 % of that, lst 20.0 ± 2.8 points for 25 % "
        "and head 30.0 ± 2.8 points for 18 %."
    )


def test_ties_are_named_and_the_leanest_of_them(four):
    for record, score in zip(four, (0.90, 0.89, 0.80, 0.70), strict=True):
        record["scores"]["accuracy"], record["stderr"] = score, 0.01
    assert plain(answer(scene(four))) == (
        "full and lora show no significant difference: accuracy 90.0 ± 2.0 % for full. "
        "Of these, lora needs the least memory, 42 % of full's 515 MB; "
        "lst gives up 10.0 ± 2.8 points for 25 % of that and head 20.0 ± 2.8 points for 18 %."
    )


def test_pairs_on_the_same_examples_tell_apart_what_intervals_cannot(tmp_path):
    accuracy = {"full": 0.86, "lora": 0.82, "lst": 0.815}
    made = [factories.record(method, seed=seed) for method in accuracy for seed in range(3)]
    stored(tmp_path, made, lambda record: accuracy[record["spec"]["method"]["name"]])
    apart, paired = scene(made), scene(made, tmp_path)
    assert "full, lora and lst show no significant difference" in plain(answer(apart))
    said = plain(answer(paired))
    assert said.startswith("full scores best: accuracy 86") and "(mean of 3 seeds)" in said
    lora = paired.group.pair("full", "lora").comparison
    half = 100 * (lora.high - lora.low) / 2
    assert f"lora gives up {100 * lora.difference:.1f} ± {half:.1f} points for 42 % of that" in said and half < 3
    rests = " ".join(plain(sentence) for sentence in rests_on(paired))
    assert "3 pairs were compared on the same examples; 2 differ." in rests
    assert "Nothing could be compared example by example" in " ".join(rests_on(apart))


def test_the_matrix_holds_every_pair_with_its_sign(tmp_path):
    accuracy = {"full": 0.86, "lora": 0.80, "lst": 0.795}
    made = [factories.record(method, seed=seed) for method in accuracy for seed in range(3)]
    stored(tmp_path / "store", made, lambda record: accuracy[record["spec"]["method"]["name"]])
    text, page = report(made, tmp_path, Extras(folder=tmp_path / "store"))
    (table,) = re.findall(r'aria-label="Paired comparison">(.*?)</table>', text, flags=re.S)
    rows = [re.findall(r'<td class="(\w+)"[^>]*>(.*?)</td>', row) for row in table.split("<tr>")[2:]]
    kinds = [[kind for kind, _ in row] for row in rows]
    assert kinds == [["same", "better", "better"], ["worse", "same", "level"], ["worse", "level", "same"]]
    values = [[plain(said).split(" ")[0] for _, said in row] for row in rows]
    assert "What would settle a tie with the best" not in page.said, "nothing is tied with it"
    assert values[0][1].startswith("+") and values[1][0] == values[0][1].replace("+", "−")
    groups = {
        row[0]: row[1] for row in re.findall(r'">(full|lora|lst)</a></th>.*?</b></td><td data-v="[^"]*">(\w+)', text)
    }
    assert groups == {"full": "a", "lora": "b", "lst": "b"} and "group" in page.said


def test_the_answer_follows_the_scores_direction(four):
    for record, score in zip(four, (3.0, 2.0, 1.0, 4.0), strict=True):
        record |= {"scores": {"mse": score}, "main_score": "mse", "higher_is_better": False, "stderr": None}
    assert answer(scene(ranked(four))).startswith("<b>lst</b> scores best: mse 1.000.")


def test_a_best_score_with_a_failed_check_is_marked(four, tmp_path):
    four[0]["checks"]["merged equals unmerged"] = "fail: it differs by 0.3"
    _, page = report(four, tmp_path)
    assert "Treat that score with caution: a check failed." in page.said
    assert "Checks failed for full (merged equals unmerged)" in page.said
    assert "check failed: merged equals unmerged" in page.said
    assert "failed: merged equals unmerged (it differs by 0.3)" in page.said


def test_what_it_rests_on(four):
    said = rests_on(scene(four))
    assert said[0].startswith("One seed (0)")
    assert said[1] == "± is half of a 95 % interval over examples."
    assert said[2].startswith("Nothing could be compared example by example")
    assert said[3].startswith("No tuning: each method at its default learning rate")
    assert said[4] == "400 steps of 32 examples each, 128 tokens at most, fp32, cpu."
    assert said[5] == "All 24 checks passed (4 did not apply)."
    for record in four:
        record["spec"]["train"]["lr"] = 1e-3
    assert "same learning rate 0.001, which favours some" in rests_on(scene(four))[3]


def test_tuning_is_told_with_its_number_of_trials(four):
    for record in four[:3]:
        record["spec"]["tuning"] = {"options": ["lr"], "trials": 6, "trial": None}
    said = " ".join(rests_on(scene(four)))
    assert "learning rate is the best of 6 on the dev split, the same number for every configuration" in said
    assert "not tuned: head." in said
    four[0]["spec"]["tuning"]["trials"] = 5
    assert "the best of 5 or 6 on the dev split, not the same number for all" in " ".join(rests_on(scene(four)))


def test_seeds_are_averaged():
    made = [factories.record("lora", seed=seed) for seed in range(3)]
    for record, score in zip(made, (0.7, 0.8, 0.9), strict=True):
        record["scores"]["accuracy"] = score
    assert "80.0" in answer(scene(made)) and "mean of 3 seeds" in answer(scene(made))
    assert rests_on(scene(made))[0] == "3 seeds (0, 1, 2); the scores are means over them."


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: run["environment"].update(torch="2.6.0"), "torch: 2.6.0 and 2.7.1"),
        (lambda run: run["environment"].update(device="cuda"), "device: cpu and cuda"),
        (lambda run: run["spec"]["task"].update(fingerprint="other"), "2 versions of the data"),
        (lambda run: run["spec"]["model"].update(fingerprint="another"), "2 versions of the model weights"),
        (lambda run: run["spec"]["train"].update(batch_size=16), "batch size: 16 and 32"),
        (lambda run: run["memory"].update(source="cuda"), "measured in different ways: cuda and tracker"),
        (lambda run: run["spec"]["code"].update(bench="0.2.0"), "versions of the harness: 0.1.0 and 0.2.0"),
    ],
)
def test_rows_that_may_not_compare_are_named(four, change, said):
    assert warnings(four) == []
    change(four[0])
    assert said in " ".join(warnings(four))
