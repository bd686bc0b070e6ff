"""What a method needs on a model: its peak, whether it fits a budget, and how far batch size and length can go."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, cast

from bench.core.errors import RequestError
from bench.core.protocols import Method
from bench.planner.allocation_trace import Trace
from bench.planner.fake_step import FakeStep
from bench.planner.meta_model import Shape
from bench.planner.plan_config import Setting
from bench.planner.scaling import ScalingModel, largest
from bench.training.storage_tracker import Peak

# What a CUDA process takes besides the allocator: the context and the kernels' code. It depends on driver, card and
# libraries: 0.3 to 0.6 GiB on current data-centre cards, estimated here as half a gibibyte.
CONTEXT_BYTES = 1 << 29

_MOST_ROWS, _MOST_TOKENS = 1 << 20, 1 << 22


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of one method.

    Attributes:
        phases: peak of each phase, in bytes; ``initialization`` is there for a data-dependent one.
        reserved_bytes: what the CUDA allocator takes from the device; None under the CPU's rules.
        needed_bytes: what must be free on the device: reserved and the process's context, or the peak on CPU.
    """

    method: Method
    setting: Setting
    trainable: int
    total: int
    phases: dict[str, Peak]
    reserved_bytes: int | None
    needed_bytes: int

    @property
    def peak(self) -> Peak:
        """The peak of the highest phase."""
        return max(self.phases.values(), key=lambda peak: peak.total_bytes)

    def fits(self, budget: int) -> bool:
        """Whether it fits into ``budget`` bytes."""
        return self.needed_bytes <= budget


class Planner:
    """Plans one method on one model at any batch size and length."""

    def __init__(self, model: Shape, method: Method, setting: Setting) -> None:
        self.subject = FakeStep(model, method, setting)
        self.setting = setting
        self._place = (setting.batch_size, setting.max_length)
        self._traces: dict[tuple[int, int], Trace] = {}

    def plan(self) -> Plan:
        """The plan at the setting's batch size and length."""
        setting, subject = self.setting, self.subject
        phases, reserved = subject.step(self.trace(*self._place)) if subject.trains else ({}, None)
        phases["evaluation"] = subject.evaluation(*self._place)
        if self.initialization is not None:
            phases["initialization"] = self.initialization
        highest = max(peak.total_bytes for peak in phases.values())
        if setting.device == "cuda":
            reserved = max(reserved or 0, highest)
        needed = highest if reserved is None else reserved + CONTEXT_BYTES
        return Plan(subject.method, setting, subject.trainable, subject.total, phases, reserved, needed)

    def trace(self, batch: int, length: int) -> Trace:
        """The trace of a step; each is made once."""
        if (batch, length) not in self._traces:
            self._traces[batch, length] = self.subject.trace(batch, length)
        return self._traces[batch, length]

    @functools.cached_property
    def scaling(self) -> ScalingModel | None:
        """How a step's memory scales; None when every size needs a trace of its own."""
        longest = 0 if self.subject.shape.kind == "image-classification" else self.subject.longest
        return ScalingModel.measure(self.trace, self.trace(*self._place), self._place, longest)

    @functools.cached_property
    def initialization(self) -> Peak | None:
        """The peak of a data-dependent initialisation, which takes one row at a time at any batch size."""
        return self.subject.initialization(self.setting.max_length)

    @functools.cached_property
    def longest(self) -> int | None:
        """The longest text in tokens: fewer than the model's positions where virtual tokens take some; None where
        positions are relative."""

        def runs(tokens: int) -> bool:
            try:
                self.subject.evaluation(1, tokens)
            except RequestError:
                return False
            return True

        limit = self.subject.longest
        return limit if limit is None or runs(limit) else largest(runs, self.setting.max_length, limit - 1)

    def needed(self, trace: Trace) -> int:
        """Bytes that must be free on the device for a step with this trace."""
        peaks, reserved = self.subject.step(trace)
        highest = max(peak.total_bytes for peak in peaks.values())
        if self.initialization is not None:
            highest = max(highest, self.initialization.total_bytes)
        return highest if reserved is None else max(reserved, highest) + CONTEXT_BYTES

    def _estimated(self, batch: int, length: int) -> int:
        """``needed``, from the scaling model where there is one."""
        return self.needed((self.trace if self.scaling is None else self.scaling.trace)(batch, length))

    def weights_exceed(self, budget: int) -> bool:
        """Whether the weights alone, which do not depend on batch size and length, exceed the budget."""
        return self.subject.step(self.trace(*self._place))[0]["loaded"].total_bytes > budget

    def max_batch_size(self, budget: int) -> int | None:
        """The most rows of the setting's length that fit; 0 when not even one does, None without training."""
        if not self.subject.trains:
            return None
        if self.weights_exceed(budget):
            return 0
        batch_size, length = self._place
        return largest(lambda rows: self._estimated(rows, length) <= budget, batch_size, _MOST_ROWS)

    def max_length(self, budget: int) -> int | None:
        """The longest text that fits at the setting's batch size, up to the model's positions; 0 for none.

        None for images, whose size is fixed, and without training.
        """
        if self.subject.shape.kind == "image-classification" or not self.subject.trains:
            return None
        if self.weights_exceed(budget):
            return 0
        rows, limit = self.setting.batch_size, self.longest or _MOST_TOKENS
        estimate = largest(lambda length: self._estimated(rows, length) <= budget, self.setting.max_length, limit)
        return self._refined(estimate, limit, budget)

    def _refined(self, length: int, limit: int, budget: int) -> int:
        """The longest length near an estimate, by traces: kernels align rows, so the estimate may be off by a few
        tokens."""

        def fits(tokens: int) -> bool:
            return self.needed(self.trace(self.setting.batch_size, tokens)) <= budget

        if not length or fits(length):
            while length < limit and fits(length + 1):
                length += 1
            return length
        return largest(fits, max(1, length - 8), length - 1)


def as_json(plan: Plan, budget: int | None, extra: dict[str, Any]) -> dict[str, Any]:
    """A plan as ``--json`` prints it; sizes in bytes, null where a field does not apply."""
    peak, method = plan.peak, cast(Any, plan.method)
    return {
        "method": plan.method.name,
        "options": {field.name: getattr(method, field.name) for field in dataclasses.fields(method) if field.init},
        "trainable": plan.trainable,
        "total": plan.total,
        "trainable_percent": 100 * plan.trainable / plan.total,
        "peak_bytes": peak.total_bytes,
        "peak": peak.split,
        "phase": peak.phase,
        "phases": {name: {"peak_bytes": one.total_bytes, "split": one.split} for name, one in plan.phases.items()},
        "reserved_bytes": plan.reserved_bytes,
        "needed_bytes": plan.needed_bytes,
        "budget_bytes": budget,
        "fits": None if budget is None else plan.fits(budget),
        "max_batch_size": None,
        "max_length": None,
        "advice": [],
        "setting": dataclasses.asdict(plan.setting),
        **extra,
    }
