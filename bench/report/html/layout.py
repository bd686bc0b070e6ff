"""What every page has around its own body: the head with its policy and styles, the heading, and what it carries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.report.html.assets import asset, embedded, policy
from bench.report.html.escape import script_json, text

_THEME = '<button type="button" id="theme">Dark</button>'


@dataclass(frozen=True)
class Carried:
    """The script of a page and what it draws from.

    Attributes:
        script: the page's own, to be embedded with plotly.
        data: what it reads as JSON, in the element ``data``.
        without: what a reader without JavaScript misses, as HTML.
        state: of a page that is served and looks for news: what it shows now; None: a file.
    """

    script: str
    data: Any
    without: str
    state: str | None = None


def page(title: str, header: str, body: str, carried: Carried | None = None, style: str = "") -> str:
    """A whole page in the report's style, which needs no network.

    Args:
        title: of the document, and its heading.
        header: what follows the heading, as HTML.
        body: as HTML, already escaped.
        carried: its script; None: nothing in the page runs.
        style: further rules.
    """
    live = carried is not None and carried.state is not None
    rules = policy(carried.script if carried else None, live)
    state = f' data-state="{text(carried.state)}"' if carried and live else ""
    note = f'<noscript><p class="note">{carried.without}</p></noscript>\n' if carried else ""
    said = '<p id="said" role="status" aria-live="polite"></p>\n'
    end = ""
    if carried:
        data = f'<script type="application/json" id="data">{script_json(carried.data)}</script>'
        end = f"{said}{data}\n{embedded(carried.script)}\n"
    return f"""<!doctype html>
<html lang="en"{state}>
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{rules}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(title)}</title>
<style>
{asset("report.css")}{style}</style>
</head>
<body>
<header>
<h1>{text(title)}</h1>
{header}
{_THEME if carried else ""}
</header>
<main>
{note}{body}
</main>
{end}</body>
</html>
"""


def plain_table(heads: Sequence[str], rows: Iterable[Sequence[str]], label: str = "") -> str:
    """A table that does not sort; the first cell of a row is its heading.

    Args:
        heads, rows: cells as HTML.
        label: what a screen reader calls it.
    """
    named = f' role="region" aria-label="{label}"' if label else ""
    head = "".join(f"<th scope=col>{cell}</th>" for cell in heads)
    body = "".join(
        f"<tr><th scope=row>{first}</th>{''.join(f'<td>{cell}</td>' for cell in rest)}</tr>" for first, *rest in rows
    )
    return (
        f'<div class="wide" tabindex="0"{named}><table class="plain"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
