"""The text that the small models are pretrained on: the documentation that is part of Python.

Docstrings and comments of the standard library's source files and the language reference of ``pydoc``, in the order
of the files. The rows of ``demo/docstrings`` are excluded by two rules that hold on any Python version:

- nothing comes from a class or function (or a module's own docstring) on the task's validation side;
- no sentence of the task, of either side, occurs in the text, so the models have not seen the rows of any dev split.
"""

from __future__ import annotations

import ast
import hashlib
import io
import re
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.tasks import docstrings

# Not in every distribution, or not documentation.
_LEFT_OUT = {
    "test", "tests", "idlelib", "tkinter", "turtledemo", "turtle.py", "distutils", "lib2to3", "ensurepip", "encodings",
    "site-packages", "dist-packages", "__pycache__", "__phello__", "pydoc_data", "_sysconfigdata", "config",
}  # fmt: skip
_SHORTEST = 200  # characters of a document
_START = 3  # words by which a sentence is looked up
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z'\"(`])")
_CODE = re.compile(r"^\s*(>>>|\.\.\. |def |class |import |from \w+ import|\|)")


def documents(root: Path) -> list[str]:
    """One text per source file and reference topic of the Python at ``root``, sorted by path; paragraphs on lines.

    Args:
        root: folder of the standard library.
    """
    asked = Asked([row.text for rows in docstrings.splits().values() for row in rows])
    texts: list[str] = []
    seen: set[str] = set()
    for parts in [
        *(_file_parts(path, _module(path, root)) for path in _files(root)),
        *([text] for text in _topics(root)),
    ]:
        kept = dict.fromkeys(paragraph for part in parts for paragraph in _paragraphs(part, asked))
        texts.append("\n".join(paragraph for paragraph in kept if paragraph not in seen))  # licences recur
        seen.update(kept)
    return [text for text in texts if len(text) > _SHORTEST]


def fingerprint(texts: Sequence[str]) -> str:
    """SHA-256 of the texts, as 64 hex digits."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def words(text: str) -> list[str]:
    """The words of a text, as the task compares sentences: lower case, no punctuation."""
    return re.findall(r"\w+", text.lower())


class Asked:
    """The sentences of the task, found wherever they occur in a text, whatever the case and punctuation."""

    def __init__(self, sentences: Sequence[str]) -> None:
        self._by_start: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for key in {tuple(words(sentence)) for sentence in sentences}:  # each has three words at least
            self._by_start.setdefault(key[:_START], []).append(key)

    def __contains__(self, text: str) -> bool:
        tokens = tuple(words(text))
        return any(
            tokens[start : start + len(key)] == key
            for start in range(len(tokens) - _START + 1)
            for key in self._by_start.get(tokens[start : start + _START], ())
        )


def _files(root: Path) -> list[Path]:
    paths = []
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        if not any(part in _LEFT_OUT or part.startswith(("config-", "_sysconfigdata")) for part in parts):
            paths.append(path)
    return sorted(paths)


def _module(path: Path, root: Path) -> str:
    parts = list(path.relative_to(root).with_suffix("").parts)
    parts[0] = docstrings.TWINS.get(parts[0], parts[0])
    return ".".join(part for part in parts if part != "__init__")


def _file_parts(path: Path, module: str) -> list[str]:
    """Docstrings and comments of a file in their order, without what is on the task's validation side."""
    try:
        source = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # old escapes in a library that is not ours
            tree = ast.parse(source)
    except (OSError, ValueError, SyntaxError):
        return []
    held, parts = _held_lines(tree, module), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            line = node.body[0].lineno if node.body else 0
            if docstring and line not in held:
                parts.append((line, docstring))
    parts += [(line, text) for line, text in _comments(source) if line not in held]
    return [text for _, text in sorted(parts)]


def _held_lines(tree: ast.Module, module: str) -> set[int]:
    held: set[int] = set()
    if docstrings.side(module) == "validation" and ast.get_docstring(tree):
        held.update(range(1, (tree.body[0].end_lineno or 1) + 1))
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if docstrings.side(f"{module}.{node.name}") == "validation":
                held.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            continue  # what is inside belongs to it
        waiting.extend(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.ExceptHandler))
    return held


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every run of whole-line comments."""
    lines: list[str] = []
    start, previous = 0, -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or token.line[: token.start[1]].strip():
            continue
        if token.start[0] != previous + 1 and lines:
            yield start, "\n".join(lines)
            lines = []
        start = token.start[0] if not lines else start
        lines.append(token.string.lstrip("#!:").strip())
        previous = token.start[0]
    if lines:
        yield start, "\n".join(lines)


def _topics(root: Path) -> list[str]:
    """The language reference's chapters that ``help()`` shows."""
    path = root / "pydoc_data" / "topics.py"
    if not path.is_file():
        return []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tables = [node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)]
    return [ast.literal_eval(value) for table in tables for value in table.values]


def _paragraphs(text: str, asked: Asked) -> Iterator[str]:
    """Paragraphs of prose on one line each; sentences of the task, and whatever holds one, are left out."""
    for block in re.split(r"\n\s*\n", text):
        if _CODE.match(block):
            continue
        paragraph = " ".join(block.split())
        if paragraph in asked:
            paragraph = " ".join(part for part in _SENTENCE_END.split(paragraph) if part not in asked)
        letters = sum(letter.isalpha() or letter.isspace() for letter in paragraph)
        if len(re.findall(r"[A-Za-z]{2,}", paragraph)) >= 4 and letters > 0.75 * len(paragraph):
            if paragraph not in asked:
                yield paragraph
