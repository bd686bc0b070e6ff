"""What the commands print: no control characters, whatever names hold; nothing fails on a terminal's encoding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import BertForSequenceClassification

from tests import factories, zoo
from tests.conftest import Bench
from tests.report.pages import stored

ESCAPE = "\x1b[2J"


@pytest.mark.parametrize("words", [
    ("run", "--methods", f"lo{ESCAPE}ra", "--task", f"{ESCAPE}.csv", "--model", f"m{ESCAPE}"),
    ("show", f"lo{ESCAPE}ra"), ("report", f"no{ESCAPE}where"), ("run", f"--fl{ESCAPE}ag", "1"),
])  # fmt: skip
def test_no_message_holds_control_characters(bench_here: Bench, words: tuple[str, ...]) -> None:
    done = bench_here(*words)
    assert done.returncode == 2 and "\x1b" not in done.stderr + done.stdout and "�[2J" in done.stderr


def test_neither_notes_nor_progress_nor_tables_hold_them(bench_here: Bench, tiny_model: Path, tmp_path: Path) -> None:
    rows = "".join(f"some text {number},{'ab'[number % 2]}{ESCAPE}\n" for number in range(60))
    (tmp_path / f"da{ESCAPE}ta.csv").write_text(f"te{ESCAPE}xt,label\n{rows}")
    data = tmp_path / f"da{ESCAPE}ta.csv"
    done = bench_here("run", "--methods", "head", "--task", data, "--model", tiny_model, "--steps", 3,
                      "--out", "out")  # fmt: skip
    assert "step 3/3" in done.stderr and "accuracy" in done.stdout, done.stderr
    more = [bench_here("stats", "out"), bench_here("status", "out"), bench_here("show", data)]
    assert all(one.returncode == 0 for one in more), [one.stderr for one in more]
    assert "\x1b" not in "".join(one.stdout + one.stderr for one in (done, *more))


def test_an_encoding_that_lacks_characters_loses_only_them(tmp_path: Path) -> None:
    stored(tmp_path / "out", [factories.record("lora", seed=seed) for seed in (0, 1)], lambda record: 0.8)
    done = subprocess.run(
        [sys.executable, "-m", "bench", "stats", str(tmp_path / "out")],
        capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0 and "Traceback" not in done.stderr and "lora" in done.stdout


def test_exit_code_1_says_why_and_a_replaced_head_is_noted(bench_here: Bench, tiny_model: Path, tmp_path: Path) -> None:
    BertForSequenceClassification(zoo.backbone("bert", "classification").config).save_pretrained(
        tmp_path / "classifier"
    )
    done = bench_here("run", "--methods", "full,head", "--task", "glue/sst2", "--model", tiny_model, "--steps", 4,
                      "--set", "full.lr=1e30", "--set", "train.clip=0", "--out", "out")  # fmt: skip
    assert done.returncode == 1 and "exit code 1: 1 of 2 runs have no score" in done.stderr
    assert "head of its own" not in done.stderr
    noted = bench_here("run", "--methods", "full", "--task", "glue/sst2", "--model", tmp_path / "classifier",
                       "--steps", 4, "--dry-run")  # fmt: skip
    assert "classifier has a classification head of its own" in noted.stderr, noted.stderr
