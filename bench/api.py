"""The public plug-in module: what a file with a method or a task of your own imports.

Names here keep their meaning between versions; everything else in the package may move. Importing this module loads
neither torch nor transformers; the classes to build tasks from are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bench.core.errors import RequestError
from bench.core.protocols import (
    KINDS,
    TASK_KINDS,
    AlreadyTrained,
    Batch,
    CountsParameters,
    DataInitialized,
    DataSource,
    Encodes,
    ExportsToPeft,
    FollowsSteps,
    Generates,
    GroupedPrediction,
    GroupsParameters,
    Limits,
    Mergeable,
    Method,
    Resolves,
    SharesBackbone,
    Splits,
    Task,
    option,
)
from bench.core.registry import register_method, register_task

if TYPE_CHECKING:
    from bench.data.hub_datasets import Loaded
    from bench.models.backbone import Backbone
    from bench.tasks.prompted import ModellingTask, PromptTask, Source
    from bench.tasks.text_classification import TextTask

__all__ = [
    "AlreadyTrained",
    "Backbone",
    "Batch",
    "CountsParameters",
    "DataInitialized",
    "DataSource",
    "Encodes",
    "ExportsToPeft",
    "FollowsSteps",
    "Generates",
    "GroupedPrediction",
    "GroupsParameters",
    "KINDS",
    "Limits",
    "Loaded",
    "Mergeable",
    "Method",
    "ModellingTask",
    "PromptTask",
    "RequestError",
    "Resolves",
    "SharesBackbone",
    "Source",
    "Splits",
    "TASK_KINDS",
    "Task",
    "TextTask",
    "option",
    "register_method",
    "register_task",
]

_LOADED_WHEN_USED = {
    "Backbone": "bench.models.backbone",
    "Loaded": "bench.data.hub_datasets",
    "ModellingTask": "bench.tasks.prompted",
    "PromptTask": "bench.tasks.prompted",
    "Source": "bench.tasks.prompted",
    "TextTask": "bench.tasks.text_classification",
}


def __getattr__(name: str) -> Any:
    if name in _LOADED_WHEN_USED:
        return getattr(importlib.import_module(_LOADED_WHEN_USED[name]), name)
    raise AttributeError(f"module 'bench.api' has no attribute '{name}'")
