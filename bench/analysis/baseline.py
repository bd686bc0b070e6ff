"""Make a baseline of a folder's records: means, spreads and tolerances, small enough to read and to keep in git."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from bench.analysis import measures
from bench.analysis.configurations import Configuration
from bench.analysis.matching import match, model_name
from bench.analysis.seed_spread import Spread, limit, spreads
from bench.core.errors import RequestError, faults
from bench.store.record import Record
from bench.store.validation import problems

VERSION = 1
ALARM_RATE = 0.005  # chance that a check of unchanged code fails on any score or speed at all

# A step may always be this many times slower, however quiet the machine was while the baseline was made: on the same
# machine and stack, and elsewhere. Another processor's vector units, caches and clock do not serve the reference work
# and every model alike.
SLOWER, SLOWER_ELSEWHERE = 1.25, 1.6
LEAST_SEEDS = 2
# The facts that must be equal for the stricter of the two, and for memory to be exact.
MACHINE = ("device", "device_name", "threads", "torch", "transformers")
FACTS = (*MACHINE, "cores", "system", "python", "tokenizers", "numpy", "tunebench", "git_commit", "git_dirty")

Baseline = dict[str, Any]
_Values = dict[str, list[float]]


def make(records: Sequence[Record], alarm_rate: float = ALARM_RATE) -> Baseline:
    """The baseline of some records.

    Raises:
        RequestError: when there is nothing to hold on to: no records, runs that failed, or too few seeds.
    """
    configurations = match(records, []).only_first
    _refuse(configurations)
    kept = [run for one in configurations for run in one.runs]  # a folder may also hold runs of older code
    entries = [_entry(configuration) for configuration in configurations]
    comparisons = sum(len(entry["scores"]) + (entry["speed"] is not None) for entry in entries)
    _tolerate(configurations, entries, alarm_rate / max(1, comparisons))
    return {
        "tunebench_baseline": VERSION,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "alarm_rate": alarm_rate,
        "comparisons": comparisons,
        "environment": environment(kept),
        "runs": entries,
    }


def environment(records: Sequence[Record]) -> dict[str, Any]:
    """The facts about stack and machine on which the records agree; a list of values where they do not."""
    found = {}
    for name in FACTS:
        values = list({json.dumps(r["environment"].get(name)): r["environment"].get(name) for r in records}.values())
        found[name] = values[0] if len(values) == 1 else values
    return found


def _refuse(configurations: Sequence[Configuration]) -> None:
    if not configurations:
        raise RequestError(
            "There are no runs in this folder: a baseline is made of the records of bench run.", code="no-records"
        )
    wrong = []
    for configuration in configurations:
        name = f"{configuration.label} ({configuration.where})"
        bad = [f"seed {seed}: {run['status']}" for seed, run in configuration.by_seed.items() if run["status"] != "ok"]
        if bad:
            wrong.append(f"{name} did not finish ({', '.join(bad)}): a baseline of it would hold nothing. "
                         "Do it again with bench run --retry-failed, or leave it out.")  # fmt: skip
        elif len(configuration.runs) < LEAST_SEEDS:
            wrong.append(f"{name} has one seed: tolerances come from the spread over seeds. "
                         "Use bench run --seeds 0,1,2 (more seeds, tighter tolerances).")  # fmt: skip
    if wrong:
        raise RequestError(faults(wrong, "no-records"))


def _entry(configuration: Configuration) -> dict[str, Any]:
    """All of a configuration but its tolerances."""
    runs = configuration.runs
    spec = runs[0]["spec"]
    counts = measures.counts(runs[0])
    differing = [name for name in counts if any(measures.counts(run).get(name) != counts[name] for run in runs)]
    if differing:
        raise RequestError(
            f"{configuration.label} ({configuration.where}): its seeds differ in {', '.join(differing)} parameters.",
            code="incomparable",
        )
    sizes = [measures.sizes(run) for run in runs]
    ratios = [measures.log_ratio(run) for run in runs]
    checks = set.intersection(*(measures.passed_checks(run) for run in runs))
    return {
        "label": configuration.label,
        "method": spec["method"],
        "task": {
            **{name: spec["task"].get(name) for name in ("name", "fingerprint")},
            "options": spec["task"].get("options") or {},
        },
        "model": {
            **{name: spec["model"].get(name) for name in ("source", "fingerprint", "quantize")},
            "name": model_name({"model": {**spec["model"], "quantize": None}}),
        },
        "train": spec["train"],
        "seeds": list(configuration.by_seed),
        "memory_source": runs[0]["memory"]["source"],
        "counts": counts,
        "bytes": {name: [size[name] for size in sizes] for name in sizes[0] if all(name in size for size in sizes)},
        "scores": {name: _score(name, values, runs) for name, values in _scores(runs).items()},
        "speed": None if any(ratio is None for ratio in ratios) else {"ratios": ratios},
        "checks": sorted(checks),
    }


def _scores(runs: Sequence[Record]) -> _Values:
    found = [measures.scores(run) for run in runs]
    return {name: [scores[name] for scores in found] for name in found[0] if all(name in scores for scores in found)}


def _score(name: str, values: list[float], runs: Sequence[Record]) -> dict[str, Any]:
    errors = [run["stderr"] for run in runs if name == run["main_score"] and run["stderr"] is not None]
    return {
        "mean": fmean(values),
        "values": values,
        "stderr": fmean(errors) if errors else None,
        "higher_is_better": measures.higher_is_better(name, runs[0]),
    }


def _tolerate(configurations: Sequence[Configuration], entries: Sequence[dict[str, Any]], share: float) -> None:
    """Replace the raw values by spreads and tolerances; spreads of one task, model and measure are common."""
    for name in sorted({name for entry in entries for name in entry["scores"]}):
        for members in _by_place(entries, lambda entry, name=name: name in entry["scores"]):  # type: ignore[misc]
            values = [entries[index]["scores"][name].pop("values") for index in members]
            floors = [measures.resolution(name, configurations[index].runs[0]) for index in members]
            for index, spread in zip(members, _spreads(values, floors), strict=True):
                score, seeds = entries[index]["scores"][name], len(entries[index]["seeds"])
                score |= _plain(spread) | {"tolerance": limit(spread, share, seeds, seeds)}
    for members in _by_place(entries, lambda entry: entry["speed"] is not None):
        values = [entries[index]["speed"]["ratios"] for index in members]
        for index, ratios, spread in zip(members, values, _spreads(values, [0.01] * len(values)), strict=True):
            seeds = len(entries[index]["seeds"])
            slower = math.exp(limit(spread, share, seeds, seeds))
            entries[index]["speed"] = {
                "step_ratio": math.exp(fmean(ratios)),
                **_plain(spread),
                "tolerance": max(SLOWER, slower),
                "tolerance_elsewhere": max(SLOWER_ELSEWHERE, slower),
            }


def _by_place(entries: Sequence[dict[str, Any]], wanted: Callable[[dict[str, Any]], bool]) -> list[list[int]]:
    """Positions of the wanted entries, those of one task and model together."""
    found: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        if wanted(entry):
            place = entry["task"]["name"], entry["task"]["options"], entry["model"]["name"], entry["model"]["quantize"]
            found.setdefault(json.dumps(place, sort_keys=True), []).append(index)
    return list(found.values())


def _spreads(values: Sequence[list[float]], floors: Sequence[float]) -> list[Spread]:
    variances = [max(variance(seeds), floor**2) for seeds, floor in zip(values, floors, strict=True)]
    return spreads(variances, [len(seeds) - 1 for seeds in values])


def _plain(spread: Spread) -> dict[str, float]:
    return {"spread": spread.deviation, "freedom": spread.freedom}


def dumps(baseline: Baseline) -> str:
    """The file's text: one line for each thing a person compares, measured numbers to six digits."""
    lines = ["{"]
    head = {name: value for name, value in baseline.items() if name != "runs"}
    lines += [f" {json.dumps(name)}: {_text(value)}," for name, value in head.items()]
    lines.append(' "runs": [')
    lines.append(",\n".join(_run_text(run) for run in baseline["runs"]))
    return "\n".join([*lines, " ]", "}"]) + "\n"


