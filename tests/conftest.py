"""A toy world for tests: a tiny random BERT with its tokenizer, and a mirror with a small learnable data set."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

if TYPE_CHECKING:
    from bench.sweep.executors.local import Pool

WORDS = {"good": 1, "great": 1, "fine": 1, "lovely": 1, "bad": 0, "awful": 0, "poor": 0, "dull": 0}
FILLER = ("the", "film", "is", "a", "very", "story", "with", "and", "of", "plot")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job of a shell; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

Bench = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_finish() -> None:
    """Leave what imports made out of every search for cycles: each run does one, and it would take a quarter second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer random BERT (hidden size 32) with a word-level tokenizer."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLER, *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def sentences(count: int, seed: int) -> tuple[list[str], list[int]]:
    """Sentences whose one telling word decides the label."""
    generator = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(count):
        words = generator.choice(FILLER, generator.integers(3, 12)).tolist()
        word = str(generator.choice(list(WORDS)))
        words.insert(int(generator.integers(len(words) + 1)), word)
        texts.append(" ".join(words))
        labels.append(WORDS[word])
    return texts, labels


def write_split(mirror: Path, config: str, split: str, columns: dict[str, list[object]]) -> Path:
    """Write one split of nyu-mll/glue into a mirror, in the Hub's layout."""
    folder = mirror / "nyu-mll" / "glue" / config
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}-00000-of-00001.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror that holds a toy glue/sst2 (600 + 200 rows), glue/rte and glue/stsb (100 + 50)."""
    root = tmp_path_factory.mktemp("mirror")
    for split, count, seed in (("train", 600, 1), ("validation", 200, 2)):
        texts, labels = sentences(count, seed)
        write_split(root, "sst2", split, {"sentence": texts, "label": labels})
    for split, count, seed in (("train", 100, 3), ("validation", 50, 4)):
        texts, labels = sentences(count, seed)
        others, _ = sentences(count, seed + 10)
        write_split(root, "rte", split, {"sentence1": texts, "sentence2": others, "label": labels})
        scores = [float(label) * 4 + len(text) / 100 for text, label in zip(texts, labels, strict=True)]
        write_split(root, "stsb", split, {"sentence1": texts, "sentence2": others, "label": scores})
    return root


@pytest.fixture
def bench(mirror: Path, tmp_path: Path) -> Bench:
    """Run the command line in a process of its own, in an empty folder, with the toy mirror as BENCH_DATA."""

    def call(*arguments: object, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bench", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
            env={**os.environ, "BENCH_DATA": str(mirror), "HF_HUB_OFFLINE": "1", "COLUMNS": "160", **environment},
        )

    return call


@pytest.fixture(scope="session")
def kept_worker(mirror: Path) -> Iterator[Pool]:
    """A worker that outlives the command it works for, so that torch is imported once, not by every test."""
    from bench.sweep.executors.local import Pool

    class Kept(Pool):
        def close(self) -> None:
            """Go on: the next command takes it."""

        def abandon(self) -> None:
            """Go on: it was not needed this time."""

    with pytest.MonkeyPatch.context() as here:
        here.setenv("BENCH_DATA", str(mirror))
        here.setenv("HF_HUB_OFFLINE", "1")
        worker = Kept()
    yield worker
    Pool.close(worker)


@pytest.fixture
def bench_here(
    mirror: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> Bench:
    """The same in this process, its runs in children of one worker: saves importing torch each time."""
    from bench.cli.parser import main
    from bench.sweep.executors import select
    from bench.sweep.executors.local import Pool

    def worker(slots: int) -> Pool:
        kept: Pool = request.getfixturevalue("kept_worker")
        kept.slots = slots
        return kept

    monkeypatch.chdir(tmp_path)
    if select.Pool is Pool:  # a test may have put its own there
        monkeypatch.setattr(select, "Pool", worker)

    def call(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        for name, value in {"BENCH_DATA": str(mirror), "COLUMNS": "160", **environment}.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return subprocess.CompletedProcess([], code, captured.out, captured.err)

    return call
