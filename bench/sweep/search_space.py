"""The values that a tuned option may take: around its default, or as given."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from bench.core import options
from bench.core.errors import RequestError, fault
from bench.core.protocols import Method

AROUND = 10.0  # a number is searched from 0.1x to 10x its default


@dataclasses.dataclass(frozen=True)
class TuneTarget:
    """One item of ``--tune``: ``lr``, ``lora.alpha``, ``lr=1e-4:1e-2`` (a range) or ``lr=1e-4|1e-3`` (a grid).

    Attributes:
        text: as it was given.
        owner: the method it is for; None: every method that has the option.
    """

    text: str
    owner: str | None
    option: str
    range: str | None

    @classmethod
    def parse(cls, text: str) -> TuneTarget:
        """Read one item; RequestError says how to write it."""
        left, equals, range_ = text.partition("=")
        owner, dot, option = left.strip().rpartition(".")
        if not option or (equals and not range_.strip()):
            raise RequestError(
                f"--tune {text}: write it as lr, lora.alpha, lr=1e-4:1e-2 or lr=1e-4|1e-3.", code="invalid-value"
            )
        return cls(text, owner if dot else None, option, range_.strip() if equals else None)

    def concerns(self, method: Method) -> bool:
        """Whether it applies to this method."""
        return self.owner in (None, method.name)


@dataclasses.dataclass(frozen=True)
class Space:
    """The values of one option: a list, or a range of numbers with both ends in it."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    values: tuple[Any, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether a value is among them."""
        return value in self.values if self.values else value is not None and self.low <= value <= self.high

    def at(self, share: float) -> Any:
        """The value at a share (0 to 1) of the way through."""
        if self.values:
            return self.values[min(int(share * len(self.values)), len(self.values) - 1)]
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        value = min(max(value, self.low), self.high)
        return round(value) if self.whole else value

    def plain(self) -> dict[str, Any]:
        """As the specification keeps it."""
        return {"values": list(self.values)} if self.values else {"low": self.low, "high": self.high, "log": self.log}

    def words(self) -> str:
        """As text for messages."""
        if self.values:
            return " | ".join(map(str, self.values))
        return f"{self.low:g} to {self.high:g}{' (log)' if self.log else ''}"


def spaces(method: Method, targets: Sequence[TuneTarget]) -> dict[str, Space]:
    """The tuned options of a method with their values; a target that names the method wins over one that does not.

    Raises:
        RequestError: with every target that does not fit this method.
    """
    known, found, wrong = options.options(type(method)), {}, []
    for target in sorted(targets, key=lambda target: target.owner is not None):
        if not target.concerns(method) or target.option not in known:
            continue
        try:
            option = known[target.option]
            found[target.option] = _given(option, target.range) if target.range else _around(option, method)
        except ValueError as error:
            wrong.append(fault(f"--tune {target.text}: {method.name}.{target.option} {error}", "invalid-value"))
    if wrong:
        raise RequestError(wrong)
    return found


def _given(option: options.Option, text: str) -> Space:
    if ":" not in text or not _number(option):
        return Space(values=tuple(dict.fromkeys(options.convert(option, part.strip()) for part in text.split("|"))))
    low, high = (options.convert(option, part.strip()) for part in text.split(":", 1))
    if not low < high:
        raise ValueError(f"has the range {text}: the first number must be the smaller one")
    return Space(low, high, log=low > 0, whole=_number(option) is int)


def _around(option: options.Option, method: Method) -> Space:
    """0.1x to 10x the default, log-uniform; between the option's own bounds where the default is 0."""
    default, limits, kind = getattr(method, option.name), option.limits, _number(option)
    low, high = limits.low, limits.high
    if kind is None:
        raise ValueError(f"is not a number: list its values, {option.name}=A|B")
    if not default:
        if low is None or high is None:
            raise ValueError(f"has no default to search around: give a range, {option.name}=LOW:HIGH")
        return Space(low, high, whole=kind is int)
    ends = sorted((default / AROUND, default * AROUND))
    ends = [max(ends[0], -math.inf if low is None else low), min(ends[1], math.inf if high is None else high)]
    if kind is int:
        ends = [max(1, math.ceil(ends[0])), math.floor(ends[1])]
    return Space(ends[0], ends[1], log=ends[0] > 0, whole=kind is int)


def _number(option: options.Option) -> type | None:
    name = option.type_name.removesuffix(" or none")
    return {"int": int, "float": float}.get(name)
