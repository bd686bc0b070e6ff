"""Mirrors: find one, and fill it with data sets as ``<id>/<config>/<split>-*.parquet`` and models as
``models/<owner>/<name>/``.

Parquet files are copied byte for byte where the repository has them under such names, so that every mirror of a
commit has the same fingerprint; other formats are converted by ``datasets``.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.core.errors import RequestError, unknown
from bench.data import hub

PINNED = "mirror.json"  # what a mirror knows of a folder's origin
_MODEL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
_SKIPPED = ("README.md", "*.onnx*", "*.h5", "*.msgpack", "flax*", "tf_*")
_PICKLED = ("pytorch_model*.bin",)


def mirror_folder(given: Path | None = None) -> Path | None:
    """The data mirror: the given folder, else that of ``BENCH_DATA`` (RequestError when it does not exist)."""
    text = given or os.environ.get("BENCH_DATA")
    if not text:
        return None
    folder = Path(text).expanduser()
    if not folder.is_dir():
        name = "--data-dir" if given else "BENCH_DATA"
        raise RequestError(f"{name}: the folder {folder} does not exist.", code="not-found")
    return folder


def fetch_model(hub_id: str, revision: str | None, mirror: Path, allow_pickle: bool = False) -> Path:
    """Copy a model's configuration, tokenizer and weights at a revision into ``<mirror>/models/<hub_id>``.

    A folder that already holds that commit is left as it is; another commit's is replaced once the new one is whole.

    Raises:
        RequestError: when the repository, the revision, the network or room on the disk is missing, or it has no
            safetensors.
    """
    from huggingface_hub import HfApi

    folder = mirror / "models" / hub_id
    with hub.told(f"Model {hub_id}", hub_id, revision, mirror):
        info = HfApi().model_info(hub_id, revision=revision, files_metadata=True)
        if pinned(folder) == info.sha:
            return folder
        there = [file.rfilename for file in info.siblings or () if "/" not in file.rfilename]
        kinds = (*_MODEL_FILES, *(_PICKLED if allow_pickle else ()))
        wanted = [name for name in there if _any(name, kinds) and not _any(name, _SKIPPED)]
        if not _any_of(wanted, ("*.safetensors",)) and not (allow_pickle and _any_of(wanted, _PICKLED)):
            pickled = " It has pickled ones; --allow-pickle takes them." if _any_of(there, _PICKLED) else ""
            raise RequestError(f"Model {hub_id} has no *.safetensors weights.{pickled}", code="unavailable")
        _fill("model", hub_id, str(info.sha), _plainly(wanted), folder, revision)
    return folder


def fetch_split(mirror: Path, dataset: str, config: str | None, split: str, revision: str | None) -> None:
    """Copy one split of a data set at a revision into ``<mirror>/<dataset>/<config>/``.

    Raises:
        RequestError: when the repository, revision, configuration, split, network or room on the disk is missing.
    """
    from huggingface_hub import HfApi

    folder = mirror / dataset / (config or "")
    with hub.told(f"Data set {dataset}", f"datasets/{dataset}", revision, mirror):
        info = HfApi().dataset_info(dataset, revision=revision)
        files = [file.rfilename for file in info.siblings or ()]
        wanted, before = _parquets(files, config, split), pinned(folder)
        if wanted and revision is None and before not in (None, info.sha):  # beside splits of an earlier commit
            info = HfApi().dataset_info(dataset, revision=before)
            wanted = _parquets([file.rfilename for file in info.siblings or ()], config, split)
        if wanted:
            _fill("dataset", dataset, str(info.sha), _plainly(wanted), folder, revision)
            return
        if f"{dataset.rpartition('/')[2]}.py" in files and revision is None:
            copy = hub.converted(dataset, config)
            if split not in copy.splits:
                raise RequestError(
                    unknown(f"split of '{dataset}' in the Hub's parquet copy:", split, copy.splits), code="invalid-data"
                )
            names = _shards(split, copy.splits[split])
            _fill("dataset", dataset, copy.commit, names, folder, revision)
            return
        _convert(dataset, config, split, str(info.sha), folder, revision)


def _shards(split: str, files: Sequence[str]) -> dict[str, str]:
    """Files of a split with their names in a mirror."""
    return {file: f"{split}-{index:05}-of-{len(files):05}.parquet" for index, file in enumerate(files)}


def _parquets(files: Sequence[str], config: str | None, split: str) -> list[str]:
    """The repository's own parquet files of a split, where they are laid out as a mirror is."""
    places = [f"{config}/"] if config else ["data/", "", "default/"]
    for place in places:
        found = [name for name in files if fnmatch.fnmatchcase(name, f"{place}{split}-*.parquet")]
        if found:
            return sorted(found)
    return []


def _plainly(files: Sequence[str]) -> dict[str, str]:
    return {file: Path(file).name for file in files}


def _fill(kind: str, repository: str, commit: str, files: Mapping[str, str], folder: Path, asked: str | None) -> None:
    """Download files of a commit into a folder, all or none, and record the commit.

    Args:
        files: paths in the repository, and what each is called in the folder.
    """
    from huggingface_hub import hf_hub_download

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as made:
        for name in files:
            hf_hub_download(repository, name, repo_type=kind, revision=commit, local_dir=made)
        for name, called in files.items():
            (Path(made) / name).rename(Path(made) / called)
        _settle([Path(made) / called for called in files.values()], folder, commit, asked, replace=kind == "model")


def _convert(dataset: str, config: str | None, split: str, commit: str, folder: Path, asked: str | None) -> None:
    import datasets

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as made:
        loaded = datasets.load_dataset(dataset, config, split=split, revision=commit, cache_dir=made)
        file = Path(made) / f"{split}-00000-of-00001.parquet"
        loaded.to_parquet(file)
        _settle([file], folder, commit, asked, replace=False)


def _settle(files: Sequence[Path], folder: Path, commit: str, asked: str | None, replace: bool) -> None:
    """Move whole files into their folder; ``mirror.json`` names the commit and the size of each."""
    known: dict[str, Any] = {"bytes": {}}
    before = pinned(folder)
    if before == commit and not replace:
        known = json.loads((folder / PINNED).read_bytes())
    elif replace and folder.exists():
        shutil.rmtree(folder)
    elif before is not None:  # files of another commit do not belong beside these; further folders are others'
        for name in json.loads((folder / PINNED).read_bytes()).get("bytes", {}):
            (folder / Path(name).name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        file.replace(folder / file.name)
    sizes = {**known["bytes"], **{file.name: (folder / file.name).stat().st_size for file in files}}
    text = json.dumps({"revision": commit, "asked": asked or "main", "bytes": sizes}, indent=1)
    partial = folder / f"{PINNED}.partial"
    partial.write_text(text + "\n")
    partial.replace(folder / PINNED)


def pinned(folder: Path) -> str | None:
    """The commit at which a folder of a mirror was downloaded; None where it is not recorded."""
    try:
        return str(json.loads((folder / PINNED).read_bytes())["revision"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _any(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _any_of(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(_any(name, patterns) for name in names)
