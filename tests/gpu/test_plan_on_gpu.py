"""Plans against what a GPU's allocator says; skipped where there is none.

``-rP`` prints, in MB, planned and measured: peak, reserved, and the phases loaded, forward, backward and step.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from bench.core import registry
from bench.core.protocols import Batch
from bench.core.train_config import TrainSettings
from bench.models.backbone import Backbone, recompute_activations
from bench.models.inference import Engine
from bench.models.loading import fresh_head, model_class
from bench.planner import meta_model
from bench.planner.plan_config import Setting
from bench.planner.planner import Planner
from bench.training.memory import CUDA_BLOCK_BYTES, Loop, MemoryReport, measure_training
from bench.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

MODELS: dict[str, dict[str, Any]] = {
    "small llama": {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4,
                    "head_dim": 64, "intermediate_size": 1536, "vocab_size": 16_000, "pad_token_id": 0},
    "large llama": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
                    "head_dim": 64, "intermediate_size": 8192, "vocab_size": 32_000, "pad_token_id": 0},
    "base bert": {},
    "base t5": {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12, "decoder_start_token_id": 0},
    "base vit": {},
}  # fmt: skip
_TEXT = Setting(batch_size=4, max_length=512, precision="bf16-autocast")
_BERT = Setting(batch_size=32, max_length=128)
_T5 = Setting(batch_size=8, max_length=256, target_length=64)
# Settings of each model, and the methods of each setting.
CASES: tuple[tuple[str, Setting, str], ...] = (
    ("small llama", _TEXT, "full,lora,lst,prefix"),
    ("large llama", _TEXT, "full,lora,lst,prefix"),
    ("large llama", replace(_TEXT, gradient_checkpointing=True), "full,lora"),
    ("base bert", _BERT, "full,lora,lst,prefix,pfeiffer,ia3,bitfit,head"),
    ("base bert", replace(_BERT, precision="bf16-autocast"), "full,lora,lst,prefix,pfeiffer,ia3,bitfit,head"),
    ("base bert", replace(_BERT, grad_accum=2, clip=0.0), "full,lora"),
    ("base t5", _T5, "full,lora,lst"),
    ("base t5", replace(_T5, precision="bf16-autocast"), "full,lora,lst"),
    ("base vit", replace(_BERT, precision="bf16-autocast"), "full,lora,lst"),
)


def filled(batch: Batch) -> Batch:
    """A planned batch with values, the last row's end padded: models drop a mask of ones alone."""
    found = {name: value.clone() for name, value in batch.items()}
    if "input_ids" in found:
        found["input_ids"].random_(5, 1000)
        found["attention_mask"][-1, -16:] = 0
    if found["labels"].dim() == 2:
        found["labels"].random_(5, 1000)
    return found


def measured(where: meta_model.Shape, method: Any, setting: Setting) -> MemoryReport:
    """What the allocator says of two steps."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = model_class(where.kind).from_config(where.config, dtype=torch.float32)
    module = method.attach(Backbone(model, where.kind, fresh_head(model, where.kind))).cuda()
    if setting.gradient_checkpointing:
        recompute_activations(model)
    settings = TrainSettings(steps=1000, grad_accum=setting.grad_accum, clip=setting.clip)
    precision = "fp32" if setting.precision == "fp32" else "bf16"
    trainer = Trainer(module, method, settings, Engine(torch.device("cuda"), precision, {}))
    loop = Loop(trainer.forward, trainer.backward, trainer.step)
    batches = [filled(meta_model.batch(where, setting))] * setting.grad_accum
    return measure_training(module, trainer.optimizer, batches, loop)


def _named(setting: Setting) -> str:
    words = [f"{setting.batch_size} x {setting.max_length}", setting.precision]
    words += [f"accumulated {setting.grad_accum}"] if setting.grad_accum > 1 else []
    return ", ".join([*words, *(["recomputed"] if setting.gradient_checkpointing else [])])


@pytest.mark.parametrize(
    ("model", "setting", "name"),
    [(model, setting, name) for model, setting, names in CASES for name in names.split(",")],
    ids=lambda value: _named(value) if isinstance(value, Setting) else value,
)
def test_a_plan_is_within_three_percent_of_the_allocator(
    model: str, setting: Setting, name: str, tmp_path: Path
) -> None:
    registry.load()
    AutoConfig.for_model(model.split()[1], **MODELS[model]).save_pretrained(tmp_path)
    method = registry.method_entry(name).value()
    where = meta_model.find(str(tmp_path), None, None)
    plan = Planner(where, method, setting).plan()
    gc.collect()  # modules of other tests, and below the blocks that were theirs
    torch.cuda.empty_cache()
    report = measured(where, method, setting)
    planned = {phase: plan.phases[phase].total_bytes for phase in report.phases}
    highest = max(planned.values())
    pairs = {"peak": (highest, report.train_peak.total_bytes)}
    pairs["reserved"] = (plan.reserved_bytes or 0, report.reserved_peak_bytes or 0)
    pairs |= {phase: (planned[phase], peak.total_bytes) for phase, peak in report.phases.items()}
    row = " | ".join(f"{one / 1e6:.1f} {other / 1e6:.1f}" for one, other in pairs.values())
    print(f"| {model} | {_named(setting)} | {name} | {row} |")  # noqa: T201
    assert highest == pytest.approx(report.train_peak.total_bytes, rel=0.03)
    assert plan.reserved_bytes == pytest.approx(report.reserved_peak_bytes, rel=0.1)


def test_the_allocator_counts_in_blocks() -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    held = torch.empty(1, device="cuda")
    assert torch.cuda.memory_allocated() - before == CUDA_BLOCK_BYTES
    del held
