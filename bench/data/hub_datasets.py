"""One split of a data set: from a mirror in the Hub's layout when there is one, else from the Hub or its cache."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bench.core.errors import RequestError, faults, unknown
from bench.core.protocols import DataSource
from bench.data import hub, mirror

if TYPE_CHECKING:
    import datasets

_DATASET_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_][\w.+-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHARD = re.compile(r".*-(\d{5})-of-(\d{5})\.parquet")

_WAYS_OUT = (
    "Options: give a mirror laid out as <dataset id>/<config>/<split>-*.parquet with --data-dir or BENCH_DATA; "
    "point HF_HOME to a filled Hub cache; or take a task that needs no download, such as demo/docstrings."
)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A split with the identity of its data (64 hex digits) and where it came from, free of machine paths."""

    dataset: datasets.Dataset
    fingerprint: str
    source: str


def load_split(source: DataSource, dataset: str, config: str | None, split: str, revision: str | None) -> Loaded:
    """Load a split, from ``<mirror>/<dataset>/<config>/<split>-*.parquet`` first, then through ``datasets``.

    A mirror's fingerprint is the SHA-256 of its files' bytes, in order; ``revision`` (a commit on the Hub) plays no
    part there. The Hub's is a hash of the data set's own fingerprint and the revision. HF_HUB_OFFLINE is honoured.

    Raises:
        RequestError: when the names are not the Hub's kind, a file of the mirror is damaged or lacks a shard, or
            neither the mirror nor the Hub nor its cache has the data at that revision.
    """
    _check_names(dataset, config, split)
    missed = ""
    if source.mirror is not None:
        if not source.mirror.is_dir():
            raise RequestError(
                f"The data mirror {source.mirror} (--data-dir, BENCH_DATA) is not a folder.", code="not-found"
            )
        folder = source.mirror / dataset / (config or "")
        pinned = mirror.pinned(folder)
        other = pinned is not None and revision is not None and _COMMIT.fullmatch(revision) and pinned != revision
        files = sorted(folder.glob(f"{split}-*.parquet"))
        if source.fill and (other or not files):
            mirror.fetch_split(source.mirror, dataset, config, split, revision)
            files, pinned, other = sorted(folder.glob(f"{split}-*.parquet")), mirror.pinned(folder), False
        if files:
            if other:
                raise RequestError(
                    f"The mirror folder {folder} holds '{_title(dataset, config)}' at commit {pinned}, but the task is "
                    f"pinned to {revision}. Fetch that one with bench fetch.",
                    code="conflict",
                )
            _check_shards(files)
            return _read(files, f"mirror:{_title(dataset, config)}" + (f"@{pinned}" if pinned else ""))
        missed = _not_in_mirror(source.mirror, dataset, config, split)
    return _from_hub(dataset, config, split, revision, missed)


def load_splits(source: DataSource, dataset: str, config: str | None, revision: str | None) -> dict[str, Loaded]:
    """Load all splits by name: from the mirror when it has the data set, else from the Hub or its cache.

    Raises:
        RequestError: as ``load_split``; also when the mirror has several configurations and none is named.
    """
    _check_names(dataset, config, "train")
    missed = ""
    if source.mirror is not None and source.mirror.is_dir():
        folder = source.mirror / dataset / (config or "")
        splits = sorted({file.name.split("-")[0] for file in folder.glob("*-*.parquet")})
        if splits:
            return {split: load_split(source, dataset, config, split, revision) for split in splits}
        configs = sorted(path.name for path in folder.glob("*/") if any(path.glob("*.parquet")))
        if configs and config is None:
            raise RequestError(
                f"'{dataset}' has several configurations in the mirror: {', '.join(configs)}. Name one after a colon: "
                f"hub:{dataset}:{configs[0]}",
                code="ambiguous",
            )
        missed = _not_in_mirror(source.mirror, dataset, config, "train")
    try:
        loaded = _ask_hub(dataset, config, None, revision, missed)
    except _ScriptError:
        return _converted(dataset, config, None, missed)
    return {split: _of_hub(part, dataset, config, revision) for split, part in loaded.items()}


