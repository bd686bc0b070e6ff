"""Kept features of a frozen trunk: the same results without the trunk, and never from a wrong or broken file."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from bench.core.errors import RequestError
from bench.core.protocols import Method
from bench.methods.lora import Lora
from bench.methods.lst import Lst
from bench.methods.partial_finetuning import Head
from bench.models.backbone import trainable
from bench.models.frozen_backbone import readers, unwrapped
from bench.models.inference import Engine
from bench.store.validation import problems
from bench.training.checks import digests, frozen
from bench.training.shared import feature_cache
from bench.training.shared.feature_store import FeatureStore, Shape, prune
from tests import tiny, zoo
from tests.conftest import Bench

# Padding to another length changes the last bits of fp32 sums on a CPU: docs/sweeps-and-tuning.md states the bound.
RTOL, ATOL = 1e-4, 1e-5
ONE_TRUNK = [(family, kind) for family, kinds in zoo.KINDS.items() for kind in kinds if family not in ("t5", "bart")]
HEADS = [
    (family, kind) for family, kinds in zoo.KINDS.items() for kind in kinds if kind not in ("causal-lm", "seq2seq")
]
TOKENS = 12  # of the longest example; no example is padded to the same length in the file and in training


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tiny.Place]:
    with tiny.place(tmp_path) as found:
        yield found


def shelves() -> list[Path]:
    return sorted(feature_cache.cache_folder().glob("trunks/*/[!.]*"))


def tuned(method: Method, family: str, kind: str) -> nn.Module:
    backbone = zoo.lively(zoo.backbone(family, kind))
    torch.manual_seed(5)
    module = method.attach(backbone)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for value in trainable(module).values():
            value.add_(torch.randn(value.shape, generator=generator) * 0.2)
    return module


@dataclasses.dataclass
class Batches:
    """Rows of one zoo batch, alone or together, padded as a trainer does."""

    whole: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.whole["labels"])

    @property
    def labels(self) -> Tensor:
        return self.whole["labels"]

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        mask = self.whole.get("attention_mask")
        return np.full(len(self), 5) if mask is None else mask.sum(1).numpy()  # 16 × 16 pixels: four patches, a class

    def take(self, rows: Any) -> Batches:
        return Batches(self.collate(rows, {}))

    def collate(self, rows: Any, padding: dict[str, int]) -> dict[str, Tensor]:
        found = {name: value[rows] for name, value in self.whole.items()}
        longest = int(self.lengths[np.asarray(rows)].max())
        return {
            name: value[:, :longest] if value.ndim == 2 and "attention_mask" in found else value
            for name, value in found.items()
        }


def need(data: Any, **changes: Any) -> feature_cache.Need:
    engine = Engine(torch.device("cpu"), "fp32", {})
    whole = {"parts": [(data, list(range(len(data))))], "engine": engine, "batch_size": 1, "limit": 10**9}
    return feature_cache.Need(**{**whole, "tell": lambda text, news: None, **changes})


def kept(
    method: Method, module: nn.Module, data: Any, **changes: Any
) -> tuple[feature_cache.FeatureCache, dict[str, Any]]:
    return feature_cache.keep(module, method.name, digests(frozen(module)), need(data, **changes))


def gradients(module: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    module.train()
    module.zero_grad()
    torch.manual_seed(3)
    loss = module(**batch).loss
    loss.backward()
    return loss.detach(), {
        name: value.grad.clone() for name, value in trainable(module).items() if value.grad is not None
    }


class Counter:
    """Counts what runs inside a trunk's blocks."""

    def __init__(self, module: nn.Module) -> None:
        self.passes = 0
        (reader,) = readers(module).values()
        inside = [
            part for name, part in reader.backbone.named_modules() if re.search(r"(^|\.)(layers?|h|block)\.\d+\.", name)
        ]
        assert inside
        for part in inside:
            part.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.passes += 1


CASES = [
    *((Lst(reduction=2), family, kind) for family, kind in ONE_TRUNK),
    *((Lst(reduction=2, layers=("-1",)), family, "classification") for family in ("bert", "deberta-v2")),
    (Lst(reduction=2, merge="residual"), "llama", "causal-lm"),
    (Lst(reduction=2, merge="residual"), "opt", "causal-lm"),
    *((Head(), family, kind) for family, kind in HEADS),
]


