"""Scores of texts, of grouped answers and of likelihoods: the published formulas on values worked out by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sklearn.metrics import f1_score

import bench.tasks.metrics.compute
from bench.tasks.metrics.bootstrap import bootstrap
from bench.tasks.metrics.compute import compute, standard_error
from bench.tasks.metrics.corpus_sums import bleu, statistics

FOLDER = Path(bench.tasks.metrics.compute.__file__).parent
CAT, MAT = "the cat sat on the mat here", "the cat sat on a mat here"
# matches 6/7 words, 4/6 pairs, 2/5 triples, 1/4 fours; both 7 words long
CAT_BLEU = 100 * (6 / 7 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25
# 4 words of 8: brevity exp(1 − 8/4); every n-gram matches
SHORT = ("a b c d", ["a b c d e f g h"], 100 * math.exp(1 - 8 / 4))

# One text each in Russian, Hindi, Chinese, Japanese, Arabic, Korean and Thai.
TEXTS = [
    "Привет мир как дела",
    "हिन्दी में उत्तर यह है",
    "你好世界今天",
    "こんにちは 世界です",
    "مرحبا بالعالم كيف انت",
    "한국어 대답 입니다 네",
    "สวัสดีชาวโลก",
]


@pytest.mark.parametrize("text", TEXTS)
def test_identical_texts_of_any_script_have_the_full_score(text: str) -> None:
    found = compute(("rougeL", "bleu"), [text], [[text]])
    assert found == {"rougeL": 1.0, "bleu": pytest.approx(100.0)}
    other = compute(("rougeL",), [text[: len(text) // 2]], [[text]])["rougeL"]
    assert 0 < other < 1
    assert bleu(statistics("bleu", [text], [[text]]).sum(0, keepdims=True)) == pytest.approx([100.0])


def test_words_of_ascii_texts_are_those_of_rouge_score() -> None:
    from rouge_score.tokenizers import DefaultTokenizer

    from bench.tasks.metrics.rouge import _Words

    for text in ("Hello, world_x isn't 3.5", "a-b  c\td", "#1 (two)"):
        assert _Words().tokenize(text) == DefaultTokenizer().tokenize(text)


KNOWN: list[tuple[str, list[Any], list[Any], float]] = [
    ("f1_macro", [0, 1, 2, 2], [0, 1, 2, 1], (1 + 2 / 3 + 2 / 3) / 3),
    ("f1_micro", [0, 1, 2, 2], [0, 1, 2, 1], 3 / 4),
    ("exact_match", ["a", "B", "c "], ["a", "b", "c"], 1 / 3),
    ("exact_match", [[0, 1], [1, 1]], [[0, 1], [1, 0]], 1 / 2),
    ("bleu", [CAT], [MAT], CAT_BLEU),
    ("bleu", [CAT], [["nothing like it", MAT]], CAT_BLEU),
    ("bleu", [SHORT[0]], [SHORT[1]], SHORT[2]),
    ("bleu", ["x"], ["y"], 0.0),
    ("rougeL", [CAT], [MAT], 6 / 7),  # longest common subsequence: the cat sat on mat here
    ("rougeL", ["a b c"], [["c b a", "a x c y"]], 2 * (2 / 3 * 2 / 4) / (2 / 3 + 2 / 4)),
    ("answer_exact_match", ["The Cat!", "dog"], [["a cat", "x"], ["cat"]], 1 / 2),
    ("answer_f1", ["black cat"], [["dog", "the big black cat"]], 2 * 2 / (2 + 3)),
    ("f1_a", [[0, 1], [1, 1, 0]], [[0, 1], [1, 0, 0]], 2 * 2 / (3 + 2)),
    ("f1_a", [[0, 0]], [[0, 0]], 0.0),
    ("perplexity", [2.0, 4.0], [1, 3], math.exp(6 / 4)),
]
FILES = {"bleu": "bleu", "rougeL": "rouge", "f1_a": "pooled_f1", "perplexity": "perplexity"}


@pytest.mark.parametrize(("name", "predictions", "references", "expected"), KNOWN)
def test_known_values(name: str, predictions: list[Any], references: list[Any], expected: float) -> None:
    assert compute([name], predictions, references) == {name: pytest.approx(expected, abs=1e-9)}


@pytest.mark.parametrize("name", FILES)
def test_module_file_loads_through_evaluate(name: str, tmp_path: Path) -> None:
    _, predictions, references, expected = next(known for known in KNOWN if known[0] == name)
    if name in ("bleu", "rougeL"):
        references = [[text] for text in references]
    metric = evaluate.load(str(FOLDER / f"{FILES[name]}.py"), cache_dir=str(tmp_path))
    assert metric.compute(predictions=predictions, references=references) == {name: pytest.approx(expected)}


def test_the_other_module_files_load_through_evaluate(tmp_path: Path) -> None:
    answers = evaluate.load(str(FOLDER / "answers.py"), cache_dir=str(tmp_path))
    assert answers.compute(predictions=["The cat"], references=[["a cat"]]) == {"exact_match": 1.0, "f1": 1.0}
    exact = evaluate.load(str(FOLDER / "exact_match.py"), cache_dir=str(tmp_path))
    assert exact.compute(predictions=["a", "b"], references=["a", "c"]) == {"exact_match": 0.5}
    f1 = evaluate.load(str(FOLDER / "f1.py"), cache_dir=str(tmp_path))
    macro = f1.compute(predictions=[0, 1, 2, 2], references=[0, 1, 2, 1], average="macro")
    assert macro == {"f1": pytest.approx(7 / 9)}


def texts(n: int) -> tuple[list[str], list[str]]:
    generator = np.random.default_rng(5)
    words = list("abcdefg")
    wanted = [generator.choice(words, generator.integers(3, 15)).tolist() for _ in range(n)]
    given = [[word if generator.random() < 0.8 else "z" for word in one[: len(one) - 1]] for one in wanted]
    return [" ".join(one) for one in given], [" ".join(one) for one in wanted]


def test_bleu_of_sums_is_sacrebleus() -> None:
    given, wanted = texts(40)
    sums = statistics("bleu", given, [[text] for text in wanted])
    generator = np.random.default_rng(1)
    for size in (1, 2, 40):
        rows = generator.integers(0, 40, size)
        direct = BLEU().corpus_score([given[row] for row in rows], [[wanted[row] for row in rows]]).score
        assert bleu(sums[rows].sum(0, keepdims=True))[0] == pytest.approx(direct, abs=1e-9)


def test_bootstrap_agrees_with_drawing_examples_one_by_one() -> None:
    given, wanted = texts(60)
    generator = np.random.default_rng(11)
    drawn = [generator.integers(0, 60, 60) for _ in range(300)]
    corpus = BLEU()
    plain = [corpus.corpus_score([given[i] for i in rows], [[wanted[i] for i in rows]]).score for rows in drawn]
    assert standard_error("bleu", given, wanted) == pytest.approx(np.std(plain, ddof=1), rel=0.15)
    classes = generator.integers(0, 3, 200)
    guesses = np.where(generator.random(200) < 0.7, classes, generator.integers(0, 3, 200))
    drawn = [generator.integers(0, 200, 200) for _ in range(500)]
    macro = [f1_score(classes[rows], guesses[rows], average="macro") for rows in drawn]
    assert standard_error("f1_macro", guesses, classes) == pytest.approx(np.std(macro, ddof=1), rel=0.12)
    assert np.mean(bootstrap("f1_macro", guesses, classes)) == pytest.approx(np.mean(macro), abs=0.01)


def test_standard_error_of_a_mean_is_the_closed_form() -> None:
    values = [6 / 7, 1.0, 0.0]
    error = standard_error("rougeL", [CAT, "x", "y"], [MAT, "x", "z"])
    assert error == pytest.approx(np.std(values) / math.sqrt(3))
    assert standard_error("exact_match", ["a", "b"], ["a", "c"]) == pytest.approx(0.5 / math.sqrt(2))
    predictions, references = [0, 1, 2, 2], [0, 1, 2, 1]
    assert standard_error("f1_micro", predictions, references) == standard_error("accuracy", predictions, references)


def test_groups_are_drawn_whole() -> None:
    """Ten answers in each of eight questions, all right or all wrong: the questions, not the answers, vary."""
    right = [[1] * 10] * 8
    half = [[1] * 10] * 4 + [[0] * 10] * 4
    spread = np.std(bootstrap("f1_a", half, right))
    assert standard_error("f1_a", half, right) == pytest.approx(spread, rel=0.01)
    assert spread > 0.1, "80 answers drawn one by one would give 0.04"


def test_perplexity_of_examples_without_tokens() -> None:
    assert math.isnan(compute(["perplexity"], [0.0], [0])["perplexity"])
    assert math.isnan(standard_error("perplexity", [0.0], [0]))
    assert compute(["perplexity"], [1e6], [1])["perplexity"] == math.inf


def test_scoring_classes_loads_neither_sacrebleu_nor_nltk() -> None:
    code = "from bench.tasks.metrics.compute import compute; compute(['accuracy'], [1], [1]); import sys; "
    code += "print({'sacrebleu', 'nltk', 'rouge_score'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
