"""tunebench: compare parameter-efficient fine-tuning methods under one trainer.

``bench.run`` does what the command ``bench run`` does and returns a pandas DataFrame; ``bench.plan`` plans memory as
``bench plan`` does; ``bench.compare_runs`` compares the methods of a results folder; ``bench.load`` gives a saved tuned
model back. A plugin needs ``bench.option``, ``bench.register_method`` and ``bench.register_task``. Importing this loads
neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.core.errors import RequestError
from bench.core.protocols import option
from bench.core.registry import register_method, register_task

if TYPE_CHECKING:
    from bench.cli.python_api import compare_runs, plan, run
    from bench.models.saved_adapter import load

__all__ = ["RequestError", "compare_runs", "load", "option", "plan", "register_method", "register_task", "run"]


def __getattr__(name: str) -> Any:
    if name in ("run", "plan", "compare_runs"):
        from bench.cli import python_api

        return getattr(python_api, name)
    if name == "load":
        from bench.models.saved_adapter import load

        return load
    if name == "__version__":
        from bench.core.environment import versions

        return versions()["tunebench"]
    raise AttributeError(f"module 'bench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