@pytest.mark.parametrize(("method", "family", "kind"), CASES)
def test_losses_and_gradients_are_the_trunks(method: Method, family: str, kind: str) -> None:
    module = tuned(method, family, kind)
    data = Batches(zoo.batch(family, kind))
    batch = data.collate([0, 1, 3], {})
    expected_loss, expected = gradients(module, batch)
    cache, record = kept(method, module, data)
    assert not record["reused"] and record["examples"] == len(data)
    counter = Counter(module)
    with feature_cache.fed(module, cache):
        loss, found = gradients(module, batch)
    assert (cache.answered, cache.missed, counter.passes) == (1, 0, 0)
    assert_close(loss, expected_loss, rtol=RTOL, atol=ATOL)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(found[name], value, rtol=RTOL, atol=ATOL, msg=lambda text, name=name: f"{name}: {text}")
    assert gradients(module, batch)[0].equal(expected_loss)  # the trunk is whole again
    assert counter.passes > 0


# -- what is on the disk ------------------------------------------------------------------------------------------


def bert(reduction: int = 2, rows: int = 4) -> tuple[Lst, nn.Module, Batches]:
    method = Lst(reduction=reduction)
    return method, tuned(method, "bert", "classification"), Batches(zoo.batch("bert", "classification", rows))


def test_a_second_module_finds_what_the_first_one_kept() -> None:
    kept(*bert())
    said: list[str] = []
    _, record = kept(*bert(reduction=4), tell=lambda text, news: said.append(text))
    assert record["reused"] and record["fill_peak_bytes"] is None and said == []
    assert record["bytes"] == 4 * 2 * 32 * int(Batches(zoo.batch("bert", "classification")).lengths.sum())
    assert len(shelves()) == 1
    method = Lst(reduction=2, layers=("-1",))  # some of the layers are enough
    assert kept(method, tuned(method, "bert", "classification"), bert()[2])[1]["reused"]


def test_another_trunk_is_not_taken_for_this_one() -> None:
    kept(*bert())
    method, module, data = bert()
    with torch.no_grad():
        next(reader for reader in readers(module).values()).backbone.encoder.layer[0].output.dense.weight.mul_(1.5)
    assert not kept(method, module, data)[1]["reused"]
    assert len(shelves()) == 2


def test_further_examples_are_added_beside_and_read_together() -> None:
    method, module, whole = bert(rows=6)
    kept(method, module, whole.take([0, 1, 5]))
    cache, record = kept(method, module, whole)
    assert not record["reused"] and record["examples"] == 6 and len(shelves()) == 2
    batch = whole.collate([5, 2, 0, 3], {})
    expected = gradients(module, batch)[0]
    with feature_cache.fed(module, cache):
        assert_close(gradients(module, batch)[0], expected, rtol=RTOL, atol=ATOL)
    assert (cache.answered, cache.missed) == (1, 0)


def test_an_example_that_is_not_there_goes_to_the_trunk() -> None:
    method, module, whole = bert()
    cache, _ = kept(method, module, whole.take([0, 1]))
    batch = whole.collate([0, 2], {})
    expected = gradients(module, batch)[0]
    with feature_cache.fed(module, cache):
        assert gradients(module, batch)[0].equal(expected)
    assert (cache.answered, cache.missed) == (0, 1)


