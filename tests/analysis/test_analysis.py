"""A folder's statistics: what is paired, what is refused and why, groups, baselines, and what the command prints."""

import json
import re

import numpy as np
import pytest

import bench
from bench import RequestError
from bench.analysis import configurations
from bench.analysis.analysis import analyse, over_tasks, rows
from bench.analysis.measures import BY_KEY, PEAK, THROUGHPUT
from bench.analysis.paired_tests import BOOTSTRAP, MCNEMAR, SEEDS
from tests import factories, predicted

SHARES = {"full": 0.80, "lora": 0.79, "lst": 0.60}


def only(records, folder, **settings):
    (group,) = analyse(records, folder, **settings).groups
    return group


def test_ties_and_differences_over_seeds(tmp_path):
    group = only(predicted.sweep(tmp_path, SHARES), tmp_path)
    assert [c.label for c in group.configurations] == ["full", "lora", "lst"]
    assert [c.group for c in group.configurations] == ["a", "a", "b"]
    assert group.tied("full") == ["lora"] and group.tied("lst") == []
    assert all(c.covers == configurations.BOTH and c.seeds == (0, 1, 2) for c in group.configurations)
    tie, apart = group.pair("lora", "full"), group.pair("lst", "full")
    assert tie.comparison.test == SEEDS and tie.comparison.seeds == 3 and tie.settling is not None
    assert apart.different and apart.settling is None and apart.p_holm >= apart.comparison.p_value
    assert apart.comparison.low < apart.comparison.difference < apart.comparison.high
    assert apart.first == "full", "the better one first"


def test_one_seed_is_mcnemars_and_says_what_it_covers(tmp_path):
    group = only(predicted.sweep(tmp_path, SHARES, seeds=1), tmp_path)
    assert {pair.comparison.test for pair in group.pairs} == {MCNEMAR}
    assert {c.covers for c in group.configurations} == {configurations.EXAMPLES}


def test_only_seeds_that_both_have_are_compared(tmp_path):
    records = [run for run in predicted.sweep(tmp_path, SHARES) if run["run_id"] != ""]
    kept = [r for r in records if (r["spec"]["method"]["name"], r["spec"]["seed"]) not in {("full", 0), ("lst", 2)}]
    group = only(kept, tmp_path)
    assert group.pair("full", "lst").comparison.seeds == 1
    assert group.pair("full", "lora").comparison.seeds == 2
    apart = [r for r in records if (r["spec"]["seed"] == 0) == (r["spec"]["method"]["name"] == "full")]
    refused = only(apart, tmp_path).pair("full", "lora")
    assert refused.comparison is None and refused.reason == "they have no seed in common (0 and 1, 2)"


def test_with_other_seeds_the_one_that_does_better_on_those_in_common_stands_first(tmp_path):
    """head's own two seeds lift its mean above lora's, which beats it on the seed that both have."""
    records = [run for run in predicted.sweep(tmp_path, {"head": 0.95}, seeds=3) if run["spec"]["seed"] > 0]
    records += predicted.sweep(tmp_path, {"lora": 0.7}, seeds=1) + predicted.sweep(tmp_path, {"head": 0.4}, seeds=1)
    group = only(records, tmp_path)
    assert [c.label for c in group.configurations] == ["head", "lora"]
    (pair,) = group.pairs
    assert pair.different and (pair.first, pair.second) == ("lora", "head") and pair.comparison.low > 0


def other_data(folder, record):
    record["spec"]["task"]["fingerprint"] = "another"


def fewer_rows(folder, record):
    predicted.answered(folder, record, [True, False, True, True])


def other_rows(folder, record):
    score = round(400 * record["scores"]["accuracy"])
    references = 1 - np.arange(400) % 2
    wrong = np.arange(400) >= score
    predicted.write(folder, record, np.where(wrong, 1 - references, references), references)


def no_file(folder, record):
    (folder / "predictions" / f"{record['run_id']}.parquet").unlink()


def damaged(folder, record):
    (folder / "predictions" / f"{record['run_id']}.parquet").write_bytes(b"PAR1 no more")


def other_score(folder, record):
    record["scores"]["accuracy"] = 0.123


