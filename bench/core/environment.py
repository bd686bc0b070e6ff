"""What a result depends on besides its specification: machine, versions, git state."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "transformers", "datasets", "tokenizers", "evaluate", "numpy", "tunebench")


def cache_folder() -> Path:
    """The folder of tokenised data and other files that can be remade: ``$XDG_CACHE_HOME/tunebench``."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "tunebench"


def versions() -> dict[str, str | None]:
    """Installed versions of the packages that matter; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the current folder's git work tree; None where there is none."""
    try:
        commit = _git("rev-parse", "HEAD")
        dirty = bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return {"git_commit": None, "git_dirty": None}
    return {"git_commit": commit, "git_dirty": dirty}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def cpu_name() -> str:
    """The processor's model name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe(device: str) -> dict[str, Any]:
    """The environment of a run on ``device``: imports torch."""
    import torch

    facts: dict[str, Any] = {
        "device": device,
        "device_name": cpu_name(),
        "driver": None,
        "cuda": None,
        "host_cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": sys.version.split()[0],
        **versions(),
        **git_state(),
    }
    if device == "cuda":
        facts |= {
            "device_name": torch.cuda.get_device_name(),
            "driver": nvidia("driver_version"),
            "cuda": torch.version.cuda,
            "device_memory_bytes": torch.cuda.get_device_properties(0).total_memory,
        }
    return facts


def nvidia(what: str) -> str | None:
    """A value of ``nvidia-smi --query-gpu`` for the first GPU, without initialising CUDA; None without a GPU."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.strip().splitlines()), None)
