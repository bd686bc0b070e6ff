"""Runs are matched by what they are: not by code, device or where a folder lies."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from bench.analysis.matching import differences, match
from tests import factories


def test_code_device_and_fingerprints_do_not_tell_runs_apart() -> None:
    one = factories.record("lora", seed=1)
    other = copy.deepcopy(one)
    other["spec"]["code"]["method"] = "changed"
    other["spec"]["train"]["device"] = "cuda"
    other["spec"]["task"]["fingerprint"] = "changed"
    other["run_id"] = factories.run_id(other["spec"])
    other["environment"] |= {"device": "cuda", "torch": "2.8.0"}
    found = match([one], [other])
    assert [(a.label, b.label) for a, b in found.pairs] == [("lora", "lora")] and not found.only_first
    assert differences([one], [other]) == [
        "device: cpu → cuda", "torch: 2.7.1 → 2.8.0", "data of glue/sst2: 9f0c3a5d11aa → changed",
    ]  # fmt: skip


def test_options_settings_tasks_and_models_do() -> None:
    base = factories.record("lora")
    for change in ({"rank": 4}, {"task": "glue/rte"}):
        found = match([base], [factories.record("lora", **change)])
        assert not found.pairs and len(found.only_first) == len(found.only_second) == 1
    longer = copy.deepcopy(base)
    longer["spec"]["train"]["steps"] = 800
    assert not match([base], [longer]).pairs
    labels = [one.label for one in match([base, longer | {"run_id": "f" * 16}], []).only_first]
    assert labels == ["lora steps=400", "lora steps=800"]


def test_task_options_and_quantisation_do_too() -> None:
    def made(**options: Any) -> dict[str, Any]:
        record = factories.record("lora")
        record["spec"]["task"]["options"] = {"form": "head", **options}
        record["run_id"] = factories.run_id(record["spec"])
        return record

    head, words, packed = made(), made(form="words"), made()
    packed["spec"]["model"]["quantize"] = "nf4"
    packed["run_id"] = "e" * 16
    apart = match([head, words, packed], [head]).only_first
    assert [(one.task, one.model) for one in apart] == [
        ("glue/sst2 form=head", "minilm nf4"),
        ("glue/sst2 form=words", "minilm"),
    ]
    assert not match([head], [words]).pairs and not match([head], [packed]).pairs
    newer = made(later=1)
    found = match([head], [newer])
    assert len(found.pairs) == 1
    assert found.notes == ["glue/sst2: only one side knows task.later; not looked at when matching."]


def test_a_model_folder_is_known_by_its_own_name() -> None:
    def at(name: str, folder: str) -> dict[str, Any]:
        record = factories.record("lora")
        record["spec"]["model"] |= {"name": name, "source": f"folder:{folder}"}
        return record

    assert match([at("/home/me/tiny", "tiny")], [at("../models/tiny", "tiny")]).pairs[0][0].where.endswith(" on tiny")
    assert not match([at("a/tiny", "tiny")], [at("a/small", "small")]).pairs


def test_an_unknown_option_is_ignored_unless_it_tells_runs_apart() -> None:
    old = factories.record("lora")
    new, variant = factories.record("lora", fast=False), factories.record("lora", fast=True)
    found = match([old], [new])
    assert len(found.pairs) == 1 and found.notes == [
        "lora: only one side knows method.fast; not looked at when matching."
    ]
    both = match([old], [new, variant])
    assert not both.pairs and len(both.only_second) == 2


def test_seeds_are_one_configuration_and_the_later_of_two_runs_counts() -> None:
    earlier = factories.record("lora", seed=0)
    later = {**copy.deepcopy(earlier), "run_id": "e" * 16, "created_at": "2026-01-01T00:00:00+00:00"}
    found = match([later, factories.record("lora", seed=1), earlier], [])
    (one,) = found.only_first
    assert found.notes == ["lora (glue/sst2 on minilm), seed 0, is there more than once; the latest counts."]
    assert list(one.by_seed) == [0, 1] and one.by_seed[0]["run_id"] == "e" * 16


@pytest.mark.parametrize(("part", "name"), [("code", "method"), ("task", "fingerprint"), ("model", "fingerprint")])
def test_runs_of_other_data_weights_or_code_are_no_seeds_of_the_newest(part: str, name: str) -> None:
    old = [factories.record("lora", seed=seed) for seed in (0, 1, 2)]
    new = [copy.deepcopy(record) | {"run_id": f"{n}" * 16, "created_at": "2030-01-01"} for n, record in enumerate(old)]
    for record in new:
        record["spec"][part][name] = "f" * 16
    found = match([*old, *new[:2]], [])
    (one,) = found.only_first
    assert list(one.by_seed) == [0, 1] and {run["spec"][part][name] for run in one.runs} == {"f" * 16}
    assert found.notes == ["lora (glue/sst2 on minilm): 3 older runs of other data, weights or code left out."]
