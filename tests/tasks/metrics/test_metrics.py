"""Scores on values worked out by hand, through ``compute`` and through ``evaluate.load`` of the module files."""

import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

import bench.tasks.metrics.compute
from bench.tasks.metrics.bootstrap import _draws, bootstrap, pearson, spearman
from bench.tasks.metrics.compute import OF_CLASSES, OF_NUMBERS, compute, standard_error

FOLDER = Path(bench.tasks.metrics.compute.__file__).parent
FILES = {
    "accuracy": "accuracy",
    "f1": "f1",
    "matthews_correlation": "matthews_correlation",
    "pearson": "pearsonr",
    "spearmanr": "spearmanr",
}

# tp 3, tn 2, fp 1, fn 2
PREDICTED, TRUE = [1, 1, 1, 0, 0, 1, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0]
# sums about the means: xy 5, xx 5, yy 10; squared distances of the ranks: 0 1 1 0
X, Y = [1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 2.0, 5.0]

KNOWN: list[tuple[str, list[Any], list[Any], float]] = [
    ("accuracy", PREDICTED, TRUE, 5 / 8),
    ("f1", PREDICTED, TRUE, 2 * 3 / (2 * 3 + 1 + 2)),
    ("matthews_correlation", PREDICTED, TRUE, (3 * 2 - 1 * 2) / math.sqrt(4 * 5 * 3 * 4)),
    ("pearson", X, Y, 5 / math.sqrt(5 * 10)),
    ("spearmanr", X, Y, 1 - 6 * 2 / (4 * 15)),
    ("accuracy", [0, 1, 2], [0, 1, 1], 2 / 3),
    ("matthews_correlation", [0, 1, 2, 2], [0, 1, 2, 1], 7 / math.sqrt(10 * 10)),
    ("spearmanr", [1.0, 1.0, 2.0], [1.0, 2.0, 3.0], math.sqrt(3) / 2),
]
CONSTANT: list[tuple[str, list[Any], list[Any], float]] = [
    ("f1", [0, 0, 0], [0, 1, 1], 0.0),
    ("f1", [0, 0, 0], [0, 0, 0], 0.0),
    ("f1", [1, 1, 1], [1, 1, 1], 1.0),
    ("matthews_correlation", [1, 1, 1], [0, 1, 1], 0.0),
    ("matthews_correlation", [1, 1, 1], [1, 1, 1], 0.0),
    ("pearson", [2.0, 2.0, 2.0], X[:3], math.nan),
    ("spearmanr", [2.0, 2.0, 2.0], X[:3], math.nan),
    ("pearson", [1.0], [2.0], math.nan),
    ("spearmanr", [1.0], [2.0], math.nan),
    ("pearson", [1.0, math.nan, 2.0], X[:3], math.nan),
    ("spearmanr", [1.0, math.inf, 2.0], X[:3], math.nan),
]


@pytest.mark.parametrize(("name", "predictions", "references", "expected"), KNOWN + CONSTANT)
def test_known_values(name: str, predictions: list[Any], references: list[Any], expected: float) -> None:
    assert compute([name], predictions, references) == {name: pytest.approx(expected, abs=1e-12, nan_ok=True)}


@pytest.mark.parametrize(("name", "predictions", "references", "expected"), KNOWN + CONSTANT)
def test_module_file_loads_through_evaluate(
    name: str, predictions: list[Any], references: list[Any], expected: float, tmp_path: Path
) -> None:
    metric = evaluate.load(str(FOLDER / f"{FILES[name]}.py"), cache_dir=str(tmp_path))
    scores = metric.compute(predictions=predictions, references=references)
    assert scores == {FILES[name]: pytest.approx(expected, abs=1e-12, nan_ok=True)}


def test_nearly_constant_predictions_do_not_warn() -> None:
    (score,) = compute(["pearson"], [1.0, 1.0 + 1e-15, 1.0], X[:3]).values()
    assert math.isnan(score) or -1 <= score <= 1


def test_several_scores_and_arrays_at_once() -> None:
    scores = compute(("accuracy", "f1"), np.array(PREDICTED), np.array(TRUE))
    assert list(scores) == ["accuracy", "f1"]
    assert all(type(score) is float for score in scores.values())


@pytest.mark.parametrize(
    "call", [lambda *given: compute(["accuracy"], *given), lambda *given: standard_error("f1", *given)]
)
def test_misuse_is_refused(call: Any) -> None:
    with pytest.raises(ValueError, match="2 predictions for 1 references"):
        call([0, 1], [0])
    with pytest.raises(ValueError, match="no examples"):
        call([], [])


