"""Progress of a sweep: one bar per run on a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from bench.core import formatting
from bench.store.record import Record, main_value

STOPPING = "Stopping: active runs finish their step. Press Ctrl-C again to stop at once."


class Silent:
    """Shows nothing."""

    def started(self, run_id: str, spec: dict[str, Any]) -> None: ...

    def event(self, run_id: str, message: dict[str, Any]) -> None: ...

    def finished(self, record: Record) -> None: ...

    def stopping(self) -> None: ...

    def close(self) -> None: ...


class Lines:
    """A line when a run starts, at each dev score, and when it ends."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total, self.count = console, total, 0
        self.names: dict[str, str] = {}

    def started(self, run_id: str, spec: dict[str, Any]) -> None:
        self.count += 1
        self.names[run_id] = f"[{self.count}/{self.total}] {title(spec)}"
        steps, rate = spec["train"]["steps"], spec["train"]["lr"]
        plan = "evaluation only" if steps is None else f"{steps} steps, learning rate {rate:g}"
        self._say(f"{self.names[run_id]}: {plan}")

    def event(self, run_id: str, message: dict[str, Any]) -> None:
        if message["event"] == "step" and message.get("dev_score") is not None:
            self._say(f"{self.names[run_id]}: {_step(message)}, {_left(message)} left")
        elif message["event"] == "phase" and message.get("news"):
            self._say(f"{self.names[run_id]}: {message['name']}")

    def finished(self, record: Record) -> None:
        self._say(f"{self.names[record['run_id']]}: {outcome(record)}")

    def stopping(self) -> None:
        self._say(STOPPING)

    def close(self) -> None:
        """Nothing to close."""

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class Bars:
    """A bar per active run, with step, loss, dev score and time left; a line for each finished one."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total, self.count = console, total, 0
        self.progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}", markup=False), console=console,
        )  # fmt: skip
        self.rows: dict[str, TaskID] = {}
        self.dev: dict[str, str] = {}
        self.loss: dict[str, float] = {}
        self.progress.start()

    def started(self, run_id: str, spec: dict[str, Any]) -> None:
        self.count += 1
        text = f"[{self.count}/{self.total}] {title(spec)}"
        self.rows[run_id] = self.progress.add_task(text, total=spec["train"]["steps"], state="starting")

    def event(self, run_id: str, message: dict[str, Any]) -> None:
        row = self.rows[run_id]
        if message["event"] == "phase":
            self.progress.update(row, state=message["name"])
            return
        if message["event"] != "step":
            return
        self.loss[run_id] = message.get("loss") or self.loss.get(run_id, float("nan"))
        if message.get("dev_score") is not None:
            self.dev[run_id] = f", dev {message['dev_score']:.4f}"
        state = f"step {message['step']}/{message['steps']}, loss {self.loss[run_id]:.4f}"
        state += f"{self.dev.get(run_id, '')}, {_left(message)} left"
        self.progress.update(row, completed=message["step"], state=state)

    def finished(self, record: Record) -> None:
        row = self.rows.pop(record["run_id"])
        description = next(task.description for task in self.progress.tasks if task.id == row)
        self.progress.remove_task(row)
        self.console.print(f"{description}: {outcome(record)}", markup=False, highlight=False)

    def stopping(self) -> None:
        self.console.print(STOPPING, markup=False, highlight=False)

    def close(self) -> None:
        """Take the bars off the screen."""
        self.progress.stop()


def title(spec: dict[str, Any]) -> str:
    """Method, task, model and seed of a run; for a trial its number instead of the seed."""
    trial = (spec.get("tuning") or {}).get("trial")
    which = f"seed {spec['seed']}" if trial is None else f"trial {trial + 1} of {spec['tuning']['trials']}"
    return formatting.clean(f"{spec['method']['name']} on {spec['task']['name']} ({spec['model']['name']}, {which})")


def outcome(record: Record) -> str:
    """How a run ended, in one line."""
    if record["status"] != "ok":
        return formatting.clean(f"{record['status']}: {record['error']}")
    value = main_value(record)
    if value is None and any(point["dev_score"] is not None for point in record["curve"]) and not record["scores"]:
        last = [point["dev_score"] for point in record["curve"] if point["dev_score"] is not None][-1]
        name = (record.get("dev_score") or {}).get("name", record["main_score"])
        return f"dev {name} {last:.4f} at the end{_took(record)}"
    score = f"{record['main_score']} {value:.4f}" if value is not None else f"{record['main_score']} undefined"
    return f"{score}{_took(record)}{_cut(record)}"


def _took(record: Record) -> str:
    """How long a run took, where it is known."""
    seconds = record["speed"]["total_seconds"]
    if seconds is None and record.get("shared"):
        others = record["shared"]["runs"] - 1
        return f", trained together with {others} other{'s' if others > 1 else ''}"
    return "" if seconds is None else f", {seconds:.1f} s"


def _cut(record: Record) -> str:
    """How many texts were truncated; empty when none was."""
    found = record.get("data", {})
    parts = [
        f"{found[f'{name}_cut']:,} of {found[f'{name}_rows']:,} {what}"
        for name, what in (("train", "training texts"), ("validation", "scored texts"))
        if found.get(f"{name}_cut")
    ]
    return f"; {' and '.join(parts)} were cut to {found['max_length']} tokens" if parts else ""


def _step(message: dict[str, Any]) -> str:
    return f"step {message['step']}/{message['steps']}, loss {message['loss']:.4f}, dev {message['dev_score']:.4f}"


def _left(message: dict[str, Any]) -> str:
    seconds = message["seconds"] / message["step"] * (message["steps"] - message["step"])
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


class Watcher(Protocol):
    """Shows the progress of a sweep."""

    def started(self, run_id: str, spec: dict[str, Any]) -> None: ...

    def event(self, run_id: str, message: dict[str, Any]) -> None: ...

    def finished(self, record: Record) -> None: ...

    def stopping(self) -> None: ...
