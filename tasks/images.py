"""Images in classes: scikit-learn's digits, cifar10 (Krizhevsky 2009), and any folder with a subfolder per class."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.core.errors import RequestError, faults
from bench.core.protocols import DataSource, Splits, Task, option
from bench.core.registry import register_opener, register_task
from bench.tasks._row_cache import kept
from bench.tasks.metrics.compute import compute

if TYPE_CHECKING:
    import datasets

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
_TRAIN = ("train", "training")
_SCORED = ("validation", "valid", "val", "dev", "test")
_END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_LEAST = 2  # images of a class: one to learn from, one to score


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTask:
    """Images with a class each; satisfies ``bench.core.protocols.Task``.

    Args:
        image, label: columns of images and of class indices.
    """

    name: str
    help: str
    kind: str = "image-classification"
    labels: tuple[str, ...] = ()
    image: str = "image"
    label: str = "label"
    main_score: str = "accuracy"
    higher_is_better: bool = True

    def score(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Accuracy of class indices."""
        return compute(("accuracy",), predictions, references)


class Digits(ImageTask):
    """1,797 handwritten digits of 8 x 8 pixels, which scikit-learn carries (from UCI's Optical Recognition set)."""

    def load(self, source: DataSource) -> Splits:
        """A seeded, stratified fifth is the evaluation split."""
        import datasets
        from sklearn.datasets import load_digits

        found = load_digits()
        pixels = np.round(found.images * (255 / 16)).astype(np.uint8)
        labels = found.target.astype(np.int64)
        features = datasets.Features(
            {"image": datasets.Array2D((8, 8), "uint8"), "label": datasets.ClassLabel(names=list(self.labels))}
        )
        rows = datasets.Dataset.from_dict({"image": list(pixels), "label": labels.tolist()}, features=features)
        rest, held = stratified(labels, 0.2)
        digest = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
        return Splits(rows.select(rest), rows.select(held), digest, "scikit-learn digits")


class Cifar10(ImageTask):
    """60,000 photographs of 32 x 32 pixels; the test split is scored."""

    def load(self, source: DataSource) -> Splits:
        from bench.data.hub_datasets import load_split

        parts = [load_split(source, "uoft-cs/cifar10", "plain_text", split, None) for split in ("train", "test")]
        for part in parts:
            missing = [name for name in (self.image, self.label) if name not in part.dataset.column_names]
            if missing:
                there = ", ".join(part.dataset.column_names)
                raise RequestError(
                    f"Task '{self.name}' cannot use {part.source}: no column '{missing[0]}' ({there}).",
                    code="invalid-data",
                )
        prints = "\n".join(part.fingerprint for part in parts)
        return Splits(parts[0].dataset, parts[1].dataset, hashlib.sha256(prints.encode()).hexdigest(), parts[0].source)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolder(ImageTask):
    """Custom images: a subfolder per class, in the folder itself or in its train and validation folders.

    Args:
        folder: where they are.
        notes: what was found, for people.
    """

    folder: str
    holdout: float = option(0.2, "share of each class held out where there is no validation folder", low=0.01, high=0.9)
    split_seed: int = option(0, "seed of that choice of images", low=0)
    notes: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    def resolve(self, source: DataSource) -> Task:
        """The task with its classes, which are the names of the training images' folders (RequestError)."""
        train, scored = self._parts()
        classes = _classes(train)
        if len(classes) < 2:
            there = f"only '{classes[0]}'" if classes else "none"
            raise RequestError(
                f"Image folder {self.name}: each class needs a subfolder with images ({', '.join(SUFFIXES)}); there "
                f"is {there}. Lay it out as {self.folder}/cat/1.png, {self.folder}/dog/2.png.",
                code="invalid-data",
            )
        splits = f"validation from {scored.name}/" if scored else f"{self.holdout:g} of each class held out"
        shown = ", ".join(classes[:10]) + (f", … ({len(classes)} in all)" if len(classes) > 10 else "")
        return dataclasses.replace(self, labels=classes, notes=(f"classes from subfolders: {shown}", splits))

    def _parts(self) -> tuple[Path, Path | None]:
        """The training folder, and the evaluation folder or None."""
        root = Path(self.folder).expanduser()
        below = {path.name.lower(): path for path in root.iterdir() if path.is_dir()}
        train = next((below[name] for name in _TRAIN if name in below), None)
        if train is None:
            return root, None
        return train, next((below[name] for name in _SCORED if name in below), None)

    def load(self, source: DataSource) -> Splits:
        """Both splits, images still in their files.

        Raises:
            RequestError: for a class that training lacks, files that are no images, or too few of them.
        """
        train, scored = self._parts()
        wrong: list[str] = []
        paths, labels = self._files(train, wrong)
        if scored is not None:
            others, their = self._files(scored, wrong)
            if not others:
                wrong.append(f"Image folder {self.name}: {scored.name}/ has no images.")
        few = [name for index, name in enumerate(self.labels) if labels.count(index) < _LEAST]
        if scored is None and few:
            wrong.append(
                f"Image folder {self.name}: class '{few[0]}' has one image; two are the least, to hold one out."
            )
        if wrong:
            raise RequestError(faults(wrong, "invalid-data"))
        if scored is None:
            rest, held = stratified(np.asarray(labels), self.holdout, self.split_seed)
            others, their = [paths[row] for row in held], [labels[row] for row in held]
            paths, labels = [paths[row] for row in rest], [labels[row] for row in rest]
        digest = _digest([*paths, *others], Path(self.folder).expanduser())
        return Splits(self._rows(paths, labels), self._rows(others, their), digest, f"folder:{train.name}")

    def _files(self, folder: Path, wrong: list[str]) -> tuple[list[Path], list[int]]:
        """Images and class indices in name order; adds messages for other files and unknown classes."""
        paths, labels, damaged = [], [], []
        for name in _classes(folder):
            if name not in self.labels:
                wrong.append(
                    f"Image folder {self.name}: class '{name}' of {folder.name}/ is not among train's classes."
                )
                continue
            for path, checksum in _checksums(_images(folder / name)).items():
                if not checksum:
                    damaged.append(path)
                    continue
                paths.append(path)
                labels.append(self.labels.index(name))
        if damaged:
            first = damaged[0].relative_to(Path(self.folder).expanduser())
            wrong.append(
                f"Image folder {self.name}: {len(damaged)} files are no readable images, the first is {first}."
            )
        return paths, labels

    def _rows(self, paths: Sequence[Path], labels: Sequence[int]) -> datasets.Dataset:
        import datasets

        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(self.labels))})
        columns = {"image": [str(path) for path in paths], "label": list(labels)}
        return datasets.Dataset.from_dict(columns, features=features)


