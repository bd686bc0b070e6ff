"""``bench status``: progress of a sweep, from its plan, its records and its locks."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.errors import RequestError
from bench.store.record import Record, failed_checks
from bench.store.store import Store
from bench.sweep import eta, plan_snapshot
from bench.sweep.progress import title

Spec = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Status:
    """The state of a folder's latest plan.

    Attributes:
        done: finished runs by the status of their record.
        running: titles of the runs that a process has claimed.
        waiting: specifications of pending runs, trials included.
        trials: finished and planned trials.
        others: records in the folder that are not of the plan.
        warnings: files that are not records, or of another version.
        failed_check: runs with status ok that failed a check.
        interrupted: pending runs that were started before.
    """

    done: Counter[str]
    running: list[str]
    waiting: list[Spec]
    trials: tuple[int, int]
    others: int
    seconds_left: str
    warnings: list[str]
    failed_check: int = 0
    interrupted: int = 0

    def lines(self) -> list[str]:
        """What the command prints."""
        lost = {name: count for name, count in self.done.items() if name != "ok"}
        total = sum(self.done.values()) + len(self.running) + len(self.waiting)
        lines = [f"{sum(self.done.values())} of {total} runs finished: {self.done['ok']} ok"]
        lines[0] += f" ({self.failed_check} of them failed a check)" if self.failed_check else ""
        lines[0] += "".join(f", {count} {name}" for name, count in sorted(lost.items())) + "."
        if self.trials[1]:
            lines.append(f"Tuning: {self.trials[0]} of {self.trials[1]} trials are done.")
        lines += [f"Running: {what}" for what in self.running] or ["Nothing is running."]
        interrupted = f"{len(self.waiting)} to do, {self.interrupted} of them interrupted. "
        lines.append(f"{interrupted if self.interrupted else f'{len(self.waiting)} pending. '}{self.seconds_left}")
        if self.others:
            lines.append(f"{self.others} other records are in this folder.")
        return lines


def look(folder: Path) -> Status:
    """Read how far a folder's sweep is.

    Raises:
        RequestError: when no sweep was started there.
    """
    plan = plan_snapshot.latest(folder)
    if plan is None:
        raise RequestError(
            f"{folder} holds no plan: bench run writes one to {folder / 'plans'} when it starts.", code="no-records"
        )
    store, trials = Store(folder), Store(folder / "tuning")
    read, warnings = store.records()
    records = {record["run_id"]: record for record in read}
    wanted: dict[str, Spec] = {run["run_id"]: run["spec"] for run in plan["runs"]}
    groups: dict[str, Any] = {group["group"]: group for group in plan["tuned"]}
    mine = {run_id: record for run_id, record in records.items() if run_id in wanted or _group(record) in groups}
    held = set(store.at_work())
    over = {run_id for run_id, record in mine.items() if record["status"] != "interrupted"} - held
    tries, more = trials.records()
    tried = Counter(_group(record) for record in tries)
    trying = len(list(trials.at_work()))

    waiting = [spec for run_id, spec in wanted.items() if run_id not in over | held]
    for key, group in groups.items():
        seeds = {record["spec"]["seed"] for run_id, record in mine.items() if run_id in over and _group(record) == key}
        waiting += [{**group["spec"], "seed": seed} for seed in group["seeds"] if seed not in seeds]
        waiting += [group["spec"]] * max(0, group["trials"] - tried[key])
    at_work = [title(dict(wanted[run_id])) for run_id in sorted(held) if run_id in wanted]
    winners = len(held - set(wanted)) if groups else 0
    for count, what in ((winners, "a winner of the tuning"), (trying, "a trial")):
        at_work += [what] * count
        waiting = waiting[: max(0, len(waiting) - count)]
    planned = sum(group["trials"] for group in groups.values())
    return Status(
        done=Counter(mine[run_id]["status"] for run_id in over),
        running=at_work,
        waiting=waiting,
        trials=(sum(min(tried[key], group["trials"]) for key, group in groups.items()), planned),
        others=len(records) - len(mine),
        seconds_left=_left([*(wanted[run_id] for run_id in held if run_id in wanted), *waiting], records),
        warnings=[*warnings, *more],
        failed_check=sum(mine[run_id]["status"] == "ok" and bool(failed_checks(mine[run_id])) for run_id in over),
        interrupted=len(mine.keys() - over - held),
    )


def _left(ahead: list[Spec], records: Mapping[str, Record]) -> str:
    said = eta.sentence(ahead, list(records.values()), 1)
    return said.replace("To do:", "To do, with what is running:")


def _group(record: Record) -> str | None:
    group: str | None = (record["spec"].get("tuning") or {}).get("group")
    return group
