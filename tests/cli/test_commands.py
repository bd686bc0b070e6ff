"""The command line as a person uses it: real processes, real files, a tiny model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pandas as pd
import pytest

from bench.store.schema import schema
from tests.conftest import Bench, sentences, write_split
from tests.sweep.test_scheduler import obey_ctrl_c

QUICK = ("--task", "glue/sst2", "--steps", 12, "--quiet", "--set", "train.evaluations=2")
LST = ("--set", "lst.reduction=2")


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted((folder / "runs").glob("*.json"))]


def test_help_answers_at_once_and_loads_no_torch(bench: Bench) -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = bench("--help")
        times.append(time.perf_counter() - start)
        assert done.returncode == 0 and "run" in done.stdout
    assert min(times) < 0.5
    code = (
        "import sys; from bench.cli import parser; parser.build_parser(); "
        "sys.exit('torch' in sys.modules or 'rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_main_job_trains_measures_and_compares(bench: Bench, tiny_model: Path, tmp_path: Path) -> None:
    done = bench("run", "--methods", "full,lora,lst,head", "--model", tiny_model, "--task", "glue/sst2", *LST,
                 "--steps", 60, "--lr", 0.02, "--out", "out")  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    assert "accuracy" in done.stdout and (tmp_path / "out/report.html").is_file()
    assert "step 60/60" in done.stderr and "dev" in done.stderr, "plain progress lines when not a terminal"
    found = {record["spec"]["method"]["name"]: record for record in records(tmp_path / "out")}  # type: ignore[index]
    assert set(found) == {"full", "lora", "lst", "head"}
    for record in found.values():
        jsonschema.validate(record, schema())
        assert record["status"] == "ok"
        assert len(record["speed"]["step_seconds"]) == 60  # type: ignore[index]
        peak = record["memory"]["train_peak"]  # type: ignore[index]
        assert sum(peak.values()) == record["memory"]["train_peak_bytes"]  # type: ignore[index]
        predictions = pd.read_parquet(tmp_path / "out" / str(record["predictions"]))
        right = (predictions.prediction == predictions.reference).mean()
        assert right == pytest.approx(record["scores"]["accuracy"])  # type: ignore[index]
        failed = {name: text for name, text in record["checks"].items() if text.startswith("fail")}  # type: ignore[attr-defined]
        assert set(failed) <= {"beats majority"}, failed
    assert found["full"]["scores"]["accuracy"] > 0.9, "one word decides the label: full fine-tuning must find it"  # type: ignore[index]


def test_regression_and_pairs(bench_here: Bench, tiny_model: Path, tmp_path: Path) -> None:
    bench_here("run", "--methods", "full", "--model", tiny_model, "--task", "glue/stsb,glue/rte", "--steps", 200,
               "--lr", 0.003, "--quiet", "--out", "out", "--json")  # fmt: skip
    found = {record["spec"]["task"]["name"]: record for record in records(tmp_path / "out")}  # type: ignore[index]
    assert found["glue/stsb"]["scores"].keys() == {"pearson", "spearmanr"}  # type: ignore[attr-defined]
    assert found["glue/stsb"]["scores"]["pearson"] > 0.5  # type: ignore[index]
    assert found["glue/rte"]["scores"].keys() == {"accuracy"}  # type: ignore[attr-defined]


def test_second_run_does_nothing_and_a_new_seed_only_what_is_missing(
    bench_here: Bench, tiny_model: Path, tmp_path: Path
) -> None:
    command = ("run", "--methods", "lora,head", "--model", tiny_model, *QUICK, "--out", "out")
    bench_here(*command)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/runs").glob("*.json")}
    start = time.perf_counter()
    bench_here(*command)
    assert time.perf_counter() - start < 10
    bench_here(*command, "--seeds", "0,1")
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/runs").glob("*.json")}
    assert len(before) == 2 and len(after) == 4
    assert all(after[path] == stamp for path, stamp in before.items())
    checks = [record["checks"]["seeds differ"] for record in records(tmp_path / "out")]  # type: ignore[index]
    assert sorted(checks) == ["pass", "pass", *["skip: no run with another seed"] * 2]


def test_same_seed_twice_is_bit_identical(bench_here: Bench, tiny_model: Path, tmp_path: Path) -> None:
    digests = []
    for folder in ("a", "b"):
        bench_here("run", "--methods", "lora", "--model", tiny_model, *QUICK, "--out", folder)
        (record,) = records(tmp_path / folder)
        digests.append((record["parameters"]["trained_sha256"], record["scores"]))  # type: ignore[index]
    assert digests[0] == digests[1] and digests[0][0]


@pytest.mark.parametrize("extra", [["--precision", "bf16", "--grad-accum", "2"],
                                   ["--gradient-checkpointing", "--checkpoint", "last", "--train-size", "100",
                                    "--eval-size", "40"]])  # fmt: skip
def test_training_options(bench_here: Bench, tiny_model: Path, tmp_path: Path, extra: list[str]) -> None:
    bench_here("run", "--methods", "full,lora,lst", "--model", tiny_model, *QUICK, *LST, *extra, "--out", "out")
    assert [record["status"] for record in records(tmp_path / "out")] == ["ok"] * 3


def test_gradient_checkpointing_saves_activations(bench_here: Bench, tiny_model: Path, tmp_path: Path) -> None:
    bench_here("run", "--methods", "full", "--model", tiny_model, *QUICK, "--set",
          "train.gradient_checkpointing=false,true", "--out", "out")  # fmt: skip
    kept = {
        record["spec"]["train"]["gradient_checkpointing"]: record["memory"]["train_peak"]["activations"]  # type: ignore[index]
        for record in records(tmp_path / "out")
    }
    assert kept[True] < kept[False]


def test_divergence_is_recorded_and_the_sweep_goes_on(bench_here: Bench, tiny_model: Path, tmp_path: Path) -> None:
    done = bench_here("run", "--methods", "full,head", "--model", tiny_model, *QUICK, "--set", "full.lr=1e30",
                 "--set", "train.clip=0", "--out", "out")  # fmt: skip
    found = {record["spec"]["method"]["name"]: record for record in records(tmp_path / "out")}  # type: ignore[index]
    assert found["full"]["status"] == "diverged" and "not finite" in str(found["full"]["error"])
    assert found["full"]["scores"] == {} and found["head"]["status"] == "ok"
    assert done.returncode == 1 and "diverged" in done.stdout


def test_save_and_json(bench: Bench, tiny_model: Path, tmp_path: Path) -> None:
    done = bench("run", "--methods", "lora", "--model", tiny_model, *QUICK, "--out", "out", "--save", "--json")
    (record,) = json.loads(done.stdout)
    adapter = tmp_path / "out" / record["adapter"] / "adapter.safetensors"
    assert adapter.stat().st_size == record["parameters"]["checkpoint_bytes"]


def test_plan_file_and_flags_over_it(bench_here: Bench, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(
        f'methods = ["lora", "lst"]\ntask = "glue/sst2"\nmodel = "{tiny_model}"\nsteps = 5\nseeds = [0, 1]\n'
        "[set.lst]\nreduction = 2\n[set.lora]\nrank = 2\n"
    )
    done = bench_here("run", "--plan", "plan.toml", "--dry-run", "--steps", 7)
    assert done.returncode == 0, done.stderr
    assert "4 runs, 0 already there." in done.stdout
    assert done.stdout.count(" 7 steps") == 4 and "rank=2" in done.stdout and "reduction=2" in done.stdout
    (tmp_path / "plan.toml").write_text('method = ["lora"]\n')
    wrong = bench_here("run", "--plan", "plan.toml")
    assert wrong.returncode == 2 and "Did you mean 'methods'?" in wrong.stderr


def test_grid_of_listed_values(bench_here: Bench, tiny_model: Path) -> None:
    done = bench_here("run", "--methods", "lora,lst,head", "--task", "glue/sst2", "--model", tiny_model, "--dry-run",
                 "--ranks", "2,4", "--set", "lst.heads=official,scaled")  # fmt: skip
    assert "7 runs" in done.stdout, "lora: 2 ranks; lst: 2 reductions × 2 heads; head: one"
    done = bench_here("run", "--methods", "head", "--task", "glue/sst2", "--model", tiny_model, "--dry-run",
                 "--set", "train.batch_size=8,16", "--set", "train.max_length=32")  # fmt: skip
    told = [line for line in done.stdout.splitlines() if "lr=" in line]
    assert [line.split(", ")[-1] for line in told] == ["batch_size=8", "batch_size=16"], "only what is swept is shown"


def test_works_from_a_folder_that_holds_a_tasks_file(mirror: Path, tiny_model: Path, tmp_path: Path) -> None:
    for name in ("tasks.py", "methods.py", "bench.py", "torch.py"):
        (tmp_path / name).write_text("raise RuntimeError('imported from the current folder')")
    program = shutil.which("bench", path=str(Path(sys.executable).parent))
    assert program is not None
    done = subprocess.run(
        [program, "run", "--methods", "head", "--model", tiny_model, *map(str, QUICK), "--out", "out"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "BENCH_DATA": str(mirror)},
    )  # fmt: skip
    assert "Report:" in done.stdout, done.stderr


WRONG = [
    (["--methods", "lorra"], "unknown-method", ["'lorra'", "'lora'", "full"]),
    (["--task", "glue/sst3"], "unknown-task", ["'glue/sst3'", "'glue/sst2'"]),
    (["--model", "minilmm"], "unknown-model", ["'minilmm'", "'minilm'"]),
    (["--set", "lora.rnk=4"], "unknown-option", ["lora", "'rnk'", "'rank'"]),
    (["--set", "lora.rank=0"], "invalid-value", ["lora.rank: is 0", "at least 1"]),
    (["--set", "lora.rank=-3"], "invalid-value", ["lora.rank: is -3", "at least 1"]),
    (["--set", "lora.rank=5000"], "unsupported", ["lora: rank 5000", "at most 32"]),
    (["--set", "lora.rank=four"], "invalid-value", ["lora.rank: 'four'"]),
    (["--set", "lora.targets=querry"], "unsupported", ["target 'querry'", "'query'"]),
    (["--set", "lora.layers=7"], "unsupported", ["'7'", "0-1"]),
    (["--set", "lora"], "invalid-value", ["METHOD.OPTION=VALUE"]),
    (["--set", "lst.heads=official"], "unknown-owner", ["'lst'"]),
    (["--set", "train.wramup=1"], "unknown-option", ["train", "'wramup'", "'warmup'"]),
    (["--set", "train.checkpoint=first"], "unknown-value", ["train.checkpoint", "'first'", "best, last"]),
    (["--ranks", "a,b"], "invalid-value", ["--ranks: 'a'"]),
    (["--ranks", "0"], "invalid-value", ["--ranks: 0", "1"]),
    (["--methods", "head", "--ranks", "4"], "unsupported", ["--ranks 4", "head"]),
    (["--cache-limit", "3MB"], "conflict", ["--cache-limit", "--cache-trunk"]),
    (["--seeds", "x"], "invalid-value", ["--seeds: 'x'"]),
    (["--steps", "0"], "invalid-value", ["train.steps: is 0", "at least 1"]),
    (["--steps", "5", "--epochs", "2"], "conflict", ["--steps", "--epochs"]),
    (["--batch-size", "ten"], "invalid-value", ["train.batch_size: 'ten'"]),
    (["--lr", "nan"], "invalid-value", ["train.lr: 'nan'"]),
    (["--precision", "fp8"], "unknown-value", ["train.precision", "'fp8'", "bf16, fp16, fp32"]),
    (["--workers", "0"], "invalid-value", ["--workers: is 0", "at least 1"]),
    (["--workers", "2.5"], "invalid-value", ["--workers: '2.5'"]),
    (["--executor", "rai"], "unknown-value", ["--executor", "'ray'"]),
    (["--stepz", "5"], "unknown-flag", ["'--stepz'", "'--steps'"]),
    (["--data-dir", "nowhere"], "not-found", ["--data-dir", "nowhere"]),
    (["--plugin", "nowhere.py"], "not-found", ["nowhere.py"]),
    (["--out", "/dev/null/out"], "not-written", ["--out", "/dev/null/out"]),
]


@pytest.mark.parametrize(("arguments", "code", "parts"), WRONG, ids=[" ".join(arguments) for arguments, *_ in WRONG])
def test_wrong_requests_teach(
    bench_here: Bench, tiny_model: Path, arguments: list[str], code: str, parts: list[str]
) -> None:
    base = {"--methods": "lora", "--task": "glue/sst2", "--model": str(tiny_model), "--out": "out"}
    base |= dict(zip(arguments[::2], arguments[1::2], strict=True)) if "--set" not in arguments else {}
    flat = [part for pair in base.items() for part in pair]
    done = bench_here("run", *flat, *(arguments if "--set" in arguments else []))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and not done.stdout
    for part in (f"[{code}]", *parts):
        assert part in done.stderr, done.stderr


def test_every_mistake_is_said_at_once(bench_here: Bench) -> None:
    done = bench_here(
        "run", "--methods", "lorra,lst", "--task", "glue/nope", "--model", "nomodel", "--set", "lst.hedas=x"
    )
    assert done.returncode == 2
    assert all(word in done.stderr for word in ("'lorra'", "'glue/nope'", "'nomodel'", "'hedas'"))


def test_lst_reduction_that_does_not_divide(bench_here: Bench, tiny_model: Path) -> None:
    done = bench_here(
        "run", "--methods", "lst", "--task", "glue/sst2", "--model", tiny_model, "--set", "lst.reduction=5"
    )
    assert done.returncode == 2 and "lst: reduction 5 does not divide" in done.stderr


def test_data_that_cannot_be_had_names_the_ways_out(bench: Bench, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = bench("run", "--methods", "head", "--task", "glue/sst2", "--model", tiny_model, BENCH_DATA="", HF_HOME="x")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for way in ("BENCH_DATA", "HF_HOME", "demo/docstrings"):
        assert way in done.stderr


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"text": ["a"], "label": [1]}, "sentence"),
        ({"sentence": ["a", "b"], "label": [0, 7]}, "7"),
        ({"sentence": [], "label": []}, "has no rows"),
        (None, "parquet"),
    ],
)
def test_bad_data_files(
    bench_here: Bench, tiny_model: Path, tmp_path: Path, columns: dict[str, list[object]] | None, said: str
) -> None:
    mirror = tmp_path / "data"
    texts, labels = sentences(20, 0)
    write_split(mirror, "sst2", "validation", {"sentence": texts, "label": labels})
    path = write_split(mirror, "sst2", "train", columns or {"sentence": texts, "label": labels})
    if columns is None:
        path.write_bytes(b"this is not parquet")
    done = bench_here("run", "--methods", "head", "--task", "glue/sst2", "--model", tiny_model, "--data-dir", mirror)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert said in done.stderr.lower(), done.stderr


def test_corrupt_record_is_set_aside_and_done_again(bench_here: Bench, tiny_model: Path, tmp_path: Path) -> None:
    command = ("run", "--methods", "head", "--model", tiny_model, *QUICK, "--out", "out")
    path = tmp_path / "out/runs/0123456789abcdef.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"half": ')
    done = bench_here(*command)
    assert "could not be read" in done.stderr or "corrupt" in done.stderr, done.stderr
    assert list((tmp_path / "out/corrupt").iterdir()) and len(records(tmp_path / "out")) == 1


@pytest.mark.parametrize("name", ["lora", "lst", "full", "head", "glue/sst2", "demo/docstrings", "minilm", "train"])
def test_show_explains(bench_here: Bench, name: str) -> None:
    done = bench_here("show", name)
    assert done.returncode == 0 and name in done.stdout
    if name == "lora":
        for part in ("(α/r)·B A", "2106.09685", "rank", "alpha", "dropout", "targets", "layers", "0.002"):
            assert part in done.stdout


@pytest.mark.parametrize(("what", "name"), [("methods", "lora"), ("tasks", "glue/sst2"), ("models", "minilm")])
def test_list(bench_here: Bench, what: str, name: str) -> None:
    assert name in bench_here("list", what).stdout
    rows = json.loads(bench_here("list", what, "--json").stdout)
    assert name in {row["name"] for row in rows} and all(row["help"] for row in rows)


def test_report_command(bench_here: Bench, tiny_model: Path, tmp_path: Path) -> None:
    bench_here("run", "--methods", "head", "--model", tiny_model, *QUICK, "--out", "out")
    done = bench_here("report", "out", "--html", "page.html")
    assert done.returncode == 0 and (tmp_path / "page.html").stat().st_size > 1_000_000
    assert bench_here("report", "nowhere").returncode == 2


def test_python_api_needs_no_main_guard(bench: Bench, tiny_model: Path, mirror: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import bench\n"
        f"frame = bench.run(methods=['lora', 'head'], task='glue/sst2', model={str(tiny_model)!r}, steps=6,\n"
        "                  set={'lora.rank': 2}, quiet=True, out='out')\n"
        "print(len(frame), sorted(frame.method), 'train_peak_bytes' in frame)\n"
        "try:\n    bench.run(methods='lora', task='glue/sst2', stepz=1)\n"
        "except bench.RequestError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "BENCH_DATA": str(mirror)},
    )  # fmt: skip
    assert "2 ['head', 'lora'] True" in done.stdout, done.stderr
    assert "Did you mean 'steps'?" in done.stdout


def test_a_method_defined_in_the_calling_script_is_refused_with_the_way_out(
    tiny_model: Path, mirror: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\nimport bench\n"
        "@bench.register_method\n@dataclass(frozen=True)\nclass Mine:\n    name: ClassVar[str] = 'mine'\n"
        "    swept: ClassVar[str | None] = None\n    lr: float = bench.option(1e-3, 'rate')\n"
        "    def attach(self, backbone):\n        return backbone.model\n"
        f"try:\n    bench.run(methods='mine', task='glue/sst2', model={str(tiny_model)!r})\n"
        "except bench.RequestError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "BENCH_DATA": str(mirror)},
    )  # fmt: skip
    assert "--plugin FILE" in done.stdout, done.stderr


def test_interrupting_a_fresh_run_keeps_the_earlier_record(tiny_model: Path, mirror: Path, tmp_path: Path) -> None:
    """Ctrl-C while a finished run is done again (--fresh) must not take its record away."""
    arguments = ["run", "--methods", "head", "--task", "glue/sst2", "--model", str(tiny_model), "--steps", "300",
                 "--set", "train.evaluations=30", "--out", "out"]  # fmt: skip
    environment = {**os.environ, "BENCH_DATA": str(mirror), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bench", *arguments]
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120)
    (path,) = (tmp_path / "out/runs").glob("*.json")
    before = path.read_bytes()
    process = subprocess.Popen(
        [*command, "--fresh"], cwd=tmp_path, env=environment, text=True, stderr=subprocess.PIPE, preexec_fn=obey_ctrl_c
    )
    assert process.stderr is not None
    while "dev" not in (line := process.stderr.readline()):
        assert line, "it ended by itself"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130 and path.read_bytes() == before


def test_plan_files_say_what_is_of_the_wrong_type(bench_here: Bench, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text('methods = "lora"\ntask = "glue/sst2"\nsave = "no"\nworkers = [2]\n')
    done = bench_here("run", "--plan", "plan.toml")
    assert done.returncode == 2
    assert "save is true or false" in done.stderr and "workers is one value" in done.stderr


def test_lr_given_twice(bench_here: Bench, tiny_model: Path) -> None:
    done = bench_here("run", "--methods", "lora", "--task", "glue/sst2", "--model", tiny_model, "--lr", 1,
                      "--set", "lora.lr=0.1,0.2")  # fmt: skip
    assert done.returncode == 2 and "--lr and --set lora.lr both set the same option" in done.stderr


@pytest.mark.parametrize(("arguments", "said"), [
    (("statsu", "a"), "Unknown command 'statsu'. Did you mean 'stats'?"),
    (("list", "method"), "Did you mean 'methods'?"),
    (("export", "a", "--format", "pefft", "--to", "b"), "Unknown format 'pefft'. Did you mean 'peft'?"),
    (("report", "a", "b"), "'b': unexpected argument"),
    (("show", ""), "Say what to show"),
    (("report", "a", "--format", ""), "Unknown format ''"),
    (("report", "a", "--format", "md", "--title", "T"), "--title is the heading of the HTML file"),
])  # fmt: skip
def test_slips_on_the_command_line_name_what_was_meant(
    bench_here: Bench, arguments: tuple[str, ...], said: str
) -> None:
    done = bench_here(*arguments)
    assert done.returncode == 2 and said in done.stderr, done.stderr


def test_unknown_flag_before_a_command(bench_here: Bench) -> None:
    done = bench_here("--versoin")
    assert done.returncode == 2 and "Did you mean '--version'?" in done.stderr
