"""Loading a split from a mirror, from the Hub (recorded, never reached) and from the Hub's cache."""

import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.core.errors import RequestError
from bench.core.protocols import DataSource
from bench.data.hub_datasets import load_split

COMMIT = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
FEATURES = {"sentence": {"dtype": "string", "_type": "Value"}, "label": {"names": ["no", "yes"], "_type": "ClassLabel"}}


def write_split(mirror: Path, name: str, rows: dict[str, list[object]], features: object = FEATURES) -> Path:
    """Write ``rows`` to <mirror>/<name>.parquet with the features as the Hub's files carry them."""
    path = mirror / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(rows)
    if features is not None:
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    pq.write_table(table, path)
    return path


def rows(*sentences: str) -> dict[str, list[object]]:
    return {"sentence": list(sentences), "label": [index % 2 for index in range(len(sentences))]}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Replace the Hub by a recorder; returns the calls."""
    calls: list[dict[str, object]] = []

    def load_dataset(path: str, name: str | None, *, split: str, revision: str | None) -> datasets.Dataset:
        offline = datasets.config.HF_HUB_OFFLINE
        calls.append({"path": path, "name": name, "split": split, "revision": revision, "offline": offline})
        return datasets.Dataset.from_dict(rows("from the hub"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port: [])
    return calls


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the Hub nor a cache, whatever this machine has."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "no cache")


def refusal(mirror: Path | None, dataset: str = "owner/set", config: str | None = "a", split: str = "train") -> str:
    with pytest.raises(RequestError) as caught:
        load_split(DataSource(mirror), dataset, config, split, COMMIT)
    return "\n".join(caught.value.messages)


def test_mirror_gives_rows_features_and_the_hash_of_the_files(tmp_path: Path) -> None:
    file = write_split(tmp_path, "owner/set/a/train-00000-of-00001", rows("one", "two"))
    write_split(tmp_path, "owner/set/a/train_extra-00000-of-00001", rows("other"))
    loaded = load_split(DataSource(tmp_path), "owner/set", "a", "train", COMMIT)
    assert loaded.dataset[:] == {"sentence": ["one", "two"], "label": [0, 1]}
    assert loaded.dataset.features["label"].names == ["no", "yes"]
    assert loaded.dataset.cache_files == []
    assert loaded.fingerprint == hashlib.sha256(file.read_bytes()).hexdigest()
    assert loaded.source == "mirror:owner/set/a"


def test_mirror_without_configuration(tmp_path: Path) -> None:
    write_split(tmp_path, "owner/set/test-00000-of-00001", rows("one"))
    assert load_split(DataSource(tmp_path), "owner/set", None, "test", None).source == "mirror:owner/set"


def test_same_bytes_elsewhere_have_the_same_fingerprint(tmp_path: Path) -> None:
    for place in ("here", "there"):
        write_split(tmp_path / place, "owner/set/a/train-00000-of-00001", rows("one"))
    here, there = (
        load_split(DataSource(tmp_path / place), "owner/set", "a", "train", None) for place in ("here", "there")
    )
    assert (here.fingerprint, here.source) == (there.fingerprint, there.source)


def test_shards_are_joined_in_order(tmp_path: Path) -> None:
    files = [write_split(tmp_path, f"owner/set/a/train-0000{i}-of-00002", rows(f"row {i}")) for i in (1, 0)]
    loaded = load_split(DataSource(tmp_path), "owner/set", "a", "train", None)
    assert loaded.dataset["sentence"][:] == ["row 0", "row 1"]
    assert loaded.fingerprint == hashlib.sha256(files[1].read_bytes() + files[0].read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "names", [("train-00000-of-00002",), ("train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002")]
)
def test_incomplete_or_mixed_shards_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write_split(tmp_path, f"owner/set/a/{name}", rows("one"))
    message = refusal(tmp_path)
    assert "one complete set of shards" in message
    assert all(name in message for name in names)


@pytest.mark.parametrize("content", [b"", b"PAR1 this is not parquet PAR1", b"sentence,label\na,1\n"])
def test_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = write_split(tmp_path, "owner/set/a/train-00000-of-00001", rows("one"))
    file.write_bytes(content)
    message = refusal(tmp_path)
    assert f"{file} is not a readable parquet file" in message
    assert ("an empty file" in message) == (content == b"")


def test_truncated_file_is_named(tmp_path: Path) -> None:
    file = write_split(tmp_path, "owner/set/a/train-00000-of-00001", rows("one"))
    file.write_bytes(file.read_bytes()[:-10])
    assert f"{file} is not a readable parquet file" in refusal(tmp_path)


def test_file_without_rows_is_named(tmp_path: Path) -> None:
    file = write_split(tmp_path, "owner/set/a/train-00000-of-00001", {"sentence": [], "label": []}, None)
    assert refusal(tmp_path) == f"The mirror file {file} has no rows."


def test_shards_with_other_columns_are_refused(tmp_path: Path) -> None:
    write_split(tmp_path, "owner/set/a/train-00000-of-00002", rows("one"))
    file = write_split(tmp_path, "owner/set/a/train-00001-of-00002", {"text": ["two"]}, None)
    assert f"{file} has other columns than train-00000-of-00002.parquet" in refusal(tmp_path)


@pytest.mark.parametrize("features", [{"sentence": {"_type": "Nope"}, "label": {}}, {"sentence": 1}, 7])
def test_metadata_that_does_not_fit_names_the_file(tmp_path: Path, features: object) -> None:
    file = write_split(tmp_path, "owner/set/a/train-00000-of-00001", rows("one"), features)
    assert f"The columns of the mirror file {file} do not fit its own description" in refusal(tmp_path)


@pytest.mark.usefixtures("no_hub")
def test_what_the_mirror_has_instead_is_told(tmp_path: Path) -> None:
    write_split(tmp_path, "owner/set/a/validation-00000-of-00001", rows("one"))
    write_split(tmp_path, "owner/set/b/train-00000-of-00001", rows("one"))
    split = refusal(tmp_path, split="validatoin")
    assert "Did you mean 'validation'?" in split and "split of 'owner/set/a'" in split
    assert "Known: a, b." in refusal(tmp_path, config="c")
    assert "Did you mean 'owner/set/a'?" in refusal(tmp_path, dataset="owner/sett")
    for message in (split, refusal(tmp_path, config="c")):
        assert "The Hub and its cache do not give it" in message and "demo/docstrings" in message


def test_mirror_that_is_no_folder(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert message == f"The data mirror {tmp_path / 'nowhere'} (--data-dir, BENCH_DATA) is not a folder."


@pytest.mark.parametrize(
    "dataset", ["../set", "/etc/set", "a/../b", "a/b/c", "", "a\\b", "owner/..", "./a", "a/b\n", "~/a"]
)
def test_data_set_ids_cannot_leave_the_mirror(tmp_path: Path, dataset: str) -> None:
    assert "is not a data set id" in refusal(tmp_path, dataset=dataset)


@pytest.mark.parametrize("name", ["..", "../b", "/b", "a/b", "*", "a..b", ""])
def test_configurations_and_splits_cannot_leave_the_mirror(tmp_path: Path, name: str) -> None:
    message = refusal(tmp_path, config=name, split=name)
    assert "name of a configuration" in message and "name of a split" in message


def test_hub_is_asked_for_the_pinned_revision(hub: list[dict[str, object]]) -> None:
    loaded = load_split(DataSource(), "owner/set", "a", "train", COMMIT)
    assert hub == [{"path": "owner/set", "name": "a", "split": "train", "revision": COMMIT, "offline": False}]
    assert loaded.source == f"hub:owner/set/a@{COMMIT}"
    own = loaded.dataset._fingerprint
    assert loaded.fingerprint == hashlib.sha256(f"{own}\n{COMMIT}".encode()).hexdigest()


def test_hub_is_asked_for_what_the_mirror_lacks(tmp_path: Path, hub: list[dict[str, object]]) -> None:
    write_split(tmp_path, "owner/set/a/validation-00000-of-00001", rows("one"))
    assert load_split(DataSource(tmp_path), "owner/set", "a", "train", None).source == "hub:owner/set/a"
    assert load_split(DataSource(tmp_path), "owner/set", "a", "validation", None).source == "mirror:owner/set/a"
    assert len(hub) == 1


def test_no_name_resolution_means_cache_only(hub: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(host: str, port: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    load_split(DataSource(), "owner/set", "a", "train", None)
    assert hub[0]["offline"] is True
    assert datasets.config.HF_HUB_OFFLINE is False
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    load_split(DataSource(), "owner/set", "a", "train", None)
    assert hub[1]["offline"] is False


def test_no_name_resolution_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("bench.data.hub_datasets._hub_resolves", lambda endpoint: False)
    assert "there is no network to https://" in refusal(None)


@pytest.mark.usefixtures("hub")
def test_folder_that_would_shadow_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner/set").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "The current folder has a 'owner/set'" in refusal(None)


def write_cache(home: Path, commit: str) -> None:
    """Lay out one prepared split as ``datasets`` keeps it in its cache."""
    folder = home / "datasets/owner___set/a/0.0.0" / commit
    folder.mkdir(parents=True)
    table = datasets.Dataset.from_dict(rows("from the cache", "too"))
    with pa.OSFile(str(folder / "set-train.arrow"), "wb") as file, pa.ipc.new_stream(file, table.data.schema) as out:
        out.write_table(table.data.table)
    train = datasets.SplitInfo("train", num_examples=2, dataset_name="set")
    info = datasets.DatasetInfo(features=table.features, builder_name="parquet", dataset_name="set", config_name="a")
    info.splits = datasets.SplitDict({"train": train}, dataset_name="set")
    info.write_to_directory(str(folder))


OFFLINE = f"""
import sys
from bench.core.protocols import DataSource
from bench.data.hub_datasets import load_split
from bench.core.errors import RequestError
try:
    loaded = load_split(DataSource(), "owner/set", "a", "train", {COMMIT!r})
    print(loaded.source, loaded.dataset[0]["sentence"])
