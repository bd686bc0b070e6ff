"""What the small models read: nothing that demo/docstrings asks about, and the text that the shipped weights name."""

from __future__ import annotations

import json
import re
import sys
import sysconfig
from pathlib import Path

import pytest

import bench
from bench.core.train_config import TrainSettings
from bench.data.sampling import hold_out
from bench.pretraining import corpus
from bench.tasks import docstrings

PRETRAINED = Path(bench.__file__).parent / "models" / "pretrained"


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return corpus.documents(Path(sysconfig.get_path("stdlib")))


def plain(text: str) -> str:
    return f" {' '.join(re.findall(r'[a-z0-9_]+', text.lower()))} "


def test_no_dev_or_test_text_is_in_the_pretraining_text(documents: list[str]) -> None:
    splits = docstrings.splits()
    _, dev = hold_out(len(splits["train"]), TrainSettings().dev_size)
    held = [row.text for row in splits["validation"]] + [splits["train"][row].text for row in dev]
    assert len(held) > 1000
    text = plain("\n".join(documents))  # longer matches than a paragraph would only make the test stricter
    assert [sentence for sentence in held if plain(sentence) in text] == []


def test_the_search_for_held_out_text_finds_it_when_it_is_there(documents: list[str]) -> None:
    sentence = docstrings.splits()["validation"][7].text
    asked = corpus.Asked([sentence])
    assert f"Before. {sentence.upper()} And after" in asked
    assert plain(sentence) in plain("\n".join([*documents, f"So: {sentence}"]))
    assert "Before. And after" not in asked


def test_what_is_on_the_validation_side_is_left_out_with_all_its_text(tmp_path: Path) -> None:
    names = [f"Thing{index}" for index in range(40)]
    sides = {name: docstrings.side(f"queue.{name}") for name in names}
    assert set(sides.values()) == {"train", "validation"}
    body = "\n\n".join(
        f'class {name}:\n    """Doc.\n\n    Words about {name.lower()} that are long enough to be kept here.\n    """\n'
        f"    # A comment beside {name.lower()} which explains a little more of it\n    x = 1"
        for name in names
    )
    (tmp_path / "queue.py").write_text(body)
    (text,) = corpus.documents(tmp_path)
    for name, side in sides.items():
        assert (f"about {name.lower()} " in text) == (side == "train")
        assert (f"beside {name.lower()} " in text) == (side == "train")


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-llama", "tiny-t5"])
def test_the_shipped_weights_were_trained_on_this_text(documents: list[str], name: str) -> None:
    facts = json.loads((PRETRAINED / name / "pretraining.json").read_text())
    if f"Python {sys.version.split()[0]} " not in facts["text"]:
        pytest.skip(f"the weights read the {facts['text'].split(':')[0]}, this is another")
    assert corpus.fingerprint(documents) == facts["text_sha256"]
