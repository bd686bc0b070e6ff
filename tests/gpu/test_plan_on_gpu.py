"""Plans against what a GPU's allocator says; skipped where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from bench import registry
from bench.backbone import Backbone
from bench.engine import Engine
from bench.memory import CUDA_BLOCK_BYTES, Loop, MemoryReport, measure_training
from bench.models import model_class
from bench.planner import shape
from bench.planner.plans import Planner
from bench.planner.request import Setting
from bench.settings import TrainSettings
from bench.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SIZES: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4,
              "head_dim": 64, "intermediate_size": 1536, "vocab_size": 16_000},
    "large": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
              "head_dim": 64, "intermediate_size": 8192, "vocab_size": 32_000},
}  # fmt: skip
SETTING = Setting(batch_size=4, max_length=512, precision="bf16-autocast")


def padded(setting: Setting) -> dict[str, torch.Tensor]:
    """A full batch whose last row is padded: models drop a mask of ones alone."""
    ids = torch.randint(5, 1000, (setting.batch_size, setting.max_length))
    mask = torch.ones_like(ids)
    mask[-1, -16:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def measured(config: Any, method: Any) -> MemoryReport:
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = model_class("causal-lm").from_config(config, dtype=torch.float32)
    module = method.attach(Backbone(model, "causal-lm", frozenset())).cuda()
    trainer = Trainer(module, method, TrainSettings(steps=1000), Engine(torch.device("cuda"), "bf16", {}))
    loop = Loop(trainer.forward, trainer.backward, trainer.step)
    return measure_training(module, trainer.optimizer, [padded(SETTING)], loop)


@pytest.mark.parametrize("size", list(SIZES))
@pytest.mark.parametrize("name", ["full", "lora", "lst", "prefix"])
def test_a_plan_is_within_three_percent_of_the_allocator(name: str, size: str, tmp_path: Path) -> None:
    registry.load()
    config = AutoConfig.for_model("llama", **SIZES[size], pad_token_id=0)
    config.save_pretrained(tmp_path)
    method = registry.method_entry(name).value()
    plan = Planner(shape.find(str(tmp_path), None, None), method, SETTING).plan()
    report = measured(config, method)
    highest = max(plan.phases[phase].total_bytes for phase in report.phases)
    assert highest == pytest.approx(report.train_peak.total_bytes, rel=0.03)
    assert plan.reserved_bytes == pytest.approx(report.reserved_peak_bytes, rel=0.1)


def test_the_allocator_counts_in_blocks() -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    held = torch.empty(1, device="cuda")
    assert torch.cuda.memory_allocated() - before == CUDA_BLOCK_BYTES
    del held