except RequestError as error:
    print(*error.messages, sep="\\n")
"""


def run_offline(home: Path) -> list[str]:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
    env.pop("HF_DATASETS_CACHE", None)
    done = subprocess.run([sys.executable, "-c", OFFLINE], env=env, capture_output=True, text=True, cwd=home)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_offline_without_cache_is_one_message_with_the_ways_out(tmp_path: Path) -> None:
    (message,) = run_offline(tmp_path)
    assert message.startswith("Data set 'owner/set/a', split 'train', is not available.")
    for way in ("BENCH_DATA", "--data-dir", "HF_HOME", "demo/docstrings"):
        assert way in message


def test_offline_with_cache(tmp_path: Path) -> None:
    write_cache(tmp_path, COMMIT)
    assert run_offline(tmp_path) == [f"hub:owner/set/a@{COMMIT} from the cache"]


def test_offline_with_another_commit_in_the_cache_is_refused(tmp_path: Path) -> None:
    write_cache(tmp_path, "0" * 40)
    (message,) = run_offline(tmp_path)
    assert f"at commit {'0' * 40}, but the task is pinned to {COMMIT}" in message


def test_importing_is_cheap() -> None:
    code = "import bench.data.hub_datasets, sys; print({'datasets', 'pyarrow', 'torch'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
