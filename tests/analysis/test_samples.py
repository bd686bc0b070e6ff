"""One run's sample: the score that a run records, and errors that give its variance over examples."""

import numpy as np
import pytest

from bench.analysis.paired_tests import BOOTSTRAP, MCNEMAR, PAIRED, compare
from bench.analysis.samples import Undefined, of_examples, of_tokens, sample
from bench.tasks.metrics import bootstrap, compute

RNG = np.random.default_rng(0)
CLASSES = (RNG.integers(0, 3, 90).tolist(), RNG.integers(0, 3, 90).tolist())
NUMBERS = (RNG.normal(0, 1, 90).tolist(), RNG.normal(0, 1, 90).tolist())
WORDS = [f"the {a} is {b} and so is the {a} of {b}" for a in ("cat", "dog", "cow") for b in ("here", "there", "far")]
TEXTS = ([WORDS[i % 9] for i in range(60)], [WORDS[i % 8] for i in range(60)])
MARKS = ([[1, i % 2, 0] for i in range(60)], [[1, i % 3 % 2, 1] for i in range(60)])


def given(name):
    if name in compute.OF_CLASSES:
        return tuple([value % 2 for value in values] for values in CLASSES) if name == "f1" else CLASSES
    if name in compute.OF_NUMBERS:
        return NUMBERS
    if name == "f1_a":
        return MARKS
    if name == "perplexity":
        return ([abs(value) for value in NUMBERS[0]], [3 + i % 5 for i in range(90)])
    return TEXTS


@pytest.mark.parametrize("name", compute.METRICS)
def test_every_metric_can_be_computed_again_with_its_standard_error(name):
    predictions, references = given(name)
    made = sample(name, predictions, references)
    assert made.value == pytest.approx(compute.compute([name], predictions, references)[name], rel=1e-9)
    expected = compute.standard_error(name, predictions, references)
    assert (made.errors @ made.errors) ** 0.5 == pytest.approx(expected, rel=0.15), "not the same resamples for all"
    assert made.examples == len(predictions) and made.resampled == (name in bootstrap.NAMES)


@pytest.mark.parametrize(
    ("name", "test"), [("exact_match", MCNEMAR), ("rougeL", PAIRED), ("bleu", BOOTSTRAP), ("f1_macro", BOOTSTRAP)]
)
def test_the_test_follows_the_kind_of_score(name, test):
    predictions, references = given(name)
    other = [*predictions[7:], *predictions[:7]]
    found = compare([sample(name, predictions, references)], [sample(name, other, references)])
    assert found.test == test and 0 < found.p_value <= 1


def test_the_same_resamples_pair_two_runs():
    """What two equal runs share cancels: their difference has no variance, though each score has."""
    one, twin = (sample("matthews_correlation", *CLASSES) for _ in range(2))
    assert one.errors @ one.errors > 0 and np.array_equal(one.errors, twin.errors)


def test_a_loss_a_token_weighs_examples_by_their_tokens():
    losses, tokens = np.array([1.0, 2.0, 4.0]), np.array([1, 1, 2])
    assert of_tokens("loss", losses, tokens).value == pytest.approx(11 / 4)
    assert of_tokens("perplexity", losses, tokens).value == pytest.approx(np.exp(11 / 4))
    even = RNG.normal(3, 1, 400)
    halves = of_tokens("loss", np.repeat(even, 2), np.full(800, 7), np.repeat(np.arange(400), 2))
    whole = of_tokens("loss", even, np.full(400, 14))
    assert halves.examples == 400 and np.allclose(halves.errors, whole.errors), "texts are drawn with all their blocks"
    with pytest.raises(Undefined, match="one text"):
        of_tokens("loss", even, np.full(400, 7), np.zeros(400, int))
    resampled = of_tokens("loss", even, np.full(400, 7))
    closed = of_examples(even)
    assert resampled.errors @ resampled.errors == pytest.approx(closed.errors @ closed.errors, rel=0.15)


def test_what_has_no_value_says_so():
    with pytest.raises(Undefined, match="spearmanr is not defined on these"):
        sample("spearmanr", [1.0, 1.0, 1.0], [1.0, 2.0, 3.0])
    with pytest.raises(Undefined, match="applause is not one of the scores"):
        sample("applause", [1], [1])
