"""A run's id covers every line of code that decides its result, in a checkout and in an installed package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.core import code_fingerprint
from bench.store.labels import mixed, of_another_version
from bench.store.record import provenance_key
from tests import factories

ROOT = Path(__file__).parents[2]

# Each decides a result of at least one of the two runs below.
DECIDE = (
    "core/options.py", "data/encoding.py", "data/sampling.py", "models/loading.py", "models/inference.py",
    "training/trainer.py", "training/memory.py", "training/storage_tracker.py", "methods/lora.py",
    "tasks/text_classification.py", "tasks/formulations/classifier_head.py", "tasks/metrics/compute.py",
    "tasks/metrics/accuracy.py",
)  # fmt: skip
DECIDE_NOTHING = ("report/formats.py", "cli/parser.py", "planner/planner.py", "analysis/power.py", "methods/prompt.py")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as a wheel installs it: methods and tasks inside ``bench``."""
    site = tmp_path_factory.mktemp("site")
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "bench", site / "bench", ignore=skip)
    for folder in ("methods", "tasks"):
        shutil.copytree(ROOT / folder, site / "bench" / folder, ignore=skip)
    return site


def run_ids(site: Path, task: str, model: Path) -> dict[str, str]:
    """Method → run id, as ``bench run --dry-run`` prints them."""
    command = [sys.executable, "-m", "bench", "run", "--methods", "lora,lst", "--set", "lst.reduction=2",
               "--task", task, "--model", str(model), "--dry-run"]  # fmt: skip
    done = subprocess.run(
        command, cwd=site, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=True
    )
    found = dict(re.findall(r"^([0-9a-f]{16}) .*?\b(lora|lst)\b", done.stdout, re.MULTILINE))
    return {method: run_id for run_id, method in found.items()}


def test_every_package_that_decides_a_result_is_covered(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def roots(package: str) -> tuple[Path, ...]:
        return (installed.joinpath(*package.split(".")),)

    monkeypatch.setattr(code_fingerprint, "_roots", roots)
    here, seen = code_fingerprint.harness.__wrapped__(), set()
    for name in DECIDE:
        file = installed / "bench" / name
        before = file.read_bytes()
        file.write_bytes(before + b"\n# edited\n")
        harness = code_fingerprint.harness.__wrapped__()
        method = code_fingerprint.of_file(installed / "bench/methods/lora.py")
        task = code_fingerprint.of_file(installed / "bench/tasks/glue.py")
        file.write_bytes(before)
        seen.add((harness, method, task))
        unchanged = (here, code_fingerprint.of_file(installed / "bench/methods/lora.py"),
                     code_fingerprint.of_file(installed / "bench/tasks/glue.py"))  # fmt: skip
        assert (harness, method, task) != unchanged, name
    assert len(seen) == len(DECIDE)
    assert here == code_fingerprint.harness.__wrapped__(), "everything was restored"


def test_a_wheel_and_a_checkout_have_the_same_fingerprint(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = code_fingerprint.harness.__wrapped__()
    monkeypatch.setattr(code_fingerprint, "_roots", lambda package: (installed.joinpath(*package.split(".")),))
    assert code_fingerprint.harness.__wrapped__() == checkout


def test_editing_the_trainer_makes_new_runs_and_editing_the_report_does_not(
    installed: Path, mirror: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA", str(mirror))
    before = run_ids(installed, "glue/sst2", tiny_model)
    assert before.keys() == {"lora", "lst"}

    def edited(*names: str) -> dict[str, str]:
        texts = {installed / "bench" / name: (installed / "bench" / name).read_bytes() for name in names}
        for file, text in texts.items():
            file.write_bytes(text + b"\n# edited\n")
        try:
            return run_ids(installed, "glue/sst2", tiny_model)
        finally:
            for file, text in texts.items():
                file.write_bytes(text)

    after = edited("training/trainer.py")
    assert after["lora"] != before["lora"] and after["lst"] != before["lst"]
    after = edited("methods/lora.py")
    assert after["lora"] != before["lora"] and after["lst"] == before["lst"], "another method's runs stay"
    assert edited(*DECIDE_NOTHING) == before


def test_a_plug_in_is_covered_with_the_modules_beside_it_that_it_imports(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import helper\nfrom . import other\n")
    (tmp_path / "helper.py").write_text("x = 1\n")
    (tmp_path / "other.py").write_text("y = 1\n")
    first = code_fingerprint.of_file(tmp_path / "mine.py")
    (tmp_path / "helper.py").write_text("x = 2\n")
    second = code_fingerprint.of_file(tmp_path / "mine.py")
    (tmp_path / "other.py").write_text("y = 2\n")
    assert len({first, second, code_fingerprint.of_file(tmp_path / "mine.py")}) == 3


def test_rows_of_two_code_versions_are_not_one_configuration_and_the_table_says_so() -> None:
    new, old = factories.record(), factories.record()
    new["spec"]["code"]["harness"] = "0" * 16
    old["spec"]["code"].pop("harness", None)
    assert provenance_key(new["spec"]) != provenance_key(old["spec"])
    assert mixed([new, old])["harness code"] == ["0" * 16, "not recorded"]
    assert mixed([old, old]) == {}
    assert (of_another_version([factories.record(), old]) or "").startswith("1 of 2 runs were made by another version")
    assert of_another_version([factories.record()]) is None