def own_score(folder, record):
    record["main_score"], record["scores"] = "applause", {"applause": 0.5}


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (other_data, "their data differ (fingerprints 9f0c3a5d11aa22bb and another)"),
        (fewer_rows, "they were scored on 400 and 4 examples"),
        (other_rows, "their evaluated rows differ"),
        (no_file, "lst, seed 0: its predictions are not there"),
        (damaged, "lst, seed 0: its predictions cannot be read"),
        (other_score, "lst, seed 0: its predictions give 0."),
        (own_score, "lst, seed 0: applause is not one of the scores that can be computed again"),
    ],
)
def test_what_cannot_be_paired_is_refused_with_the_reason(tmp_path, break_it, reason):
    records = predicted.sweep(tmp_path, SHARES, seeds=1)
    break_it(tmp_path, records[-1])
    group = only(records, tmp_path)
    refused = [pair for pair in group.pairs if pair.comparison is None]
    assert len(refused) == 2
    assert all(reason in pair.reason for pair in refused), refused
    assert group.pair("full", "lora").p_holm == group.pair("full", "lora").comparison.p_value, "a family of one"


def test_without_predictions_intervals_come_from_the_records(tmp_path):
    records = predicted.sweep(tmp_path, SHARES)
    with_them, without = only(records, tmp_path), only(records, None)
    assert all(pair.comparison is None for pair in without.pairs)
    for one, other in zip(with_them.configurations, without.configurations, strict=True):
        assert one.estimate.mean == pytest.approx(other.estimate.mean) and other.half() > 0
        assert other.half() >= one.half() * 0.99 and other.group == ""
    bare = [factories.record("lora", seed=seed) | {"stderr": None} for seed in (0, 1)]
    (alone,) = only(bare, None).configurations
    assert alone.covers == configurations.SEEDS and alone.half() == pytest.approx(alone.estimate.half_over_seeds())
    (alone,) = only(bare[:1], None).configurations
    assert alone.covers is None and alone.half() is None


def test_lost_runs_are_counted_and_newer_runs_win(tmp_path):
    records = predicted.sweep(tmp_path, SHARES)
    records.append(factories.failed("oom", "lora", seed=7))
    newer = factories.spec("lst", 1)
    newer["code"]["method"] = "changed"
    again = factories.measured(newer) | {"created_at": "2026-01-01T00:00:00+00:00"}
    records.append(predicted.answered(tmp_path, again, np.arange(400) < 100))
    group = only(records, tmp_path)
    by_label = {c.label: c for c in group.configurations}
    assert by_label["lora"].lost_seeds == 1 and by_label["lora"].seeds == (0, 1, 2)
    assert [run["run_id"] for run in by_label["lst"].runs] == [again["run_id"]]
    assert group.notes == ("lst: 3 older runs of other data, weights or code left out",)


def test_the_baseline_is_a_family_of_its_own(tmp_path):
    records = predicted.sweep(tmp_path, {**SHARES, "head": 0.76})
    group = only(records, tmp_path, baseline="lora")
    mine = [pair for pair in group.pairs if "lora" in (pair.first, pair.second)]
    assert [pair.p_baseline is not None for pair in mine] == [True] * 3
    assert all(pair.p_baseline <= pair.p_holm for pair in mine)
    assert all(pair.p_baseline is None for pair in group.pairs if pair not in mine)
    with pytest.raises(RequestError, match="Unknown baseline 'loar'. Did you mean 'lora'"):
        analyse(records, tmp_path, baseline="loar")
    records += predicted.sweep(tmp_path, {"lora": 0.5}, rank=64)
    with pytest.raises(RequestError, match="2 configurations; name one of them: 'lora rank=64', 'lora rank=8'"):
        analyse(records, tmp_path, baseline="lora")
    assert only(records, tmp_path, baseline="lora rank=8").baseline == "lora rank=8"


def test_lower_is_better_puts_the_lower_first(tmp_path):
    records = predicted.sweep(tmp_path, SHARES)
    for record in records:
        record["higher_is_better"] = False
    group = only(records, tmp_path)
    assert [c.label for c in group.configurations] == ["lst", "lora", "full"]
    assert group.pair("lst", "full").first == "lst" and group.pair("lst", "full").comparison.difference < 0


def test_language_models_are_paired_block_by_block(tmp_path):
    rng = np.random.default_rng(0)
    tokens, hard = rng.integers(20, 100, 200), rng.normal(3, 1, 200)
    better = predicted.likelihoods(tmp_path, factories.record("lora"), hard + rng.normal(0, 0.1, 200), tokens)
    worse = predicted.likelihoods(tmp_path, factories.record("head"), hard + rng.normal(0.1, 0.1, 200), tokens)
    group = only([better, worse], tmp_path)
    (pair,) = group.pairs
    assert pair.first == "lora" and pair.different and pair.comparison.test == BOOTSTRAP
    apart = group.configurations[0].half() + group.configurations[1].half()
    assert abs(pair.comparison.difference) < apart, "the intervals overlap: it is the pairing that tells them apart"
    shorter = predicted.likelihoods(tmp_path, factories.record("lst"), hard, tokens[::-1].copy())
    refused = only([better, shorter], tmp_path).pairs[0]
    assert refused.reason == "their evaluated rows differ"


