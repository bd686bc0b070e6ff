"""Chooses the text and label columns of a table: as named by the user, else inferred from names and types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.core.errors import RequestError, fault, unknown

if TYPE_CHECKING:
    import pyarrow as pa

# Names in the order of preference, without regard to case.
PAIRS = (
    ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"),
    ("question", "passage"), ("question", "context"), ("text1", "text2"), ("text_a", "text_b"), ("query", "document"),
    ("query", "passage"), ("sentence_a", "sentence_b"),
)  # fmt: skip
TEXTS = ("text", "sentence", "review", "content", "comment", "body", "message", "document", "question", "tweet",
         "utterance", "title", "description", "query", "input")  # fmt: skip
LABELS = ("label", "labels", "class", "category", "target", "sentiment", "rating", "stars", "score", "intent", "topic",
          "emotion", "coarse_label", "y", "output")  # fmt: skip
SPLITS = ("split", "fold", "subset", "partition", "set")
_NUMBERS = ("", "id", "idx", "index", "unnamed: 0", "row", "uid", "guid")

# What asks and what answers, in texts of any length.
ANSWERED = (
    (("question", "context"), "answer"), (("question",), "answer"), (("instruction", "input"), "output"),
    (("instruction", "context"), "response"), (("instruction",), "output"), (("instruction",), "response"),
    (("prompt",), "completion"), (("prompt",), "response"), (("prompt",), "answer"), (("prompt",), "output"),
    (("query",), "response"), (("query",), "answer"), (("input",), "output"), (("input",), "target"),
    (("source",), "target"), (("document",), "summary"), (("dialogue",), "summary"), (("article",), "highlights"),
    (("article",), "summary"), (("text",), "summary"), (("text",), "answer"),
)  # fmt: skip
PROSE = ("generation", "language-modelling")
_FREE_WORDS = 3  # a text of fewer words that comes again and again is a class, not an answer to be written

_SAMPLE = 20_000  # rows that are looked at,
_SAMPLE_BYTES = 4 << 20  # or as many as have so many bytes, where texts are long
CLASSES = 50  # whole numbers with more values than this are numbers to predict, not classes


@dataclass(frozen=True)
class Columns:
    """The columns of a task.

    Attributes:
        kind: ``classification``, ``regression``, or one of PROSE.
        text: one or two columns.
        label: the column to predict, or to write (generation); "" where the text itself is modelled.
        others: columns that were not taken, for the person to see.
    """

    kind: str
    text: tuple[str, ...]
    label: str
    others: tuple[str, ...]


@dataclass(frozen=True)
class _Look:
    """Facts about a column from a sample: whether it has texts or numbers, how many values and words."""

    name: str
    texts: bool
    distinct: int
    rows: int
    words: float
    whole: bool  # every cell is a whole number
    number: bool  # every cell is a number
    nearly: bool  # nine cells of ten are numbers
    comma: bool = False  # nine cells of ten are numbers with a comma for the point

    @property
    def classes(self) -> bool:
        """Whether it may be a label: few values, many times each."""
        return 2 <= self.distinct <= max(2, min(1000, self.rows // 2))


def choose(
    table: pa.Table, where: str, kind: str | None, text: Sequence[str], label: str | None, aside: Sequence[str] = ()
) -> Columns:
    """Choose the columns of a table: those that were named, the others inferred.

    Args:
        where: what the table is called, for messages.
        kind, text, label: as given by the user; None or empty where not given.
        aside: columns that are neither text nor label (a split, a group).

    Raises:
        RequestError: for a missing column, or where the choice is ambiguous; says what to set.
    """
    names = table.column_names
    wrong = [
        unknown(f"column of {where}", name, names) for name in (*text, *filter(None, (label,))) if name not in names
    ]
    if len(text) > 2:
        wrong.append(
            fault(f"task.text={','.join(text)}: one or two columns of text, not {len(text)}.", "invalid-value")
        )
    if label is not None and label in text:
        wrong.append(fault(f"task.text and task.label both name the column '{label}'.", "conflict"))
    if wrong:
        raise RequestError(wrong)
    prose = _prose(table, where, kind, (tuple(text), label), aside)
    if prose is not None:
        return prose
    if len(names) == 1:
        raise RequestError(
            f"{where} has one column, '{names[0]}'. Classification and regression need two: a text, and the label to "
            "learn.",
            code="invalid-data",
        )
    looks = {name: look(table, name) for name in names if name not in aside}
    if label is None:
        label = _label(looks, where, text)
    if not text:
        text = _text(looks, where, label)
    found = looks[label]
    if kind is None:
        kind = _kind_of(table, found)
    taken = {*text, label, *aside}
    return Columns(kind, tuple(text), label, tuple(name for name in names if name not in taken))


def _prose(
    table: pa.Table, where: str, kind: str | None, named: tuple[tuple[str, ...], str | None], aside: Sequence[str]
) -> Columns | None:
    """The columns of generation (texts that answer texts) or of language modelling (texts alone); None for neither."""
    if kind is not None and kind not in PROSE:
        return None
    text, label = named
    names = [name for name in table.column_names if name not in aside]
    looks = {name: look(table, name) for name in names}
    texts = [name for name in names if looks[name].texts and not looks[name].number]
    others = [name for name in names if name.lower() not in _NUMBERS]
    if kind == "language-modelling" or (kind is None and label is None and len(others) == 1 and texts == others):
        if len(text) > 1 or label is not None:
            raise RequestError(
                f"{where}: language modelling takes one column of text and no label.", code="unsupported"
            )
        if not texts:
            raise RequestError(
                f"{where}: no column holds text. Its columns: {', '.join(table.column_names)}.", code="invalid-data"
            )
        by_name = {name.lower(): name for name in texts}
        longest = max(texts, key=lambda name: looks[name].words)
        (chosen,) = text or (next((by_name[known] for known in TEXTS if known in by_name), longest),)
        return Columns("language-modelling", (chosen,), "", tuple(name for name in names if name != chosen))
    found = _answered(looks, text, label)
    if found is None and kind == "generation":
        raise RequestError(
            f"{where}: which column asks, which answers? Say --set task.text=NAME --set task.label=NAME; its columns "
            f"of text: {', '.join(texts) or 'none'}.",
            code="ambiguous",
        )
    if found is None or (kind is None and not _free(looks[found[1]])):
        return None
    return Columns("generation", *found, tuple(name for name in names if name not in (*found[0], found[1])))


def _answered(looks: dict[str, _Look], text: tuple[str, ...], label: str | None) -> tuple[tuple[str, ...], str] | None:
    """The prompt columns and the answer column: those that were named, the others by their names."""
    if text and label:
        return text, label
    by_name = {name.lower(): name for name, one in looks.items() if one.texts and not one.number}
    for asks, answers in ANSWERED:
        if answers in by_name and all(name in by_name for name in asks):
            there, last = tuple(by_name[name] for name in asks), by_name[answers]
            if (not text or text == there) and (not label or label == last):
                return there, last
            if text and not label and last not in text:
                return text, last
            if label and not text and label not in there:
                return there, label
    return None


def _free(answer: _Look) -> bool:
    """Whether a column has target texts rather than a few classes."""
    return answer.texts and (answer.words >= _FREE_WORDS or not answer.classes)


def look(table: pa.Table, name: str) -> _Look:
    """Look at the first 20,000 cells of a column, or at fewer where they are long."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = _sample(table[name])
    texts = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    known = values.drop_null()
    if texts:
        known = known.filter(pc.invert(empty(known)))
    if pa.types.is_nested(values.type) or not len(known):
        return _Look(name, False, 0, len(values), 0.0, False, False, False)
    distinct = len(pc.unique(known))
    words = float(pc.mean(pc.add(pc.count_substring(known, " "), 1)).as_py()) if texts else 0.0
    numbers = as_numbers(known)
    whole = numbers is not None and bool(pc.all(pc.equal(numbers, pc.floor(numbers))).as_py())
    nearly, comma = numbers is not None, False
    if texts and not nearly:
        written = (r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$", r"^\s*[-+]?\d+(,\d+)+(\.\d+)?\s*$")
        alike = [pc.sum(pc.match_substring_regex(known, form)).as_py() >= 0.9 * len(known) for form in written]
        nearly, comma = alike
    return _Look(name, texts, distinct, len(values), words, whole, numbers is not None, nearly, comma)


def _sample(values: pa.ChunkedArray) -> pa.ChunkedArray:
    values = values.slice(0, _SAMPLE)
    return values.slice(0, max(1, len(values) * _SAMPLE_BYTES // max(values.nbytes, _SAMPLE_BYTES)))


def empty(texts: Any) -> Any:
    """Which texts of an arrow array or chunked array are blank, or the word nan; null for null."""
    import pyarrow.compute as pc

    plain = pc.utf8_trim_whitespace(texts)
    return pc.or_(pc.equal(pc.binary_length(plain), 0), pc.equal(pc.utf8_lower(plain), "nan"))


def is_empty(text: str) -> bool:
    """``empty`` for one text."""
    return text.strip().lower() in ("", "nan")


def as_numbers(values: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """The values as float64 where all are finite numbers, else None."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            values = pc.utf8_trim_whitespace(values)
        if pa.types.is_boolean(values.type):
            return None
        numbers = values.cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    finite = pc.all(pc.is_finite(numbers), min_count=0).as_py()
    return numbers if finite else None


def _label(looks: dict[str, _Look], where: str, text: Sequence[str]) -> str:
    free = {name: one for name, one in looks.items() if name not in text}
    by_name = {name.lower(): name for name in free}
    for known in LABELS:
        if known in by_name:
            return by_name[known]
    fit = [
        name for name, one in free.items()
        if name.lower() not in _NUMBERS and (one.classes or (one.number and not one.whole)) and one.words < 4
    ]  # fmt: skip
    if len(fit) == 1:
        return fit[0]
    reason = f"it may be {' or '.join(fit)}" if fit else "no column has few values that come again"
    raise RequestError(
        f"{where}: which column is the label? {reason[0].upper()}{reason[1:]}. Say --set task.label=NAME; its columns: "
        f"{', '.join(looks)}.",
        code="ambiguous",
    )


def _text(looks: dict[str, _Look], where: str, label: str) -> tuple[str, ...]:
    by_name = {name.lower(): name for name, one in looks.items() if one.texts and name != label}
    for left, right in PAIRS:
        if left in by_name and right in by_name:
            return by_name[left], by_name[right]
    for known in TEXTS:
        if known in by_name:
            return (by_name[known],)
    if not by_name:
        raise RequestError(
            f"{where}: no column holds text beside the label '{label}'. Say --set task.text=NAME; its columns: "
            f"{', '.join(looks)}.",
            code="invalid-data",
        )
    return (max(by_name.values(), key=lambda name: looks[name].words),)


def _kind_of(table: pa.Table, label: _Look) -> str:
    """Regression for numbers with fractions or of many values, classification for everything else.

    Raises:
        RequestError: for many numbers that are written with commas: as classes they would mean nothing.
    """
    named = "names" in str((table.schema.metadata or {}).get(b"huggingface", b"")) and not label.texts
    if label.comma and label.distinct > CLASSES:
        raise RequestError(
            f"Column '{label.name}' has {label.distinct} numbers that are written with commas: write 2.71 for 2,71 and "
            "1234 for 1,234, or say --set task.kind=classification.",
            code="ambiguous",
        )
    if label.nearly and not label.number and label.distinct > CLASSES:
        return "regression"  # so that the cells that are no numbers are named
    if not label.number or (named and label.whole and label.distinct <= 1000):
        return "classification"
    return "classification" if label.whole and label.distinct <= CLASSES else "regression"


def split_column(table: pa.Table) -> str | None:
    """The column with each row's split: by its name, if every cell is a split's name.

    Raises:
        RequestError: where some cells are splits' names and others are not: which rows may be learned from is unknown.
    """
    import pyarrow.compute as pc

    for name in table.column_names:
        if name.lower() in SPLITS:
            values: list[Any] = pc.unique(table[name]).to_pylist()
            known = [isinstance(value, str) and split_of(value) is not None for value in values]
            if known and all(known):
                return str(name)
            if sum(known) > 1:
                other = next(value for value, right in zip(values, known, strict=True) if not right)
                row = pc.index(table[name], value=other).as_py() + 1 if other is not None else "?"
                said = f"'{other}'" if other is not None else "empty"
                raise RequestError(
                    f"the column '{name}' says train, validation or test, but in row {row} it is {said}: write one of "
                    "them there, or give the column another name where it means something else.",
                    code="invalid-data",
                )
    return None


def split_of(word: str) -> str | None:
    """``train``, ``validation`` or ``test`` for a word that means one of them."""
    meanings = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
    return next((split for split, words in meanings.items() if word.strip().lower() in words), None)
