"""SuperGLUE (Wang et al. 2019, arXiv 1905.00537), scored officially on the validation splits; test labels are hidden.

Every task is put as classification of one text or a pair: COPA's choices, MultiRC's answers and ReCoRD's entities are
rows of their own (right or wrong), answered together when they are scored. Spans (WiC, WSC) are marked in the text
with * and #, as in T5 (Raffel et al. 2020, appendix D).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.core.registry import register_group, register_task
from bench.tasks.text_classification import TextTask

if TYPE_CHECKING:
    import datasets

    from bench.core.protocols import DataSource
    from bench.data.hub_datasets import Loaded

DATASET = "aps/super_glue"
_MARKS = ("False", "True")
_QUESTIONS = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}
_SEED = 0

Rows = dict[str, list[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reshaped(TextTask):
    """A text task whose rows are made from the data set's; ``reshape`` takes its columns and whether it is train."""

    reshape: Callable[[Rows, bool], Rows]

    def read(self, source: DataSource, split: str) -> Loaded:
        """Fetch a split and make the rows; hidden labels (-1) stay what they are."""
        import datasets

        loaded = super().read(source, split)
        columns = self.reshape(loaded.dataset[:], split == self.train_split)
        return dataclasses.replace(loaded, dataset=datasets.Dataset.from_dict(columns))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChoiceTask(Reshaped):
    """The most likely candidate of a question is predicted; ``name_column`` has the candidates' names.

    ``right`` is the column of what the answer is scored against.
    """

    name_column: str
    right: str

    def settle(self, logits: Any, rows: datasets.Dataset) -> tuple[list[Any], list[Any]]:
        """The candidate whose right-against-wrong logit is the highest, and the right one, for each group."""
        margins = np.asarray(logits)[:, 1] - np.asarray(logits)[:, 0]
        names, right = rows[self.name_column], rows[self.right]
        members = together(rows[self.group])
        return (
            [names[max(group, key=lambda row: margins[row])] for group in members],
            [right[group[0]] for group in members],
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MarksTask(Reshaped):
    """Each answer of a question is classified as right or wrong; the question's answers are scored together."""

    def settle(self, logits: Any, rows: datasets.Dataset) -> tuple[list[Any], list[Any]]:
        """Predicted and true marks (0 or 1) of each group's answers."""
        predicted = np.asarray(logits).argmax(axis=-1).tolist()
        members, true = together(rows[self.group]), list(rows[self.label])
        given, wanted = ([[marks[row] for row in group] for group in members] for marks in (predicted, true))
        return given, wanted


def together(groups: Any) -> list[list[int]]:
    """Row numbers of each group, groups in the order in which they first come."""
    found: dict[Any, list[int]] = {}
    for row, group in enumerate(groups):
        found.setdefault(group, []).append(row)
    return list(found.values())


# -- how the rows are made ----------------------------------------------------------------------------------


def copa(rows: Rows, train: bool) -> Rows:
    """Two rows per question: premise and question, with each of the choices."""
    made: Rows = {"question": [], "choice": [], "label": [], "place": [], "right": [], "group": []}
    for number, premise in enumerate(rows["premise"]):
        for place in (0, 1):
            made["question"].append(f"{premise} {_QUESTIONS[rows['question'][number]]}")
            made["choice"].append(rows[f"choice{place + 1}"][number])
            made["label"].append(-1 if rows["label"][number] < 0 else int(rows["label"][number] == place))
            made["place"].append(place)
            made["right"].append(rows["label"][number])
            made["group"].append(number)
    return made


def multirc(rows: Rows, train: bool) -> Rows:
    """One row per answer, grouped by question; dev rows are held out by paragraph."""
    return {
        "paragraph": rows["paragraph"],
        "answer": [f"{question} {answer}" for question, answer in zip(rows["question"], rows["answer"], strict=True)],
        "label": rows["label"],
        "group": [f"{index['paragraph']}-{index['question']}" for index in rows["idx"]],
        "passage": [index["paragraph"] for index in rows["idx"]],
    }


def record(rows: Rows, train: bool) -> Rows:
    """One row per entity of the passage, put into the query; for training, each right one and as many wrong ones."""
    generator = np.random.default_rng(_SEED)
    made: Rows = {"passage": [], "query": [], "label": [], "entity": [], "right": [], "group": [], "whole": []}
    for number, query in enumerate(rows["query"]):
        answers = list(dict.fromkeys(rows["answers"][number]))
        entities = list(dict.fromkeys([*rows["entities"][number], *(answers if train else [])]))
        if train:
            wrong = [entity for entity in entities if entity not in answers]
            drawn = generator.permutation(len(wrong))[: len(answers)].tolist()
            entities = [*answers, *(wrong[index] for index in drawn)]
        for entity in entities:
            made["passage"].append(rows["passage"][number].replace("\n@highlight\n", " "))
            made["query"].append(query.replace("@placeholder", entity))
            made["label"].append(int(entity in answers))
            made["entity"].append(entity)
            made["right"].append(answers)
            made["group"].append(number)
            made["whole"].append(rows["idx"][number]["passage"])
    return made


def wic(rows: Rows, train: bool) -> Rows:
    """The two sentences with the word in question marked."""
    return {
        name: [
            marked(text, (start, end), "*")
            for text, start, end in zip(rows[name], rows[f"start{place}"], rows[f"end{place}"], strict=True)
        ]
        for place, name in ((1, "sentence1"), (2, "sentence2"))
    } | {"label": rows["label"]}


def wsc(rows: Rows, train: bool) -> Rows:
    """The text with the noun phrase in * and the pronoun in #; spans are counted in words."""
    texts = []
    for number, text in enumerate(rows["text"]):
        words = text.split(" ")
        for place, mark in ((1, "*"), (2, "#")):
            first = rows[f"span{place}_index"][number]
            last = first + len(rows[f"span{place}_text"][number].split(" ")) - 1
            words[first] = mark + words[first]
            words[last] = words[last] + mark
        texts.append(" ".join(words))
    return {"text": texts, "label": rows["label"]}


def marked(text: str, span: tuple[int, int], mark: str) -> str:
    """The text with the characters from start to end between two marks."""
    start, end = span
    return f"{text[:start]}{mark}{text[start:end]}{mark}{text[end:]}"


def _common(config: str, help: str, metrics: tuple[str, ...], labels: tuple[str, ...] = _MARKS) -> dict[str, Any]:
    return {
        "name": f"superglue/{config.partition('.')[0]}", "dataset": DATASET, "config": config, "help": help,
        "metrics": metrics, "main_score": metrics[0], "labels": labels,
    }  # fmt: skip


_ANSWERS = ("answer_f1", "answer_exact_match")

TASKS = (
    TextTask(
        text=("question", "passage"), **_common("boolq", "does a passage answer a question with yes?", ("accuracy",))
    ),
    TextTask(
        text=("premise", "hypothesis"),
        **_common(
            "cb", "does the premise entail or contradict the hypothesis, or neither?", ("accuracy", "f1_macro"),
            ("entailment", "contradiction", "neutral"),
        ),
    ),
    ChoiceTask(
        text=("question", "choice"), reshape=copa, group="group", name_column="place", right="right",
        **_common("copa", "which of two sentences is the cause or result?", ("accuracy",), ("wrong", "right")),
    ),
    MarksTask(
        text=("paragraph", "answer"), reshape=multirc, group="group", whole="passage",
        **_common("multirc", "which answers to a question about a paragraph are right?", ("f1_a", "exact_match")),
    ),
    ChoiceTask(
        text=("passage", "query"), reshape=record, group="group", whole="whole", name_column="entity", right="right",
        **_common("record", "which entity of a news text fills the gap in a sentence?", _ANSWERS, ("wrong", "right")),
    ),
    Reshaped(
        text=("sentence1", "sentence2"), reshape=wic,
        **_common("wic", "does a word mean the same in two sentences?", ("accuracy",)),
    ),
    Reshaped(
        text=("text",), reshape=wsc, **_common("wsc.fixed", "does the pronoun mean the noun phrase?", ("accuracy",))
    ),
)  # fmt: skip
for _task in TASKS:
    register_task(_task)
register_group("superglue", (_task.name for _task in TASKS))