def test_many_configurations_are_compared_as_far_as_the_best(tmp_path):
    records = [run for rank in range(1, 44) for run in predicted.sweep(tmp_path, {"lora": 0.7}, 1, 20, rank=rank)]
    group = only(records, tmp_path)
    assert len(group.configurations) == 43 and len(group.pairs) == 40 * 39 // 2
    assert group.notes == ("only the best 40 of 43 configurations were compared pair by pair",)


def test_several_tasks_are_averaged(tmp_path):
    records = predicted.sweep(tmp_path, SHARES)
    records += predicted.sweep(tmp_path, {"full": 0.6, "lora": 0.7}, task="glue/rte")
    (summary,) = over_tasks(analyse(records, tmp_path))
    assert summary.tasks == ("glue/rte", "glue/sst2") and summary.incomplete == {"lst": ("glue/rte",)}
    assert {row.label: row.average_rank for row in summary.rows} == {"full": 1.5, "lora": 1.5}
    assert "lora" in summary.front and all(row.half > 0 for row in summary.rows)
    assert over_tasks(analyse(records[:3], tmp_path)) == []


def test_another_budget_on_one_task_leaves_the_average_as_it_was(tmp_path):
    records = predicted.sweep(tmp_path, SHARES) + predicted.sweep(tmp_path, SHARES, task="glue/rte")
    (before,) = over_tasks(analyse(records, tmp_path))
    short = factories.spec("lora", 0, "glue/rte")
    short["train"]["steps"] = 20
    more = predicted.answered(tmp_path, factories.measured(short), [True, False] * 200)
    (after,) = over_tasks(analyse([*records, more], tmp_path))
    assert after.rows != [] and [row.label for row in after.rows] == [row.label for row in before.rows]
    assert after.incomplete == {"lora steps=20": ("glue/sst2",)}


def test_what_was_never_compared_shares_no_letter(tmp_path):
    records = predicted.sweep(tmp_path, {"full": 0.9, "lora": 0.9}, 2)
    records += [run for run in predicted.sweep(tmp_path, {"lst": 0.1}, 4) if run["spec"]["seed"] > 1]
    group = only(records, tmp_path)
    found = {c.label: c.group for c in group.configurations}
    assert found["lst"] == "" and found["full"] and found["lora"]


def test_averages_are_of_scores_that_have_one(tmp_path):
    records = predicted.sweep(tmp_path, SHARES)

    def summary(score, higher=True):
        others = predicted.sweep(tmp_path, {"full": 0.6, "lora": 0.7}, task="glue/rte")
        for run in others:
            run["scores"] = {score: run["scores"]["accuracy"]}
            run["main_score"], run["higher_is_better"], run["predictions"] = score, higher, None
        (made,) = over_tasks(analyse([*records, *others], tmp_path))
        return made

    assert summary("f1").scale == "%" and summary("f1").head == "average score %" and summary("f1").note == ""
    mixed = summary("matthews_correlation")
    assert mixed.scale == "points" and "shares and correlations" in mixed.note and mixed.front
    assert mixed.written(mixed.rows[0].average).startswith(("7", "8"))
    lost = summary("perplexity", higher=False)
    assert lost.scale is None and {row.average for row in lost.rows} == {None} and lost.front == ()
    assert lost.written(None) == "–" and "their ranks compare" in lost.note


def test_an_interval_of_no_width_is_none(tmp_path):
    (configuration,) = only(predicted.sweep(tmp_path, {"lora": 1.0}, 1), tmp_path).configurations
    assert configuration.estimate.mean == 1.0 and configuration.half() is None


def test_a_configuration_has_the_largest_peak_the_median_speed_and_the_mean_of_the_rest():
    runs = [factories.record("lora", seed=seed) for seed in range(3)]
    runs[1]["checks"]["loss is finite"] = "fail: no"
    runs[0]["speed"]["merged_inference_latency_ms"] = None
    runs[2]["speed"]["train_samples_per_second"] = 1e-3
    for size, run in zip((3, 5, 4), runs, strict=True):
        run["memory"]["train_peak_bytes"] = size * 10**6
    (made,) = only([*runs, factories.failed("oom", "lora", seed=3)], None).configurations
    assert made.of(PEAK) == 5 * 10**6 and made.highest is runs[1]
    assert made.of(THROUGHPUT) == sorted(run["speed"]["train_samples_per_second"] for run in runs)[1]
    latencies = [run["speed"]["merged_inference_latency_ms"] for run in runs[1:]]
    assert made.of(BY_KEY["merged_inference_latency_ms"]) == pytest.approx(np.mean(latencies)), "of what is known"
    assert made.of(BY_KEY["trainable"]) == 221_954 and made.status == "3 of 4 ok"
    assert made.doubts == {"loss is finite": "no"}
    (lost,) = only([factories.failed("oom")], None).configurations
    assert lost.status == "oom" and lost.score is None


