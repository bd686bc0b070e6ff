"""Whole runs of the command on a GPU, with the small models that ship with the package; skipped where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import bench
from tests.conftest import sentences

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

Record = dict[str, Any]
_STEPS = 20


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    words = [sys.executable, "-P", "-m", "bench", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, env={**os.environ, "COLUMNS": "160"})


def ran(out: Path, *arguments: object) -> list[Record]:
    """Records of a sweep that ended well; ``--device`` is left to the command."""
    wanted = ("run", "--steps", _STEPS, "--eval-size", 100, "--out", out, "--json", "--quiet", *arguments)
    done = command(*wanted)
    records: list[Record] = json.loads(done.stdout or "[]")
    wrong = [record["traceback"] or record["error"] for record in records if record["status"] != "ok"]
    assert done.returncode in (0, 1) and records and not wrong, (*wrong, done.stderr)  # 1: a check failed, see whole
    return records


def questions(folder: Path) -> Path:
    """A file of questions with answers to generate."""
    texts, labels = sentences(200, 5)
    lines = [
        {"question": text, "answer": "yes it is" if label else "no"} for text, label in zip(texts, labels, strict=True)
    ]
    path = folder / "asked.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def whole(record: Record) -> None:
    """What every run on a GPU must say."""
    place, memory, speed = record["environment"], record["memory"], record["speed"]
    assert (place["device"], place["device_name"]) == ("cuda", torch.cuda.get_device_name())
    assert place["cuda"] == torch.version.cuda and place["driver"] and place["device_memory_bytes"] > 1e9
    assert memory["source"] == "cuda" and memory["split_missing"] is None
    assert sum(memory["train_peak"].values()) == memory["train_peak_bytes"] > 0
    assert memory["reserved_peak_bytes"] >= memory["train_peak_bytes"]
    phases = [memory["phases"][name]["peak_bytes"] for name in ("loaded", "forward", "backward", "step")]
    assert max(phases) == memory["train_peak_bytes"]
    assert memory["train_peak"]["weights"] >= 4 * record["parameters"]["total"] * 0.99
    assert len(speed["step_seconds"]) == _STEPS and min(speed["step_seconds"]) > 0
    assert min(speed["train_samples_per_second"], speed["inference_samples_per_second"]) > 0
    assert record["compute"]["train_step_flops"] > 0
    failed = {name: answer for name, answer in record["checks"].items() if answer.startswith("fail")}
    assert not {name: answer for name, answer in failed.items() if not name.startswith("beats")}


@pytest.mark.parametrize(
    ("model", "task", "methods"),
    [
        ("tiny-bert", "demo/docstrings", "full,head,lora,lst,prefix,prompt,houlsby,ia3,bitfit,adalora,vera,p-tuning"),
        ("tiny-llama", "demo/docstrings", "lora,lst,prefix"),
        ("tiny-llama", "questions", "full,lora,lst,prefix"),
        ("tiny-t5", "questions", "full,lora,lst,prefix"),
        ("tiny-vit", "digits", "full,lora,lst,prefix"),
    ],
)
def test_runs_of_every_family(model: str, task: str, methods: str, tmp_path: Path) -> None:
    chosen = questions(tmp_path) if task == "questions" else task
    records = ran(tmp_path / "out", "--methods", methods, "--task", chosen, "--model", model)
    assert len(records) == methods.count(",") + 1
    for record in records:
        whole(record)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(precision: str, tmp_path: Path) -> None:
    arguments = ("--methods", "full,lora,lst,prefix", "--task", "demo/docstrings", "--model", "tiny-bert")
    for record in ran(tmp_path, *arguments, "--precision", precision):
        whole(record)


def test_recomputing_activations_takes_less_memory(tmp_path: Path) -> None:
    arguments = ("--methods", "full", "--task", "demo/docstrings", "--model", "tiny-bert", "--batch-size", "256")
    (kept,) = ran(tmp_path / "kept", *arguments)
    (again,) = ran(tmp_path / "again", *arguments, "--gradient-checkpointing")
    assert again["memory"]["train_peak_bytes"] < kept["memory"]["train_peak_bytes"]


def test_compiled_runs_have_the_allocators_total(tmp_path: Path) -> None:
    for record in ran(tmp_path, "--methods", "lora,lst", "--task", "demo/docstrings", "--model", "tiny-bert", "--set",
                      "train.compile=true"):  # fmt: skip
        assert record["memory"]["train_peak_bytes"] > 0 and "compiled" in record["memory"]["split_missing"]
        assert record["speed"]["compile_seconds"] > 0


def test_runs_that_share_a_trunk_give_what_they_give_alone(tmp_path: Path) -> None:
    arguments = ("--methods", "lst", "--seeds", "0,1", "--set", "lst.lr=0.003,0.001", "--set", "train.data_seed=0",
                 "--task", "demo/docstrings", "--model", "tiny-bert")  # fmt: skip
    shared = {record["run_id"]: record for record in ran(tmp_path / "shared", *arguments)}
    alone = {record["run_id"]: record for record in ran(tmp_path / "alone", *arguments, "--no-share")}
    assert shared.keys() == alone.keys() and len(shared) == 4
    for run_id, record in shared.items():
        other = alone[run_id]
        assert record["shared"] == {"runs": 4} and other["shared"] is None
        losses = [[point["loss"] for point in one["curve"]] for one in (record, other)]
        np.testing.assert_allclose(*losses, atol=1e-4)
        files = [tmp_path / folder / record["predictions"] for folder in ("shared", "alone")]
        first, second = (np.array(pq.read_table(file)["logits"].to_pylist()) for file in files)
        np.testing.assert_allclose(first, second, atol=1e-3)
        peaks = [one["memory"]["train_peak_bytes"] for one in (record, other)]
        assert peaks[0] == pytest.approx(peaks[1], rel=0.01)


def test_kept_features_give_what_the_trunk_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = ("--methods", "lst,head", "--task", "demo/docstrings", "--model", "tiny-bert", "--train-size", "200")
    without = {record["spec"]["method"]["name"]: record for record in ran(tmp_path / "without", *arguments)}
    for record in ran(tmp_path / "with", *arguments, "--cache-trunk"):
        other = without[record["spec"]["method"]["name"]]
        losses = [[point["loss"] for point in one["curve"]] for one in (record, other)]
        np.testing.assert_allclose(*losses, atol=1e-3)
        assert record["trunk_cache"]["bytes"] > 0


def test_a_saved_adapter_answers_on_the_cpu_as_it_did(tmp_path: Path, mirror: Path) -> None:
    (record,) = ran(tmp_path, "--methods", "lora", "--task", "glue/sst2", "--data-dir", mirror, "--model", "tiny-bert",
                    "--eval-size", "200", "--save")  # fmt: skip
    tuned = bench.load(tmp_path / record["adapter"])
    said = np.array(pq.read_table(tmp_path / record["predictions"])["logits"].to_pylist())
    texts, _ = sentences(200, 2)  # the mirror's validation rows
    with torch.no_grad():
        logits = tuned.model(**tuned.tokenizer(texts, padding=True, return_tensors="pt")).logits
    np.testing.assert_allclose(logits.numpy(), said, atol=1e-3)


def test_two_runs_at_once_on_one_gpu(tmp_path: Path) -> None:
    records = ran(tmp_path, "--methods", "full,lora,lst,head", "--task", "demo/docstrings", "--model", "tiny-bert",
                  "--workers", "2")  # fmt: skip
    assert {record["environment"]["workers"] for record in records} == {2}


def test_a_gpu_that_is_nearly_full(tmp_path: Path) -> None:
    """A run that does not fit is recorded as that, the sweep goes on, and the record says who else was there."""
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(free - (3 << 30), dtype=torch.uint8, device="cuda")
    arguments = ("--methods", "full", "--task", "demo/docstrings", "--model", "tiny-bert", "--steps", 3)
    arguments = (*arguments, "--set", "train.batch_size=2048,8", "--eval-size", 16, "--out", tmp_path, "--json")
    done = command("run", *arguments, "--quiet")
    del held
    found = {record["spec"]["train"]["batch_size"]: record for record in json.loads(done.stdout)}
    assert (found[2048]["status"], found[8]["status"]) == ("oom", "ok"), done.stderr
    assert "other processes hold" in found[8]["environment"]["gpu_shared"]
    assert done.returncode == 1