def _check_names(dataset: str, config: str | None, split: str) -> None:
    wrong = []
    if not _DATASET_ID.fullmatch(dataset) or ".." in dataset:
        wrong.append(f"'{dataset}' is not a data set id: 'name' or 'owner/name', as on the Hub.")
    for kind, name in (("configuration", config), ("split", split)):
        if name is not None and (not _NAME.fullmatch(name) or ".." in name):
            wrong.append(f"'{name}' is not the name of a {kind}: letters, digits, '_', '-', '.' and '+'.")
    if wrong:
        raise RequestError(faults(wrong, "invalid-value"))


def _title(dataset: str, config: str | None) -> str:
    return f"{dataset}/{config}" if config else dataset


def _check_shards(files: Sequence[Path]) -> None:
    """Refuse an incomplete copy: every shard that the file names announce must exist once."""
    found = [(int(match[1]), int(match[2])) for file in files if (match := _SHARD.fullmatch(file.name))]
    if not found:
        return
    total = found[0][1]
    if sorted(found) != [(index, total) for index in range(total)] or len(found) != len(files):
        names = ", ".join(file.name for file in files)
        raise RequestError(
            f"The mirror folder {files[0].parent} does not hold one complete set of shards: it has {names}. "
            "Copy the missing files, or remove those of another version.",
            code="damaged",
        )


def _read(files: Sequence[Path], title: str) -> Loaded:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets.table import InMemoryTable

    digest, tables = hashlib.sha256(), []
    for file in files:
        try:
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
            tables.append(pq.read_table(file, partitioning=None))
        except (OSError, pa.ArrowException) as error:
            size = "an empty file" if file.stat().st_size == 0 else str(error).splitlines()[0]
            raise RequestError(
                f"The mirror file {file} is not a readable parquet file: {size}", code="damaged"
            ) from error
        if tables[-1].schema.names != tables[0].schema.names:
            raise RequestError(
                f"The mirror file {file} has other columns than {files[0].name} beside it.", code="damaged"
            )
    if sum(table.num_rows for table in tables) == 0:
        raise RequestError(f"The mirror file {files[0]} has no rows.", code="invalid-data")
    try:
        # Dataset takes the features from the schema's 'huggingface' metadata: class names, images, sequences
        table = pa.concat_tables(tables, promote_options="permissive")
        dataset = datasets.Dataset(InMemoryTable(table), fingerprint=digest.hexdigest()[:16])
    except (ValueError, TypeError, KeyError, AttributeError, pa.ArrowException) as error:
        raise RequestError(
            f"The columns of the mirror file {files[0]} do not fit its own description of them: {error}",
            code="damaged",
        ) from error
    return Loaded(dataset, digest.hexdigest(), title)


def _not_in_mirror(mirror: Path, dataset: str, config: str | None, split: str) -> str:
    """The message for a split that the mirror lacks: which part of the name, the nearest match, what there is."""
    where = f"in the mirror {mirror}"
    stored = {file.parent.relative_to(mirror).as_posix() for file in mirror.glob("*/**/*.parquet")}
    title = _title(dataset, config)
    if title in stored:
        splits = {file.name.split("-")[0] for file in (mirror / title).glob("*.parquet")}
        return unknown(f"split of '{title}' {where}:", split, splits)
    configs = {name.removeprefix(f"{dataset}/") for name in stored if name.startswith(f"{dataset}/")}
    if configs and config is not None:
        return unknown(f"configuration of '{dataset}' {where}:", config, configs)
    return unknown(f"data set {where}:", title, stored)


def _from_hub(dataset: str, config: str | None, split: str, revision: str | None, missed: str) -> Loaded:
    try:
        return _of_hub(_ask_hub(dataset, config, split, revision, missed), dataset, config, revision)
    except _ScriptError:
        return _converted(dataset, config, split, missed)[split]


class _ScriptError(Exception):
    """The Hub has the data set as a script, which ``datasets`` 4 and later do not run."""