def _images(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if not path.name.startswith("."))


def _classes(folder: Path) -> tuple[str, ...]:
    """Names of the subfolders that hold images, sorted."""
    below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return tuple(path.name for path in below if _images(path))


def _digest(paths: Iterable[Path], root: Path) -> str:
    """SHA-256 over the name and checksum of each file."""
    whole = hashlib.sha256()
    for path, checksum in _checksums(list(paths)).items():
        whole.update(f"{path.relative_to(root).as_posix()}:{checksum}\n".encode())
    return whole.hexdigest()


def _checksums(paths: Sequence[Path]) -> dict[Path, str]:
    """SHA-256 of each file, empty where it is not a whole image; cached until a file changes."""

    def read() -> dict[str, list[tuple[str, ...]]]:
        return {"": [(hashlib.sha256(path.read_bytes()).hexdigest() if _is_whole(path) else "",) for path in paths]}

    return dict(zip(paths, (row[0] for row in kept(read, paths, Path(__file__))[""]), strict=True))


def _is_whole(path: Path) -> bool:
    """Whether a file is an image that is not cut off; pixels are decoded only where its end does not show it."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            marker = _END_MARKERS.get(image.format or "")
            if marker is None or marker not in path.read_bytes()[-64:]:
                image.load()
    except (OSError, SyntaxError, ValueError):  # what PIL's decoders raise for damaged files
        return False
    return True


def stratified(labels: np.ndarray[Any, Any], share: float, seed: int = 0) -> tuple[list[int], list[int]]:
    """Training and evaluation rows, seeded: a share of each class, at least one row and never all."""
    generator = np.random.default_rng([seed, 3])
    held: list[int] = []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        held += rows[: min(len(rows) - 1, max(1, round(share * len(rows))))].tolist()
    chosen = set(held)
    return [row for row in range(len(labels)) if row not in chosen], sorted(held)


def open_folder(name: str) -> Task | None:
    """The task of a folder that exists (``pictures``); None for other names."""
    path = Path(name).expanduser()
    if not path.is_dir():
        return None
    return ImageFolder(name=name, folder=name, help=f"your own images, {name}")


register_opener(open_folder)
register_task(
    Digits(
        name="digits",
        labels=tuple("0123456789"),
        help="handwritten digits of 8 x 8 pixels, carried by scikit-learn (needs no download)",
    )
)
register_task(
    Cifar10(
        name="cifar10",
        image="img",
        labels=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        help="photographs of 32 x 32 pixels in ten classes",
    )
)
