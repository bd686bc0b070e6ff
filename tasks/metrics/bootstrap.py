"""Bootstrap of scores (Efron 1979): a resample is how often each example was drawn, so all are scored at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.tasks.metrics.corpus_sums import OF_SUMS, statistics

Array = NDArray[Any]

RESAMPLES = 1000
SEED = 0
_CELLS = 1 << 20  # draws held at once, 8 MB an array, whatever the number of examples


def bootstrap(name: str, predictions: Sequence[Any], references: Sequence[Any]) -> Array:
    """Scores of 1,000 seeded resamples of n examples; nan where a resample has no defined score.

    Args:
        name: a metric that is not a mean over examples.
        predictions, references: n of each, as ``bench.tasks.metrics.compute.compute`` takes them.
    """
    if name in _OF_COUNTS:
        return _OF_COUNTS[name](*_confusions(np.asarray(predictions), np.asarray(references)))
    if name in OF_SUMS:
        sums = statistics(name, predictions, references)
        return np.concatenate([OF_SUMS[name](draws @ sums) for draws in _draws(len(sums))])
    x, y = np.asarray(predictions, np.float64), np.asarray(references, np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return np.full(RESAMPLES, np.nan)
    return np.concatenate([_OF_DRAWS[name](x, y, draws) for draws in _draws(len(x))])


def shared(name: str, predictions: Sequence[Any], references: Sequence[Any]) -> tuple[float, Array]:
    """The score itself, and its values on resamples that are the same for all predictions of n examples.

    As ``bootstrap``, but resample j draws the same examples whatever was predicted, which is what a paired comparison
    needs.

    Args:
        name: one of NAMES.
        predictions, references: n of each, as ``bench.tasks.metrics.compute.compute`` takes them.

    Returns:
        The score of the examples as they are (nan where it is not defined), and (1000,) those of the resamples.
    """
    return resampled(_of_draws(name, predictions, references), len(predictions))


def resampled(of: Callable[[Array], Array], n: int) -> tuple[float, Array]:
    """What ``of`` gives for each of n examples once, and for 1,000 resamples that depend on n alone.

    Args:
        of: from (b, n) counts of how often each example is drawn to (b,) scores.
    """
    once = np.ones((1, n), dtype=np.int64)
    return float(of(once)[0]), np.concatenate([of(draws) for draws in _draws(n)])


def _of_draws(name: str, predictions: Sequence[Any], references: Sequence[Any]) -> Callable[[Array], Array]:
    """A function from (b, n) counts of how often each example is drawn to the (b,) scores."""
    if name in OF_SUMS:
        sums = statistics(name, predictions, references)
        return lambda draws: OF_SUMS[name](draws @ sums)
    if name in _OF_DRAWS:
        x, y = np.asarray(predictions, np.float64), np.asarray(references, np.float64)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            return lambda draws: np.full(len(draws), np.nan)
        return lambda draws: _OF_DRAWS[name](x, y, draws)
    n = len(predictions)
    classes, codes = np.unique(np.concatenate([np.asarray(references), np.asarray(predictions)]), return_inverse=True)
    k = len(classes)
    cells = codes[:n] * k + codes[n:]
    order = np.argsort(cells, kind="stable")
    present, starts = np.unique(cells[order], return_index=True)

    def scores(draws: Array) -> Array:
        confusions = np.zeros((len(draws), k * k), dtype=np.int64)
        confusions[:, present] = np.add.reduceat(draws[:, order], starts, axis=1)
        return _OF_COUNTS[name](confusions.reshape(-1, k, k), classes)

    return scores


def _draws(n: int) -> Iterator[Array]:
    """Blocks (b, n) of how often each of n examples is drawn in each of b resamples, 1,000 resamples in all."""
    if n * RESAMPLES <= _CELLS:
        yield _one_block(n)
        return
    generator = np.random.default_rng(SEED)
    block = max(1, _CELLS // n)
    for start in range(0, RESAMPLES, block):
        yield _counts(generator, min(block, RESAMPLES - start), n)


@functools.lru_cache(maxsize=2)
def _one_block(n: int) -> Array:
    """All resamples of few examples; kept, because every run of a comparison needs the same."""
    counts = _counts(np.random.default_rng(SEED), RESAMPLES, n)
    counts.flags.writeable = False
    return counts


def _counts(generator: np.random.Generator, resamples: int, n: int) -> Array:
    flat = generator.integers(0, n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(flat.ravel(), minlength=resamples * n).reshape(resamples, n)


def _confusions(predictions: Array, references: Array) -> tuple[Array, Array]:
    """Confusion matrices of the resamples, (1000, k, k) by reference and prediction, and the k class indices.

    Drawing n cells of the confusion matrix is drawing n examples, at a cost that does not grow with n.
    """
    n = len(predictions)
    classes, codes = np.unique(np.concatenate([references, predictions]), return_inverse=True)
    k = len(classes)
    cells = np.bincount(codes[:n] * k + codes[n:], minlength=k * k)
    generator = np.random.default_rng(SEED)
    return generator.multinomial(n, cells / n, size=RESAMPLES).reshape(RESAMPLES, k, k), classes


def f1(confusions: Array, classes: Array) -> Array:
    """F1 of class 1 for (b, k, k) confusion matrices: (b,), 0 where class 1 is absent."""
    if 1 not in classes:
        return np.zeros(len(confusions))
    positive = int(np.flatnonzero(classes == 1)[0])
    hits = confusions[:, positive, positive]
    total = confusions[:, positive, :].sum(1) + confusions[:, :, positive].sum(1)
    return _divide(2.0 * hits, total)


def f1_macro(confusions: Array, classes: Array) -> Array:
    """Mean F1 of the classes predicted or there, for (b, k, k) confusion matrices: (b,)."""
    hits = np.diagonal(confusions, axis1=1, axis2=2)
    total = confusions.sum(1) + confusions.sum(2)  # (b, k): predicted plus true
    each = np.divide(2.0 * hits, total, out=np.zeros(total.shape), where=total > 0)
    return _divide(each.sum(1), (total > 0).sum(1))


def matthews_correlation(confusions: Array, classes: Array) -> Array:
    """Matthews correlation for (b, k, k) confusion matrices: (b,), 0 where a side has a single class.

    The multi-class form of Gorodkin 2004, as scikit-learn's.
    """
    counts = confusions.astype(np.float64)
    true, predicted, n = counts.sum(2), counts.sum(1), counts.sum((1, 2))
    covariance = np.trace(counts, axis1=1, axis2=2) * n - (true * predicted).sum(1)
    spread = (n**2 - (true**2).sum(1)) * (n**2 - (predicted**2).sum(1))
    return _divide(covariance, np.sqrt(spread))


def pearson(x: Array, y: Array, draws: Array) -> Array:
    """Pearson correlation of x and y (n,) for each row of ``draws`` (b, n): (b,), nan where a side is constant."""
    # centred and scaled once, so that the sums of squares below lose no digits
    x, y = _standard(x), _standard(y)
    sums = draws @ np.stack([x, y, x * x, y * y, x * y], axis=1)
    return _correlation(sums, draws.sum(1))


def spearman(x: Array, y: Array, draws: Array) -> Array:
    """Spearman correlation of x and y (n,) for each row of ``draws`` (b, n): (b,), nan where a side is constant."""
    n = draws.sum(1)
    middle = (n[:, None] + 1) / 2
    rx, ry = _ranks(x, draws) - middle, _ranks(y, draws) - middle
    products = (rx, ry, rx * rx, ry * ry, rx * ry)
    return _correlation(np.stack([(draws * product).sum(1) for product in products], axis=1), n)


def _ranks(x: Array, draws: Array) -> Array:
    """Rank of each x (n,) in each resample (b, n): its mean position there, ties sharing one rank."""
    order = np.argsort(x, kind="stable")
    _, value_of, sizes = np.unique(x, return_inverse=True, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    drawn = np.add.reduceat(draws[:, order], starts, axis=1)  # (b, distinct values): how often each was drawn
    means: Array = np.cumsum(drawn, axis=1) - drawn + (drawn + 1) / 2
    return means[:, value_of]


def _correlation(sums: Array, n: Array) -> Array:
    """Pearson correlation (b,) from ``sums`` (b, 5) of x, y, x², y² and xy over resamples of n (b,) examples."""
    sx, sy, sxx, syy, sxy = sums.T
    vx, vy = n * sxx - sx * sx, n * syy - sy * sy
    varied = (vx > 1e-12 * n * sxx) & (vy > 1e-12 * n * syy)  # a constant side leaves only rounding
    correlation: Array = np.full(len(vx), np.nan)
    np.divide(n * sxy - sx * sy, np.sqrt(np.abs(vx * vy)), out=correlation, where=varied)
    return correlation


def _standard(x: Array) -> Array:
    spread = np.std(x)
    centred: Array = x - np.mean(x)
    return centred / spread if spread > 0 else centred


def _divide(above: Array, below: Array) -> Array:
    """Quotient of two (b,) arrays, 0 where ``below`` is 0."""
    quotient: Array = np.zeros(len(above))
    np.divide(above, below, out=quotient, where=below > 0)
    return quotient


_OF_COUNTS: dict[str, Callable[[Array, Array], Array]] = {
    "f1": f1,
    "f1_macro": f1_macro,
    "matthews_correlation": matthews_correlation,
}
_OF_DRAWS: dict[str, Callable[[Array, Array, Array], Array]] = {"pearson": pearson, "spearmanr": spearman}
NAMES = (*_OF_COUNTS, *_OF_DRAWS, *OF_SUMS)
