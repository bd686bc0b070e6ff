"""The store: whole records or none, whatever happens to the processes that write them."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import RequestError
from bench.core.files import write_output
from bench.store.store import Store
from tests import factories

RUN = "0123456789abcdef"


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "out")
    made.prepare()
    return made


def python(code, *arguments):
    """Start a Python process that sees the packages of this one."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_a_record_comes_back_as_it_was(store):
    made = factories.record()
    made["scores"]["accuracy"] = 0.1 + 0.2
    path = store.write(made)
    assert path == store.folder / "runs" / f"{made['run_id']}.json"
    assert store.read(made["run_id"]) == made
    assert store.records() == ([made], [])
    assert path.stat().st_mode & 0o044, "others may read it, as any file one makes"


def test_no_record_is_none(store):
    assert store.read(RUN) is None


def test_an_empty_or_absent_folder_has_no_records(tmp_path):
    assert Store(tmp_path / "nowhere").records() == ([], [])


def test_what_is_not_finite_is_written_as_null(store):
    made = factories.record()
    made["scores"]["accuracy"] = math.nan
    made["curve"][3]["loss"] = math.inf
    back = store.read(store.write(made).stem)
    assert back["scores"]["accuracy"] is None and back["curve"][3]["loss"] is None
    assert math.isnan(made["scores"]["accuracy"]), "the caller's record must not be changed"


def test_writing_something_that_could_not_be_read_is_refused(store):
    made = factories.record()
    del made["memory"]["train_peak"]
    with pytest.raises(ValueError, match='record.memory: "train_peak" is a required'):
        store.write(made)
    assert store.records() == ([], [])


@pytest.mark.parametrize("name", ["../../etc/passwd", "0123456789ABCDEF", "0123", RUN + "\n", "", RUN + "/x"])
def test_unchecked_names_make_no_path(store, name):
    for use in (store.read, store.predictions_path, store.adapter_path, lambda run: store.wait(run, 0)):
        with pytest.raises(ValueError, match="not a run id"):
            use(name)
    with pytest.raises(ValueError, match="not a run id"), store.claim(name):
        pass


def test_paths_of_what_belongs_to_a_run(store):
    assert store.predictions_path(RUN) == store.folder / "predictions" / f"{RUN}.parquet"
    assert store.adapter_path(RUN) == store.folder / "adapters" / RUN


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "Expecting value"),
        ('{"schema": 1', "delimiter"),
        ("[]", "record: []"),
        ("{}", "is a required"),
        ("NaN", "NaN is not JSON"),
        (b"\xff\xfe\x00", "codec can't decode"),
        ("[" * 200_000, "nested too deeply"),
    ],
)
def test_corrupt_files_are_set_aside_and_named(store, content, why):
    path = store.folder / "runs" / f"{RUN}.json"
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(data)
    whole = factories.record()
    store.write(whole)
    found, warnings = store.records()
    assert found == [whole] and len(warnings) == 1
    moved = store.folder / "corrupt" / path.name
    assert str(moved) in warnings[0] and why in warnings[0]
    assert not path.exists() and moved.read_bytes() == data
    assert store.records() == ([whole], [])


def test_another_versions_record_stays_where_it_is(store):
    record = factories.record()
    path = store.write(record)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 2}))
    later = path.read_bytes()
    records, (said,) = store.records()
    assert records == [] and "written by another version of bench (record format 2, this one reads 1)" in said
    with pytest.raises(RequestError, match="another version"):
        store.read(record["run_id"])
    assert path.read_bytes() == later
    store.write(record)  # the run is done again: the other version's is kept
    assert (store.folder / "corrupt" / path.name).read_bytes() == later


def test_output_goes_through_links_and_pipes(tmp_path):
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(target)
    write_output(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as pool:
        read = pool.submit(pipe.read_bytes)
        write_output(pipe, b"through")
        assert read.result() == b"through" and pipe.is_fifo()
    with pytest.raises(RequestError, match="is the record of a run"):
        write_output(tmp_path / "runs" / f"{RUN}.json", b"")


def test_a_file_under_another_runs_name_is_set_aside(store):
    written = store.write(factories.record())
    written.rename(written.with_name(f"{RUN}.json"))
    found, warnings = store.records()
    assert found == [] and f"it holds the run {written.stem}" in warnings[0]


def test_setting_aside_never_overwrites_an_earlier_file(store):
    for content in ("first", "second", "third"):
        (store.folder / "runs" / f"{RUN}.json").write_text(content)
        store.records()
    kept = sorted(path.read_text() for path in (store.folder / "corrupt").iterdir())
    assert kept == ["first", "second", "third"]


def test_reading_one_corrupt_record_sets_it_aside_and_says_so(store):
    (store.folder / "runs" / f"{RUN}.json").write_text("{")
    with pytest.raises(RequestError, match="was moved to"):
        store.read(RUN)
    assert store.read(RUN) is None


def test_leftovers_of_killed_writers_are_ignored_and_swept_after_a_day(store):
    fresh, old = (store.folder / "runs" / f".{RUN}.json.{name}.tmp" for name in ("fresh", "old"))
    for path in (fresh, old):
        path.write_text("{")
    two_days_ago = time.time() - 2 * 86_400
    os.utime(old, (two_days_ago, two_days_ago))
    assert store.records() == ([], [])
    assert fresh.exists() and not old.exists()


def test_a_failed_write_leaves_the_earlier_record_and_no_leftover(store, monkeypatch):
    made = factories.record()
    store.write(made)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write(made | {"error": "changed"})
    assert store.records() == ([made], [])
    assert [path.name for path in (store.folder / "runs").iterdir()] == [f"{made['run_id']}.json"]


def test_prepare_makes_the_folders_and_may_be_repeated(tmp_path):
    store = Store(tmp_path / "a" / "b")
    store.prepare()
    store.prepare()
    assert {path.name for path in store.folder.iterdir()} == {"runs", "locks", "predictions", "adapters"}
    assert not list(store.folder.glob("*/.*"))


@pytest.mark.parametrize("below", ["file", "file/sub", "file/sub/sub"])
def test_a_folder_that_is_a_file_or_below_one_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RequestError, match="cannot be written .*Choose another with --out"):
        Store(tmp_path / below).prepare()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RequestError, match="Permission denied"):
        Store(tmp_path / "out").prepare()


