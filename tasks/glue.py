"""GLUE: the General Language Understanding Evaluation (Wang et al. 2018, arXiv 1804.07461), scored officially.

The official validation split gives the final score, for the test labels are hidden. Label names and their order are
those of the Hub's data set card.
"""

from __future__ import annotations

from bench.core.registry import register_group, register_task
from bench.tasks.text_classification import TextTask

DATASET = "nyu-mll/glue"
REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"

_ENTAILMENT = ("entailment", "not_entailment")
_EQUIVALENCE = ("not_equivalent", "equivalent")
_PAIR = ("sentence1", "sentence2")

# configuration: text columns, labels, metrics (the main one first), what it asks
_TABLE: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], str]] = {
    "cola": (
        ("sentence",),
        ("unacceptable", "acceptable"),
        ("matthews_correlation",),
        "is the sentence grammatical English?",
    ),
    "sst2": (("sentence",), ("negative", "positive"), ("accuracy",), "is the film review positive?"),
    "mrpc": (_PAIR, _EQUIVALENCE, ("accuracy", "f1"), "do two news sentences say the same?"),
    "qqp": (
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        ("accuracy", "f1"),
        "are two Quora questions duplicates?",
    ),
    "stsb": (_PAIR, (), ("pearson", "spearmanr"), "how similar are two sentences, from 0 to 5?"),
    "mnli": (
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
        "does the premise entail or contradict the hypothesis? (matched genres; mismatched beside)",
    ),
    "qnli": (("question", "sentence"), _ENTAILMENT, ("accuracy",), "does the sentence answer the question?"),
    "rte": (_PAIR, _ENTAILMENT, ("accuracy",), "does the first sentence entail the second?"),
    "wnli": (
        _PAIR,
        ("not_entailment", "entailment"),
        ("accuracy",),
        "is the pronoun resolved rightly? (small and adversarial: most models stay at the majority class)",
    ),
}

for _config, (_text, _labels, _metrics, _help) in _TABLE.items():
    register_task(
        TextTask(
            name=f"glue/{_config}",
            dataset=DATASET,
            config=_config,
            revision=REVISION,
            text=_text,
            kind="classification" if _labels else "regression",
            labels=_labels,
            metrics=_metrics,
            main_score=_metrics[0],
            validation_split="validation_matched" if _config == "mnli" else "validation",
            other_splits=(("mismatched", "validation_mismatched"),) if _config == "mnli" else (),
            help=_help,
        )
    )

register_group("glue", (f"glue/{_config}" for _config in _TABLE))
