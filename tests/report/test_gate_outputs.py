"""JUnit, GitHub annotations and the command line: what a CI system and a person get to see."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench.analysis.regression_check import BETTER, MISSING, NEW, REGRESSION, SAME, SKIPPED, Finding, Result
from bench.report import github, junit
from bench.store.store import Store
from tests import factories
from tests.conftest import Bench

HOSTILE = "<b>&\"']]>\x00\x1b[31m\ud800\n::error::100 %,x\r\n\u202e"


def result() -> Result:
    said = f"accuracy {HOSTILE}"
    return Result(
        [Finding(f"lora {HOSTILE}", "a on b", verdict, verdict, said) for verdict in
         (REGRESSION, MISSING, BETTER, SAME, SKIPPED, NEW)], [],
    )  # fmt: skip


def test_junit_counts_and_escapes() -> None:
    root = ET.fromstring(junit.document(result()))
    assert {name: root.get(name) for name in ("tests", "failures", "skipped")} == {
        "tests": "6", "failures": "2", "skipped": "2",
    }  # fmt: skip
    (suite,) = root
    assert [case.get("name") for case in suite if case.find("failure") is not None] == [REGRESSION, MISSING]
    failure = suite[0].find("failure")
    assert failure is not None and failure.text is not None
    assert "<b>&\"']]>" in failure.text and "\x1b" not in failure.text and "\x00" not in failure.text


def test_github_commands_cannot_be_broken_out_of() -> None:
    lines = github.workflow_commands(result())
    assert all(line.count("\n") == 0 and "\r" not in line and "\x1b" not in line for line in lines)
    errors = [line for line in lines if line.startswith("::error ")]
    assert len(errors) == 3, "two failures and the headline"
    properties, _, message = errors[0].removeprefix("::error ").partition("::")
    assert (
        properties.startswith("title=lora") and "," not in properties and ":" not in properties.removeprefix("title=")
    )
    assert "100 %25" in message and "%0A" in message


def test_annotations_come_by_themselves_in_github_actions() -> None:
    assert github.wanted({"GITHUB_ACTIONS": "true"})
    assert not github.wanted({}) and not github.wanted({"GITHUB_ACTIONS": "false"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = Store(tmp_path / "good")
    store.prepare()
    for method in ("full", "lora"):
        for seed in (0, 1, 2):
            store.write(factories.record(method, seed=seed))
    return store.folder


def test_the_commands(folder: Path, bench_here: Bench, tmp_path: Path) -> None:
    made = bench_here("baseline", folder, "--out", "base.json")
    assert made.returncode == 0 and "2 configurations, 8 scores and speeds" in made.stdout, made.stderr
    held = bench_here("check", folder, "--baseline", "base.json", "--junit", "deep/junit.xml", GITHUB_ACTIONS="")
    assert held.returncode == 0 and "PASS: " in held.stdout and "::" not in held.stdout
    assert ET.parse(tmp_path / "deep" / "junit.xml").getroot().get("failures") == "0"
    assert "same" in bench_here("check", folder, "--baseline", "base.json", "--all").stdout

    worse = Store(tmp_path / "worse")
    worse.prepare()
    for seed in (0, 1, 2):
        record = factories.record("lora", seed=seed)
        record["memory"]["train_peak_bytes"] *= 2
        worse.write(record)
    failed = bench_here("check", worse.folder, "--baseline", "base.json", GITHUB_ACTIONS="true")
    assert failed.returncode == 1
    assert "train_peak_bytes: 218 MB → 436 MB (+100.0 %, seed 0); allowed: exact" in failed.stdout
    assert "missing" in failed.stdout and "full (glue/sst2 on minilm)" in failed.stdout
    assert (
        failed.stdout.count("::error title=") == 3
        and "FAIL: 1 worse, 1 missing (15 values of 1 configuration compared)" in failed.stdout
    )


def test_a_tolerance_that_lets_everything_pass_is_named(bench_here: Bench, tmp_path: Path) -> None:
    store = Store(tmp_path / "wild")
    store.prepare()
    for seed, accuracy in enumerate((0.2, 0.8)):
        store.write(factories.record("lora", seed=seed) | {"scores": {"accuracy": accuracy}})
    made = bench_here("baseline", store.folder, "--out", "base.json")
    assert (
        made.returncode == 0
        and "(glue/sst2 on minilm): seeds vary so much that any fall will pass, of accuracy" in made.stderr
    )


def test_no_output_replaces_a_record_or_the_baseline(folder: Path, bench_here: Bench, tmp_path: Path) -> None:
    record = next((folder / "runs").glob("*.json"))
    before = record.read_bytes()
    for command in (
        ("baseline", folder, "--out", record),
        ("report", folder, "--html", record),
        ("report", folder, "--format", "csv", "--to", record),
        ("compare", folder, folder, "--html", record),
    ):
        done = bench_here(*command)
        assert done.returncode == 2 and "is the record of a run; choose another file" in done.stderr, done.stderr
    assert bench_here("baseline", folder, "--out", "base.json").returncode == 0
    done = bench_here("check", folder, "--baseline", "base.json", "--junit", "./base.json")
    assert done.returncode == 2 and "is the baseline; choose another file" in done.stderr
    refused = bench_here("check", folder, "--baseline", record)
    assert "is the record of one run" in refused.stderr and f"--out {record}" not in refused.stderr
    assert record.read_bytes() == before


def test_wrong_requests_are_explained_all_at_once(folder: Path, bench_here: Bench, tmp_path: Path) -> None:
    done = bench_here("check", "nowhere", "--baseline", "none.json")
    assert (
        done.returncode == 2 and "nowhere does not exist" in done.stderr and "there is no file none.json" in done.stderr
    )
    assert bench_here("check", folder).returncode == 2
    assert "required: --baseline" in bench_here("check", folder).stderr
    (tmp_path / "empty" / "runs").mkdir(parents=True)
    assert "is empty" in bench_here("baseline", "empty", "--out", "x.json").stderr
    assert "holds no records" in bench_here("baseline", tmp_path, "--out", "x.json").stderr
    assert f"name {folder}." in bench_here("baseline", folder / "runs", "--out", "x.json").stderr
    assert "Did you mean '--baseline'" in bench_here("check", folder, "--bsaeline", "b").stderr
    assert "between 0 and 1" in bench_here("baseline", folder, "--out", "x.json", "--alarm-rate", "2").stderr
    blocked = bench_here("baseline", folder, "--out", folder)
    assert blocked.returncode == 2 and "cannot be written" in blocked.stderr
    assert "Did you mean '--junit'" in bench_here("check", folder, "--baseline", "b", "--junt", "x").stderr
