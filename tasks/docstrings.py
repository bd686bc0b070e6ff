"""demo/docstrings: which area of the standard library does a docstring's first sentence belong to?

Real text that every Python has. The source files are read with ``ast``; nothing is imported. Only modules that
every distribution ships are used (no tkinter, idlelib, distutils, test), so the rows depend on the Python version
alone, and the fingerprint in the record tells two versions apart.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.core.errors import RequestError
from bench.core.registry import register_task
from bench.tasks.text_classification import TextTask

if TYPE_CHECKING:
    from bench.core.protocols import DataSource
    from bench.data.hub_datasets import Loaded

NAME = "demo/docstrings"

# Area → its modules. Packages stand for all their modules, unless a longer name below says otherwise; modules
# that no area names are not used (encodings, for one: a hundred sentences that differ in a code page's number).
# Names that only some Python versions have are harmless.
AREAS = {
    "collections": """
        _collections_abc _weakrefset abc annotationlib bisect collections contextlib contextvars copy copyreg
        dataclasses enum functools graphlib heapq operator reprlib types typing weakref""",
    "concurrency": """
        _threading_local asynchat asyncio asyncore concurrent multiprocessing queue sched selectors signal
        subprocess threading""",
    "files": """
        _compression bz2 compression dbm filecmp fileinput fnmatch genericpath glob gzip io linecache lzma ntpath
        os pathlib posixpath pickle shelve shutil stat tarfile tempfile zipfile""",
    "language": """
        __future__ _ast_unparse _sitebuiltins ast code codeop compileall dis imp importlib inspect keyword
        modulefinder opcode pickletools pkgutil py_compile pyclbr pydoc rlcompleter runpy site symtable sysconfig
        tabnanny token tokenize zipimport""",
    "mail": "email imaplib mailbox mailcap mimetypes netrc nntplib poplib quopri smtpd smtplib uu",
    "networking": """
        cgi cgitb ftplib http ipaddress socket socketserver ssl telnetlib urllib webbrowser wsgiref xmlrpc""",
    "numbers": """
        _pylong _strptime calendar colorsys datetime decimal fractions numbers random secrets statistics
        zoneinfo""",
    "testing": """
        bdb cProfile doctest logging pdb profile pstats timeit trace traceback tracemalloc unittest warnings""",
    "text": """
        _markupbase base64 binhex codecs configparser csv difflib gettext html json locale plistlib pprint re shlex
        sre_compile sre_constants sre_parse string stringprep textwrap tomllib xml""",
}
LABELS = tuple(AREAS)
_AREA_OF = {module: area for area, modules in AREAS.items() for module in modules.split()}

# The pure-Python twin of a C module holds the docstrings; since Python 3.12 datetime's moved there too.
TWINS = {"_pydatetime": "datetime", "_pydecimal": "decimal", "_pyio": "io", "_py_warnings": "warnings"}

VALIDATION_PERCENT = 20
_LONGEST = 400  # characters; the few longer "sentences" are tables and unpunctuated lists
_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bcf)(?<!\betc)[.!?](?=\s|$)")
_SIGNATURE = re.compile(r"[\w.\[\]]+\s?\(.*\)\s*(->|--|=|:|$)")


class Row(NamedTuple):
    """One example: the sentence, its area, and the top-level class or function that it comes from."""

    text: str
    area: str
    group: str


class DocstringsTask(TextTask):
    """The text task whose rows are read from the running Python's own source files."""

    def read(self, source: DataSource, split: str) -> Loaded:
        """Return the rows of ``split``: text, label (a ClassLabel) and group; ``source`` is not needed."""
        import datasets

        from bench.data.hub_datasets import Loaded

        rows = _kept_splits()[split]
        features = datasets.Features(
            {
                "text": datasets.Value("string"),
                "label": datasets.ClassLabel(names=list(LABELS)),
                "group": datasets.Value("string"),
            }
        )
        columns = {
            "text": [row.text for row in rows],
            "label": [LABELS.index(row.area) for row in rows],
            "group": [row.group for row in rows],
        }
        dataset = datasets.Dataset.from_dict(columns, features=features)
        return Loaded(dataset, fingerprint(rows), f"python {sysconfig.get_python_version()} standard library")


@functools.cache
def _kept_splits() -> dict[str, tuple[Row, ...]]:
    """``splits``, cached on disk: the process of every run would otherwise parse the sources again."""
    from bench.tasks._row_cache import kept

    files = [path for _, path in sources(Path(sysconfig.get_path("stdlib")))]
    found = kept(lambda: {side: list(rows) for side, rows in splits().items()}, files, Path(__file__))
    return {side: tuple(Row(*row) for row in rows) for side, rows in found.items()}


