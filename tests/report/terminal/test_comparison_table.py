"""The data frame and the terminal table."""

import io
import re

import pandas as pd
import pytest
from rich.console import Console

from bench.report.terminal.comparison_table import frame, render
from tests import factories


@pytest.fixture
def mixed():
    """Four methods, one of them twice, a failed check, and three runs without a score."""
    made = [factories.record(method) for method in ("head", "lst", "full")]
    made += [factories.record("lora", rank=rank) for rank in (8, 64)]
    made[3]["checks"]["merged equals unmerged"] = "fail: the largest difference is 0.3\nsecond line"
    made.append(factories.failed("oom", "lora", rank=256))
    made.append(factories.failed("failed", "full", seed=1))
    made.append(factories.failed("diverged", "lst", seed=1))
    return made


def printed(records, width, **options):
    console = Console(width=width, file=io.StringIO(), **options)
    render(records, console)
    return console.file.getvalue()


def test_frame_has_the_documented_columns_in_order(mixed):
    columns = list(frame(mixed).columns)
    assert columns == [
        *("label", "method", "task", "model", "seed", "status", "score", "score_name", "stderr"),
        *("score.accuracy", "score.f1", "trainable", "total", "trainable_percent", "checkpoint_bytes"),
        *("train_peak_bytes", "weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes"),
        *("other_bytes", "reserved_peak_bytes", "inference_peak_bytes", "train_samples_per_second"),
        *("train_tokens_per_second", "inference_samples_per_second", "inference_latency_ms"),
        *("merged_inference_samples_per_second", "merged_inference_latency_ms", "train_seconds"),
        *("eval_seconds", "total_seconds", "steps", "lr", "checks_failed", "run_id"),
        *("method.alpha", "method.dropout", "method.gates", "method.heads", "method.init", "method.layers"),
        *("method.lr", "method.rank", "method.reduction", "method.targets"),
    ]


def test_frame_holds_the_records_values_unrounded(mixed):
    made = frame(mixed)
    by_id = {record["run_id"]: record for record in mixed}
    for row in made.to_dict("records"):
        record = by_id[row["run_id"]]
        if record["status"] == "ok":
            assert row["score"] == row["score.accuracy"] == record["scores"]["accuracy"]
            assert row["trainable"] == record["parameters"]["trainable"]
            assert row["train_peak_bytes"] == record["memory"]["train_peak_bytes"]
            assert row["optimizer_bytes"] == record["memory"]["train_peak"]["optimizer"]
        else:
            assert pd.isna(row["score"]) and pd.isna(row["train_peak_bytes"])
    assert str(made.dtypes["trainable"]) == str(made.dtypes["method.rank"]) == "Int64"
    assert str(made.dtypes["score"]) == "float64"


def test_frame_sorts_best_first_and_the_lost_last(mixed):
    made = frame(mixed)
    scores = made["score"].dropna().tolist()
    assert scores == sorted(scores, reverse=True) and len(scores) == 5
    assert made["status"].tolist()[:5] == ["ok"] * 5
    assert made.loc[made["label"] == "lora rank=8", "checks_failed"].item().startswith("merged equals unmerged: the")


def test_lower_is_better_sorts_the_other_way(mixed):
    for record in mixed:
        record |= {"main_score": "mse", "higher_is_better": False, "stderr": None}
        record["scores"] = {"mse": record["scores"]["accuracy"]} if record["scores"] else {}
    scores = frame(mixed)["score"].dropna().tolist()
    assert scores == sorted(scores) and len(scores) == 5
    assert "mse" in printed(mixed, 100) and "↓" in printed(mixed, 100)


def test_frame_of_nothing_is_empty_with_columns():
    assert len(frame([])) == 0 and "score" in frame([]).columns


NUMBERS = re.compile(r"lst +1 of 2 +\d\d\.\d ± \d\.\d +130 +37\.0 +506 k +2\.18")


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 240])
def test_score_memory_and_parameters_show_at_every_width(mixed, width):
    text = printed(mixed, width)
    assert NUMBERS.search(text), text
    assert "…" not in text
    if width >= 80:
        assert max(map(len, text.splitlines())) <= width


def test_wide_consoles_show_every_metric_with_its_unit(mixed):
    text = printed(mixed, 160)
    for word in ("accuracy", "MB", "params", "samples", "per s", "latency", "merged", "ms", "point", "time", "checks"):
        assert word in text
    assert "Left out" not in text
    assert "Left out at this width: checks, merged samples per s, merged latency ms." in printed(mixed, 120)


def test_lost_runs_and_failed_checks_are_shown_with_their_reason(mixed):
    text = printed(mixed, 160)
    assert re.search(r"lora rank=8 +1 +\d\d\.\d ± \d\.\d !", text)
    assert "! lora rank=8 (seed 0): check failed, merged equals unmerged: the largest difference is 0.3\n" in text
    assert "! lora rank=256 (seed 0): oom: CUDA out of memory. Tried to allocate 512.00 MiB.\n" in text
    assert "! full (seed 1): failed: ValueError: the model has no layer named 'q_proj'\n" in text
    assert "! lst (seed 1): diverged: The loss was not finite at step 37.\n" in text
    assert "second line" not in text and "GPU 0" not in text


def test_the_same_reason_is_said_once():
    made = [factories.failed("oom", "lora", seed=seed) for seed in range(3)]
    assert printed(made, 200).count("CUDA out of memory") == 1
    assert "lora (seed 0), lora (seed 1), lora (seed 2): oom" in printed(made, 200)


def test_one_table_for_each_task_and_model():
    made = [factories.record(method, task=task) for method in ("lora", "full") for task in ("glue/rte", "glue/sst2")]
    text = printed(made, 120)
    assert text.index("glue/rte on minilm") < text.index("glue/sst2 on minilm")
    assert text.count("lora") == 2 and "seeds" not in text.split("±")[0]


def test_names_and_errors_are_never_read_as_markup_or_terminal_codes():
    made = factories.failed("failed", "[red]bold[/red]")
    made["error"] = "[link=http://x]\x1b[2Jgone\x07[/link]"
    text = printed([made], 120, force_terminal=True)
    assert "[red]bold[/red]" in text and "[link=http://x]�[2Jgone�[/link]" in text
    assert "\x1b[2J" not in text and "\x07" not in text


def test_long_labels_fold_and_keep_the_numbers(mixed):
    made = [factories.record("a-method-whose-name-goes-on-and-on-for-ever", alpha=a) for a in (1.0, 2.0)]
    text = printed(made, 80)
    assert "222 k" in text and "218" in text and "…" not in text


def test_nothing_to_show_says_so():
    assert printed([], 80) == "No runs yet.\n"


def test_scores_that_are_not_shares_are_written_as_numbers():
    made = factories.record()
    made |= {"scores": {"matthews_correlation": 0.5123}, "main_score": "matthews_correlation", "stderr": 0.0211}
    assert "0.512 ± 0.041" in printed([made], 100)


def test_names_stay_on_a_narrow_console():
    import io

    from rich.console import Console

    from bench.report.terminal.comparison_table import render

    written = io.StringIO()
    render([factories.record("lora"), factories.record("lst")], Console(width=40, file=written))
    assert all(any(line.startswith(name) for line in written.getvalue().splitlines()) for name in ("lora", "lst"))
