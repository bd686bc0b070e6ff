"""tunebench: compare parameter-efficient fine-tuning methods under one trainer.

``bench.run`` does what the command ``bench run`` does and returns a pandas DataFrame; ``bench.plan`` plans memory as
``bench plan`` does; ``bench.load`` gives a saved tuned model
back. A plugin needs ``bench.option``, ``bench.register_method`` and ``bench.register_task``. Importing this loads
neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.api import option
from bench.errors import RequestError
from bench.registry import register_method, register_task

if TYPE_CHECKING:
    from bench.card import load
    from bench.python import plan, run

__all__ = ["RequestError", "load", "option", "plan", "register_method", "register_task", "run"]


def __getattr__(name: str) -> Any:
    if name == "run":
        from bench.python import run

        return run
    if name == "plan":
        from bench.python import plan

        return plan
    if name == "load":
        from bench.card import load

        return load
    raise AttributeError(f"module 'bench' has no attribute '{name}'")