def test_padding_on_the_left_is_not_taken_for_tokens() -> None:
    ids, mask = torch.tensor([[0, 5, 6], [4, 5, 6]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert feature_cache._identify({"input_ids": ids, "attention_mask": mask}) is None
    flipped = feature_cache._identify({"input_ids": ids.flip(1), "attention_mask": mask.flip(1)})
    alone = feature_cache._identify({"input_ids": torch.tensor([[6, 5]]), "attention_mask": torch.ones(1, 2)})
    assert flipped is not None and alone is not None and flipped.keys[0] == alone.keys[0] != flipped.keys[1]


def _truncate(folder: Path) -> None:
    path = folder / "layer.0.bin"
    path.write_bytes(path.read_bytes()[:-8])


def _flip(folder: Path) -> None:
    path = folder / "layer.1.bin"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _garble(folder: Path) -> None:
    (folder / "index.safetensors").write_bytes(b"not an index")


def _lose(folder: Path) -> None:
    (folder / "layer.0.bin").unlink()


def _unfinished(folder: Path) -> None:
    folder.rename(folder.with_name(f".{folder.name}.partial"))


@pytest.mark.parametrize("damage", [_truncate, _flip, _garble, _lose, _unfinished])
def test_what_is_damaged_is_made_again(damage: Callable[[Path], None]) -> None:
    method, module, data = bert()
    kept(method, module, data)
    (folder,) = shelves()
    damage(folder)
    cache, record = kept(method, module, data)
    assert not record["reused"]
    (again,) = shelves()
    assert again != folder and not list(folder.parent.glob(".*.partial"))
    batch = data.collate([0, 3], {})
    expected = gradients(module, batch)[0]
    with feature_cache.fed(module, cache):
        assert_close(gradients(module, batch)[0], expected, rtol=RTOL, atol=ATOL)


def test_nothing_is_left_of_a_pass_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    method, module, data = bert()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.training.shared.feature_store.Writer.add", full)
    with pytest.raises(OSError, match="No space"):
        kept(method, module, data)
    assert shelves() == [] and not list(feature_cache.cache_folder().rglob("*.partial"))


def test_who_fills_second_waits_for_the_first(tmp_path: Path) -> None:
    waiting, inside = threading.Event(), threading.Event()
    shelf = FeatureStore(tmp_path / "shelf")

    def second() -> None:
        with FeatureStore(tmp_path / "shelf").locked(waiting.set):
            inside.set()

    with shelf.locked(lambda: pytest.fail("nobody else is there")):
        (left := shelf.folder / ".other.partial").mkdir()
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(10) and not inside.is_set() and left.exists()
    thread.join(10)
    assert inside.is_set() and not left.exists()  # whoever made it is gone


def test_what_was_used_longest_ago_makes_room() -> None:
    method, module, whole = bert(rows=8)
    parts = [whole.take([row]) for row in range(4)]  # 12 tokens of 2 layers, 3.1 kB each, and an index
    made: list[Path] = []
    for part in parts[:3]:
        kept(method, module, part)
        made += [folder for folder in shelves() if folder not in made]
    first, second, third = made
    for age, folder in ((30, first), (20, second), (10, third)):
        os.utime(folder / "index.safetensors", (time.time() - age, time.time() - age))
    cache, record = kept(method, module, parts[0])  # used now
    assert record["reused"]
    kept(method, module, parts[3], limit=12_500)
    assert first in shelves() and second not in shelves() and third in shelves() and len(shelves()) == 3
    shutil.rmtree(first)
    with feature_cache.fed(module, cache):  # who reads it has it still
        gradients(module, parts[0].collate([0], {}))
    assert (cache.answered, cache.missed) == (1, 0)


def test_what_another_process_has_just_kept_is_not_removed(tmp_path: Path) -> None:
    """Who fills maps what it wrote while it holds its shelf's lock."""
    shelves_of = [FeatureStore(tmp_path / name) for name in ("one", "other")]
    one, other = shelves_of
    with one.locked(lambda: None), one.writer({"x": Shape("float32", 16, False)}) as writer:
        writer.add([b"k" * 16], np.array([1]), {"x": torch.ones(1, 4)})
    with other.locked(lambda: None):
        with one.locked(lambda: None):
            prune(tmp_path, 0, other, [])
            assert one.columns(["x"], [b"k" * 16])
        prune(tmp_path, 0, other, [])
    assert not one.columns(["x"], [b"k" * 16])


def test_a_pass_of_which_nothing_is_left_goes_to_the_trunk() -> None:
    _, module, whole = bert()
    nothing = feature_cache.FeatureCache({})
    batch = whole.collate([0, 1], {})
    with feature_cache.fed(module, nothing):
        gradients(module, batch)
    assert (nothing.answered, nothing.missed) == (0, 1)


# -- limits and refusals ------------------------------------------------------------------------------------------


def test_more_than_the_limit_is_refused_before_anything_is_written() -> None:
    with pytest.raises(RequestError, match=r"4 examples take 11\.3 kB, more than the limit of 1 kB.*--cache-limit 1MB"):
        kept(*bert(), limit=1000)
    assert shelves() == []


def test_more_than_the_disk_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 100))
    with pytest.raises(RequestError, match=r"take 11\.3 kB, and the disk of .* has 100 B left.*XDG_CACHE_HOME"):
        kept(*bert())
    assert shelves() == []


@pytest.mark.parametrize(
    ("method", "family", "kind", "why"),
    [
        (Lora(), "bert", "classification", "lora: its gradients enter the backbone"),
        (Lst(reduction=2, backbone_dropout=True), "bert", "classification", "lst: .*backbone_dropout=true"),
        (Head(backbone_dropout=True), "bert", "classification", "head: .*backbone_dropout=true"),
        (Lst(reduction=2), "t5", "seq2seq", "lst: this model has 2 frozen stacks"),
    ],
)
def test_what_cannot_be_kept_says_why(method: Method, family: str, kind: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}"):
        feature_cache.only_reader(method.attach(zoo.backbone(family, kind)), method.name)


def test_the_command_names_every_method_that_cannot(bench_here: Bench, tiny_model: Path) -> None:
    asked = ("run", "--task", "glue/sst2", "--model", tiny_model, "--steps", 2, "--cache-trunk", "--out", "o")
    lst = ("--set", "lst.backbone_dropout=true,false")
    done = bench_here(*asked, "--methods", "lora,lst,head", *lst)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert [line.split(": ")[2] for line in lines] == ["lora", "lst"]
    assert all(line.endswith("--set lst.train.cache_trunk=true. [unsupported]") for line in lines)
    done = bench_here(*asked, "--methods", "lst,head", "--cache-limit", "2kB", "--train-size", 100)
    assert done.returncode == 2 and done.stderr.count("more than the limit of 2 kB") == 2
    assert not list(Path("o").rglob("*.json"))
    done = bench_here(*asked, "--methods", "lst", "--cache-limit", "much")
    assert done.returncode == 2 and "--cache-limit: 'much' is not a size" in done.stderr


