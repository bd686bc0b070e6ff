"""A file of many rows takes disk, not memory: what a whole column would weigh is never held."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

_ROWS = 20_000
_MUCH = 25 << 20  # bytes; the column of texts alone has 30 MB, in python or in arrow

# a process of its own, for arrow's pool tells its highest mark since the process began
_MEASURE = """
import json, sys, tracemalloc
import pyarrow as pa
from bench.core import registry
from bench.data import file_reader
from bench.core.protocols import DataSource
registry.load()
file_reader._BLOCK, file_reader._ROWS = 256 << 10, 1000  # arrow may read 32 blocks ahead: 8 MB
def load(name):
    splits = registry.task_entry(name).value.resolve(DataSource()).load(DataSource())
    return len(splits.train), len(splits.validation)
load("small.csv")  # whatever is imported on the way is not counted
tracemalloc.start()
sizes = [load(name) for name in ("big.csv", "big.jsonl")]
print(json.dumps([sizes, tracemalloc.get_traced_memory()[1], pa.default_memory_pool().max_memory()]))
"""


def write(path: Path, count: int) -> None:
    """Rows of a long text and its class, in a .jsonl file with their split too."""
    long = "word " * 300
    if path.suffix == ".csv":
        lines = ["text,label", *(f"{number} {long},{number % 2}" for number in range(count))]
    else:
        split = ["validation", "train", "train", "train", "train"] * (count // 5)
        lines = [
            f'{{"text": "{number} {long}", "label": "{number % 2}", "split": "{split[number]}"}}'
            for number in range(count)
        ]
    path.write_text("\n".join(lines))


def test_rows_are_never_held_all_at_once(tmp_path: Path) -> None:
    write(tmp_path / "small.csv", 100)
    write(tmp_path / "big.csv", _ROWS)
    write(tmp_path / "big.jsonl", _ROWS)
    here = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    here["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), here.get("PYTHONPATH"))))
    ran = subprocess.run([sys.executable, "-c", _MEASURE], cwd=tmp_path, env=here, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    sizes, python, arrow = json.loads(ran.stdout)
    assert sizes == [[_ROWS * 4 // 5, _ROWS // 5]] * 2
    assert python < _MUCH and arrow < _MUCH, (python, arrow)
