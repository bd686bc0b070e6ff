"""Find a model by alias, local folder, GGUF file or Hub id, and compute its fingerprint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.core.errors import RequestError, unknown
from bench.models.aliases import ALIASES

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./+-]*", re.ASCII)
_WHOLE_BYTES = 512 * 2**20
_SAMPLE_BYTES = 2**20
_HASHED = (".json", ".txt", ".model", ".safetensors", ".bin")
PINNED = "mirror.json"  # a mirror's file with a model's origin


@dataclass(frozen=True)
class Loading:
    """How to load a model, beyond its name; options that differ from the default are part of a run's identity.

    Attributes:
        quantize: ``int8`` or ``nf4`` for the frozen base, or None.
        trust_remote_code: run the model repository's own Python code.
        allow_pickle: read ``pytorch_model.bin`` where there are no safetensors (torch's ``weights_only`` reader).
    """

    quantize: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Loading:
        """The options in a specification's ``model`` part."""
        return cls(spec.get("quantize"), bool(spec.get("trust_remote_code")), bool(spec.get("allow_pickle")))

    def changed(self) -> dict[str, Any]:
        """The options that differ from the default."""
        return {name: value for name, value in vars(self).items() if value}


@dataclass(frozen=True)
class ModelSource:
    """A resolved model.

    Attributes:
        name: as requested, ``@revision`` included.
        location: a folder or Hub id that transformers loads.
        source: where it came from, without machine paths: ``package:…``, ``folder:…``, ``gguf:…``, ``mirror:…`` or
            ``hub:…``.
        revision: the Hub's commit, or None.
        fingerprint: 16 hex digits that change with its configuration, tokenizer or weights.
        loading: how its weights are loaded.
    """

    name: str
    location: str
    source: str
    revision: str | None
    fingerprint: str
    loading: Loading = field(default_factory=Loading)

    @property
    def spec(self) -> dict[str, Any]:
        """The model's part of a run's specification."""
        facts = {name: getattr(self, name) for name in ("name", "source", "revision", "fingerprint")}
        return {**facts, **self.loading.changed()}


def resolve(name: str, loading: Loading | None = None, mirror: Path | None = None) -> ModelSource:
    """Find a model by alias, local folder, GGUF file or Hub id; ``name@revision`` pins a commit, branch or tag.

    An installed package is used before the mirror, and the mirror (``<mirror>/models/<owner>/<name>``) before the
    Hub and its cache.

    Raises:
        RequestError: when there is none, or the Hub cannot be reached and its cache does not hold it.
    """
    loading = loading or Loading()
    path = Path(name).expanduser()
    if name not in ALIASES and path.exists():
        return _local(name, path, loading)
    plain, _, revision = name.partition("@")
    if revision and Path(plain).expanduser().exists():
        raise RequestError(f"Model '{name}': a local folder or file has no revisions.", code="invalid-value")
    if "@" in name and not _REVISION.fullmatch(revision):
        raise RequestError(
            f"Model '{name}': '{revision}' is not a revision: a commit, branch or tag of the Hub.", code="invalid-value"
        )
    alias = ALIASES.get(plain)
    if alias is None and not HUB_ID.fullmatch(plain):
        ways = (
            " Or give a local folder with config.json and *.safetensors, a .gguf file, or a Hub id such as owner/name."
        )
        raise RequestError([unknown("model", plain, ALIASES).within(after=ways)])
    packaged = alias.packaged() if alias is not None and not revision else None
    if alias is not None and packaged is not None:
        return _from_path(name, packaged, f"package:{alias.distribution}", loading)
    hub_id = plain if alias is None else alias.hub
    if hub_id is None:
        raise RequestError(
            f"Model '{name}': {plain} is not on the Hub, so it has no revisions." if revision
            else f"Model '{name}' is missing from this installation of tunebench; install it again.",
            code="unavailable",
        )  # fmt: skip
    mirrored = mirror / "models" / hub_id if mirror is not None else None
    if mirrored is not None and (mirrored / "config.json").is_file():
        return _from_mirror(name, hub_id, mirrored, revision, loading)
    return _from_hub(name, hub_id, revision or None, loading)


def alias_of(name: str) -> str:
    """The alias of a Hub id, or of the path of its package or shipped files; any other name unchanged."""
    path = Path(name).expanduser()
    place = path.resolve() if path.exists() else None
    for alias, known in ALIASES.items():
        packaged = known.packaged() if place is not None else None
        if name == known.hub or (packaged is not None and packaged.resolve() == place):
            return alias
    return name


def _local(name: str, path: Path, loading: Loading) -> ModelSource:
    if path.is_file():
        if path.suffix != ".gguf":
            raise RequestError(
                f"Model file {name} is not a .gguf file. Give one, or a folder with config.json.", code="invalid-value"
            )
        return _from_path(name, path, f"gguf:{path.name}", loading)
    if not (path / "config.json").is_file():
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return _from_path(name, files[0], f"gguf:{files[0].name}", loading)
        if files:
            names = ", ".join(file.name for file in files)
            raise RequestError(
                f"Model folder {name} has {len(files)} GGUF files ({names}): name the one to use.", code="ambiguous"
            )
        raise RequestError(f"Model folder {name} has no config.json (nor a .gguf file).", code="not-found")
    _check_weights(f"Model folder {name}", path, loading)
    return _from_path(name, path.resolve(), f"folder:{path.resolve().name}", loading)


def _check_weights(what: str, folder: Path, loading: Loading) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if not any(folder.glob("pytorch_model*.bin")):
        raise RequestError(f"{what} has no *.safetensors weights.", code="unavailable")
    if not loading.allow_pickle:
        raise RequestError(
            f"{what} has no *.safetensors weights, only pickled ones, which can run code as they are read. If you "
            "trust them, --allow-pickle reads them with torch's weights-only reader.",
            code="unsafe",
        )


def _from_path(name: str, path: Path, source: str, loading: Loading) -> ModelSource:
    """A model in a folder, or in a GGUF file, which is unpacked."""
    from bench.models import gguf

    digest = fingerprint(path)
    location = gguf.unpacked(path, digest) if path.is_file() else path
    return ModelSource(name, str(location), source, None, digest, loading)


def _from_mirror(name: str, hub_id: str, folder: Path, revision: str, loading: Loading) -> ModelSource:
    """A model downloaded by ``bench fetch``; its commit identifies it, as on the Hub."""
    try:
        pinned = json.loads((folder / PINNED).read_bytes())
        commit, asked, sizes = str(pinned["revision"]), pinned["asked"], dict(pinned["bytes"])
    except FileNotFoundError:  # copied by hand
        if revision:
            raise RequestError(
                f"Model '{name}': the mirror's {folder} does not say which revision it is (no {PINNED}). Fetch it with "
                "bench fetch, or name it without the revision.",
                code="damaged",
            ) from None
        _check_weights(f"Model folder {folder}", folder, loading)
        return _from_path(name, folder, f"mirror:{hub_id}", loading)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise RequestError(
            f"{folder / PINNED} cannot be read: {error}. Fetch the model again.", code="damaged"
        ) from error
    if revision and revision not in (commit, asked):
        raise RequestError(
            f"Model '{name}': the mirror has {hub_id} at {commit} (requested as {asked}), not {revision}. Fetch that "
            f"one: bench fetch --models {hub_id}@{revision} --to {folder.parents[2]}",
            code="conflict",
        )
    damaged = [file for file, size in sizes.items() if not _has(folder / file, size)]
    if damaged:
        raise RequestError(
            f"Model '{name}': {folder / damaged[0]} is missing or cut off in the mirror; fetch it again.",
            code="damaged",
        )
    _check_weights(f"Model folder {folder}", folder, loading)
    return ModelSource(name, str(folder), f"mirror:{hub_id}", commit, identity(hub_id, commit), loading)


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _from_hub(name: str, hub_id: str, revision: str | None, loading: Loading) -> ModelSource:
    from transformers import AutoConfig

    from bench.data import hub

    try:
        with hub.no_retries_without_network():
            config = AutoConfig.from_pretrained(
                hub_id, revision=revision or "main", trust_remote_code=loading.trust_remote_code
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise RequestError(_unavailable(name, hub_id, revision, error), code="unavailable") from error
    commit = getattr(config, "_commit_hash", None)
    if commit is None:
        raise RequestError(
            f"Model '{name}': neither the Hub nor its cache says which commit of {hub_id} this is.", code="unavailable"
        )
    return ModelSource(name, hub_id, f"hub:{hub_id}", commit, identity(hub_id, commit), loading)


def _unavailable(name: str, hub_id: str, revision: str | None, error: BaseException) -> str:
    from bench.data import hub

    alias = ALIASES.get(name.partition("@")[0])
    install = f"pip install 'tunebench[{alias.extra}]', " if alias and alias.extra else ""
    reason = hub.reason(hub_id, revision, error)
    if reason is None and "trust_remote_code" in str(error):
        return (
            f"Model '{name}': {hub_id} contains Python code, which would run on this machine. If you have "
            "read and trust it, add --trust-remote-code."
        )
    return (
        f"Model '{name}' ({hub_id}) is not available from the Hub or its cache: {reason or hub.first_line(error)}. "
        f"Options: {install}a mirror filled by bench fetch (BENCH_DATA), a Hub cache named by HF_HOME, or --model "
        "FOLDER with a local copy."
    )


def identity(hub_id: str, commit: str) -> str:
    """The fingerprint of a repository's commit, which fixes every byte: the same from the Hub and from a mirror."""
    return hashlib.sha256(f"{hub_id}@{commit}".encode()).hexdigest()[:16]


def fingerprint(folder: Path) -> str:
    """Hash configuration, tokenizer and weights, or one file; above 512 MiB by size and 64 samples of 1 MiB."""
    digest = hashlib.sha256()
    for path in [folder] if folder.is_file() else sorted(folder.glob("*")):
        if path == folder or (path.suffix in _HASHED and path.is_file()):
            _add(digest, path)
    return digest.hexdigest()[:16]


def _add(digest: Any, path: Path) -> None:
    size = path.stat().st_size
    digest.update(f"{path.name}:{size}\n".encode())
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            digest.update(hashlib.file_digest(file, "sha256").digest())
            return
        for index in range(64):
            file.seek(index * (size - _SAMPLE_BYTES) // 63)
            digest.update(file.read(_SAMPLE_BYTES))
