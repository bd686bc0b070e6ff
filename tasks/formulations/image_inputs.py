"""Inputs of a vision model: images resized, scaled and normalised as its preprocessing file says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from bench.core.errors import RequestError
from bench.core.protocols import Batch
from bench.tasks.formulations.prompt_batches import Array

_HALF = (0.5, 0.5, 0.5)  # ViT's own mean and deviation


@dataclass(frozen=True)
class Look:
    """A model's input size in pixels, and mean and standard deviation of each channel (of values from 0 to 1).

    Attributes:
        patches: tokens that an image becomes.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    patches: int


def look(location: str, revision: str | None, config: Any) -> Look:
    """Read ``preprocessor_config.json`` beside a model, where it has one; size and channels are its config's.

    Raises:
        RequestError: when the file is there and cannot be used.
    """
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(location, "preprocessor_config.json", revision=revision,
                           _raise_exceptions_for_missing_entries=False)  # fmt: skip
        found = {} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"The model's preprocessor_config.json cannot be read: {error}", code="damaged") from error
    channels = int(getattr(config, "num_channels", 3))
    mean, std = (tuple(found.get(name) or _HALF) for name in ("image_mean", "image_std"))
    size = _pair(config.image_size)
    patch = _pair(getattr(config, "patch_size", 16))
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        mean, std = (0.5,) * channels, (0.5,) * channels
    return Look(size, mean, std, (size[0] // patch[0]) * (size[1] // patch[1]) + 1)


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


@dataclass(frozen=True)
class Pixels:
    """Images of a data set, decoded and resized when a batch is made, since all would not fit in memory.

    Attributes:
        images: a dataset, or a list, that gives a row's image under ``column``.
        labels: (rows,) class indices.
    """

    images: Any
    column: str
    labels: Array
    look: Look

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> Array:
        """Patches of each image and the class token, (rows,)."""
        return np.full(len(self.labels), self.look.patches)

    def take(self, rows: Sequence[int]) -> Self:
        """The given rows, in that order."""
        chosen = [int(row) for row in rows]
        return type(self)(self.images.select(chosen), self.column, self.labels[np.asarray(chosen)], self.look)

    def collate(self, rows: Sequence[int], padding: dict[str, int]) -> Batch:
        """pixel_values (rows, channels, height, width) in fp32, and labels (rows,)."""
        chosen = [int(row) for row in rows]
        images = self.images[chosen][self.column]
        pixels = torch.stack([pixel_values(image, self.look) for image in images])
        return {"pixel_values": pixels, "labels": torch.from_numpy(self.labels[np.asarray(chosen)])}


def pixel_values(image: Any, look: Look) -> Tensor:
    """A picture as (channels, height, width): bilinear with antialiasing, scaled to 0…1, mean and deviation removed.

    Args:
        image: a PIL image, or an array (height, width) or (height, width, channels) of bytes.
    """
    channels = len(look.mean)
    if hasattr(image, "convert"):
        image = image.convert("L" if channels == 1 else "RGB")
    values = torch.from_numpy(np.array(image, dtype=np.uint8)).float() / 255
    values = values[None] if values.ndim == 2 else values.permute(2, 0, 1)
    if len(values) != channels:
        values = values[:1].expand(channels, -1, -1)
    resized = torch.nn.functional.interpolate(values[None], look.size, mode="bilinear", antialias=True)[0]
    shape = (channels, 1, 1)
    return (resized.clamp(0, 1) - torch.tensor(look.mean).view(shape)) / torch.tensor(look.std).view(shape)