def test_a_read_only_disk_is_refused(tmp_path, monkeypatch):
    def refuse(self, **options):
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(RequestError, match="Read-only file system"):
        Store(tmp_path / "out").prepare()


WRITE_FOREVER = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from bench.core.files import write_output
from bench.store.store import Store
store, record = Store(Path(sys.argv[1])), json.loads(Path(sys.argv[2]).read_text())
number = 0
print("ready", flush=True)
while True:
    number += 1
    record["environment"]["number"] = number
    record["environment"]["padding"] = "x" * (number % 97 * 1000)
    store.write(record)
"""


def _writer(store, tmp_path, made):
    source = tmp_path / f"{made['run_id']}.source.json"
    source.write_text(json.dumps(made))
    process = python(WRITE_FOREVER, store.folder, source)
    assert process.stdout.readline() == "ready\n"
    return process


def test_writers_killed_at_random_moments_leave_only_whole_records(store, tmp_path):
    rng, kills, numbers = random.Random(1), 0, set()
    made = [factories.record("lora", seed=seed) for seed in range(4)]
    while kills < 32:
        writers = [_writer(store, tmp_path, one) for one in made]
        for writer in rng.sample(writers, len(writers)):
            time.sleep(rng.uniform(0.002, 0.03))
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
            kills += 1
            found, warnings = store.records()
            assert warnings == []
            numbers |= {one["environment"]["number"] for one in found}
    assert {one["run_id"] for one in found} == {one["run_id"] for one in made}
    assert len(numbers) > kills / 2, "the writers must have been killed at different points of their work"


def test_two_writers_of_one_run_leave_one_whole_record(store, tmp_path):
    made = factories.record()
    writers = [_writer(store, tmp_path, made) for _ in range(2)]
    until = time.monotonic() + 0.7
    reads = 0
    while time.monotonic() < until:
        found, warnings = store.records()
        assert warnings == [] and len(found) <= 1
        reads += 1
    for writer in writers:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    assert reads > 20 and store.read(made["run_id"]) is not None


HOLD = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from bench.core.files import write_output
from bench.store.store import Store
with Store(Path(sys.argv[1])).claim(sys.argv[2]) as held:
    print(held, flush=True)
    time.sleep(60)
"""


def test_a_claim_excludes_others_and_dies_with_its_process(store):
    with store.claim(RUN) as held:
        assert held
        with store.claim(RUN) as second, store.claim("f" * 16) as other:
            assert (second, other) == (False, True)
    holder = python(HOLD, store.folder, RUN)
    assert holder.stdout.readline() == "True\n"
    with store.claim(RUN) as held:
        assert not held
    started = time.monotonic()
    assert store.wait(RUN, 0.2) is False
    assert 0.15 < time.monotonic() - started < 2
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert store.wait(RUN, 5) is True
    with store.claim(RUN) as held:
        assert held


def test_a_claim_is_given_back_after_an_error(store):
    with pytest.raises(KeyError), store.claim(RUN):
        raise KeyError
    with store.claim(RUN) as held:
        assert held


@pytest.mark.parametrize(("path", "value"), [
    ("memory.phases.forward.peak_bytes", None), ("environment.workers", "x"), ("spec.tuning.options", 3),
    ("tuning.trials", [3]), ("parameters.trainable", 10**400), ("scores.accuracy", 10**30),
])  # fmt: skip
def test_a_record_edited_into_another_shape_is_set_aside_alone(tmp_path: Path, path: str, value: Any) -> None:
    """One such file must not stop what reads the folder."""
    store = Store(tmp_path)
    store.prepare()
    for seed in (0, 1):
        store.write(factories.record(seed=seed))
    file = store._runs / f"{factories.record(seed=1)['run_id']}.json"
    edited = json.loads(file.read_text())
    edited["spec"]["tuning"] = {"group": "g", "options": {}, "trials": 1, "prune": "none", "seed": 0, "trial": None}
    edited["tuning"] = {"best_of": 1, "options": ["lr"], "chosen": None, "trials": []}
    file.write_text(json.dumps(edited))
    assert len(store.records()[0]) == 2
    *parents, name = path.split(".")
    place = edited
    for parent in parents:
        place = place[parent]
    place[name] = value
    file.write_text(json.dumps(edited))
    kept, warnings = store.records()
    assert len(kept) == 1 and len(warnings) == 1 and "corrupt" in warnings[0], warnings
