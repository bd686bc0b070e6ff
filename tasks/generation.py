"""Generation: gsm8k (Cobbe et al. 2021, arXiv 2110.14168), e2e_nlg (Novikova et al. 2017, arXiv 1706.09254), xsum
(Narayan et al. 2018, arXiv 1808.08745), samsum (Gliwa et al. 2019, arXiv 1911.12237), dolly and alpaca.

The split that is scored is the one that published figures are about; a dev split for choices is held out of train.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.core.protocols import option
from bench.core.registry import register_task
from bench.tasks.prompted import LOSS, PromptTask, Source

if TYPE_CHECKING:
    import datasets

    from bench.core.protocols import DataSource
    from bench.data.hub_datasets import Loaded

METAMATH = "meta-math/MetaMathQA"
_NUMBER = re.compile(r"####\s*\$?\s*(-?[\d.,]*\d)")
_SAID = re.compile(r"The answer is:?\s*(.*)\Z")
_WHOLE = re.compile(r"\$?(-?\d[\d.,]*?)\.?")  # a number and nothing else, but for a full stop


def final_number(text: str) -> str:
    """The number after the first ``####``, without thousands separators or a fraction of zeros; "" without one."""
    found = _NUMBER.search(text)
    if found is None:
        return ""
    number = found[1].replace(",", "")
    return re.sub(r"\.0*$", "", number)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gsm8k(PromptTask):
    """Grade-school mathematics: an answer is right when the number after ``####`` is."""

    train: str = option("gsm8k", "what is learned from: gsm8k's train split, or metamathqa (arXiv 2309.12284)",
                        choices=("gsm8k", "metamathqa"))  # fmt: skip

    def read(self, source: DataSource, split: str) -> Loaded:
        """Fetch a split; that of MetaMathQA in gsm8k's columns."""
        from bench.data.hub_datasets import load_split

        if self.train == "metamathqa" and split == (self.train_split or self.source.train_split):
            return load_split(source, METAMATH, None, "train", None)
        return super().read(source, split)

    def prepare(self, rows: datasets.Dataset, split: str) -> datasets.Dataset:
        if "query" not in rows.column_names or "response" not in rows.column_names:
            return rows
        return _dataset({"question": rows["query"], "answer": [_gsm8k_style(text) for text in rows["response"]]})

    def needed(self) -> tuple[str, ...]:
        return ("question", "answer")

    def said(self, text: str) -> str:
        return final_number(text)


def _gsm8k_style(response: str) -> str:
    """A response of MetaMathQA, which ends "The answer is: 42", as gsm8k writes it: "#### 42".

    Answers that are no numbers ("3/4", "2\\sqrt{3}") stay as they are written.
    """
    body, said, last = response.rstrip().rpartition("The answer is")
    found = _SAID.fullmatch(said + last)
    if found is None or "####" in response or not found[1]:
        return response
    whole = _WHOLE.fullmatch(found[1])
    return f"{body.rstrip()}\n#### {whole[1] if whole else found[1]}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class E2e(PromptTask):
    """Sentences for a meaning representation; scored against all its references, as in the challenge."""

    def prepare(self, rows: datasets.Dataset, split: str) -> datasets.Dataset:
        if split == "train" or self.answer not in rows.column_names:
            return rows
        grouped: dict[str, list[str]] = {}
        for meaning, text in zip(rows["meaning_representation"], rows[self.answer], strict=True):
            grouped.setdefault(meaning, []).append(text)
        return _dataset({"meaning_representation": list(grouped), self.answer: list(grouped.values())})

    def needed(self) -> tuple[str, ...]:
        return ("meaning_representation", self.answer)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruct(PromptTask):
    """Instructions with or without a context, which the prompt includes where there is one.

    Args:
        instruction, context: columns.
    """

    instruction: str = "instruction"
    context: str = "context"

    def prepare(self, rows: datasets.Dataset, split: str) -> datasets.Dataset:
        if any(name not in rows.column_names for name in self.needed()):
            return rows
        contexts = [f"\n\nContext:\n{text}" if text.strip() else "" for text in rows[self.context]]
        return _dataset(
            {self.instruction: rows[self.instruction], self.context: contexts, self.answer: rows[self.answer]}
        )

    def needed(self) -> tuple[str, ...]:
        return (self.instruction, self.context, self.answer)


def _dataset(columns: Mapping[str, Sequence[Any]]) -> datasets.Dataset:
    import datasets

    return datasets.Dataset.from_dict({name: list(values) for name, values in columns.items()})


register_task(
    Gsm8k(
        name="gsm8k",
        source=Source("openai/gsm8k", "main", scored_split="test"),
        template="Question: {question}\nAnswer:",
        metrics=("exact_match",),
        main_score="exact_match",
        max_new_tokens=256,
        help="grade-school mathematics: is the final number right?",
    )
)
register_task(
    E2e(
        name="e2e_nlg",
        source=Source("tuetschek/e2e_nlg", scored_split="test"),
        answer="human_reference",
        template="Data: {meaning_representation}\nText:",
        metrics=("bleu", "rougeL"),
        main_score="bleu",
        max_new_tokens=96,
        help="write a restaurant's description from its attributes (BLEU over all references)",
    )
)
for _name, _dataset_id, _document, _help in (
    ("xsum", "EdinburghNLP/xsum", "document", "summarise a news article in one sentence"),
    ("samsum", "knkarthick/samsum", "dialogue", "summarise a chat"),
):
    register_task(
        PromptTask(
            name=_name,
            source=Source(_dataset_id, scored_split="test"),
            answer="summary",
            template=f"{{{_document}}}\nSummary:",
            metrics=("rougeL",),
            main_score="rougeL",
            max_new_tokens=64,
            help=_help,
        )
    )
for _name, _dataset_id, _context, _answer, _help in (
    ("dolly", "databricks/databricks-dolly-15k", "context", "response", "follow instructions written by employees"),
    ("alpaca", "tatsu-lab/alpaca", "input", "output", "follow instructions written by a model"),
):
    register_task(
        Instruct(
            name=_name,
            source=Source(_dataset_id, scored_split=None),
            context=_context,
            answer=_answer,
            template=f"Instruction:\n{{instruction}}{{{_context}}}\n\nResponse:",
            metrics=("rougeL",),
            main_score=LOSS,
            max_new_tokens=256,
            help=f"{_help} (held-out loss of a token; ROUGE-L beside it)",
        )
    )