def fingerprint(rows: Sequence[Row]) -> str:
    """SHA-256 of the rows, as 64 hex digits."""
    return hashlib.sha256(json.dumps(rows, ensure_ascii=True).encode()).hexdigest()


@functools.cache
def splits() -> dict[str, tuple[Row, ...]]:
    """Read the standard library and return its rows as ``train`` and ``validation``, each in sorted order.

    A whole class or function, with all its methods, falls on one side, by the hash of its qualified name: so the
    sides depend neither on the file system's order nor on which other rows there are.

    Raises:
        RequestError: when this Python comes without its source files.
    """
    root = Path(sysconfig.get_path("stdlib"))
    rows = unique(row for module, path in sources(root) for row in read_module(module, path))
    if not rows:
        raise RequestError(
            f"{NAME} reads the standard library's source files, but this Python has none in {root}. Use a Python "
            "installed with its sources, or another task.",
            code="unavailable",
        )
    sides: dict[str, list[Row]] = {"train": [], "validation": []}
    for row in rows:
        sides[side(row.group)].append(row)
    return {name: tuple(members) for name, members in sides.items()}


def side(group: str) -> str:
    """``train`` or ``validation``: where everything of a top-level class, function or module falls, by its name."""
    bucket = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") % 100
    return "validation" if bucket < VALIDATION_PERCENT else "train"


def sources(root: Path) -> list[tuple[str, Path]]:
    """The (module name, file) pairs under ``root`` that belong to an area, sorted by name."""
    if not root.is_dir():
        return []
    found = []
    for top in sorted(path.name for path in root.iterdir()):
        name = top.removesuffix(".py")
        if area_of(TWINS.get(name, name)) is None:
            continue
        paths = root.joinpath(top).rglob("*.py") if name == top else [root / top]
        for path in paths:
            parts = list(path.relative_to(root).with_suffix("").parts)
            parts[0] = TWINS.get(parts[0], parts[0])
            if not {"test", "tests", "__pycache__"} & set(parts):
                found.append((".".join(part for part in parts if part != "__init__"), path))
    return sorted(found)


def area_of(module: str) -> str | None:
    """The area of a dotted module name: that of its longest listed prefix, or None."""
    while module:
        if module in _AREA_OF:
            return _AREA_OF[module]
        module = module.rpartition(".")[0]
    return None


def read_module(module: str, path: Path) -> Iterator[Row]:
    """The usable first sentences of one source file; none when the file cannot be read or parsed.

    A sentence that names its own top-level module is left out: a table from module names to areas would give its
    label away without reading the rest. Cutting only the name out would leave sentences nobody wrote.
    """
    area = area_of(module)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escape sequences in the library's sources are not ours to mend
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    own_name = re.compile(rf"\b{re.escape(module.partition('.')[0].lstrip('_'))}\b", re.IGNORECASE)
    for group, docstring in _docstrings(tree, module):
        sentence = first_sentence(docstring)
        if area is not None and sentence is not None and not own_name.search(sentence):
            yield Row(sentence, area, group)


def _docstrings(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    """(group, docstring) of the module and every class, function and method in it; the group is top-level."""
    waiting: list[tuple[str, ast.AST]] = [("", tree)]
    while waiting:
        group, node = waiting.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            group = group or f"{module}.{node.name}"
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield group or module, docstring
        # expressions hold no definitions, and they are most of the tree
        inner = (child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.ExceptHandler))
        waiting.extend((group, child) for child in inner)


def first_sentence(docstring: str) -> str | None:
    """The first sentence of a docstring on one line, or None when it is not one (a signature, a heading)."""
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    end = _SENTENCE_END.search(paragraph)
    sentence = paragraph[: end.end()] if end else paragraph
    words = re.findall(r"[A-Za-z]{2,}", sentence)
    if len(words) < 3 or len(sentence) > _LONGEST or not sentence.isprintable():
        return None
    return None if _SIGNATURE.match(sentence) or ">>>" in sentence else sentence


def unique(rows: Iterator[Row]) -> list[Row]:
    """Sorted rows with each sentence once, whatever its case and punctuation.

    A sentence found in two areas is dropped, for it has no one label.
    """
    kept: dict[str, Row] = {}
    areas: dict[str, set[str]] = {}
    for row in sorted(rows):
        key = " ".join(re.findall(r"\w+", row.text.lower()))
        kept.setdefault(key, row)
        areas.setdefault(key, set()).add(row.area)
    return sorted(row for key, row in kept.items() if len(areas[key]) == 1)


register_task(
    DocstringsTask(
        name=NAME,
        dataset="python-stdlib",
        text=("text",),
        labels=LABELS,
        metrics=("accuracy",),
        main_score="accuracy",
        group="group",
        help="area of the standard library that a docstring's first sentence comes from (needs no download)",
    )
)
