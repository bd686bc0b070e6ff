"""What the small language models learn from: batches of the masked, causal and span-corruption objectives.

Masked: BERT (arXiv 1810.04805): some of the tokens, of which 80 % become the mask, 10 % another token, 10 % stay; and
whether the second segment follows the first. A quarter of the tokens instead of 15 %, as small models learn more from
a batch then (arXiv 2202.08005). Causal: the next token. Spans: T5 (arXiv 1910.10683), 15 % of the tokens
in spans of 3 on average, replaced by sentinels and written out as the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Batch = dict[str, Tensor]
Objective = Callable[[Any, "Text", int, np.random.Generator], Tensor]

_MASKED, _SHARE, _SPAN = 0.25, 0.15, 3


class Text:
    """Tokenised documents, cut into sequences.

    Args:
        documents: token ids of each, no special tokens.
        length: tokens of a sequence, special ones included.
        ids: of the special tokens, by role; ``sentinels`` is the first of T5's, the others follow.
        vocabulary: number of tokens.
    """

    def __init__(self, documents: Sequence[Sequence[int]], length: int, ids: dict[str, int], vocabulary: int) -> None:
        self.length, self.ids, self.vocabulary = length, ids, vocabulary
        self._documents = [np.asarray(document) for document in documents if len(document) >= length]
        sizes = np.array([len(document) for document in self._documents])
        self._weights = sizes / sizes.sum()
        self.tokens = int(sizes.sum())

    def pieces(self, size: int, count: int, generator: np.random.Generator) -> Iterator[np.ndarray[Any, Any]]:
        """``count`` random stretches of ``size`` tokens, every token about as likely."""
        for index in generator.choice(len(self._documents), count, p=self._weights):
            document = self._documents[index]
            start = generator.integers(len(document) - size + 1)
            yield document[start : start + size]


def masked(model: Any, text: Text, rows: int, generator: np.random.Generator) -> Tensor:
    """Loss of BERT's two objectives on a fresh batch; ``model`` is a BertForPreTraining."""
    ids, kinds, follows = _pairs(text, rows, generator)
    chosen = (generator.random(ids.shape) < _MASKED) & (ids >= len(text.ids))
    targets = torch.from_numpy(ids[chosen])
    dice = generator.random(ids.shape)
    ids[chosen & (dice < 0.8)] = text.ids["mask"]
    other = chosen & (dice >= 0.8) & (dice < 0.9)
    ids[other] = generator.integers(len(text.ids), text.vocabulary, other.sum())
    states = model.bert(torch.from_numpy(ids), token_type_ids=torch.from_numpy(kinds))
    scores = model.cls.predictions(states.last_hidden_state[torch.from_numpy(chosen)])
    order = model.cls.seq_relationship(states.pooler_output)
    return functional.cross_entropy(scores, targets) + functional.cross_entropy(order, torch.from_numpy(follows))


def _pairs(text: Text, rows: int, generator: np.random.Generator) -> tuple[np.ndarray[Any, Any], ...]:
    """Ids and segments (rows, length), and whether (0) or not (1) the second segment follows the first (rows,)."""
    body = text.length - 3
    first = list(text.pieces(body, rows, generator))
    second = list(text.pieces(body, rows, generator))
    follows = generator.integers(2, size=rows)
    cls, sep = text.ids["cls"], text.ids["sep"]
    ids, kinds = np.empty((rows, text.length), np.int64), np.zeros((rows, text.length), np.int64)
    for row, cut in enumerate(generator.integers(body // 4, 3 * body // 4, rows)):
        rest = (second if follows[row] else first)[row][cut:]
        ids[row] = [cls, *first[row][:cut], sep, *rest, sep]
        kinds[row, cut + 2 :] = 1
    return ids, kinds, follows


def causal(model: Any, text: Text, rows: int, generator: np.random.Generator) -> Tensor:
    """Loss of the next token on a fresh batch."""
    bodies = text.pieces(text.length - 1, rows, generator)
    ids = torch.from_numpy(np.stack([np.concatenate([[text.ids["bos"]], body]) for body in bodies]))
    loss: Tensor = model(input_ids=ids, labels=ids).loss
    return loss


def spans(model: Any, text: Text, rows: int, generator: np.random.Generator) -> Tensor:
    """Loss of T5's span corruption on a fresh batch: every row has as many spans, so nothing is padded."""
    body = text.length - 1
    noise = round(body * _SHARE)
    count = max(1, round(noise / _SPAN))
    inputs, targets = [], []
    for piece in text.pieces(body, rows, generator):
        source, target = _corrupt(piece, noise, count, text, generator)
        inputs.append(source)
        targets.append(target)
    loss: Tensor = model(input_ids=torch.tensor(inputs), labels=torch.tensor(targets)).loss
    return loss


def _corrupt(
    piece: np.ndarray[Any, Any], noise: int, count: int, text: Text, generator: np.random.Generator
) -> tuple[list[int], list[int]]:
    kept, dropped = _lengths(len(piece) - noise, count, generator), _lengths(noise, count, generator)
    sentinel, end = text.ids["sentinels"], text.ids["eos"]
    source: list[int] = []
    target: list[int] = []
    place = 0
    for index in range(count):
        source += [*piece[place : place + kept[index]].tolist(), sentinel + index]
        place += kept[index]
        target += [sentinel + index, *piece[place : place + dropped[index]].tolist()]
        place += dropped[index]
    return [*source, end], [*target, end]


def _lengths(total: int, parts: int, generator: np.random.Generator) -> list[int]:
    """Random positive lengths that add up to ``total``."""
    cuts = np.sort(generator.choice(np.arange(1, total), parts - 1, replace=False))
    return [int(length) for length in np.diff([0, *cuts, total])]


OBJECTIVES: dict[str, Objective] = {"masked": masked, "causal": causal, "spans": spans}