def _run_text(run: Mapping[str, Any]) -> str:
    members = []
    for name, value in run.items():
        if name in ("scores", "bytes") and value:
            inner = ",\n".join(f"    {json.dumps(key)}: {_text(_rounded(member))}" for key, member in value.items())
            members.append(f"   {json.dumps(name)}: {{\n{inner}\n   }}")
        else:  # options and settings tell runs apart: never rounded
            members.append(f"   {json.dumps(name)}: {_text(_rounded(value) if name == 'speed' else value)}")
    return "  {\n" + ",\n".join(members) + "\n  }"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {name: _rounded(member) for name, member in value.items()}
    return value


def read(path: Path) -> Baseline:
    """Read a baseline file.

    Raises:
        RequestError: when it cannot be read or is not a baseline; says what it is instead, or what is wrong with it.
    """
    how = f"Make one with: bench baseline DIR --out {path}"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = sorted(other.name for other in path.parent.glob("*.json")) if path.parent.is_dir() else []
        there = f" In {path.parent} there are: {', '.join(near[:8])}." if near else ""
        raise RequestError(f"--baseline: there is no file {path}.{there} {how}", code="not-found") from None
    except OSError as error:
        raise RequestError(f"--baseline: {path} cannot be read: {error.strerror}.", code="not-found") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"--baseline: {path} is not JSON ({error}). {how}", code="damaged") from error
    if not isinstance(found, dict) or "tunebench_baseline" not in found:
        what = "the record of one run" if isinstance(found, dict) and "run_id" in found else "JSON of another kind"
        raise RequestError(
            f"--baseline: {path} is {what}, not a baseline. Make one with: bench baseline DIR --out FILE",
            code="damaged",
        )
    if found["tunebench_baseline"] != VERSION:
        raise RequestError(
            f"--baseline: {path} has format {found['tunebench_baseline']!r}; this version of bench reads {VERSION}. "
            f"{how}",
            code="damaged",
        )
    wrong = problems(found, schema, "baseline") or _unlike(found)
    if wrong:
        raise RequestError(faults([f"--baseline: {path}: {problem}." for problem in wrong[:8]], "damaged"))
    return found


def _unlike(baseline: Baseline) -> list[str]:
    """What a schema cannot say."""
    if not baseline["runs"]:
        return ["it holds no runs, so that nothing would be checked"]
    zero = [
        f"baseline.runs[{index}].speed.step_ratio is not above 0"
        for index, run in enumerate(baseline["runs"])
        if run["speed"] is not None and run["speed"]["step_ratio"] <= 0
    ]
    return (
        zero
        + [
            f"baseline.runs[{index}].bytes.{name} has {len(sizes)} values for {len(run['seeds'])} seeds"
            for index, run in enumerate(baseline["runs"])
            for name, sizes in run["bytes"].items()
            if len(sizes) != len(run["seeds"])
        ]
        + [f"baseline.runs[{index}].seeds is empty" for index, run in enumerate(baseline["runs"]) if not run["seeds"]]
    )


@functools.cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a baseline, as a dictionary."""
    loaded: dict[str, Any] = json.loads(files("bench.analysis").joinpath("baseline.schema.json").read_text("utf-8"))
    return loaded
