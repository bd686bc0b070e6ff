"""wikitext: language modelling on Wikipedia articles (Merity et al. 2016, arXiv 1609.07843), by perplexity per token.

A token is the model's own: perplexities of models with different tokenizers do not compare, and none compares with a
published one of whole words.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bench.core.protocols import option
from bench.core.registry import register_task
from bench.tasks.prompted import ModellingTask, Source

if TYPE_CHECKING:
    import datasets

    from bench.core.protocols import DataSource
    from bench.data.hub_datasets import Loaded

CONFIGS = ("wikitext-2-v1", "wikitext-2-raw-v1", "wikitext-103-v1", "wikitext-103-raw-v1")
_TITLE = re.compile(r" = [^=].* = \n?")


def articles(lines: Iterable[str]) -> list[str]:
    """Whole articles from lines: a line ``= Title =`` after an empty one (or at the start) begins the next."""
    found: list[list[str]] = []
    before = ""
    for line in lines:
        if not found or (_TITLE.fullmatch(line) and not before.strip()):
            found.append([])
        found[-1].append(line)
        before = line
    texts = ("".join(lines).strip() for lines in found)
    return [text for text in texts if text]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wikitext(ModellingTask):
    """Each row is a whole article, so that a block of tokens has what came before it."""

    config: str = option("wikitext-2-v1", "which of the data sets", choices=CONFIGS)

    def read(self, source: DataSource, split: str) -> Loaded:
        """Fetch a split of the chosen configuration."""
        from bench.data.hub_datasets import load_split

        return load_split(source, self.source.dataset, self.config, split, self.source.revision)

    def prepare(self, rows: datasets.Dataset, split: str) -> datasets.Dataset:
        import datasets

        if self.text not in rows.column_names:
            return rows
        return datasets.Dataset.from_dict({self.text: articles(rows[self.text])})


register_task(
    Wikitext(
        name="wikitext",
        source=Source("Salesforce/wikitext", scored_split="test"),
        help="model Wikipedia articles: perplexity of a token",
    )
)
