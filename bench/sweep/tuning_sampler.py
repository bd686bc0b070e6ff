"""The values of a trial (an even spread first, then Optuna's sampler) and when to prune it (Optuna's pruners)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.core.errors import RequestError
from bench.store.record import Record, pruned

if TYPE_CHECKING:
    import optuna

    from bench.sweep.tuning_group import Group


def sample(group: Group, number: int) -> dict[str, Any]:
    """The values of trial ``number``: the grid's; else the defaults, two or more spread evenly, then Optuna's."""
    if all(space.values for space in group.spaces.values()):
        found = {}
        for name, space in group.spaces.items():
            number, index = divmod(number, len(space.values))
            found[name] = space.values[index]
        return found
    default = {name: group.base.spec["method"][name] for name in group.spaces}
    if number == 0 and all(space.holds(default[name]) for name, space in group.spaces.items()):
        return default
    if number < max(3, group.budget // 3):
        bases = itertools.cycle((2, 3, 5, 7, 11))
        return {
            name: space.at(_halton(number + 1, base))
            for (name, space), base in zip(group.spaces.items(), bases, strict=False)
        }
    study = _replay(group, group.history[:number])
    study.sampler = _sampler(number)
    return dict(study.ask(_distributions(group)).params)


def _halton(index: int, base: int) -> float:
    """The radical inverse of an index: numbers in (0, 1) that fill it evenly, ½ ¼ ¾ ⅛ … in base 2."""
    found, share = 0.0, 1.0
    while index:
        share /= base
        index, digit = divmod(index, base)
        found += digit * share
    return found


def _sampler(number: int) -> optuna.samplers.BaseSampler:
    """Tree-structured Parzen estimators (Bergstra et al. 2011); the seed is the trial's number for every method."""
    sampler: optuna.samplers.BaseSampler = load().samplers.TPESampler(seed=number, n_startup_trials=1)
    return sampler


def behind(group: Group, number: int, values: Mapping[str, Any], points: Sequence[tuple[int, float]]) -> bool:
    """Whether trial ``number`` with these values and (step, dev score) so far should be stopped."""
    if group.prune == "none":
        return False
    return bool(_report(_replay(group, group.history[:number]), group, values, points)[1])


def _replay(group: Group, history: Sequence[Record]) -> optuna.Study:
    """An in-memory study with these trials."""
    found = load()
    steps = group.base.spec["train"]["steps"]
    pruner = {
        "median": lambda: found.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=steps // 3),
        "halving": lambda: found.pruners.SuccessiveHalvingPruner(min_resource=max(1, steps // 4), reduction_factor=2),
        "none": found.pruners.NopPruner,
    }[group.prune]()
    direction = "maximize" if group.higher_is_better else "minimize"
    study: optuna.Study = found.create_study(
        direction=direction, pruner=pruner, sampler=found.samplers.RandomSampler(seed=0)
    )
    for trial, record in zip(group.trials, history, strict=False):
        points = [(p["step"], p["dev_score"]) for p in record["curve"] if p["dev_score"] is not None]
        made, _ = _report(study, group, group.values(trial), points)
        score = group.dev(record)
        if pruned(record):
            study.tell(made, state=found.trial.TrialState.PRUNED)
        elif record["status"] == "ok" and score is not None:
            study.tell(made, score)
        else:
            study.tell(made, state=found.trial.TrialState.FAIL)
    return study


def _report(
    study: optuna.Study, group: Group, values: Mapping[str, Any], points: Sequence[tuple[int, float]]
) -> tuple[optuna.Trial, bool]:
    """Add a trial with its evaluations to a study; also whether the pruner would stop it after the last."""
    study.enqueue_trial(dict(values))
    trial = study.ask(_distributions(group))
    stop = False
    for step, score in points:
        trial.report(score, step)
        stop = trial.should_prune()
    return trial, stop


def _distributions(group: Group) -> dict[str, Any]:
    found = load().distributions
    made: dict[str, Any] = {}
    for name, space in group.spaces.items():
        if space.values:
            made[name] = found.CategoricalDistribution(space.values)
        elif space.whole:
            made[name] = found.IntDistribution(int(space.low), int(space.high), log=space.log)
        else:
            made[name] = found.FloatDistribution(space.low, space.high, log=space.log)
    return made


def load() -> Any:
    """Optuna, quiet; RequestError when it is not installed."""
    try:
        import optuna
    except ImportError:
        raise RequestError("--tune needs Optuna: pip install 'tunebench[tune]'", code="package-missing") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
