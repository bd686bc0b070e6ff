"""Plans against published figures (results/published/MEMORY.md says where they are from); nothing is fitted to them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr

from bench.core import options, registry
from bench.planner.meta_model import Shape, find
from bench.planner.plan_config import Setting
from bench.planner.planner import Plan, Planner

torch.set_num_threads(1)

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "tests" / "data" / "configs"

# How huggingface/peft's script trains: base weights in bf16, adapters in fp32 and no autocast; torch's default AdamW,
# which is foreach on CUDA; outputs = model(...) holds the logits. Its rows are cut to 768 tokens and batches of 4 are
# made of rows of similar length: the longest batch has at most 4 x 768 tokens, which is assumed here.
PEFT = Setting(batch_size=4, max_length=768, precision="bf16-plain", optimizer="adamw-foreach", keep_outputs=True)
EXPERIMENTS: dict[str, tuple[str, dict[str, str]]] = {
    "full-finetuning/llama-3.2-3B-lr_0.00001": ("full", {}),
    "ia3/llama-3.2-3B-lr_0.001": ("peft:ia3", {}),
    "ln_tuning/llama-3.2-3B-default": ("peft:ln_tuning", {}),
    "lora/llama-3.2-3B-rank32-dora": ("peft:lora", {"r": "32", "lora_alpha": "64", "use_dora": "true"}),
    "lora/llama-3.2-3B-rank32": ("peft:lora", {"r": "32", "lora_alpha": "64"}),
    "lora/llama-3.2-3B-rank64": ("peft:lora", {"r": "64", "lora_alpha": "128"}),
    "prefixtuning/llama-3.2-3B-lr_0.001": ("peft:prefix_tuning", {"num_virtual_tokens": "200"}),
    "prompt_tuning/llama-3.2-3B-lr_0.001": ("peft:prompt_tuning", {"num_virtual_tokens": "200"}),
    "vera/llama-3.2-3B-default": ("peft:vera", {"r": "256"}),
}

# The paper's script: T5-base in fp32, batches of 100 rows of 128 tokens, targets of one word and its end; attention
# written out, as transformers 4.6 had it. Its LoRA has dropout 0.1, and 48-wide adapters are Houlsby's.
LST = Setting(batch_size=100, max_length=128, target_length=2, attention="eager", optimizer="adamw-foreach")
ROWS: dict[str, tuple[str, dict[str, str]]] = {
    "adapters": ("houlsby", {}),
    "lora": ("lora", {"rank": "32", "dropout": "0.1"}),
    "bitfit": ("bitfit", {"add": "true"}),
    "lst": ("lst", {"layers": "1-3,5-7,9-11", "heads": "official"}),
}


def published(name: str, key: str) -> dict[str, dict[str, str]]:
    with (ROOT / "results" / "published" / name).open(encoding="utf-8") as file:
        return {row[key]: row for row in csv.DictReader(file)}


def planned(model: Shape, chosen: tuple[str, dict[str, str]], setting: Setting) -> Plan:
    registry.load()
    name, given = chosen
    return Planner(model, options.build(registry.method_entry(name).value, given, name), setting).plan()


def test_nine_methods_on_a_3b_llama() -> None:
    pytest.importorskip("peft")
    model = find(str(CONFIGS / "llama-3.2-3b.json"), None, None)
    rows = published("peft_llama32_3b_memory.csv", "experiment")
    assert set(rows) == set(EXPERIMENTS)
    plans = {name: planned(model, chosen, PEFT) for name, chosen in EXPERIMENTS.items()}
    measured = {name: int(rows[name]["reserved_peak_bytes"]) for name in plans}
    assert {name: plan.trainable for name, plan in plans.items()} == {
        name: int(row["trainable"]) for name, row in rows.items()
    }
    off = {name: plan.peak.total_bytes / measured[name] - 1 for name, plan in plans.items()}
    assert max(map(abs, off.values())) <= 0.05, off
    ranks: Any = spearmanr([plan.peak.total_bytes for plan in plans.values()], list(measured.values()))
    assert ranks.statistic >= 0.9
    # What the allocator reserves for batches of one length is more than what it hands out.
    assert all(
        plan.reserved_bytes is not None and plan.reserved_bytes > plan.peak.total_bytes for plan in plans.values()
    )


def test_savings_of_ladder_side_tuning_and_its_peers() -> None:
    model = find(str(CONFIGS / "t5-base.json"), None, None)
    rows = {name: float(row["train_memory_gb"]) for name, row in published("lst_t5_base_memory.csv", "method").items()}
    full = planned(model, ("full", {}), LST).peak.total_bytes
    for name, chosen in ROWS.items():
        saving = 1 - planned(model, chosen, LST).peak.total_bytes / full
        assert saving == pytest.approx(1 - rows[name] / rows["full"], abs=0.05), name
