"""``bench fetch`` against a server that speaks the Hub's protocol, and runs from the mirror it filled."""

from __future__ import annotations

import errno
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest

from bench.cli import fetch
from bench.core import registry
from bench.core.errors import RequestError
from bench.core.protocols import DataSource
from bench.data.hub_datasets import load_split
from bench.data.mirror import fetch_split
from tests.conftest import Bench
from tests.hub import Hub, Repository, serve

PINNED = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"  # the commit of nyu-mll/glue that its tasks name


def questions(start: int, stop: int) -> bytes:
    """Rows of boolq as a parquet file."""
    numbers = range(start, stop)
    rows = {
        "question": [f"is {number} an even number" for number in numbers],
        "passage": [f"The number {number} ends in {number % 10}." for number in numbers],
        "idx": list(numbers),
        "label": [number % 2 for number in numbers],
    }
    names = datasets.ClassLabel(names=["False", "True"])
    file = io.BytesIO()
    datasets.Dataset.from_dict(rows).cast_column("label", names).to_parquet(file)
    return file.getvalue()


@pytest.fixture(scope="module")
def hub(tiny_model: Path, mirror: Path) -> Iterator[Hub]:
    model = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
    pickled = {name: content for name, content in model.items() if not name.endswith(".safetensors")}
    data = {f"sst2/{path.name}": path.read_bytes() for path in (mirror / "nyu-mll/glue/sst2").iterdir()}
    copied = Repository(
        {
            "boolq/train/0000.parquet": questions(0, 80),
            "boolq/train/0001.parquet": questions(80, 160),
            "boolq/validation/0000.parquet": questions(160, 200),
            "cb/train/0000.parquet": b"",
        },
        "b" * 40,
        tags=(),
    )
    script = {"super_glue.py": b"raise SystemExit", "README.md": b"# SuperGLUE"}
    with serve({
        "models/lab/tiny": Repository({**model, "README.md": b"#", "onnx/model.onnx": b"x" * 99}, tags=("main", "v1")),
        "models/lab/shut": Repository(model, gated=True),
        "models/lab/old": Repository({**pickled, "pytorch_model.bin": b"pickle"}),
        "datasets/nyu-mll/glue": Repository(data, PINNED),
        "datasets/aps/super_glue": Repository(script, "c" * 40, branches={"refs/convert/parquet": copied}),
        "datasets/lab/alone": Repository({"alone.py": b"raise SystemExit"}),
    }) as served:  # fmt: skip
        yield served


@pytest.fixture(scope="module")
def filled(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fetched") / "mirror"


def online(hub: Hub, folder: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder), "BENCH_DATA": ""}


def test_fetch_then_run_without_a_network(bench: Bench, hub: Hub, filled: Path, tmp_path: Path) -> None:
    where = online(hub, tmp_path / "cache")
    command = ("fetch", "--tasks", "glue/sst2", "--models", "lab/tiny@v1,tiny-bert", "--to", filled)
    done = bench(*command, **where)
    assert done.returncode == 0, done.stderr
    assert f"mirror:nyu-mll/glue/sst2@{PINNED}" in done.stdout
    assert f"lab/tiny@{'a' * 40}" in done.stdout and "tiny-bert: comes with tunebench" in done.stdout
    model = filled / "models/lab/tiny"
    assert (model / "model.safetensors").is_file() and not (model / "README.md").exists()
    assert {path.name for path in filled.iterdir()} == {"models", "nyu-mll"}

    before = len(hub.asked)
    assert bench(*command, **where).returncode == 0
    assert not any("resolve" in path for path in hub.asked[before:]), "what is there is not fetched again"

    quick = ("--methods", "head", "--task", "glue/sst2", "--model", "lab/tiny", "--steps", "2", "--train-size", "64")
    ran = bench("run", *quick, "--eval-size", "32", "--out", tmp_path / "out", "--json", BENCH_DATA=str(filled),
                HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "none"))  # fmt: skip
    (record,) = json.loads(ran.stdout)
    assert record["status"] == "ok", ran.stderr
    assert record["spec"]["model"]["source"] == "mirror:lab/tiny"
    assert record["spec"]["model"]["revision"] == "a" * 40
    assert record["spec"]["task"]["source"] == f"mirror:nyu-mll/glue/sst2@{PINNED}"


def test_everything_that_cannot_be_fetched_is_said_at_once(bench: Bench, hub: Hub, tmp_path: Path) -> None:
    models = "lab/shut,lab/gone,lab/tiny@v9,lab/old"
    refused = bench("fetch", "--models", models, "--to", tmp_path / "m", **online(hub, tmp_path / "cache"))
    assert refused.returncode == 2
    said = refused.stderr
    assert "lab/shut is gated: accept its terms at" in said
    assert "there is no repository lab/gone, or it is private" in said
    assert "lab/tiny has no revision 'v9'" in said
    assert "lab/old has no *.safetensors weights. It has pickled ones; --allow-pickle takes them." in said
    assert "Traceback" not in said and not list((tmp_path / "m").rglob("*.json"))