def _converted(dataset: str, config: str | None, split: str | None, missed: str) -> dict[str, Loaded]:
    """One split, or all, of the Hub's parquet copy of a data set with a script."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    failures: tuple[type[Exception], ...] = (OSError, ValueError, *HfHubHTTPError.__bases__)
    try:
        copy = hub.converted(dataset, config)
        if split is not None and split not in copy.splits:
            raise RequestError(
                unknown(f"split of '{_title(dataset, config)}' on the Hub:", split, copy.splits), code="invalid-data"
            )
        files = {
            name: [Path(hf_hub_download(dataset, file, repo_type="dataset", revision=copy.commit)) for file in files]
            for name, files in copy.splits.items()
            if split in (None, name)
        }
    except failures as error:
        _refuse(f"'{_title(dataset, config)}'", missed, str(error), error)
    return {name: _read(paths, f"hub:{_title(dataset, config)}@{copy.commit}") for name, paths in files.items()}


def _ask_hub(dataset: str, config: str | None, split: str | None, revision: str | None, missed: str) -> Any:
    """A split as a Dataset, or all splits as a DatasetDict."""
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    if Path(dataset).exists():
        raise RequestError(
            f"{missed} The current folder has a '{dataset}', which would be read instead of the Hub's data set: run "
            "from another folder, or name the folder above it with --data-dir.".strip(),
            code="unavailable",
        )
    # the bases of the Hub's own error are those of the HTTP library beneath it, whichever this version uses
    failures = (
        OSError,
        ValueError,
        RuntimeError,
        datasets.exceptions.DatasetsError,
        *HfHubHTTPError.__bases__,
    )
    try:
        with _cache_only_when_unreachable() as no_network:
            return datasets.load_dataset(dataset, config, split=split, revision=revision)
    except failures as error:
        if revision is None and "scripts are no longer supported" in str(error):
            raise _ScriptError from error
        wanted = f"'{_title(dataset, config)}'" + (f", split '{split}'," if split else "")
        _refuse(wanted, missed, no_network or str(error), error)


def _of_hub(loaded: datasets.Dataset, dataset: str, config: str | None, revision: str | None) -> Loaded:
    commits = _commits(loaded)
    _check_commit(commits, _title(dataset, config), revision)
    digest = hashlib.sha256(f"{loaded._fingerprint}\n{revision}".encode()).hexdigest()
    known = revision or (commits.pop() if len(commits) == 1 else None)  # what an open revision came down to
    return Loaded(loaded, digest, f"hub:{_title(dataset, config)}" + (f"@{known}" if known else ""))


def _commits(loaded: datasets.Dataset) -> set[str]:
    """The commits of the Hub that a data set was made from, as its cache's folders are named."""
    names = {Path(file["filename"]).parent.name for file in loaded.cache_files}
    return {name for name in names if _COMMIT.fullmatch(name)}


def _check_commit(commits: set[str], title: str, revision: str | None) -> None:
    """Refuse another commit than the pinned one: without the Hub, ``datasets`` takes the newest in the cache."""
    others = commits - {revision}
    if revision is not None and _COMMIT.fullmatch(revision) and others:
        raise RequestError(
            f"The Hub's cache has '{title}' at commit {', '.join(sorted(others))}, but the task is pinned to "
            f"{revision}. Fetch that commit where the Hub can be reached. {_WAYS_OUT}",
            code="unavailable",
        )


def _refuse(wanted: str, missed: str, reason: str, error: BaseException) -> NoReturn:
    reason = (" ".join(reason.split()) or type(error).__name__).rstrip(".")
    tried = f"{missed} The Hub" if missed else "No mirror is given, and the Hub"
    raise RequestError(
        f"Data set {wanted} is not available. {tried} and its cache do not give it: {reason}. {_WAYS_OUT}",
        code="unavailable",
    ) from error


@contextlib.contextmanager
def _cache_only_when_unreachable() -> Iterator[str]:
    """Without a network, go straight to the cache: the Hub's client would retry for half a minute first.

    Yields what is wrong with the network, or "" when nothing is known to be.
    """
    import datasets

    endpoint = datasets.config.HF_ENDPOINT
    if datasets.config.HF_HUB_OFFLINE or _hub_resolves(endpoint):
        yield ""
        return
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield f"there is no network to {endpoint}, and the cache lacks it"
    finally:
        datasets.config.HF_HUB_OFFLINE = False


def _hub_resolves(endpoint: str) -> bool:
    return hub.resolves(endpoint)