def test_other_mistakes_are_said_beside(bench_here: Bench) -> None:
    done = bench_here("run", "--task", "glue/rte", "--model", "tiny-t5", "--methods", "lst,head", "--steps", 2,
                      "--cache-trunk", "--out", "o")  # fmt: skip
    first, second = done.stderr.strip().splitlines()
    assert done.returncode == 2 and first.startswith("bench: head: a language model's head is pretrained")
    assert second.startswith("bench: --cache-trunk: lst: this model has 2 frozen stacks") and "Say it" not in second


def test_a_plan_file_may_ask_and_the_size_is_said(bench_here: Bench, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text('cache_trunk = true\ncache-limit = "1MB"\n')
    done = bench_here("run", "--plan", tmp_path / "plan.toml", "--methods", "lst", "--task", "glue/rte", "--model",
                      tiny_model, "--set", "lst.reduction=2", "--dry-run")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"the features of 100 examples of glue/rte \(.*, lst\) take \d+ kB", done.stderr)


# -- whole runs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lst", "head"])
def test_a_run_is_the_same_with_and_without(place: tiny.Place, method: str) -> None:
    sets = ("lst.reduction=2",) if method == "lst" else ()
    plain = place.run(method, sets=sets, dev_size=20, steps=20)
    record = place.run(method, sets=sets, dev_size=20, steps=20, cache_trunk=True)
    assert plain["status"] == record["status"] == "ok", record["traceback"]
    assert plain["trunk_cache"] is None and not record["trunk_cache"]["reused"]
    assert problems(record) == [] and record["trunk_cache"]["fill_peak_bytes"] > 0
    assert "cache_trunk" not in plain["spec"]["train"] and record["spec"]["train"]["cache_trunk"] is True
    for mine, theirs in zip(record["curve"], plain["curve"], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=RTOL, abs=ATOL)
        assert mine["dev_score"] == theirs["dev_score"]
    assert record["scores"] == plain["scores"]
    tables = [pq.read_table(place.folder / "out" / each["predictions"]).to_pylist() for each in (record, plain)]
    for mine, theirs in zip(*tables, strict=True):
        assert mine["prediction"] == theirs["prediction"]
        assert mine["logits"] == pytest.approx(theirs["logits"], rel=RTOL, abs=ATOL)
    assert record["compute"]["train_step_flops"] < plain["compute"]["train_step_flops"] / 2
    assert record["compute"]["inference_flops"] == plain["compute"]["inference_flops"]
    assert record["memory"]["train_peak"]["weights"] == plain["memory"]["train_peak"]["weights"]
    assert record["memory"]["inference_peak_bytes"] == plain["memory"]["inference_peak_bytes"]
    again = place.run(method, sets=sets, dev_size=20, steps=20, cache_trunk=True, seed=1)
    assert again["trunk_cache"]["reused"] and again["trunk_cache"]["fill_peak_bytes"] is None


def test_a_run_without_it_keeps_its_identity(place: tiny.Place) -> None:
    ids = {place.specs("lst", sets=sets)[0].run_id for sets in ((), ("train.cache_trunk=false",))}
    assert len(ids) == 1 and place.specs("lst", cache_trunk=True)[0].run_id not in ids


# -- the frozen base model of head --------------------------------------------------------------------------------


def test_a_head_reads_the_same_features_in_training_as_in_evaluation() -> None:
    batch = zoo.batch("bert", "classification")
    for option, same in ((False, True), (True, False)):
        module = Head(backbone_dropout=option).attach(zoo.backbone("bert", "classification", hidden_dropout_prob=0.5))
        module.train()
        torch.manual_seed(1)
        (reader,) = readers(module).values()
        pooled = [module.bert(batch["input_ids"], batch["attention_mask"]).pooler_output for _ in range(2)]
        assert pooled[0].equal(pooled[1]) is same and reader.steady is same
        assert not pooled[0].requires_grad


@pytest.mark.parametrize(("family", "kind"), HEADS)
def test_a_heads_model_has_its_own_names_again_when_unwrapped(family: str, kind: str) -> None:
    backbone = zoo.backbone(family, kind)
    names = set(backbone.model.state_dict())
    module = Head().attach(backbone)
    assert set(module.state_dict()) != names
    assert set(unwrapped(module).state_dict()) == names