def test_a_script_is_read_from_the_hubs_own_copy(bench: Bench, hub: Hub, tmp_path: Path) -> None:
    """aps/super_glue is a script in this Hub, which datasets does not run; its parquet copy is on another branch."""
    where = online(hub, tmp_path / "cache")
    quick = ("run", "--methods", "head", "--task", "superglue/boolq", "--model", "tiny-bert", "--steps", "2", "--json")
    from_hub = bench(*quick, "--out", tmp_path / "hub", **where)
    (direct,) = json.loads(from_hub.stdout)
    assert direct["status"] == "ok", from_hub.stderr
    assert direct["spec"]["task"]["source"] == f"hub:aps/super_glue/boolq@{'b' * 40}"

    filled = tmp_path / "mirror"
    fetched = bench("fetch", "--tasks", "superglue/boolq", "--to", filled, **where)
    assert fetched.returncode == 0, fetched.stderr
    assert {path.name for path in (filled / "aps/super_glue/boolq").glob("*.parquet")} == {
        "train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "validation-00000-of-00001.parquet"
    }  # fmt: skip
    offline = load_split(DataSource(filled), "aps/super_glue", "boolq", "train", None)
    assert offline.source == f"mirror:aps/super_glue/boolq@{'b' * 40}" and len(offline.dataset) == 160
    assert offline.fingerprint == hashlib.sha256(questions(0, 80) + questions(80, 160)).hexdigest()


def test_what_is_wrong_with_a_script_is_said(bench: Bench, hub: Hub, tmp_path: Path) -> None:
    where = online(hub, tmp_path / "cache")

    def refusal(task: str) -> str:
        done = bench("run", "--methods", "head", "--task", task, "--model", "tiny-bert", "--steps", "2", **where)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        return " ".join(done.stderr.split())

    assert "has several configurations: boolq, cb. Name one" in refusal("hub:aps/super_glue")
    assert "Did you mean 'boolq'?" in refusal("hub:aps/super_glue:boolqq")
    assert "is a script on the Hub" in refusal("hub:lab/alone")


def test_no_network_and_wrong_names(bench: Bench, bench_here: Bench, tmp_path: Path) -> None:
    away = {"HF_ENDPOINT": "http://no-such-host.invalid", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    refused = bench("fetch", "--models", "gpt2", "--to", tmp_path / "m", **away)
    assert refused.returncode == 2 and "there is no network to http://no-such-host.invalid" in refused.stderr
    wrong = bench_here("fetch", "--tasks", "glue/sst3", "--models", "minilmm", "--to", tmp_path / "n")
    assert wrong.returncode == 2
    assert "Did you mean 'glue/sst2'?" in wrong.stderr and "Did you mean 'minilm'?" in wrong.stderr
    assert not (tmp_path / "n").exists()
    (tmp_path / "own.csv").write_text("text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(40)))
    own = bench_here("fetch", "--tasks", "own.csv", "--to", tmp_path / "o")
    assert own.returncode == 0 and "own.csv: lies on this disk already, nothing to fetch" in own.stdout, own.stderr
    assert "Say what to fetch" in bench_here("fetch", "--to", tmp_path / "n").stderr


def test_a_disk_that_fills_leaves_nothing_behind(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second file of each repository finds the disk full; the mirror has neither it nor the first."""
    import huggingface_hub

    asked: list[str] = []

    def download(repository: str, name: str, local_dir: str, **rest: object) -> None:
        asked.append(repository)
        if asked.count(repository) > 1 or name.endswith(".parquet"):
            raise OSError(errno.ENOSPC, "No space left on device")
        (Path(local_dir) / name).write_bytes(b"whole")

    class Api(huggingface_hub.HfApi):
        def __init__(self) -> None:
            super().__init__(endpoint=hub.address)

    monkeypatch.setattr("bench.data.hub.unreachable", lambda: None)
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("bench.data.hub.unreachable", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    registry.load()
    with pytest.raises(RequestError) as refused:
        list(fetch.fetch(fetch.Wanted(("glue/sst2",), ("lab/tiny",)), tmp_path / "m"))
    assert {"nyu-mll/glue", "lab/tiny"} == set(asked)
    data, model = refused.value.messages
    assert data.startswith("Data set nyu-mll/glue cannot be fetched: the disk is full: ")
    assert model.startswith("Model lab/tiny cannot be fetched: the disk is full: ")
    assert "MB are free at" in model and str(tmp_path) in model
    assert not [path for path in (tmp_path / "m").rglob("*") if path.is_file()]


def test_a_hub_that_moves_on_leaves_splits_and_configurations_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A split fetched later is of the commit of those beside it; another commit removes no other configuration."""
    newest = ["a" * 40]

    class Api:
        def dataset_info(self, name: str, revision: str | None = None) -> SimpleNamespace:
            files = [f"{place}{split}-00000-of-00001.parquet" for split in ("train", "test") for place in ("", "more/")]
            siblings = [SimpleNamespace(rfilename=file) for file in files]
            return SimpleNamespace(sha=revision or newest[0], siblings=siblings)

    def download(repository: str, name: str, repo_type: str, revision: str, local_dir: str) -> None:
        target = Path(local_dir) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(revision)

    monkeypatch.setattr("bench.data.hub.unreachable", lambda: None)
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    folder = tmp_path / "owner/set"
    for config in ("more", None):
        fetch_split(tmp_path, "owner/set", config, "train", None)
    newest[0] = "b" * 40
    fetch_split(tmp_path, "owner/set", None, "test", None)
    there = {file.relative_to(folder).as_posix(): file.read_text()[0] for file in folder.rglob("*.parquet")}
    name = "{}-00000-of-00001.parquet"
    assert there == {name.format(what): "a" for what in ("train", "test", "more/train")}
    fetch_split(tmp_path, "owner/set", None, "test", "c" * 40)
    left = {file.relative_to(folder).as_posix(): file.read_text()[0] for file in folder.rglob("*.parquet")}
    assert left == {name.format("test"): "c", name.format("more/train"): "a"}
