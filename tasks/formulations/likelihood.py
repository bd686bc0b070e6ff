"""Log-probabilities of answers: of their tokens, the held-out loss, and the most likely of some label texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.core.protocols import Batch
from bench.models.inference import Engine
from bench.tasks.formulations.prompt_batches import IGNORED, Array, Pairs

_CHUNK = 1 << 25  # logits taken to fp32 at once (128 MiB), whatever the vocabulary


def token_log_probs(module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Natural log-probabilities of a batch's labels.

    Returns:
        log-probabilities (rows, tokens) in fp32, 0 where there is no label; and where there is one, boolean. A
        decoder's column t is about token t + 1, an encoder-decoder's about token t.
    """
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits = module(**inputs).logits
    labels = batch["labels"]
    if "decoder_input_ids" not in batch:
        logits, labels = logits[:, :-1], labels[:, 1:]
    seen = labels != IGNORED
    found = torch.zeros(labels.shape, dtype=torch.float32, device=logits.device)
    chosen, wanted = logits[seen], labels[seen]
    step = max(1, _CHUNK // logits.shape[-1])
    parts = [
        -nn.functional.cross_entropy(chosen[at : at + step].float(), wanted[at : at + step], reduction="none")
        for at in range(0, len(wanted), step)
    ]
    if parts:
        found[seen] = torch.cat(parts)
    return found, seen


def losses(engine: Engine, module: nn.Module, data: Pairs, batch_size: int) -> tuple[Array, Array, float]:
    """Each row's summed negative log-likelihood in nats and number of scored tokens, (rows,) each; the seconds."""

    def act(rows: list[int]) -> tuple[Tensor, Tensor]:
        found, seen = token_log_probs(module, engine.batch(data, rows))
        return -found.double().sum(1), seen.sum(1)

    parts, order, seconds = engine.over(module, data.lengths, batch_size, act)
    sums, counts = np.empty(len(data)), np.empty(len(data), dtype=np.int64)
    sums[order] = torch.cat([part[0] for part in parts]).cpu().numpy()
    counts[order] = torch.cat([part[1] for part in parts]).cpu().numpy()
    return sums, counts, seconds


def every_token(engine: Engine, module: nn.Module, data: Pairs, batch_size: int) -> Array:
    """Log-probabilities of the rows' scored tokens, concatenated, (tokens,)."""

    def act(rows: list[int]) -> list[Array]:
        found, seen = token_log_probs(module, engine.batch(data, rows))
        return [values[there].cpu().numpy() for values, there in zip(found, seen, strict=True)]

    parts, order, _ = engine.over(module, data.lengths, batch_size, act)
    rows = [row for part in parts for row in part]
    by_row = dict(zip(order.tolist(), rows, strict=True))
    return np.concatenate([by_row[row] for row in range(len(data))])


def mean_loss(sums: Array, counts: Array) -> float:
    """Nats per token over all rows, every token with the same weight."""
    return float(sums.sum() / max(1, counts.sum()))


def loss_stderr(sums: Array, counts: Array, texts: Array | None = None) -> float | None:
    """Standard error of ``mean_loss`` over rows (the ratio estimator, Cochran 1977, section 6.4); None for one row.

    Args:
        texts: (rows,) which text each row is of: then over texts, whose rows are not independent.
    """
    if texts is not None:
        place = np.unique(texts, return_inverse=True)[1]
        sums, counts = np.bincount(place, sums), np.bincount(place, counts)
    n = len(sums)
    if n < 2 or not counts.sum():
        return None
    rest = sums - mean_loss(sums, counts) * counts
    return float(np.sqrt(n / (n - 1) * np.sum(rest**2)) / counts.sum())


def word_scores(
    engine: Engine, module: nn.Module, data: Pairs, words: Sequence[Sequence[int]], batch_size: int
) -> tuple[Array, float]:
    """Log-likelihood of each word as each row's answer, (rows, words), and the seconds it took.

    Args:
        words: token ids of each, none the beginning of another: a shorter one would always be likelier.
    """
    single = all(len(word) == 1 for word in words)

    def act(rows: list[int]) -> Tensor:
        if single:
            return _next_token(engine, module, data, rows, [word[0] for word in words])
        scores = []
        for word in words:
            batch = engine.moved(data.layout(rows, [word] * len(rows), engine.padding))
            scores.append(token_log_probs(module, batch)[0].sum(1))
        return torch.stack(scores, dim=1)

    parts, order, seconds = engine.over(module, data.prompts.lengths, batch_size, act)
    scores = torch.cat(parts).float().cpu().numpy()
    found = np.empty_like(scores)
    found[order] = scores
    return found, seconds


def _next_token(engine: Engine, module: nn.Module, data: Pairs, rows: list[int], tokens: list[int]) -> Tensor:
    """Log-probability of each token right after the rows' prompts, (rows, tokens): one forward for all words."""
    batch = engine.moved(data.layout(rows, [tokens[:1]] * len(rows), engine.padding))
    labels: Any = batch.pop("labels")
    logits = module(**batch).logits
    at = (labels != IGNORED).int().argmax(1)  # where the word's place is
    place = at if data.start is not None else at - 1
    last = logits[torch.arange(len(rows), device=logits.device), place].float()
    chosen: Tensor = last.log_softmax(-1)[:, tokens]
    return chosen
