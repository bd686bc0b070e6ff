"""The public plug-in module: what a file with a method or a task of your own imports.

Names here keep their meaning between versions; everything else in the package may move.
"""

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

__all__ = [
    "AlreadyTrained",
    "Batch",
    "CountsParameters",
    "DataInitialized",
    "DataSource",
    "Encodes",
    "ExportsToPeft",
    "FollowsSteps",
    "Generates",
    "GroupsParameters",
    "KINDS",
    "Limits",
    "Mergeable",
    "Method",
    "Resolves",
    "GroupedPrediction",
    "SharesBackbone",
    "Splits",
    "TASK_KINDS",
    "Task",
    "option",
    "register_method",
    "register_task",
]
