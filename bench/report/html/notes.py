"""The report's sentences: what the answer rests on, and what limits it. All return HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.analysis.configurations import BOTH, EXAMPLES, Configuration
from bench.report.html.chart_base import Scene
from bench.report.html.escape import text
from bench.store.labels import format_value, mixed, of_another_version, tuned
from bench.store.record import Record, failed_checks, had_concurrent_runs, scored

# Facts about a machine that differ between any two runs and say nothing about whether they compare.
_FLEETING = ("hostname", "pid", "time", "date", "free", "available", "load", "temperature", "busy", "uptime")

HOW_TO_READ = (
    (
        "score",
        "The task's main score on its official validation split, mean over the seeds; ± is half of its interval.",
    ),
    ("group", "Configurations that share a letter do not differ significantly (paired tests on the same examples)."),
    ("peak MB", "Most memory held by tensors at once while training, in megabytes (10⁶ bytes)."),
    ("peak excl. weights", "The same without the model's weights: the part that a method can change."),
    ("train samples/s", "Examples per second of optimizer steps alone, after warm-up, evaluation left out."),
    ("infer samples/s", "Examples per second when predicting in batches."),
    ("latency ms", "Milliseconds for one example on its own."),
    ("merged", "The same two with the tuned weights folded into the base weights; empty where a method cannot."),
    ("trained", "Parameters that training changes, the task's head included, and their share of all."),
    ("checkpoint", "Size of what has to be stored per task to use the result again."),
    (
        "over seeds",
        "A row shows the largest peak, the median speed and the mean of the rest; expand a row for single runs.",
    ),
    ("train time", "Time for all training steps, without loading and the final evaluation."),
    ("checks", "Did the method do what it claims? Treat a score with a failed check with caution."),
)


def rests_on(scene: Scene) -> list[str]:
    """What the answer rests on: seeds, intervals, pairs, tuning, the budget, checks and runs that did not finish."""
    records, names = scene.shown, scene.names
    done = [one for one in scene.configurations if one.score is not None]
    said = [_seeds(done), _covers(done), *_pairs(scene), _tuning(done)] if done else []
    said.append(_budget(records))
    checked = [result for record in records for result in record["checks"].values()]
    doubtful = [record for record in records if failed_checks(record)]
    if doubtful:
        which = join(brief({f"{names[record['run_id']]} ({', '.join(failed_checks(record))})" for record in doubtful}))
        said.append(f"<strong>Checks failed</strong> for {which}: treat those scores with caution.")
    elif checked:
        passed = sum(result == "pass" for result in checked)
        said.append(f"All {passed} checks passed ({len(checked) - passed} did not apply).")
    lost = [record for record in records if not scored(record)]
    if lost:
        which = join(brief({f"{names[record['run_id']]} ({record['status']})" for record in lost}))
        said.append(f"<strong>{len(lost)} of {len(records)} runs have no score</strong>: {which}.")
    shared = sorted({names[record["run_id"]] for record in records if had_concurrent_runs(record)})
    if shared:
        said.append(f"Speeds of {join(brief(shared))} were measured with concurrent runs: other runs were active.")
    said += [f"{text(note[:1].upper() + note[1:])}." for note in scene.group.notes]
    return [sentence for sentence in said if sentence]


def _seeds(done: Sequence[Configuration]) -> str:
    seeds = sorted({run["spec"]["seed"] for one in done for run in one.done})
    if len(seeds) == 1:
        return f"One seed ({seeds[0]}): how much scores vary from seed to seed was not measured."
    listed = ", ".join(map(str, seeds)) if len(seeds) <= 8 else f"{seeds[0]} to {seeds[-1]}"
    uneven = any(len(one.done) != len(seeds) for one in done)
    rest = ", but not every configuration has all of them" if uneven else ""
    return f"{len(seeds)} seeds ({listed}){rest}; the scores are means over them."


def _covers(done: Sequence[Configuration]) -> str:
    covered = dict.fromkeys(one.covers for one in done if one.covers)
    if not covered:
        return ""
    over = " or ".join(covered)
    if {BOTH, EXAMPLES} <= covered.keys():
        over = f"{BOTH} (of {EXAMPLES} alone where there is one seed)"
    return f"± is half of a 95 % interval over {text(over)}."


def _pairs(scene: Scene) -> list[str]:
    """How many pairs differ significantly, or why it is not known."""
    group = scene.group
    if len(group.configurations) < 2:
        return []
    compared = [pair for pair in group.pairs if pair.comparison is not None]
    reasons = list(dict.fromkeys(pair.reason for pair in group.pairs if pair.reason))
    if not compared:
        why = f" ({text(reasons[0])})" if reasons else ""
        return [f"Nothing could be compared example by example{why}: ties are judged by intervals alone."]
    many = "1 pair was" if len(compared) == 1 else f"{len(compared)} pairs were"
    said = [f"{many} compared on the same examples; {sum(p.different for p in compared)} differ."]
    if reasons:
        said.append(f"{len(group.pairs) - len(compared)} pairs could not be: {text(reasons[0])}.")
    return said


def _tuning(done: Sequence[Configuration]) -> str:
    if (said := tuned([one.first for one in done])) is not None:
        return text(said)
    rates: dict[str, set[float]] = {}
    for one in done:
        rates.setdefault(one.method, set()).add(one.first["spec"]["train"]["lr"])
    used = set().union(*rates.values())
    if len(rates) > 1 and len(used) == 1:
        return (
            f"No tuning: every method at the same learning rate {text(format_value(used.pop()))}, which favours some."
        )
    if any(len(tried) > 1 for tried in rates.values()):
        return "Some methods ran at several learning rates; the best of several is not an untuned score."
    listed = ", ".join(f"{text(name)} {text(format_value(tried.pop()))}" for name, tried in sorted(rates.items()))
    return f"No tuning: each method at its default learning rate, or the one it was given ({listed})."


def _budget(records: Sequence[Record]) -> str:
    shared = common([record["spec"]["train"] for record in records])
    steps, batch = shared.get("steps"), shared.get("batch_size")
    if steps is None or batch is None:
        return "Runs differ in steps or batch size: see each run's settings."
    extra = "".join(
        f", {text(format_value(shared[key]))}{after}" for key, after in _EXTRAS if shared.get(key) is not None
    )
    return f"{steps:,} steps of {batch} examples each{extra}."


_EXTRAS = (("max_length", " tokens at most"), ("precision", ""), ("device", ""))


def warnings(records: Sequence[Record]) -> list[str]:
    """Reasons why the rows of one task and model may not be comparable."""
    said = []
    specs = [record["spec"] for record in records]
    for what, prints in mixed(records).items():
        said.append(f"Rows mix {len(prints)} versions of the {what}: {join(brief(prints))}.")
    if (version := of_another_version(records)) is not None:
        said.append(text(version))
    for key in sorted({key for spec in specs for key in spec["train"]} - {"lr"}):
        values = {format_value(spec["train"].get(key)) for spec in specs}
        if len(values) > 1:
            said.append(f"Rows differ in {text(key.replace('_', ' '))}: {join(brief(values))}.")
    sources = {record["memory"]["source"] for record in records} - {None}
    if len(sources) > 1:
        said.append(f"Memory was measured in different ways: {join(brief(sources))}.")
    versions = {spec["code"]["bench"] for spec in specs} - {None}
    if len(versions) > 1:
        said.append(f"Rows come from different versions of the harness: {join(brief(versions))}.")
    for method in sorted({spec["method"]["name"] for spec in specs}):
        codes = {spec["code"]["method"] for spec in specs if spec["method"]["name"] == method} - {None}
        if len(codes) > 1:
            said.append(f"Rows of {text(method)} come from {len(codes)} versions of its code.")
    said += [
        f"Rows mix environments, {text(key)}: {join(brief(values))}."
        for key, values in environments(records).items()
        if len(values) > 1 and not any(word in key.lower() for word in _FLEETING)
    ]
    return said


def environments(records: Iterable[Record]) -> dict[str, list[str]]:
    """Every fact about the environments (``git.commit`` for nested ones) with its different values."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for key, value in _flat(record["environment"]):
            found.setdefault(key, {})[format_value(value)] = None
    return {key: list(values) for key, values in found.items()}


def _flat(value: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for key, member in value.items():
        if isinstance(member, dict):
            yield from _flat(member, f"{before}{key}.")
        else:
            yield before + key, member


def common(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings on which all agree."""
    first = settings[0] if settings else {}
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in settings)}


def brief(items: Iterable[str], most: int = 6, form: str = "{}") -> list[str]:
    """Escape and sort items, and count those beyond the first few."""
    ordered = sorted(items)
    rest = len(ordered) - most
    return [form.format(text(item)) for item in ordered[:most]] + ([f"{rest} more"] if rest > 0 else [])


def join(items: Iterable[str]) -> str:
    """``a, b and c``."""
    *first, last = list(items)
    return f"{', '.join(first)} and {last}" if first else last
