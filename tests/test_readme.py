"""The README's examples work as written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.conftest import Bench, sentences

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def block(word: str) -> str:
    (found,) = [text for text in BLOCKS if word in text]
    return str(found)


def test_method_in_one_file(bench: Bench, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "shift.py").write_text(block("class Shift:"))
    command = re.search(r"bench (run --plugin shift.py .*)", README)
    assert command is not None
    arguments = [{"demo/docstrings": "glue/sst2"}.get(word, word) for word in command.group(1).split()]
    done = bench(*arguments, "--model", tiny_model, "--steps", 40, "--lr", 0.02, "--out", "out", "--json", "--quiet")
    record = next(r for r in json.loads(done.stdout) if r["spec"]["method"]["name"] == "shift")
    assert record["status"] == "ok" and record["spec"]["method"]["scale"] == 0.5
    assert record["parameters"]["trainable"] == 2 * 32 + 2 * 32 + 2, "a vector per layer, and the head"
    failed = {name: why for name, why in record["checks"].items() if why.startswith("fail")}
    assert set(failed) <= {"beats majority"}, failed
    shown = bench("show", "shift", "--plugin", "shift.py").stdout
    assert "A learned vector added" in shown and "scale" in shown


def test_task_in_one_file(bench: Bench, tiny_model: Path, mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "films.py").write_text(block("TextTask("))
    folder = mirror / "cornell-movie-review-data/rotten_tomatoes"
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 200), ("validation", 60)):
        texts, labels = sentences(count, count)
        pq.write_table(pa.table({"text": texts, "label": labels}), folder / f"{split}-00000-of-00001.parquet")
    done = bench("run", "--plugin", "films.py", "--methods", "full", "--task", "films", "--model", tiny_model,
                 "--steps", 10, "--json", "--quiet")  # fmt: skip
    (record,) = json.loads(done.stdout)
    assert record["scores"].keys() == {"accuracy", "f1"}, done.stderr


def test_python_example(tiny_model: Path, mirror: Path, tmp_path: Path) -> None:
    code = block("bench.run(").replace('"minilm"', repr(str(tiny_model))).replace("steps=100", "steps=5")
    code = code.replace("model=", 'set={"lst.reduction": 2}, model=')
    (tmp_path / "example.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "BENCH_DATA": str(mirror)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "train_peak_bytes" in done.stdout and "lora" in done.stdout and "lst" in done.stdout


def test_a_failing_or_duplicate_plugin_names_its_file(bench_here: Bench, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import bench\n1 / 0\n")
    done = bench_here("list", "methods", "--plugin", "broken.py")
    assert done.returncode == 2 and "broken.py" in done.stderr and "line 2" in done.stderr
    (tmp_path / "again.py").write_text(block("class Shift:").replace('"shift"', '"lora"'))
    done = bench_here("list", "methods", "--plugin", "again.py")
    assert done.returncode == 2 and "defined twice" in done.stderr and "again.py" in done.stderr
