"""What a seed changes, what it does not, and what methods under one seed share."""

import hashlib

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from bench.models.backbone import trainable
from bench.store.store import Store
from bench.training.job import Job
from bench.training.run import Run, seed_everything
from bench.training.trainer import Trainer
from tests import tiny

METHODS = ("full", "lora", "lst", "prompt")
DROPPED = {"lora": ("lora.dropout=0.1",)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with tiny.place(tmp_path_factory.mktemp("seeds")) as made:
        yield made


def prepared(place, method, seed):
    """A run whose model is attached and whose first step is still to come."""
    (spec,) = place.specs(method, seed=seed)
    run = Run(Job(spec.run_id, spec.spec, (str(tiny.TASK),), None, "unused", None), lambda _: None)
    run._prepare()
    return run


def test_a_seed_decides_the_initialisation(place):
    first, again, other = (prepared(place, "lora", seed) for seed in (0, 0, 1))
    weights = [dict(trainable(run.module)) for run in (first, again, other)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    drawn = [name for name, value in weights[0].items() if value.std() > 0]
    assert drawn and not any(torch.equal(weights[0][name], weights[2][name]) for name in drawn)


def test_a_seed_decides_the_order_of_the_rows_and_not_which_are_scored(place):
    first, again, other = (prepared(place, "head", seed) for seed in (0, 0, 1))
    orders = [[next(rows) for _ in range(8)] for rows in (run.batches.rows() for run in (first, again, other))]
    assert orders[0] == orders[1] != orders[2]
    assert np.array_equal(first.data.validation.labels, other.data.validation.labels)
    assert np.array_equal(first.data.train.labels, other.data.train.labels)


def test_a_seed_decides_dropout(place):
    run = prepared(place, "lora", 0)
    batch, _ = next(run.batches.training())
    run.module.train()
    losses = []
    for seed in (0, 0, 1):
        seed_everything(seed)
        losses.append(run.module(**batch).loss.item())
    assert losses[0] == losses[1] != losses[2]
    run.module.eval()
    still = {run.module(**batch).loss.item() for seed in (0, 1) if seed_everything(seed) is None}
    assert len(still) == 1, "only dropout is random in a forward"


def test_methods_under_one_seed_start_from_one_head_and_one_base(place):
    heads = []
    for method in ("head", "lora", "full"):
        weights = dict(prepared(place, method, 3).module.named_parameters())
        heads.append(next(value for name, value in weights.items() if "classifier" in name and name.endswith("weight")))
    assert torch.equal(heads[0], heads[1]) and torch.equal(heads[0], heads[2])


def test_methods_under_one_seed_see_identical_batches(place, monkeypatch):
    """What reaches the forward pass in training, not what the sampler promises."""
    seen: list[str] = []
    forward = Trainer.forward

    def watched(self, batch):
        text = "".join(f"{name}{value.tolist()}" for name, value in sorted(batch.items()))
        seen.append(hashlib.sha256(text.encode()).hexdigest())
        return forward(self, batch)

    monkeypatch.setattr(Trainer, "forward", watched)
    orders = {}
    for method, seed in [*((method, 0) for method in METHODS), ("lora", 1)]:
        seen.clear()
        assert place.run(method, seed=seed, steps=6)["status"] == "ok"
        orders[method, seed] = tuple(seen[-6:])
    assert len({orders[method, 0] for method in METHODS}) == 1
    assert orders["lora", 1] != orders["lora", 0] and len(set(orders["lora", 0])) == 6


def outcome(place, method, seed):
    record = place.run(method, sets=DROPPED.get(method, ()), seed=seed, steps=6)
    table = pq.read_table(Store(place.folder / "out").predictions_path(record["run_id"]))
    losses = [point["loss"] for point in record["curve"]]
    return record["parameters"]["trained_sha256"], losses, table["logits"].to_pylist()


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_is_bit_identical_and_another_is_not(place, method):
    first, again, other = (outcome(place, method, seed) for seed in (0, 0, 1))
    assert first == again
    assert all(one != two for one, two in zip(first, other, strict=True))
