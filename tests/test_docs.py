"""The documentation: links resolve, commands parse, Python examples run, and every page answers a question."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.cli.parser import build_parser
from tests.conftest import Bench, sentences

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
MORE = [ROOT / name for name in ("CONTRIBUTING.md", "tests/speed/README.md", "results/README.md",
                                 "results/baselines/README.md", "results/published/MEMORY.md")]  # fmt: skip
LINKED = [README, *PAGES, *MORE]
QUESTION = re.compile(r"# (Who|What|Which|How|Is|Can|Will|Where|Why|Does)\b.*\?")
# What a command in a page may use in place of a name of the reader's own.
PLACEHOLDERS = {"…"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in some languages ("" for none)."""
    found = re.findall(r"^```([\w-]*)\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    return [text for language, text in found if language in languages]


def python_block(path: Path, word: str) -> str:
    (found,) = [text for text in blocks(path, "python") if word in text]
    return found


def commands(path: Path) -> list[str]:
    """The ``bench`` commands of a page's blocks, each on one line, without environment and prompt."""
    found = []
    for block in blocks(path, "", "sh", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            start = re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*(bench )", line)
            if start is not None:
                found.append(line[start.start(1) :])
    return found


ALL_COMMANDS = [(named(page), command) for page in (README, *PAGES) for command in commands(page)]


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(path: Path) -> list[str]:
    """The relative links of a page; links inside code are none."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`(?!\])", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", LINKED, ids=named)
def test_links_resolve(page: Path) -> None:
    broken = []
    for link in links(page):
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or not target.is_relative_to(ROOT):
            broken.append(link)
        elif anchor and anchor not in anchors(target):
            broken.append(f"{link}: no such heading")
    assert broken == []


def test_pages_have_links_commands_and_examples() -> None:
    """What the other tests look at was found at all."""
    assert len(PAGES) >= 17 and len(ALL_COMMANDS) >= 60
    assert sum(len(links(page)) for page in (README, *PAGES)) >= 50
    assert sum(len(blocks(page, "python")) for page in (README, *PAGES)) == 5


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_page_starts_with_a_question(page: Path) -> None:
    assert QUESTION.fullmatch(page.read_text().splitlines()[0])


def test_the_index_lists_every_page_under_its_question() -> None:
    index = (ROOT / "docs/README.md").read_text()
    wanted = {
        f"| {page.read_text().splitlines()[0].removeprefix('# ')} | [{page.name}]({page.name}) |"
        for page in PAGES
        if page.name != "README.md"
    }
    assert set(re.findall(r"^\|.*\.md.*$", index, re.MULTILINE)) == wanted
    assert "docs/README.md" in links(README)


@pytest.mark.parametrize(("page", "command"), ALL_COMMANDS)
def test_commands_parse(page: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command, comments=True)[1:]
    assert not PLACEHOLDERS.intersection(words), "write the command out"
    if words == ["--help"]:
        return
    try:
        arguments = build_parser().parse_args(words)
    except SystemExit:
        pytest.fail(f"{page}: {command}\n{capsys.readouterr().err}")
    assert hasattr(arguments, "act"), command


@pytest.mark.parametrize(("page", "command"), ALL_COMMANDS)
def test_commands_mean_the_same_in_a_shell(page: str, command: str) -> None:
    """No pipe, redirection or wildcard that a shell would take out of an argument."""
    words = list(shlex.shlex(command, posix=False, punctuation_chars="|&;<>"))
    assert not {"|", "<", ">", "&", ";"}.intersection(words), f"{page}: quote it: {command}"


def test_every_option_that_is_set_exists(bench_here: Bench) -> None:
    """``--set METHOD.OPTION=…`` of built-in methods and ``train.OPTION``, which the parser does not look at."""
    asked = {
        (page, owner, option)
        for page, command in ALL_COMMANDS
        for owner, option in re.findall(r"--set '?([a-z][\w-]*)\.([\w.]+)=", command)
        if owner not in ("task", "shift")
    }
    shown = {owner: bench_here("show", owner).stdout for owner in {"train", *(owner for _, owner, _ in asked)}}
    known = {owner: set(re.findall(r"^([a-z]\w*) ", text, re.MULTILINE)) for owner, text in shown.items()}
    wrong = []
    for page, owner, option in sorted(asked):
        of = "train" if option.startswith("train.") else owner
        if option.removeprefix("train.") not in known[of]:
            wrong.append(f"{page}: {owner}.{option}")
    assert wrong == [] and len(asked) >= 10


# -- the examples -------------------------------------------------------------------------------------------


def test_method_in_one_file(bench: Bench, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "shift.py").write_text(python_block(README, "class Shift:"))
    (command,) = [command for command in commands(README) if command.startswith("bench run --plugin shift.py")]
    arguments = [{"demo/docstrings": "glue/sst2"}.get(word, word) for word in command.split()[1:]]
    done = bench(*arguments, "--model", tiny_model, "--steps", 40, "--lr", 0.02, "--out", "out", "--json", "--quiet")
    record = next(r for r in json.loads(done.stdout) if r["spec"]["method"]["name"] == "shift")
    assert record["status"] == "ok" and record["spec"]["method"]["scale"] == 0.5
    assert record["parameters"]["trainable"] == 2 * 32 + 2 * 32 + 2, "a vector per layer, and the head"
    failed = {name: why for name, why in record["checks"].items() if why.startswith("fail")}
    assert set(failed) <= {"beats majority"}, failed
    shown = bench("show", "shift", "--plugin", "shift.py").stdout
    assert "A learned vector added" in shown and "scale" in shown


def test_task_in_one_file(bench: Bench, tiny_model: Path, mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "films.py").write_text(python_block(ROOT / "docs/plugins.md", "TextTask("))
    folder = mirror / "cornell-movie-review-data/rotten_tomatoes"
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 200), ("validation", 60)):
        texts, labels = sentences(count, count)
        pq.write_table(pa.table({"text": texts, "label": labels}), folder / f"{split}-00000-of-00001.parquet")
    done = bench("run", "--plugin", "films.py", "--methods", "full", "--task", "films", "--model", tiny_model,
                 "--steps", 10, "--json", "--quiet")  # fmt: skip
    (record,) = json.loads(done.stdout)
    assert record["scores"].keys() == {"accuracy", "f1"}, done.stderr


def run_python(code: str, folder: Path, mirror: Path) -> str:
    (folder / "example.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=folder, capture_output=True, text=True, timeout=120,
        env={**os.environ, "BENCH_DATA": str(mirror)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python_api(tiny_model: Path, mirror: Path, tmp_path: Path) -> None:
    page = ROOT / "docs/python-api.md"
    code = python_block(page, "bench.run(").replace('"minilm"', repr(str(tiny_model))).replace("steps=100", "steps=5")
    code = code.replace("model=", 'save=True, set={"lst.reduction": 2}, model=')
    printed = run_python(code, tmp_path, mirror)
    assert "train_peak_bytes" in printed and "lora" in printed and "lst" in printed

    printed = run_python(python_block(page, "bench.compare_runs("), tmp_path, mirror)
    assert "p_holm" in printed and re.search(r"^\d+ \d+$", printed, re.MULTILINE), "bytes of a plan"

    saved = next((tmp_path / "results/local/adapters").iterdir())
    code = python_block(ROOT / "docs/saving-and-export.md", "bench.load(").replace("RUN", saved.name)
    assert "tensor([[" in run_python(code, tmp_path, mirror)


def test_plan_file(bench_here: Bench, tmp_path: Path) -> None:
    page = ROOT / "docs/sweeps-and-tuning.md"
    (plan,) = blocks(page, "toml")
    (tmp_path / "plan.toml").write_text(plan)
    (command,) = [command for command in commands(page) if "--experiment" in command]
    done = bench_here(*shlex.split(command)[1:], "--model", "tiny-bert")
    # lora with three ranks, lst with three reductions and two kinds of heads; three seeds each
    assert done.returncode == 0 and "27 runs, 0 already there" in done.stdout, done.stderr


def test_a_failing_or_duplicate_plugin_names_its_file(bench_here: Bench, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import bench\n1 / 0\n")
    done = bench_here("list", "methods", "--plugin", "broken.py")
    assert done.returncode == 2 and "broken.py" in done.stderr and "line 2" in done.stderr
    (tmp_path / "again.py").write_text(python_block(README, "class Shift:").replace('"shift"', '"lora"'))
    done = bench_here("list", "methods", "--plugin", "again.py")
    assert done.returncode == 2 and "defined twice" in done.stderr and "again.py" in done.stderr


# -- the code's layout --------------------------------------------------------------------------------------

OUTPUT = ("results/local", "results/example", "results/gate")  # what commands of the pages write


def test_paths_in_the_pages_exist() -> None:
    """Files, folders and scripts that pages name, such as ``tests/parity`` or ``python -m tests.tasks.short_runs``."""
    top = ("bench", "methods", "tasks", "tests", "results", "docs")
    missing = set()
    for page in LINKED:
        text = page.read_text()
        paths = re.findall(rf"`((?:{'|'.join(top)})/[\w./-]+)`", text)
        paths += re.findall(r"python (?:-m pytest )?(tests/[\w./-]+)", text)
        paths += [f"{name.replace('.', '/')}.py" for name in re.findall(r"python -m (tests\.[\w.]+)", text)]
        for path in paths:
            if "NAME" not in path and not path.startswith(OUTPUT) and not (ROOT / path).exists():
                missing.add(f"{named(page)}: {path}")
    assert sorted(missing) == []
