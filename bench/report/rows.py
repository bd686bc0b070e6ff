"""The comparison table of the report, and what each of its rows rests on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench import units
from bench.record import (
    PHASES,
    Record,
    failed_checks,
    main_value,
    scored,
    shown,
    without_weights,
)
from bench.report.charts import INKS
from bench.report.command import own_part, reproduce, training
from bench.report.escape import text
from bench.report.words import common

_MANY_COMMANDS = 100
_LONGEST_ERROR = 4_000  # characters, from the end, where the reason stands; the record has all of it
_MANY_ROWS = 40  # a longer table scrolls in its own box, under its header


@dataclasses.dataclass(frozen=True)
class _Column:
    head: str
    unit: str
    value: Callable[[Record], float | None]
    show: Callable[[float | None], str]
    least_first: bool = True  # which way the first click sorts


def _of(*path: str) -> Callable[[Record], float | None]:
    def value(record: Record) -> float | None:
        found: Any = record
        for name in path:
            found = found[name]
        number: float | None = found
        return number

    return value


_COLUMNS = (
    _Column("peak", "MB", _of("memory", "train_peak_bytes"), units.megabytes),
    _Column("minus weights", "MB", without_weights, units.megabytes),
    _Column("train", "samples/s", _of("speed", "train_samples_per_second"), units.significant, False),
    _Column("infer", "samples/s", _of("speed", "inference_samples_per_second"), units.significant, False),
    _Column("latency", "ms", _of("speed", "inference_latency_ms"), units.significant),
    _Column("merged", "samples/s", _of("speed", "merged_inference_samples_per_second"), units.significant, False),
    _Column("merged", "ms", _of("speed", "merged_inference_latency_ms"), units.significant),
    _Column("trained", "params", _of("parameters", "trainable"), units.count),
    _Column("of all", "%", _of("parameters", "trainable_percent"), lambda value: units.percent(value).rstrip(" %")),
    _Column("checkpoint", "", _of("parameters", "checkpoint_bytes"), units.size),
    _Column("train time", "", _of("speed", "train_seconds"), units.duration),
)


def table(ordered: Sequence[Record], names: Mapping[str, str], slot: Mapping[str, int]) -> str:
    """One row per run, best first; each column sorts by a button in its header.

    Args:
        ordered: the records of one task and model, best first.
        names: label by run id.
        slot: number by method name, for its colour.
    """
    seeds = len({record["spec"]["seed"] for record in ordered}) > 1
    metric = next((record["main_score"] for record in ordered if record["main_score"]), None)
    lower = any(record["higher_is_better"] is False for record in ordered)
    unit = "%" if units.is_share(metric) else ""
    heads = [_head("method", "", "asc", "text")]
    heads += [_head("seed", "", "asc")] if seeds else []
    heads.append(_head(metric or "score", unit, "asc" if lower else "desc", now=True))
    heads += [_head(column.head, column.unit, "asc" if column.least_first else "desc") for column in _COLUMNS]
    heads.append(_head("checks", "", "desc"))
    body = "\n".join(_row(record, names[record["run_id"]], slot, seeds) for record in ordered)
    long = " long" if len(ordered) > _MANY_ROWS else ""
    caption = f"{len(ordered)} run{'s' if len(ordered) != 1 else ''}; ± for each run over the examples. "
    caption += "Click a heading to sort."
    return (
        f'<div class="wide{long}" tabindex="0" role="region" aria-label="Comparison table"><table class="runs">'
        f"<caption>{caption}</caption><thead><tr>{''.join(heads)}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def _head(name: str, unit: str, first: str, kind: str = "number", *, now: bool = False) -> str:
    sort = {"asc": "ascending", "desc": "descending"}[first] if now else "none"
    small = f" <small>{text(unit)}</small>" if unit else ""
    return (
        f'<th scope="col" aria-sort="{sort}"><button type="button" data-first="{first}" data-kind="{kind}">'
        f"{text(name)}{small}</button></th>"
    )


def _row(record: Record, label: str, slot: Mapping[str, int], seeds: bool) -> str:
    run, number = record["run_id"], slot[record["spec"]["method"]["name"]]
    cells = [
        f'<th scope="row"><button class="copy">copy</button><i class="m{number % INKS}"></i>'
        f'<a href="#r-{run}">{text(label)}</a></th>'
    ]
    if seeds:
        cells.append(_cell(record["spec"]["seed"], str(record["spec"]["seed"])))
    cells.append(_cell(main_value(record) if scored(record) else None, _score(record)))
    for column in _COLUMNS:
        value = column.value(record)
        cells.append(_cell(value, text(column.show(value))))
    failed = len(failed_checks(record))
    passed = sum(result == "pass" for result in record["checks"].values())
    said = f"<strong>{failed} failed</strong>" if failed else f"{passed} passed" if record["checks"] else units.DASH
    cells.append(_cell(failed if record["checks"] else None, said))
    state = "" if scored(record) else ' class="lost"'
    return f"<tr{state}>{''.join(cells)}</tr>"


def _cell(value: float | None, shown_as: str) -> str:
    return f"<td>{shown_as}</td>" if value is None else f'<td data-v="{value:.9g}">{shown_as}</td>'


def _score(record: Record) -> str:
    """The score and, in the same cell, whatever puts it in doubt or says why there is none."""
    if not scored(record):
        reason = units.first_line(record["error"]) or "no reason was recorded"
        status = record["status"] if record["status"] != "ok" else "no score"
        return f"<strong>{text(status)}</strong> <small>{text(_short(reason))}</small>"
    value = units.score(record["main_score"], main_value(record), half(record)).removesuffix(" %")
    doubts = ", ".join(failed_checks(record))
    note = f" <small><strong>doubtful:</strong> {text(_short(doubts))}</small>" if doubts else ""
    return f"<b>{text(value)}</b>{note}"


def half(record: Record) -> float | None:
    """Half the 95 % interval of one run's score over the examples."""
    return None if record["stderr"] is None else 1.96 * record["stderr"]


