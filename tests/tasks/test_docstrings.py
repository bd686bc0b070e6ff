"""demo/docstrings: enough rows, balanced, the same everywhere, nothing on both sides, nothing imported."""

import collections
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.core.errors import RequestError
from bench.core.protocols import DataSource
from bench.core.registry import task_entry
from bench.tasks import docstrings
from bench.tasks._row_cache import kept
from bench.tasks.docstrings import LABELS, NAME, Row, area_of, first_sentence, read_module, sources, splits, unique


def test_size_and_balance() -> None:
    sides = splits()
    train, validation = (collections.Counter(row.area for row in sides[side]) for side in ("train", "validation"))
    assert train.total() + validation.total() >= 2500
    assert validation.total() >= 400
    assert set(train) == set(validation) == set(LABELS)
    assert 6 <= len(LABELS) <= 10
    assert max(train.values()) <= 3 * min(train.values())
    assert min(validation.values()) >= 25


def test_nothing_is_on_both_sides() -> None:
    train, validation = splits()["train"], splits()["validation"]
    assert not {row.group for row in train} & {row.group for row in validation}
    texts = [re.sub(r"\W+", " ", row.text.lower()).strip() for row in (*train, *validation)]
    assert len(set(texts)) == len(texts)


def test_methods_stay_with_their_class() -> None:
    groups = collections.defaultdict(set)
    for side, rows in splits().items():
        for row in rows:
            groups[row.group].add(side)
    assert all(len(sides) == 1 for sides in groups.values())
    assert sum(row.group == "tarfile.TarFile" for rows in splits().values() for row in rows) > 10


def test_no_sentence_names_its_own_module() -> None:
    for row in (row for rows in splits().values() for row in rows):
        module = row.group.split(".")[0].lstrip("_")
        assert not re.search(rf"\b{module}\b", row.text, re.IGNORECASE), row


def test_load_gives_the_rows_with_class_names() -> None:
    loaded = task_entry(NAME).value.load(DataSource())
    assert loaded.train.features["label"].names == list(LABELS)
    assert loaded.train.column_names == ["text", "label", "group"]
    first = splits()["train"][0]
    assert loaded.train[0] == {"text": first.text, "label": LABELS.index(first.area), "group": first.group}
    assert len(loaded.validation) == len(splits()["validation"])
    assert loaded.source == f"python {sys.version_info[0]}.{sys.version_info[1]} standard library"


