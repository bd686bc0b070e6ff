"""Many comparisons at once: Holm's correction, and groups of methods that do not differ significantly."""

from __future__ import annotations

import string
from collections.abc import Collection, Iterator, Mapping, Sequence

_LETTERS = string.ascii_lowercase + string.ascii_uppercase


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given: reject where they are at most alpha.

    The chance of any false rejection in the family is then at most alpha, whatever depends on what.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def levels(p_values: Sequence[float], alpha: float = 0.05) -> list[float]:
    """The level each p-value has to reach at its own step of Holm's procedure: alpha / (m - rank)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    found = [0.0] * len(p_values)
    for place, index in enumerate(order):
        found[index] = alpha / (len(p_values) - place)
    return found


def all_compared(names: Sequence[str], compared: Collection[tuple[str, str]]) -> list[str]:
    """The names that may share letters: a set of which every two were compared.

    One after the other is left out that was compared with the fewest of the rest, the worst of them first.

    Args:
        names: best first.
        compared: pairs that were, in either order.

    Returns:
        Those names, in their order; none where fewer than two are left.
    """
    partners = {name: {one for pair in compared if name in pair for one in pair if one != name} for name in names}
    left = list(names)
    while left:
        counts = {name: len(partners[name].intersection(left)) for name in left}
        fewest = min(reversed(left), key=counts.__getitem__)
        if counts[fewest] == len(left) - 1:
            break
        left.remove(fewest)
    return left if len(left) > 1 else []


def letters(names: Sequence[str], different: Collection[tuple[str, str]]) -> dict[str, str]:
    """Letters such that two names share one exactly when they were not found different.

    The compact letter display of Piepho (2004): groups are the largest sets of names of which no two differ; a name
    may be in several ("ab": tied with the a's and with the b's, which differ).

    Args:
        names: best first; the first group with a better member gets the earlier letter.
        different: pairs that differ significantly, in either order.
    """
    place = {name: index for index, name in enumerate(names)}
    apart = {index: {index} for index in range(len(names))}
    for one, other in different:
        apart[place[one]].add(place[other])
        apart[place[other]].add(place[one])
    every = set(apart)
    tied = {index: every - others for index, others in apart.items()}
    members = sorted(sorted(group) for group in _largest(set(), every, set(), tied)) if names else []
    found = dict.fromkeys(names, "")
    for number, group_members in enumerate(members):
        letter = _LETTERS[number] if number < len(_LETTERS) else f"({number + 1})"
        for index in group_members:
            found[names[index]] += letter
    return found


def _largest(group: set[int], candidates: set[int], done: set[int], tied: Mapping[int, set[int]]) -> Iterator[set[int]]:
    """Every largest set of members that are all tied (Bron & Kerbosch 1973, with Tomita's pivot)."""
    if not candidates and not done:
        yield set(group)
        return
    pivot = max(candidates | done, key=lambda member: len(candidates & tied[member]))
    for member in sorted(candidates - tied[pivot]):
        yield from _largest(group | {member}, candidates & tied[member], done & tied[member], tied)
        candidates = candidates - {member}
        done = done | {member}