def _short(line: str, most: int = 90) -> str:
    return line if len(line) <= most else line[: most - 1] + "…"


def details(ordered: Sequence[Record], names: Mapping[str, str]) -> str:
    """What the runs share, then every run's own settings, checks, memory by phase and command, folded away.

    Beyond ``_MANY_COMMANDS`` runs the shared end of their commands stands here once, as ``data-tail``, and the
    page's script puts it where it belongs, and tracebacks are left to the records: the file must stay small.
    """
    train = common([record["spec"]["train"] for record in ordered])
    code = common([record["spec"]["code"] for record in ordered])
    checks = common([record["checks"] for record in ordered if scored(record)])
    tail = training(train) if len(ordered) > _MANY_COMMANDS else ""
    facts = [("Training", _options(train)), ("Checks", _checks(checks)), ("Code", _options(code))]
    shared = _Shared(train, checks, bool(tail))
    inner = "\n".join(_detail(record, names[record["run_id"]], shared) for record in ordered)
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


def _detail(record: Record, label: str, shared: _Shared) -> str:
    spec, run = record["spec"], record["run_id"]
    score = units.score(record["main_score"], main_value(record), half(record))
    result = score if scored(record) else record["status"]
    own = {name: value for name, value in spec["train"].items() if name not in shared.train}
    checks = {name: result for name, result in record["checks"].items() if name not in shared.checks}
    command = f"{own_part(spec)} {training(own)}".strip() if shared.tail else reproduce(spec)
    facts = [
        ("Command", f'<code id="c-{run}">{text(command)}</code>'),
        ("Scores", _options({name: f"{value:.6g}" for name, value in record["scores"].items() if value is not None})),
        ("Method", _options({name: value for name, value in spec["method"].items() if name != "name"})),
        ("Training", _options({name: value for name, value in own.items() if value != spec["method"].get(name)})),
        ("Checks", _checks(checks)),
        ("Peaks", _peaks(record)),
        ("Times", _times(record)),
        ("Run", f"{run}, {text(record['created_at'])}"),
    ]
    said = record["error"] if shared.tail else record["traceback"] or record["error"]
    error = f"<pre>{text(said[-_LONGEST_ERROR:])}</pre>" if said else ""
    return (
        f'<details id="r-{run}"><summary>{text(label)}, seed {spec["seed"]}: {text(result)}</summary>'
        f"{_listed(facts)}{error}</details>"
    )


def _listed(facts: Sequence[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{name}<dd>{value}' for name, value in facts if value)}</dl>"


def _options(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{text(name)} {text(shown(value) or 'none')}" for name, value in given.items())


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
    listed = ", ".join(f"{name} {units.megabytes(size)}" for name, size in sizes if size is not None)
    return f"{listed} MB ({text(memory['source'])})" if listed else ""


def _times(record: Record) -> str:
    speed = record["speed"]
    listed = [(part, speed[f"{part}_seconds"]) for part in ("setup", "train", "eval", "total")]
    said = [f"{part} {units.duration(seconds)}" for part, seconds in listed if seconds is not None]
    if speed["train_tokens_per_second"] is not None:
        said.append(f"{units.significant(speed['train_tokens_per_second'])} tokens/s in training")
    return ", ".join(said)