def test_unknown_name_teaches() -> None:
    with pytest.raises(ValueError, match=r"Unknown metric 'acuracy'. Did you mean 'accuracy'\?"):
        compute(["acuracy"], [0], [0])


def test_standard_error_of_accuracy_is_the_closed_form() -> None:
    assert standard_error("accuracy", PREDICTED, TRUE) == pytest.approx(math.sqrt(5 / 8 * 3 / 8 / 8))
    assert standard_error("accuracy", [1, 1], [1, 1]) == 0.0


def sample(n: int) -> dict[str, tuple[Any, Any]]:
    generator = np.random.default_rng(7)
    true = generator.integers(0, 2, n)
    predicted = np.where(generator.random(n) < 0.8, true, 1 - true)
    y = np.round(generator.random(n) * 5, 1)
    x = np.round(y + generator.normal(size=n), 1)
    return {"f1": (predicted, true), "matthews_correlation": (predicted, true), "pearson": (x, y), "spearmanr": (x, y)}


DIRECT: dict[str, Any] = {
    "f1": lambda predicted, true: f1_score(true, predicted),
    "matthews_correlation": lambda predicted, true: matthews_corrcoef(true, predicted),
    "pearson": lambda x, y: stats.pearsonr(x, y).statistic,
    "spearmanr": lambda x, y: stats.spearmanr(x, y).statistic,
}


@pytest.mark.parametrize("name", DIRECT)
def test_bootstrap_agrees_with_drawing_examples_one_by_one(name: str) -> None:
    predictions, references = sample(200)[name]
    generator = np.random.default_rng(11)
    drawn = [generator.integers(0, 200, 200) for _ in range(1000)]
    plain = np.std([DIRECT[name](predictions[rows], references[rows]) for rows in drawn], ddof=1)
    # two estimates from 1,000 resamples each differ by 1/sqrt(2 x 1000) x sqrt(2) = 3 % (one sigma)
    assert standard_error(name, predictions, references) == pytest.approx(plain, rel=0.1)


@pytest.mark.parametrize(("name", "of_draws"), [("pearson", pearson), ("spearmanr", spearman)])
def test_correlation_of_draws_is_that_of_the_repeated_examples(name: str, of_draws: Any) -> None:
    x, y = sample(50)[name]
    draws = next(_draws(50))[:20]
    expected = [DIRECT[name](np.repeat(x, row), np.repeat(y, row)) for row in draws]
    np.testing.assert_allclose(of_draws(x, y, draws), expected, rtol=1e-10)


def test_multiclass_matthews_of_resamples_is_centred_on_the_score() -> None:
    generator = np.random.default_rng(3)
    true = generator.integers(0, 4, 500)
    predicted = np.where(generator.random(500) < 0.7, true, generator.integers(0, 4, 500))
    scores = bootstrap("matthews_correlation", predicted, true)
    assert scores.shape == (1000,)
    assert np.mean(scores) == pytest.approx(matthews_corrcoef(true, predicted), abs=0.005)


@pytest.mark.parametrize(("name", "predictions", "references", "expected"), CONSTANT)
def test_standard_error_of_constant_predictions(
    name: str, predictions: list[Any], references: list[Any], expected: float
) -> None:
    error = standard_error(name, predictions, references)
    assert math.isnan(error) if math.isnan(expected) else error >= 0


@pytest.mark.parametrize("name", (*OF_CLASSES, *OF_NUMBERS))
def test_standard_error_is_the_same_twice_and_leaves_numpy_alone(name: str) -> None:
    predictions, references = sample(100).get(name, (np.array(PREDICTED), np.array(TRUE)))
    before = np.random.get_state()[1].copy()  # type: ignore[index]  # the legacy tuple
    first = standard_error(name, predictions, references)
    compute([name], predictions, references)
    assert standard_error(name, predictions, references) == first
    assert np.array_equal(np.random.get_state()[1], before)  # type: ignore[index]


def test_a_call_is_quick() -> None:
    predictions, references = sample(1000)["f1"]
    compute(["accuracy"], predictions, references)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        compute(["accuracy"], predictions, references)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05


def test_several_processes_at_once_without_a_network(tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "def refuse(*given): raise OSError('no network here')\n"
        "socket.socket.connect = refuse\n"
        "from bench.tasks.metrics.compute import compute\n"
        "print([compute(['accuracy'], [0, 1, 1], [0, 1, 0])['accuracy'] for _ in range(20)] == [2 / 3] * 20)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=tmp_path) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in running] == [b"True", b"True"]
    assert list(tmp_path.iterdir()) == []


def test_importing_is_cheap() -> None:
    code = (
        "import bench.tasks.metrics.compute, sys; print({'evaluate', 'datasets', 'sklearn', 'scipy'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
