"""Messages for failures of the Hugging Face Hub, and no retries of its client without a network."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import re
import shutil
import socket
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path

from bench.core.errors import RequestError, unknown

FULL = "the disk is full"
CONVERTED = "refs/convert/parquet"  # the branch where the Hub keeps its own parquet copy of a data set
_CONVERTED_FILE = re.compile(r"([\w.+-]+)/([\w.+-]+)/\d+\.parquet", re.ASCII)


def reason(repository: str, revision: str | None, error: BaseException) -> str | None:
    """Why a repository could not be read; None for an error of unknown cause."""
    from huggingface_hub import constants, errors

    gated = f"{repository} is gated: accept its terms at {constants.ENDPOINT}/{repository}, then run hf auth login"
    told: tuple[tuple[type[BaseException], str], ...] = (
        (errors.GatedRepoError, gated),
        (errors.RevisionNotFoundError, f"{repository} has no revision '{revision}'"),
        (errors.RepositoryNotFoundError, f"there is no repository {repository}, or it is private (hf auth login)"),
        (errors.DisabledRepoError, f"{repository} is disabled on the Hub"),
    )
    causes = list(_causes(error))
    for kind, words in told:
        if any(isinstance(cause, kind) for cause in causes):
            return words
    if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes):
        return FULL
    missing = unreachable()
    if missing is not None:
        return f"{missing}, and the cache lacks it"
    if constants.HF_HUB_OFFLINE or any(isinstance(cause, errors.OfflineModeIsEnabled) for cause in causes):
        return "HF_HUB_OFFLINE is set and the cache lacks it"
    if any(type(cause).__name__ in ("ConnectError", "ConnectTimeout", "ConnectionError") for cause in causes):
        return f"{constants.ENDPOINT} does not answer, and the cache lacks it"
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def unreachable() -> str | None:
    """Why the Hub cannot be reached, or None."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or resolves(constants.ENDPOINT):
        return None
    return f"there is no network to {constants.ENDPOINT}"


def resolves(endpoint: str) -> bool:
    """Whether an endpoint's name has an address; behind a proxy, which resolves names, this machine need not."""
    if {"https", "all"} & urllib.request.getproxies().keys():
        return True
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(endpoint).hostname, None)
    except socket.gaierror:
        return False
    return True


@contextlib.contextmanager
def no_retries_without_network() -> Iterator[None]:
    """Without a network, go straight to the cache: the Hub's client would retry for half a minute first."""
    from huggingface_hub import constants

    if unreachable() is None:
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


@dataclasses.dataclass(frozen=True)
class Copy:
    """The Hub's parquet copy of a data set's configuration: its commit and the files of each split in order."""

    commit: str
    splits: dict[str, list[str]]


def converted(dataset: str, config: str | None) -> Copy:
    """The Hub's parquet copy of a data set with a script, which ``datasets`` 4 and later do not run.

    Args:
        config: the configuration; None: the only one, or the one called ``default``.

    Raises:
        RequestError: when there is no such copy or configuration, or there are several and none is named.
        HfHubHTTPError: when the Hub cannot be asked.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        info = HfApi().dataset_info(dataset, revision=CONVERTED)
    except RevisionNotFoundError as error:
        raise RequestError(
            f"Data set '{dataset}' is a script on the Hub, which datasets 4 and later do not run, and the Hub has no "
            "parquet copy of it. Load it where its script can run, save it as parquet, and give the file with --task.",
            code="unavailable",
        ) from error
    found: dict[str, dict[str, list[str]]] = {}
    for file in sorted(sibling.rfilename for sibling in info.siblings or ()):
        if match := _CONVERTED_FILE.fullmatch(file):
            found.setdefault(match[1], {}).setdefault(match[2], []).append(file)
    if config is None and len(found) > 1 and "default" not in found:
        raise RequestError(
            f"'{dataset}' has several configurations: {', '.join(found)}. Name one after a colon: "
            f"hub:{dataset}:{next(iter(found))}",
            code="ambiguous",
        )
    chosen = config or ("default" if len(found) != 1 else next(iter(found)))
    if chosen not in found:
        raise RequestError(
            unknown(f"configuration of '{dataset}' in the Hub's parquet copy:", chosen, found), code="invalid-data"
        )
    return Copy(str(info.sha), found[chosen])


@contextlib.contextmanager
def told(what: str, repository: str, revision: str | None, to: Path) -> Iterator[None]:
    """Turn failures of the Hub's client in the block into one message about ``what``.

    Args:
        to: the folder that is filled, for the message of a full disk.

    Raises:
        RequestError: with the reason.
    """
    from huggingface_hub.errors import HfHubHTTPError

    # the bases of the Hub's own error are those of the HTTP library beneath it, whichever this version uses
    failures: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError, KeyError, *HfHubHTTPError.__bases__)
    missing = unreachable()
    if missing is not None:
        raise RequestError(f"{what} cannot be fetched: {missing}.", code="unavailable")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Not enough free disk space")  # the message below says it
            yield
    except failures as error:
        why = reason(repository, revision, error) or first_line(error)
        if why == FULL:
            there = next(folder for folder in (to, *to.absolute().parents) if folder.exists())
            why = f"{FULL}: {shutil.disk_usage(there).free / 1e6:,.1f} MB are free at {there}, which are too few"
        raise RequestError(f"{what} cannot be fetched: {why}.", code="unavailable") from error
