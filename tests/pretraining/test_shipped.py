"""The shipped models: small, loadable like any other, and worth more than the same shapes with random weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bench
from bench.models import loading
from bench.models.aliases import ALIASES
from bench.sweep import expand
from bench.sweep.request import RunRequest
from bench.training.job import Job
from bench.training.run import execute

PRETRAINED = Path(bench.__file__).parent / "models" / "pretrained"
TEXTS = ("tiny-bert", "tiny-llama", "tiny-t5")
MARGIN = 0.12  # of accuracy, after 60 steps; after three epochs it is twice as much (bench/pretrained/MODELS.md)


def random_twin(name: str, folder: Path) -> Path:
    """A folder like the shipped model's with weights from a seed."""
    from transformers import AutoConfig, AutoModel

    shutil.copytree(PRETRAINED / name, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.from_pretrained(PRETRAINED / name), dtype=torch.float32).save_pretrained(folder)
    return folder


def trained(model: str, folder: Path) -> dict[str, Any]:
    request = RunRequest(
        methods=("lora",),
        task=("demo/docstrings",),
        model=(model,),
        set=("train.dev_size=0", "lora.lr=0.005", "task.form=head"),
        train={"steps": "60", "batch_size": "16", "eval_size": "200", "device": "cpu", "checkpoint": "last"},
    )
    (spec,) = expand.expand(request)
    job = Job(spec.run_id, spec.spec, (), None, str(folder / "predictions.parquet"), None)
    record = execute(job, lambda _: None)
    assert record["status"] == "ok", record["traceback"]
    return record


def test_all_of_them_fit_into_ten_megabytes() -> None:
    assert {path.name for path in PRETRAINED.iterdir() if path.is_dir()} == {
        n for n in ALIASES if n.startswith("tiny-")
    }
    assert sum(path.stat().st_size for path in PRETRAINED.rglob("*") if path.is_file()) < 10e6


@pytest.mark.parametrize("name", TEXTS)
def test_about_a_million_parameters_in_fp32_and_an_own_tokenizer(name: str) -> None:
    source = loading.resolve(name)
    assert source.source == "package:tunebench" and source.revision is None
    backbone = loading.load(source, "classification", ("a", "b"))
    values = list(backbone.model.parameters())
    assert 0.9e6 < sum(value.numel() for value in values) < 1.5e6
    assert {value.dtype for value in values} == {torch.float32}
    tokenizer = loading.tokenizer(source)
    ids = tokenizer("Return the socket's name.")["input_ids"]
    assert "socket" in tokenizer.decode(ids) and len(tokenizer) == backbone.config.vocab_size and len(ids) < 10


@pytest.mark.parametrize("name", TEXTS)
def test_it_beats_the_same_shape_from_random_weights(name: str, tmp_path: Path) -> None:
    pretrained = trained(name, tmp_path)
    random = trained(str(random_twin(name, tmp_path / "random")), tmp_path)
    gain = pretrained["scores"]["accuracy"] - random["scores"]["accuracy"]
    assert gain > MARGIN, (pretrained["scores"], random["scores"])
    assert pretrained["parameters"]["total"] == random["parameters"]["total"]


def test_the_image_model_knows_digits_it_has_never_seen(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8).repeat(1, 3, 1, 1) / 8 - 1
    order = np.random.default_rng(0).permutation(len(labels))
    test, train = order[:400], order[400:900]

    def accuracy(name: str) -> float:
        torch.manual_seed(0)
        backbone = loading.load(loading.resolve(name), "image-classification", tuple("0123456789"))
        backbone.freeze()
        optimizer = torch.optim.AdamW(backbone.head_parameters, lr=1e-2)
        for step in range(60):
            rows = train[(step * 32) % 480 :][:32]
            backbone.model(pixel_values=images[rows], labels=torch.from_numpy(labels[rows])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            answers = backbone.model.eval()(pixel_values=images[test]).logits.argmax(-1).numpy()
        return float((answers == labels[test]).mean())

    assert accuracy("tiny-vit") > accuracy(str(random_twin("tiny-vit", tmp_path / "random"))) + 0.4