def test_same_in_every_process() -> None:
    code = "from bench.tasks.docstrings import *; print({s: fingerprint(r) for s, r in splits().items()})"
    outputs = []
    for seed in ("0", "4242"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        outputs.append(
            subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        )
    own = {side: docstrings.fingerprint(rows) for side, rows in splits().items()}
    assert [output.stdout.strip() for output in outputs] == [str(own)] * 2


def test_nothing_is_imported() -> None:
    code = (
        "import sys, sysconfig\n"
        "from bench.tasks.docstrings import splits\n"
        "sysconfig.get_path('stdlib')\n"  # sysconfig reads its own table from a module
        "before = set(sys.modules)\n"
        "splits()\n"
        "print(sorted(set(sys.modules) - before))\n"
        "print({'mailbox', 'telnetlib', 'turtle', 'xmlrpc', 'torch', 'datasets'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new, heavy = done.stdout.splitlines()
    assert new == "[]"
    assert heavy == "set()"


SOURCE = '''"""Reads and writes tapes of data. More of it."""

if True:
    class Tape:
        """A tape that can be wound."""

        async def wind(self):
            """Wind the reel
            to its end, e.g. with a motor!

            Slowly.
            """
            def inner():
                """Turn the motor once more."""

        def twice(self): "A mention of tapefile here."

def cut(tape):
    """cut(tape) -> two pieces of tape"""
'''


def test_what_is_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(docstrings._AREA_OF, "tapefile", "files")
    path = tmp_path / "tapefile.py"
    path.write_text(SOURCE)
    assert unique(read_module("tapefile", path)) == [
        Row("A tape that can be wound.", "files", "tapefile.Tape"),
        Row("Reads and writes tapes of data.", "files", "tapefile"),
        Row("Turn the motor once more.", "files", "tapefile.Tape"),
        Row("Wind the reel to its end, e.g. with a motor!", "files", "tapefile.Tape"),
    ]


@pytest.mark.parametrize("content", [b"print 'python 2'", b"x = '\x00'", b"# coding: nothing\nx = 1", b"\xff\xfe"])
def test_file_that_does_not_parse_is_skipped(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "queue.py"
    path.write_bytes(content)
    assert list(read_module("queue", path)) == []
    assert list(read_module("queue", tmp_path / "absent.py")) == []


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Return x.y as text. Then more.", "Return x.y as text."),
        ("No full stop at all\n\nNext paragraph.", "No full stop at all"),
        ("Convert it (e.g. to bytes) vs. nothing? Yes.", "Convert it (e.g. to bytes) vs. nothing?"),
        ("Too short.", None),
        ("open(file, mode='r') -> file object of some kind", None),
        ("See >>> here is a prompt", None),
        ("word " * 100, None),
        ("A bell \x07 rings in here.", None),
    ],
)
def test_first_sentence(docstring: str, sentence: str | None) -> None:
    assert first_sentence(docstring) == sentence


def test_a_sentence_found_twice_is_kept_once_or_not_at_all() -> None:
    rows = [
        Row("Close the file.", "files", "b.B"),
        Row("Close  the file", "files", "a.A"),
        Row("Return the name.", "files", "a.A"),
        Row("Return the name.", "text", "c.C"),
    ]
    assert unique(iter(rows)) == [Row("Close  the file", "files", "a.A")]


def test_areas_and_twins(tmp_path: Path) -> None:
    assert area_of("email.mime.text") == "mail"
    assert area_of("tkinter.ttk") is None
    for name in ("_pydecimal.py", "email/message.py", "email/__init__.py", "email/test/test_it.py", "idlelib/run.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [module for module, _ in sources(tmp_path)] == ["decimal", "email", "email.message"]


def test_python_without_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings.sysconfig, "get_path", lambda name: str(tmp_path))
    splits.cache_clear()
    with pytest.raises(RequestError, match="has none in"):
        splits()
    monkeypatch.setattr(docstrings.sysconfig, "get_path", lambda name: str(tmp_path / "python.zip"))
    with pytest.raises(RequestError, match="has none in"):
        splits()
    splits.cache_clear()


def test_rows_are_kept_until_a_source_or_the_code_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, code = tmp_path / "source.py", tmp_path / "code.py"
    source.write_text("1")
    code.write_text("2")
    calls: list[int] = []

    def read() -> dict[str, list[tuple[str, ...]]]:
        calls.append(1)
        return {"train": [("text", "area", "group")], "validation": []}

    def again() -> int:
        assert kept(read, [source], code) == {"train": [("text", "area", "group")], "validation": []}
        return len(calls)

    assert [again(), again()] == [1, 1]
    source.write_text("12")
    assert again() == 2
    code.write_text("3")
    assert [again(), again()] == [3, 3]
    for damaged in ("{", '{"train": [["text", 1]]}', "[]"):
        for path in (tmp_path / "cache").rglob("*.json"):
            path.write_text(damaged)
        calls.clear()
        assert [again(), again()] == [1, 1], damaged
    monkeypatch.setenv("XDG_CACHE_HOME", str(source))
    assert again() == 2, "a folder that cannot be written"


def test_a_kept_split_has_the_fingerprint_of_a_fresh_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fingerprints = []
    for _ in range(2):
        docstrings._kept_splits.cache_clear()
        fingerprints.append({side: docstrings.fingerprint(rows) for side, rows in docstrings._kept_splits().items()})
    docstrings._kept_splits.cache_clear()
    assert fingerprints == [{side: docstrings.fingerprint(rows) for side, rows in splits().items()}] * 2
