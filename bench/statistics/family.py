"""Many comparisons at once: Holm's correction, and groups of methods that cannot be told apart."""

from __future__ import annotations

import string
from collections.abc import Collection, Sequence

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


def letters(names: Sequence[str], different: Collection[tuple[str, str]]) -> dict[str, str]:
    """Letters such that two names share one exactly when they were not found different.

    The compact letter display of Piepho (2004), insert and absorb: groups are the largest sets of names of which no
    two differ; a name may be in several ("ab": tied with the a's and with the b's, which differ).

    Args:
        names: best first; the first group with a better member gets the earlier letter.
        different: pairs that were told apart, in either order.
    """
    place = {name: index for index, name in enumerate(names)}
    groups = {(1 << len(names)) - 1} if names else set()
    for one, other in different:
        a, b = 1 << place[one], 1 << place[other]
        split = {group for group in groups if group & a and group & b}
        parts = {group & ~bit for group in split for bit in (a, b)}
        groups -= split
        groups |= {
            part for part in parts if not any(part != whole and part & whole == part for whole in (*groups, *parts))
        }
    members = sorted([index for index in range(len(names)) if group >> index & 1] for group in groups)
    found = dict.fromkeys(names, "")
    for number, group_members in enumerate(members):
        letter = _LETTERS[number] if number < len(_LETTERS) else f"({number + 1})"
        for index in group_members:
            found[names[index]] += letter
    return found