def test_rows_are_flat_and_complete(tmp_path):
    made = rows(analyse(predicted.sweep(tmp_path, SHARES), tmp_path))
    assert len(made) == 3 and len({tuple(row) for row in made}) == 1
    assert made[0]["seeds_needed"] != 0 and json.dumps(made)


def test_the_python_call_returns_the_pairs(tmp_path):
    predicted.sweep(tmp_path, SHARES)
    frame = bench.compare_runs(tmp_path, baseline="lora")
    assert list(frame[["first", "second", "different"]].itertuples(index=False, name=None)) == [
        ("full", "lora", False), ("full", "lst", True), ("lora", "lst", True),
    ]  # fmt: skip
    assert (frame["p_holm"] >= frame["p_value"]).all() and frame["p_baseline"].notna().tolist() == [True, False, True]
    with pytest.raises(RequestError, match="holds no records"):
        bench.compare_runs(tmp_path / "nowhere")
    with pytest.raises(RequestError, match="alpha: 2 is not"):
        bench.compare_runs(tmp_path, alpha=2)


def test_the_command_prints_pairs_and_what_would_settle_them(bench_here, tmp_path):
    predicted.sweep(tmp_path / "out", SHARES)
    predicted.sweep(tmp_path / "out", {"lora": 0.7, "lst": 0.7}, task="glue/rte")
    done = bench_here("stats", "out", "--baseline", "lora", "--pscp", COLUMNS="180")
    assert done.returncode == 0 and done.stderr == ""
    text = done.stdout
    assert re.search(r"lora +3 +\d\d\.\d ± \d\.\d +a +", text)
    assert re.search(r"full +lst +\+\d+\.\d +\+\d+\.\d to \+\d+\.\d +<0\.001 +<0\.001 +– +different", text)
    assert re.search(r"full +lora +\+\d\.\d +-\d\.\d to \+\d\.\d .* tied +\d\.\d", text)
    assert "Pareto front of score, peak memory, throughput and trained parameters: " in text
    assert "2 tasks on minilm: glue/rte, glue/sst2" in text and "full is not averaged: no score on glue/rte" in text
    assert "PSCP has no value for full, lora, lst: a cost was not measured" in text


def test_the_command_as_json(bench_here, tmp_path):
    predicted.sweep(tmp_path / "out", SHARES)
    found = json.loads(bench_here("stats", "out", "--json", "--alpha", "0.1").stdout)
    assert found["alpha"] == 0.1
    (group,) = found["groups"]
    first = group["configurations"][0]
    assert first["label"] == "full" and first["tied_with"] == ["lora"] and first["seeds"] == [0, 1, 2]
    assert first["half_interval"] > 0 and first["sd_over_seeds"] > 0 and group["pairs"][0]["test"] == SEEDS


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["nowhere"], "no-records", "nowhere"),
        (["out", "--alpha", "5"], "invalid-value", "--alpha: '5'"),
        (["out", "--beta", "x", "--alpha", "x"], "invalid-value", "--beta: 'x'"),
        (["out", "--beta", "2"], "missing", "--pscp"),
        (["out", "--baseline", "lroa"], "unknown-baseline", "'lora'"),
        (["out", "--basline", "lora"], "unknown-flag", "'--baseline'"),
    ],
)
def test_wrong_requests_teach(bench_here, tmp_path, arguments, code, part):
    predicted.sweep(tmp_path / "out", SHARES, seeds=1)
    done = bench_here("stats", *arguments)
    assert done.returncode == 2 and f"[{code}]" in done.stderr and part in done.stderr, done.stderr
    if len(arguments) == 5:
        assert "--alpha: 'x'" in done.stderr, "every mistake at once"


def test_pairs_keep_their_names_on_a_narrow_console():
    import io

    from rich.console import Console

    from bench.report.terminal import stats

    written = io.StringIO()
    heads, cells = ["better", "than", "by points"], [["full", "lora", "+1.7"]]
    stats._grid(Console(width=12, file=written), heads, cells, labels=2)
    assert ["full", "lora", "+1.7"] in [line.split() for line in written.getvalue().splitlines()]
