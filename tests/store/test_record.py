"""The record: its schema, its skeleton, the check at reading time, and the names of runs."""

import copy
import json
import math
import random
import subprocess
import sys

import jsonschema
import pytest

from bench.store import record as records
from bench.store.labels import labels, ranked
from bench.store.record import blank, main_value
from bench.store.validation import problems
from tests import factories

VALIDATOR = jsonschema.Draft202012Validator(records.schema())


def test_schema_is_itself_valid():
    jsonschema.Draft202012Validator.check_schema(records.schema())


@pytest.mark.parametrize("method", ["full", "lora", "lst", "head"])
def test_measured_records_fit_the_schema(method):
    VALIDATOR.validate(factories.record(method))


@pytest.mark.parametrize("status", ["oom", "diverged", "failed", "interrupted"])
def test_lost_records_fit_the_schema(status):
    VALIDATOR.validate(factories.failed(status))


def test_blank_has_every_key_and_measures_nothing():
    spec = factories.spec()
    made = blank(spec, "0123456789abcdef")
    VALIDATOR.validate(made)
    assert problems(made) == []
    assert set(made) == {*records.schema()["required"], "compute", "shared", "trunk_cache"}, (
        "which records of earlier versions lack"
    )
    assert set(made["speed"].values()) == set(made["parameters"].values()) == {None}
    assert made["status"] == "interrupted" and main_value(made) is None
    made["spec"]["method"]["rank"] = 99
    assert spec["method"]["rank"] == 8, "the skeleton must not share the caller's specification"


def _places(value, path=()):
    """Every path inside a record."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in items:
        yield (*path, key)
        yield from _places(member, (*path, key))


def test_reading_check_agrees_with_jsonschema_on_spoiled_records():
    whole = factories.record("lst")
    whole["speed"]["step_seconds"] = whole["speed"]["step_seconds"][:3]
    whole["curve"] = whole["curve"][:2]
    rng, verdicts = random.Random(0), []
    spoils = [None, True, -1, 0.5, 3, "text", "", [], {}, [None], {"a": 1}, "fail: why", "pass", "failing"]
    for path in list(_places(whole)):
        for spoil in [*rng.sample(spoils, 6), "delete"]:
            spoiled = copy.deepcopy(whole)
            holder = spoiled
            for key in path[:-1]:
                holder = holder[key]
            if spoil == "delete":
                del holder[path[-1]]
            else:
                holder[path[-1]] = spoil
            # Names the schema does not know are the one thing that reading lets through.
            expected = [error for error in VALIDATOR.iter_errors(spoiled) if error.validator != "additionalProperties"]
            assert bool(problems(spoiled)) == bool(expected), (path, spoil, problems(spoiled), expected)
            verdicts.append(bool(expected))
    assert 300 < sum(verdicts) < len(verdicts) - 100, "both verdicts must have been tested"


@pytest.mark.parametrize("value", [None, [], 3, "text", {}])
def test_other_json_is_not_a_record(value):
    assert problems(value)


def test_numbers_must_be_finite_and_the_fault_is_named():
    made = factories.record()
    made["scores"]["accuracy"] = math.nan
    (fault,) = problems(made)
    assert fault.startswith("record.scores.accuracy: ")


def test_a_later_versions_extra_field_is_let_through_but_not_by_the_schema():
    made = factories.record() | {"energy_joules": 12.5}
    assert problems(made) == []
    assert not VALIDATOR.is_valid(made)


def test_label_is_the_method_alone_while_it_has_one_configuration():
    made = [factories.record("lora", seed=0), factories.record("lora", seed=1), factories.record("full")]
    assert sorted(labels(made).values()) == ["full", "lora", "lora"]


def test_label_names_what_differs():
    made = [
        factories.record("lora", rank=8),
        factories.record("lora", rank=16, targets=["query"]),
        factories.record("full"),
    ]
    assert list(labels(made).values()) == ["lora rank=8 targets=query,value", "lora rank=16 targets=query", "full"]


def test_label_names_trainer_settings_that_differ_on_one_task_only():
    short, long, other = factories.spec(), factories.spec(), factories.spec(task="glue/rte")
    short["train"]["steps"], other["train"]["steps"] = 100, 77
    made = [factories.measured(spec) for spec in (short, long, other)]
    assert list(labels(made).values()) == ["lora steps=100", "lora steps=400", "lora"]


def test_a_learning_rate_that_differs_is_named_once():
    made = []
    for lr in (1e-3, 5e-4):
        spec = factories.spec(lr=lr)
        spec["train"]["lr"] = lr
        made.append(factories.measured(spec))
    assert list(labels(made).values()) == ["lora lr=0.001", "lora lr=0.0005"]


@pytest.mark.parametrize(("higher", "order"), [(True, [0.9, 0.5, 0.1]), (False, [0.1, 0.5, 0.9])])
def test_ranking_follows_the_scores_direction_and_puts_the_lost_last(higher, order):
    made = [factories.failed("oom")]
    for seed, score in enumerate((0.5, 0.9, 0.1)):
        one = factories.record("lora", seed=seed + 1)
        one |= {"scores": {"error": score}, "main_score": "error", "higher_is_better": higher}
        made.append(one)
    made[0]["higher_is_better"] = higher
    assert [main_value(one) for one in ranked(made)] == [*order, None]


def test_importing_the_record_readers_stays_cheap():
    code = (
        "import sys, bench.store.record, bench.store.store, bench.report.build\n"
        "import bench.report.terminal.comparison_table\n"
        "heavy = {'torch', 'transformers', 'pandas', 'plotly', 'jsonschema', 'rich'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_record_survives_json():
    made = factories.record()
    assert json.loads(json.dumps(made)) == made
