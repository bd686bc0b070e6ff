"""Turns the columns of a row into the tokens of a prompt and an answer, truncated where too long."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.core.errors import unknown

_PROBE = ("probe:", "yes")


class Template:
    """A text with ``{column}`` placeholders, column names only; ``{{`` and ``}}`` are braces.

    Raises:
        ValueError: for braces that do not pair, or anything but a column's name between them.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.parts: list[tuple[str, str | None]] = []
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"the template {text!r} cannot be read: {error}") from None
        for before, name, spec, conversion in parsed:
            if name is not None and (not name.strip() or spec or conversion):
                raise ValueError(f"the template {text!r} has {{{name}}}: write the name of a column, such as {{text}}")
            self.parts.append((before, name))
        self.columns = tuple(dict.fromkeys(name for _, name in self.parts if name is not None))

    def check(self, columns: Sequence[str]) -> None:
        """Raise ValueError for a missing column, with the nearest name."""
        for name in self.columns:
            if name not in columns:
                raise ValueError(f"the template {self.text!r}: {unknown('column', name, columns)}")

    def fill(self, values: Mapping[str, Any]) -> str:
        """The text with each column's value in its place."""
        return "".join(before + (str(values[name]) if name is not None else "") for before, name in self.parts)


def default_template(columns: Sequence[str]) -> str:
    """A line ``column: {column}`` per column, and a last line for the answer."""
    return "\n".join([*(f"{column}: {{{column}}}" for column in columns), "answer:"])


@dataclass(frozen=True)
class Words:
    """Turns prompts and answers into tokens as one model reads them.

    Attributes:
        tokenizer: the model's own.
        start: what an encoder-decoder's decoder starts with; None for decoders.
        lead: what parts an answer from its prompt, in decoders: a space where the tokenizer does not add one itself.
        first: what a decoder's text starts with (its beginning-of-text token, or nothing).
    """

    tokenizer: Any
    start: int | None
    lead: str = field(init=False)
    first: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lead", self._lead())
        bare, full = self._ids(_PROBE[0]), self.tokenizer(_PROBE[0])["input_ids"]
        begins = self.start is None and full[:1] == [self.tokenizer.bos_token_id] and bare[:1] != full[:1]
        object.__setattr__(self, "first", tuple(full[:1]) if begins else ())

    @property
    def end(self) -> int | None:
        """The token an answer ends with."""
        found: int | None = self.tokenizer.eos_token_id
        return found

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def _lead(self) -> str:
        """The separator (" " or "") with which prompt and answer, tokenised apart, give the tokens of both together."""
        before, after = _PROBE
        together, prompt = self._ids(f"{before} {after}"), self._ids(before)
        return "" if together == prompt + self._ids(after) else " "

    def answer(self, texts: Sequence[str], limit: int) -> tuple[list[list[int]], list[bool]]:
        """Tokens of answers, with the end-of-text token, at most ``limit`` each; and which were cut.

        What an answer spells like a special token is text, for no such token is read back from what a model writes.
        """
        if self.start is not None:
            found = self.tokenizer(text_target=list(texts), split_special_tokens=True)["input_ids"]
        else:
            end = [] if self.end is None else [self.end]
            led = [self.lead + text for text in texts]
            found = self.tokenizer(led, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            found = [[*ids, *end] for ids in found]
        return [ids[:limit] for ids in found], [len(ids) > limit for ids in found]

    def whole(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of texts with the tokens that begin a sequence: prompts, or texts to model."""
        if self.start is not None:
            found: list[list[int]] = self.tokenizer(list(texts))["input_ids"]
            return found
        return [[*self.first, *ids] for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    def prompt(
        self, template: Template, rows: Mapping[str, Sequence[Any]], limit: int
    ) -> tuple[list[list[int]], list[bool]]:
        """Tokens of filled templates, at most ``limit`` each; and which rows were cut.

        A row that is too long loses the ends of its columns, each token from the longest of them; the words of the
        template stay, for they say what is asked.
        """
        count = len(next(iter(rows.values())))
        values = [{name: _shown(rows[name][index]) for name in template.columns} for index in range(count)]
        found = self.whole([template.fill(value) for value in values])
        long = [len(ids) > limit for ids in found]
        for index in [index for index, is_long in enumerate(long) if is_long]:
            found[index] = self._shortened(template, values[index], limit)
        return found, long

    def _shortened(self, template: Template, values: dict[str, str], limit: int) -> list[int]:
        while True:
            (ids,) = self.whole([template.fill(values)])
            over = len(ids) - limit
            if over <= 0:
                return ids
            tokens = {name: len(self._ids(value)) for name, value in values.items()}
            if not any(tokens.values()):
                return ids[-limit:]  # the template alone is longer: what it asks comes last
            kept = longest_first(tokens, over)
            values = {
                name: value if kept[name] == tokens[name] else self._cut(value, kept[name])
                for name, value in values.items()
            }

    def _cut(self, text: str, tokens: int) -> str:
        """The text truncated to its first tokens."""
        if tokens <= 0:
            return ""
        if self.tokenizer.is_fast:
            offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            kept = text[: offsets[tokens - 1][1]]
        else:
            kept = self.tokenizer.decode(self._ids(text)[:tokens])
        return kept if len(kept) < len(text) else text[: len(text) // 2]


def longest_first(tokens: Mapping[str, int], over: int) -> dict[str, int]:
    """The tokens that each column keeps within a limit: tokens are removed from the longest column, one by one."""
    kept = dict(tokens)
    for _ in range(min(over, sum(kept.values()))):
        longest = max(kept, key=lambda name: kept[name])
        kept[longest] -= 1
    return kept


def _shown(value: Any) -> str:
    return "" if value is None else str(value)
