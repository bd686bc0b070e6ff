"""The output of ``bench run --dry-run``: the runs, which are finished, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.store.labels import format_value
from bench.store.record import Record
from bench.sweep import eta
from bench.sweep.progress import title
from bench.sweep.scheduler import Sweep
from bench.sweep.tuning_group import Group


def lines(sweep: Sweep, records: Sequence[Record]) -> Iterator[str]:
    """The lines, for a sweep that is not started.

    Args:
        records: what its store holds.
    """
    statuses = {record["run_id"]: record["status"] for record in records}
    settings = [spec.spec["train"] for spec in sweep.specs]
    swept = [
        name for name in (settings[0] if settings else {}) if len({format_value(one.get(name)) for one in settings}) > 1
    ]
    for spec in sweep.specs:
        chosen = ", ".join(f"{name}={value}" for name, value in spec.spec["method"].items() if name != "name")
        steps = spec.spec["train"]["steps"] or "no"
        yield f"{spec.run_id}  {statuses.get(spec.run_id, 'to do'):<11}  {title(spec.spec)}, {steps} steps"
        train = (
            f"{name}={format_value(spec.spec['train'].get(name))}" for name in swept if name not in ("steps", "lr")
        )
        yield f"{'':31}{', '.join(filter(None, (chosen, *train)))}"
    missing, groups = sweep.missing(), sweep.tuner.groups
    for group in groups:
        yield from _tuned(group)
    done = sum(spec.run_id in statuses for spec in sweep.wanted())
    total = len(sweep.specs) + sum(len(group.seeds) for group in groups)
    trials = sum(group.budget for group in groups)
    yield f"{total} run{'s' if total != 1 else ''}{f' after {trials} trials' if trials else ''}, {done} already there."
    yield eta.sentence([spec.spec for spec in sweep.ahead(missing)], records, sweep.execution.workers or 1)


def _tuned(group: Group) -> Iterator[str]:
    ranges = ", ".join(f"{name} in {space.words()}" for name, space in group.spaces.items())
    what = title(group.base.spec).rpartition(", seed")[0]
    state = f"{len(group.history)} of {group.budget}"
    yield f"{group.key}  {state:<11}  {what}), {group.base.spec['train']['steps']} steps"
    yield f"{'':31}{group.budget} trials of {ranges}; then the best with seeds {', '.join(map(str, group.seeds))}"
