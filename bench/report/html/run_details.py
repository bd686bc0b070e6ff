"""What each row of the table rests on, folded away: options, checks, memory by phase, times, and the command."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bench.analysis.configurations import Configuration, status_of
from bench.core import formatting
from bench.report.html.chart_base import Scene
from bench.report.html.chart_learning_rate import trials
from bench.report.html.escape import text
from bench.report.html.notes import common
from bench.report.html.reproduce_command import own_part, reproduce, training
from bench.store.labels import format_value
from bench.store.record import PHASES, Record, main_value, scored

_MANY_COMMANDS = 100
_LONGEST_ERROR = 4_000  # characters, from the end, where the reason is; the record has all of it


def details(scene: Scene) -> str:
    """What the runs share, then every configuration's own settings and command with its runs.

    Beyond ``_MANY_COMMANDS`` runs the shared end of their commands is here once, as ``data-tail``, and the
    page's script puts it where it belongs, and tracebacks are left to the records: the file must stay small.
    """
    ordered = scene.ordered
    train = common([record["spec"]["train"] for record in ordered])
    code = common([record["spec"]["code"] for record in ordered])
    checks = common([record["checks"] for record in ordered if scored(record)])
    tail = training(train) if len(ordered) > _MANY_COMMANDS else ""
    facts = [("Training", _options(train)), ("Checks", _checks(checks)), ("Code", _options(code))]
    shared = _Shared(train, checks, bool(tail))
    inner = "\n".join(_configuration(one, shared) for one in scene.configurations)
    return (
        f'<details class="all" data-tail="{text(tail)}"><summary>Every run in detail ({len(ordered)})</summary>\n'
        f"<p>Shared by all of them:</p>{_listed(facts)}{inner}\n</details>"
    )


@dataclasses.dataclass(frozen=True)
class _Shared:
    """What is said once for all runs of a section."""

    train: Mapping[str, Any]
    checks: Mapping[str, str]
    tail: bool  # whether the end of the commands is


def _configuration(one: Configuration, shared: _Shared) -> str:
    """A configuration: what its runs have in common, then each run. One run needs no heading of its own."""
    spec = one.runs[0]["spec"]
    own = {name: value for name, value in spec["train"].items() if name not in shared.train}
    seeds = sorted({run["spec"]["seed"] for run in one.runs})
    command = (
        f"{own_part(spec, seeds)} {training(own)}".strip() if shared.tail else reproduce(spec, seeds)
    )  # fmt: skip
    first = one.runs[0]["run_id"]
    facts = [
        ("Command", f'<code id="c-{first}" tabindex="0">{text(command)}</code>'),
        ("Method", _options({name: value for name, value in spec["method"].items() if name != "name"})),
        ("Training", _options({name: value for name, value in own.items() if value != spec["method"].get(name)})),
        ("Tuning", _tuning(one)),
    ]
    result = text(one.status)
    if one.score is not None:
        result = text(formatting.score(one.first["main_score"], one.score, one.margin))
    if len(one.runs) == 1:
        who, inner = f"seed {spec['seed']}", _listed([*facts, *_run(one.runs[0], shared)])
        inner += _error(one.runs[0], shared)
    else:
        who = f"{len(one.runs)} runs"
        inner = _listed(facts) + "".join(_one(run, shared, run["run_id"] == first) for run in one.runs)
    return f'<details id="r-{first}"><summary>{text(one.label)}, {who}: {result}</summary>{inner}</details>'


def _one(run: Record, shared: _Shared, first: bool) -> str:
    said = formatting.score(run["main_score"], main_value(run)) if scored(run) else status_of(run)
    if scored(run) and run["stderr"]:  # ± means an interval on this page
        said += f", standard error {formatting.gap(run['main_score'], run['stderr'])}"
    anchor = "" if first else f' id="r-{run["run_id"]}"'  # the first run's is on its configuration
    return f"<h4{anchor}>seed {run['spec']['seed']}: {text(said)}</h4>{_listed(_run(run, shared))}{_error(run, shared)}"


def _run(run: Record, shared: _Shared) -> list[tuple[str, str]]:
    checks = {name: result for name, result in run["checks"].items() if name not in shared.checks}
    return [
        ("Scores", _options({name: f"{value:.6g}" for name, value in run["scores"].items() if value is not None})),
        ("Checks", _checks(checks)),
        ("Peaks", _peaks(run)),
        ("Times", _times(run)),
        ("Frozen backbone", _frozen_backbone(run)),
        ("Run", f"{run['run_id']}, {text(run['created_at'])}"),
    ]


def _error(run: Record, shared: _Shared) -> str:
    said = run["error"] if shared.tail else run["traceback"] or run["error"]
    return f'<pre tabindex="0">{text(said[-_LONGEST_ERROR:])}</pre>' if said else ""


def _tuning(one: Configuration) -> str:
    """Every trial of the tuning, best of how many."""
    tried = trials(one.runs[0])
    if not tried:
        return ""
    listed = "; ".join(_options({str(name): value for name, value in trial.items()}) for trial in tried[:20])
    return f"best of {len(tried)}: {listed}"


def _listed(facts: Sequence[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{name}<dd>{value}' for name, value in facts if value)}</dl>"


def _options(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{text(name)} {text(format_value(value) or 'none')}" for name, value in given.items())


def _checks(checks: Mapping[str, str]) -> str:
    by_result: dict[str, list[str]] = {}
    for name, result in checks.items():
        kind, _, why = result.partition(": ")
        by_result.setdefault(kind, []).append(f"{name} ({why})" if why else name)
    said = (("fail", "<strong>failed</strong>"), ("pass", "passed"), ("skip", "skipped"))
    return "; ".join(f"{word}: {text(', '.join(by_result[kind]))}" for kind, word in said if kind in by_result)


def _peaks(record: Record) -> str:
    memory = record["memory"]
    sizes = [
        (name, phase["peak_bytes"]) for name in PHASES if (phase := memory["phases"].get(name)) and phase["peak_bytes"]
    ]
    sizes += [("reserved", memory["reserved_peak_bytes"]), ("inference", memory["inference_peak_bytes"])]
    listed = ", ".join(f"{name} {formatting.megabytes(size)}" for name, size in sizes if size is not None)
    return f"{listed} MB ({text(memory['source'])})" if listed else ""


def _times(record: Record) -> str:
    speed = record["speed"]
    listed = [(part, speed[f"{part}_seconds"]) for part in ("setup", "train", "eval", "total")]
    said = [f"{part} {formatting.duration(seconds)}" for part, seconds in listed if seconds is not None]
    if speed["train_tokens_per_second"] is not None:
        said.append(f"{formatting.significant(speed['train_tokens_per_second'])} tokens/s in training")
    return ", ".join(said)


def _frozen_backbone(record: Record) -> str:
    """Whether the frozen backbone's passes were shared with other runs, or its features kept."""
    shared, kept = record.get("shared"), record.get("trunk_cache")
    if shared:
        others = shared["runs"] - 1
        runs = "another run" if others == 1 else f"{others} other runs"
        return f"one frozen pass a batch, shared with {runs}; memory and speed are its own, measured alone"
    if not kept:
        return ""
    filled = (
        "all of it by an earlier run" if kept["reused"] else f"filled in {formatting.duration(kept['fill_seconds'])}"
    )
    return f"features of {kept['examples']:,} examples kept ({formatting.size(kept['bytes'])}; {filled})"
