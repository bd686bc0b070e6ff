"""What each method is: its formula, source and options, and the options that these runs used.

The explanations come from outside (``bench.cli.describe.about`` reads the registry); for a method that nobody knows
here, because its plugin is not installed, its records are described.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from bench.report.html.escape import text
from bench.report.html.layout import plain_table
from bench.store.labels import format_value
from bench.store.record import Record

_MOST_VALUES = 8


@dataclasses.dataclass(frozen=True)
class OptionFact:
    """One option of a method, as ``bench show`` gives it."""

    name: str
    kind: str
    default: str
    help: str


@dataclasses.dataclass(frozen=True)
class About:
    """A method's explanation.

    Attributes:
        paragraphs: of its docstring: what it is, its formula, its source.
        options: in the order of its definition.
        facts: sentences about its abilities (what ``--ranks`` sets, whether it merges, where it is defined).
    """

    paragraphs: tuple[str, ...]
    options: tuple[OptionFact, ...] = ()
    facts: tuple[str, ...] = ()


def section(records: Sequence[Record], known: Mapping[str, About]) -> str:
    """One folded part per method of the records, by name; empty when there are no records."""
    used: dict[str, list[Record]] = {}
    for record in records:
        used.setdefault(record["spec"]["method"]["name"], []).append(record)
    if not used:
        return ""
    parts = "\n".join(
        _method(index, name, used[name], known.get(name)) for index, name in enumerate(sorted(used))
    )  # fmt: skip
    return f'<section id="methods"><h2>The methods</h2>\n{parts}\n</section>'


def _method(index: int, name: str, runs: Sequence[Record], about: About | None) -> str:
    values = _values(runs)
    count = f"{len(runs)} run{'s' if len(runs) != 1 else ''}"
    if about is None:
        codes = sorted({format_value(run["spec"]["code"]["method"]) for run in runs})
        head = "its code is not installed here"
        body = (
            f"<p>Nothing here defines this method (a plugin that is not loaded: <code>--plugin FILE</code>). Its "
            f"records say: code {text(', '.join(codes[:_MOST_VALUES]))}, and these options.</p>"
        )
        rows = [(text(key), _listed(value)) for key, value in values.items()]
        table = plain_table(("option", "value in these runs"), rows) if rows else "<p>No options.</p>"
    else:
        head = about.paragraphs[0] if about.paragraphs else ""
        body = "".join(f"<p>{_linked(part)}</p>" for part in about.paragraphs[1:])
        body += f"<p>{text(' '.join(about.facts))}</p>" if about.facts else ""
        options = [_option(option, values.get(option.name)) for option in about.options]
        heads = ("option", "value in these runs", "default", "what it does")
        table = plain_table(heads, options) if options else ""
    return (
        f'<details class="method" id="m-{index}"><summary><b>{text(name)}</b> <span>{text(head)}</span> '
        f"<small>{count}</small></summary>{body}{table}</details>"
    )


def _option(option: OptionFact, used: Sequence[str] | None) -> tuple[str, ...]:
    value = _listed(used) if used else "not recorded"
    changed = used and list(used) != [option.default]
    return (
        f"{text(option.name)} <small>{text(option.kind)}</small>",
        f"<b>{value}</b>" if changed else value,
        text(option.default or "none"),
        text(option.help),
    )


def _values(runs: Sequence[Record]) -> dict[str, list[str]]:
    """Every option with the different values it had."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in run["spec"]["method"].items():
            if name != "name":
                found.setdefault(name, {})[format_value(value)] = None
    return {name: list(values) for name, values in found.items()}


def _listed(values: Sequence[str]) -> str:
    rest = len(values) - _MOST_VALUES
    return text(
        ", ".join(value or "none" for value in values[:_MOST_VALUES]) + (f" and {rest} more" if rest > 0 else "")
    )


def _linked(paragraph: str) -> str:
    """Escaped text, with ``code`` in backquotes set as code."""
    return re.sub(r"``([^`<]+)``", r"<code>\1</code>", text(paragraph))
