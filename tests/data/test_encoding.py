"""Batches, splits and encoding."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from bench.data.encoding import Encoded, encode
from bench.data.sampling import evaluation_batches, hold_out, steps_of, subsample, training_batches

LENGTHS = np.random.default_rng(0).integers(3, 60, 1000)


def toy(lengths: list[int]) -> Encoded:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.arange(1, offsets[-1] + 1, dtype=np.int32)
    return Encoded({"input_ids": ids, "attention_mask": np.ones_like(ids)}, offsets, np.arange(len(lengths)))


def test_an_epoch_holds_every_row_once() -> None:
    steps = steps_of(1, 1000, 32, 1)
    assert steps == 32
    rows = [row for batch in islice(training_batches(LENGTHS, 32, seed=0), steps) for row in batch]
    assert sorted(rows) == list(range(1000))


def test_the_seed_alone_decides_the_batches() -> None:
    first = list(islice(training_batches(LENGTHS, 32, seed=3), 80))
    assert first == list(islice(training_batches(LENGTHS, 32, seed=3), 80))
    assert first != list(islice(training_batches(LENGTHS, 32, seed=4), 80))


def test_bucketing_leaves_little_padding_and_keeps_order_random() -> None:
    batches = list(islice(training_batches(LENGTHS, 32, seed=0), 31))
    padded = sum(len(batch) * LENGTHS[batch].max() for batch in batches)
    real = sum(LENGTHS[batch].sum() for batch in batches)
    assert padded / real < 1.1, "rows of a batch have nearly the same length"
    longest = [int(LENGTHS[batch].max()) for batch in batches]
    assert longest != sorted(longest) and abs(np.corrcoef(longest, range(31))[0, 1]) < 0.5


def test_evaluation_starts_with_the_largest_batch() -> None:
    batches = evaluation_batches(LENGTHS, 64)
    sizes = [len(batch) * LENGTHS[batch].max() for batch in batches]
    assert sizes[0] == max(sizes) and sorted(sum(batches, [])) == list(range(1000))


def test_collate_pads_with_the_given_values() -> None:
    batch = toy([2, 3]).collate([1, 0], {"input_ids": 9})
    assert batch["input_ids"].tolist() == [[3, 4, 5], [1, 2, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [1, 0]


def test_take_keeps_rows_whole() -> None:
    taken = toy([2, 3, 1]).take([2, 0])
    assert taken.columns["input_ids"].tolist() == [6, 1, 2]
    assert taken.lengths.tolist() == [1, 2] and taken.labels.tolist() == [2, 0]


def test_dev_is_held_out_and_always_the_same() -> None:
    train, dev = hold_out(67_349, 1000)
    assert len(dev) == 1000 and not set(train) & set(dev) and len(train) + len(dev) == 67_349
    assert hold_out(67_349, 1000) == (train, dev)
    assert len(hold_out(200, 1000)[1]) == 20, "at most a tenth"


def test_groups_are_held_out_and_drawn_whole() -> None:
    groups = np.random.default_rng(0).integers(0, 60, 1000)
    train, dev = hold_out(1000, 80, groups=groups)
    assert 60 < len(dev) <= 80 and sorted([*train, *dev]) == list(range(1000))
    assert not set(groups[train]) & set(groups[dev])
    assert hold_out(1000, 80, groups=groups) == (train, dev)
    assert hold_out(1000, 80, groups=np.zeros(1000))[1] == [], "one group cannot be torn"
    rows = subsample(range(1000), 100, groups=groups)
    assert 60 < len(rows) <= 100 and not set(groups[rows]) & set(np.delete(groups, rows))


def test_methods_of_one_class_are_not_in_train_and_dev() -> None:
    from bench.core import registry
    from bench.core.protocols import DataSource
    from bench.data.sampling import groups_of

    registry.load()
    splits = registry.task_entry("demo/docstrings").value.load(DataSource())
    groups = groups_of(splits.train, splits.group)
    assert groups is not None
    train, dev = hold_out(len(splits.train), 1000, groups=groups)
    names = np.asarray(splits.train["group"])
    assert len(dev) > 100 and not set(names[train]) & set(names[dev])


def test_epochs_run_across_steps() -> None:
    assert steps_of(3, 30, 32, 1) == 3 and steps_of(3, 30, 32, 4) == 1
    assert steps_of(3, 36, 4, 8) == 4, "27 batches, eight a step"
    assert steps_of(0.5, 64, 32, 1) == 1 and steps_of(1, 1000, 32, 1) == 32


def test_one_whole_group_is_scored_at_least() -> None:
    groups = np.repeat([7, 8, 9], 4)
    (*rows,) = subsample(range(12), 1, groups=groups)
    assert len(rows) == 4 and len(set(groups[rows])) == 1


def test_subsample_is_fixed_and_in_order() -> None:
    rows = subsample(range(100), 10)
    assert rows == subsample(range(100), 10) == sorted(rows) and len(set(rows)) == 10
    assert subsample(range(5), 10) == [0, 1, 2, 3, 4]


def test_encoding_is_cached_and_a_damaged_cache_is_made_again(
    tiny_model: Path, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    from bench.core import registry
    from bench.core.protocols import DataSource

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    registry.load()
    task = registry.task_entry("glue/sst2").value
    rows = task.load(DataSource(mirror)).train
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    fresh = encode(rows, task, tokenizer, 32, "key")
    (path,) = (tmp_path / "tunebench/tokens").iterdir()
    cached = encode(rows, task, None, 32, "key")  # no tokenizer: it can only come from the cache
    path.write_bytes(b"damaged")
    again = encode(rows, task, tokenizer, 32, "key")
    for other in (cached, again):
        assert np.array_equal(fresh.labels, other.labels)
        assert all(np.array_equal(fresh.columns[name], other.columns[name]) for name in fresh.columns)
    assert fresh.lengths.max() <= 32 and fresh.labels.dtype == np.int64
