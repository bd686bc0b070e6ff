"""Reads a report's HTML for the tests, and makes stores and statistics from synthetic records."""

from __future__ import annotations

import html.parser
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.analysis.analysis import analyse
from bench.report.build import build
from bench.report.html.chart_base import scenes
from bench.store.store import Store

# Elements that HTML closes by itself.
_VOID = {"meta", "link", "br", "hr", "img", "input"}
_OPEN_ENDED = {"dt", "dd", "li", "p"}


class Page(html.parser.HTMLParser):
    """Collects what the tests ask about, and checks that elements nest."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.scripts, self._stack = [], [], [], []
        self.feed(text)
        self.close()
        assert self._stack == [], f"left open: {self._stack}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in {"dt", "dd", "td", "th", "li", "p", "small", "summary", "code", "h4"}:
            self.text.append(" ")
        if tag == "script":
            self.scripts.append("")
        if tag not in _VOID | _OPEN_ENDED:
            self._stack.append(tag)

    def handle_endtag(self, tag):
        if tag not in _OPEN_ENDED:
            assert self._stack.pop() == tag

    def handle_data(self, data):
        inside = self._stack[-1] if self._stack else ""
        if inside == "script":
            self.scripts[-1] += data
        elif inside != "style":
            self.text.append(data)

    @property
    def said(self):
        return " ".join("".join(self.text).split())

    @property
    def data(self):
        return json.loads(self.scripts[0])

    @property
    def charts(self):
        """The charts' data by the first words of their labels."""
        named = [attributes for _, attributes in self.tags if "data-chart" in attributes]
        return {
            attributes["aria-label"].split(".")[0]: self.data["charts"][int(attributes["data-chart"])]
            for attributes in named
        }


def report(records, tmp_path, extras=None):
    """A report's text and what the reader found in it."""
    text = build(records, tmp_path / "report.html", extras).read_text(encoding="utf-8")
    return text, Page(text)


def own(text):
    """The page without plotly, which is embedded as one long line."""
    return re.sub(r'<script type="text/plain" id="plotly">[^<]*</script>\n<!--.*?-->', "", text, flags=re.S)


def scene(records, folder=None):
    """The one task and model of some records."""
    (made,) = scenes(records, analyse(records, folder))
    return made


def stored(folder, records, accuracy):
    """Write records with predictions to a store; scores and standard errors follow from the predictions.

    Args:
        accuracy: gives a record's accuracy, as far as 400 examples can have it.
    """
    store = Store(folder)
    store.prepare()
    reference = np.arange(400) % 2
    hard = np.random.default_rng(0).permutation(400) / 400
    for number, record in enumerate(records):
        if record["status"] == "ok":
            noise = np.random.default_rng(number).normal(scale=0.05, size=400)
            right = hard + noise < accuracy(record)
            share = float(right.mean())
            record |= {"scores": {"accuracy": share}, "stderr": (share * (1 - share) / 400) ** 0.5}
            predicted = np.where(right, reference, 1 - reference)
            answers = {"row": range(400), "prediction": predicted, "reference": reference}
            pq.write_table(pa.table(answers), store.predictions_path(record["run_id"]))
        store.write(record)
    return store
