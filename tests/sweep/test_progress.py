"""What can be seen of a sweep while it is at work: its status, its curves, a report of what is there."""

from __future__ import annotations

import io
import os
import signal
import time
from pathlib import Path

import pytest

from bench.core.errors import RequestError
from bench.store.record import had_concurrent_runs
from bench.store.store import Store
from bench.sweep import status
from tests import factories
from tests.conftest import Bench
from tests.sweep.test_scheduler import command, start, whole_records


def test_status_and_report_in_the_middle_of_a_sweep(
    bench_here: Bench, tiny_model: Path, mirror: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = command(tiny_model, out)
    arguments[arguments.index("full,lora,head,lst")] = "head,lst"
    arguments += ["--set", "lst.train.steps=100000"]
    process = start(arguments, mirror, tmp_path)
    deadline = time.monotonic() + 120
    try:
        while len(whole_records(out)) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        while not (running := status.look(out).running) and time.monotonic() < deadline:
            time.sleep(0.1)
        said = bench_here("status", out).stdout
        assert running == [f"lst on glue/sst2 ({tiny_model}, seed 0)"]
        assert "2 of 4 runs finished: 2 ok" in said and f"Running: {running[0]}" in said and "1 pending." in said
        assert "To do, with what is running: 2, about" in said
        done = bench_here("report", out)
        assert done.returncode == 0 and "2 runs, report made" in (out / "report.html").read_text()
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    said = bench_here("status", out).stdout
    assert "2 of 4 runs finished: 2 ok" in said and "Nothing is running." in said
    assert "2 to do, 1 of them interrupted. " in said


def test_status_of_a_folder_without_a_sweep(bench_here: Bench, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="holds no plan"):
        status.look(tmp_path)
    done = bench_here("status", "nowhere")
    assert done.returncode == 2 and "holds no plan" in done.stderr


def test_tensorboard_gets_every_point_of_the_curve(bench_here: Bench, tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    bench_here("run", "--methods", "head", "--task", "glue/sst2", "--model", tiny_model, "--steps", 40, "--quiet",
          "--tensorboard", "--out", "out")  # fmt: skip
    (record,) = Store(tmp_path / "out").records()[0]
    (folder,) = (tmp_path / "out/tensorboard").iterdir()
    assert folder.name.startswith("head_glue_sst2_seed0_")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder))
        events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert losses == [(p["step"], pytest.approx(p["loss"], rel=1e-5)) for p in record["curve"]] and len(losses) == 40
    dev = [event.step for event in events.Scalars("dev/score")]
    assert dev == [p["step"] for p in record["curve"] if p["dev_score"] is not None]
    assert events.Scalars("validation/accuracy")[0].value == pytest.approx(record["scores"]["accuracy"])


def test_speeds_measured_in_company_are_marked() -> None:
    from rich.console import Console

    from bench.report.html.page import document
    from bench.report.inputs import Extras
    from bench.report.terminal.comparison_table import render

    alone, shared = factories.record("lora"), factories.record("lst")
    shared["environment"]["workers"] = 2
    assert not had_concurrent_runs(alone) and had_concurrent_runs(shared)
    console = Console(width=200, record=True, file=io.StringIO())
    render([alone, shared], console)
    text = console.export_text()
    lines = {line.split()[0]: line for line in text.splitlines() if line.split()}
    assert "*" in lines["lst"] and "*" not in lines["lora"] and "measured with concurrent runs" in text
    page = document([alone, shared], Extras())
    assert "Speeds of lst were measured with concurrent runs" in page
    assert "concurrent runs" not in document([alone], Extras())


def test_status_tells_what_was_begun_what_is_in_doubt_and_what_cannot_be_read(
    bench_here: Bench, tiny_model: Path, mirror: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = bench_here("run", "--methods", "head,bitfit", "--task", "glue/sst2", "--data-dir", mirror, "--model",
                      tiny_model, "--steps", 2, "--eval-size", 16, "--out", out, "--quiet")  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    store = Store(out)
    first, second = store.records()[0]
    store.write(first | {"status": "interrupted", "error": "stopped"})
    store.write(second | {"checks": {"beats majority": "fail: no"}})
    (out / "runs" / f"{'a' * 16}.json").write_text('{"schema": 2}')
    found = status.look(out)
    assert found.lines()[0] == "1 of 2 runs finished: 1 ok (1 of them failed a check)."
    assert "1 to do, 1 of them interrupted. " in found.lines()[2]
    assert "record format 2" in bench_here("status", out).stderr
