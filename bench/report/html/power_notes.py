"""Sample sizes needed to separate the ties with the best, in sentences."""

from __future__ import annotations

from bench.analysis.configurations import Group, Pair
from bench.core import formatting

_MOST = 5


def sentences(group: Group) -> list[str]:
    """One sentence for each of the first ties with the best that were compared; plain text."""
    best = next((one.label for one in group.configurations if one.done), "")
    ties = [pair for pair in group.pairs if best in (pair.first, pair.second) and pair.settling and pair.comparison]
    return [sentence(pair, group) for pair in ties[:_MOST]]


def sentence(pair: Pair, group: Group) -> str:
    """The sample size needed to separate a tied pair.

    Raises:
        ValueError: when the pair is settled or was not compared.
    """
    found, settling = pair.comparison, pair.settling
    if found is None or settling is None:
        raise ValueError("a pair that is settled, or was not compared, has nothing to settle")
    seen = f"{pair.first} and {pair.second} differ by {formatting.gap(group.score, found.difference)}"
    if settling.detectable is None:
        return f"{seen}: they never disagreed."
    shows = f"this comparison finds {formatting.gap(group.score, settling.detectable)} with 80 % power"
    ways = [
        f"{number:,} {what}"
        for number, what in ((settling.seeds, "seeds"), (settling.examples, "examples"))
        if number is not None
    ]
    if ways:
        return f"{seen}; {shows}. To detect the observed difference: {' or '.join(ways)}."
    return f"{seen}; {shows}. Neither more seeds nor more examples alone would detect the observed difference."
