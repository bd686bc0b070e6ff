"""Images in classes: scikit-learn's digits, folders, and how a picture reaches a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.core import registry, task_options
from bench.core.errors import RequestError
from bench.core.protocols import DataSource
from bench.tasks.formulations.image_inputs import Look, Pixels, look, pixel_values
from bench.tasks.images import ImageFolder, stratified
from tests import zoo

LOOK = Look((4, 4), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 5)


@pytest.fixture(autouse=True)
def registered() -> None:
    registry.load()


def pictures(folder: Path, count: int = 5) -> Path:
    """So many grey pictures; the number of each is its brightness."""
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (6, 5), (number, number, number)).save(folder / f"{number}.png")
    return folder


def opened(folder: Path, **given: str) -> ImageFolder:
    found = task_options.changed(registry.task_entry(str(folder)).value, given)
    return task_options.resolved(found, DataSource())  # type: ignore[return-value]


def test_digits_are_split_alike_in_every_class_and_never_differently() -> None:
    digits = registry.task_entry("digits").value
    found, again = digits.load(DataSource()), digits.load(DataSource())
    assert len(found.train) + len(found.validation) == 1797 and found.fingerprint == again.fingerprint
    labels = np.asarray(found.validation["label"])
    assert labels.tolist() == again.validation["label"][:]
    assert np.bincount(labels).min() >= 34 and np.bincount(labels).max() <= 37
    first = np.asarray(found.train[0]["image"])
    assert first.shape == (8, 8) and 200 < first.max() <= 255


def test_a_fifth_of_each_class_is_held_out_but_never_all() -> None:
    labels = np.array([0] * 10 + [1] * 2 + [2])
    train, held = stratified(labels, 0.2)
    assert np.bincount(labels[held], minlength=3).tolist() == [2, 1, 0]
    assert sorted(train + held) == list(range(13))
    assert stratified(labels, 0.2, seed=1)[1] != held


def test_a_folder_with_a_subfolder_a_class(tmp_path: Path) -> None:
    pictures(tmp_path / "pets" / "dog"), pictures(tmp_path / "pets" / "cat", 10)
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("no picture")
    task = opened(tmp_path / "pets")
    assert task.labels == ("cat", "dog") and "cat, dog" in task.notes[0]
    found = task.load(DataSource())
    assert (len(found.train), len(found.validation)) == (12, 3)
    assert sorted(found.validation["label"]) == [0, 0, 1]
    assert len(opened(tmp_path / "pets", holdout="0.5").load(DataSource()).validation) == 7


def test_train_and_validation_folders_of_their_own(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("val", 3)):
        for name in ("a", "b"):
            pictures(tmp_path / part / name, count)
    found = opened(tmp_path).load(DataSource())
    assert (len(found.train), len(found.validation)) == (8, 6)
    first = found.fingerprint
    Image.new("RGB", (9, 9)).save(tmp_path / "val" / "b" / "9.png")
    assert opened(tmp_path).load(DataSource()).fingerprint != first, "a further picture is other data"


def test_every_byte_is_in_the_fingerprint_and_a_cut_file_is_found(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.fromarray(noise + number).save(tmp_path / name / f"{number}.bmp")
    Image.fromarray(noise).save(tmp_path / "a" / "2.jpg")
    first = opened(tmp_path).load(DataSource()).fingerprint
    path = tmp_path / "a" / "1.bmp"
    data = bytearray(path.read_bytes())
    data[200_000] ^= 1
    path.write_bytes(data)
    assert opened(tmp_path).load(DataSource()).fingerprint != first
    picture = tmp_path / "a" / "2.jpg"
    picture.write_bytes(picture.read_bytes()[: picture.stat().st_size * 6 // 10])
    with pytest.raises(RequestError, match=r"a/2\.jpg") as refused:
        opened(tmp_path).load(DataSource())
    assert refused.value.codes == ["invalid-data"]


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "one" / "cat")
    with pytest.raises(RequestError, match="there is only 'cat'"):
        opened(tmp_path / "one")
    pictures(tmp_path / "few" / "cat", 1), pictures(tmp_path / "few" / "dog", 1)
    with pytest.raises(RequestError, match="class 'cat' has one image"):
        opened(tmp_path / "few").load(DataSource())
    for name in ("cat", "dog"):
        pictures(tmp_path / "bad" / "train" / name)
    pictures(tmp_path / "bad" / "test" / "bird")
    (tmp_path / "bad" / "train" / "cat" / "broken.png").write_bytes(b"no picture at all")
    with pytest.raises(RequestError) as refused:
        opened(tmp_path / "bad").load(DataSource())
    said = " ".join(refused.value.messages)
    assert "class 'bird' of test/ is not among train's classes" in said and "1 files are no readable images" in said
    assert "broken.png" in said and "test/ has no images" in said
    with pytest.raises(RequestError, match="Unknown task '.*/nowhere'"):
        opened(tmp_path / "nowhere")


def test_pixels_are_resized_scaled_and_normalised() -> None:
    white, black = (Image.new("RGB", (9, 3), (value,) * 3) for value in (255, 0))
    torch.testing.assert_close(pixel_values(white, LOOK), torch.ones(3, 4, 4))
    torch.testing.assert_close(pixel_values(black, LOOK), -torch.ones(3, 4, 4))
    half = np.zeros((8, 8), np.uint8)
    half[:, 4:] = 255
    found = pixel_values(half, LOOK)
    assert found.shape == (3, 4, 4) and (found[:, :, 0] < -0.7).all() and (found[:, :, 3] > 0.7).all()
    own = Look((4, 4), (0.0,), (1.0,), 5)
    assert pixel_values(Image.new("RGB", (5, 5), (255, 255, 255)), own).shape == (1, 4, 4)
    assert pixel_values(Image.new("RGBA", (5, 5), (255, 0, 0, 9)), LOOK)[0].min() > 0.999


def test_what_a_model_wants_is_read_from_beside_it(tmp_path: Path) -> None:
    config = zoo.backbone("vit", "image-classification").config
    plain = look(str(tmp_path), None, config)
    assert (plain.size, plain.mean, plain.patches) == ((16, 16), (0.5, 0.5, 0.5), 5)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}')
    assert look(str(tmp_path), None, config).mean == (0.1, 0.2, 0.3)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(RequestError, match="preprocessor_config.json cannot be read"):
        look(str(tmp_path), None, config)


def test_a_batch_is_pixels_and_labels_of_its_rows(tmp_path: Path) -> None:
    pictures(tmp_path / "a", 3), pictures(tmp_path / "b", 3)
    rows = opened(tmp_path).load(DataSource()).train
    data = Pixels(rows, "image", np.asarray(rows["label"]), LOOK)
    batch = data.take([2, 0]).collate([1], {})
    assert batch["pixel_values"].shape == (1, 3, 4, 4) and batch["labels"].tolist() == [rows[0]["label"]]
    assert data.lengths.tolist() == [5] * 4
