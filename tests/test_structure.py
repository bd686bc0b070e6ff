"""The shape of the package: imports point one way, a wheel installs one package, the licence travels along."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

# From the bottom up; a module may import from its own row and from rows above it.
LAYERS = [
    {
        "errors",
        "api",
        "record",
        "units",
        "architectures",
        "job",
        "settings",
        "quickcheck",
        "emitter",
        "executor",
        "trunk",
        "trunkfiles",
        "bernoulli",
        "openmp",
        "heap",
        "compilation",
        "onednn",
    },
    {"registry", "options", "metrics", "environment", "store", "catalogue", "hub", "mirror", "quiet", "predictions"},
    {"datasource", "columns", "splitting", "estimate", "spaces"},
    {"backbone", "tracker", "checks", "data", "statistics", "table", "report", "taskoptions", "tables"},
    {"gguf", "sources", "quantize", "ownparts"},
    {"owncells"},
    {"models", "memory", "engine", "calls", "attention", "weights", "reference", "matching", "lockstep", "batches"},
    {"trainer", "methods", "tasks", "gate", "compare"},
    {"pretraining"},
    {"probe", "flops", "planfile", "progress", "pool", "card", "forms", "grid", "plans"},
    {"forgetting", "company", "trunkcache", "loading"},
    {"runner", "specs", "explain", "export", "tuning", "sampling", "fetch"},
    {"bundles", "trunkroom"},
    {"worker", "sweep", "planner", "remote"},
    {"needs", "ray_executor", "slurm_executor", "where", "status", "tensorboard", "dryrun", "listing"},
    {"reporting"},
    {"commands", "running", "asking", "cli", "python"},
]


def imported(path: Path) -> set[str]:
    """The parts of ``bench`` that a file imports, type-checking imports aside."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "bench":
                found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("bench.")}
    return found


def part(path: Path) -> str:
    relative = path.relative_to(ROOT).parts
    return relative[0] if relative[0] != "bench" else Path(relative[1]).stem


def test_imports_point_one_way() -> None:
    rank = {name: index for index, names in enumerate(LAYERS) for name in names}
    files = [path for folder in ("bench", "methods", "tasks") for path in (ROOT / folder).rglob("*.py")]
    wrong = []
    for path in files:
        name = part(path)
        if name in ("__init__", "__main__") or "bench/methods" in str(path) or "bench/tasks" in str(path):
            continue
        assert name in rank, f"{path.name} has no layer: add it to LAYERS"
        wrong += [f"{name} imports {other}" for other in imported(path) - {name} if rank.get(other, -1) > rank[name]]
    assert wrong == []


def test_the_trainer_and_the_runner_know_no_method_and_no_task() -> None:
    from bench.core import registry

    registry.load()
    for name in ("trainer", "runner", "engine", "probe", "memory", "sweep", "worker", "specs"):
        strings = {
            node.value
            for node in ast.walk(ast.parse((ROOT / f"bench/{name}.py").read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not strings & {*registry.methods(), *registry.tasks()}, name
        assert not imported(ROOT / f"bench/{name}.py") & {"methods", "tasks"}, name


def test_a_wheel_installs_only_bench(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(tmp_path), str(ROOT)],
        check=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("tunebench-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"bench"}
    for needed in ("bench/methods/lora.py", "bench/tasks/glue.py", "bench/report/report.css", "bench/report/start.js",
                   "bench/record.schema.json", "bench/gate/baseline.schema.json", "bench/py.typed",
                   "bench/metrics/accuracy.py",
                   "bench/pretrained/tiny-bert/model.safetensors", "bench/pretrained/MODELS.md"):  # fmt: skip
        assert needed in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_no_pickle_and_no_eval() -> None:
    for folder in ("bench", "methods", "tasks"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text())
            called = {
                node.func.id
                for node in ast.walk(tree)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            }
            assert not called & {"eval", "exec"}, path
            modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
            assert not modules & {"pickle", "dill", "cloudpickle", "marshal"}, path
