"""Reads a file of rows (csv, tsv, jsonl, json, parquet) as a memory-mapped arrow table, with its SHA-256.

A file is read once, in blocks: hashed, checked and written as arrow to the user's cache folder, from where it is
mapped into memory; whoever asks again (the process of a run) maps what is there. Cells of texts formats stay texts
("NA", "007"); what they mean is decided by whoever reads the columns.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from bench.core.environment import cache_folder
from bench.core.errors import RequestError

if TYPE_CHECKING:
    import pyarrow as pa

_Quoting = Literal[0, 3]  # of csv: QUOTE_MINIMAL, QUOTE_NONE
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_VERSION = 4  # of what is kept in the cache
_BLOCK = 8 << 20  # bytes; the longest row a csv file may have. arrow reads up to 32 blocks ahead of what is taken
_ROWS = 10_000  # rows of a batch; keys that come only after the first of them are left out
_SHOWN = 10  # files that a message names
_JSON_BYTES = 512 << 20  # a .json file is one value and must be read whole
_MAGIC = {
    b"PK\x03\x04": "a zip archive or spreadsheet",
    b"\xd0\xcf\x11\xe0": "a spreadsheet",
    b"PAR1": "a parquet file",
    b"\x1f\x8b": "gzip-compressed",
    b"SQLi": "a database",
    b"%PDF": "a PDF",
    b"\x89PNG": "an image",
}


@dataclass(frozen=True)
class Table:
    """Rows of a file: a memory-mapped table, its fingerprint (64 hex digits), and notes for the user."""

    rows: pa.Table
    fingerprint: str
    notes: tuple[str, ...] = ()


def read(path: Path) -> Table:
    """Read a file, or its cached table.

    Raises:
        RequestError: when there is no such file, or its content is not what its name says; names the line.
    """
    if not path.is_file():
        raise RequestError(_missing(path) if not path.exists() else f"{path} is not a file.", code="not-found")
    stat = path.stat()
    if stat.st_size == 0:
        raise RequestError(f"Data file {path} is empty.", code="invalid-data")
    identity = f"{_VERSION}|{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{stat.st_ino}"
    kept = cache_folder() / "tables" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.arrow"
    found = _mapped(kept)
    return found if found is not None else _convert(path, kept)


def _missing(path: Path) -> str:
    """The message for a missing file: the nearest name in its folder, and the data files there."""
    folder = path.parent
    if not folder.is_dir():
        return f"Data file {path} does not exist, nor does the folder {folder}."
    there = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    if not there:
        return f"Data file {path} does not exist; there is no data file in {folder.absolute()}."
    near = difflib.get_close_matches(path.name, there, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    more = ", …" if len(there) > _SHOWN else ""
    return f"Data file {path} does not exist.{hint} In {folder.absolute()}: {', '.join(there[:_SHOWN])}{more}."


def _mapped(kept: Path) -> Table | None:
    import pyarrow as pa

    try:
        facts = json.loads(kept.with_suffix(".json").read_bytes())
        rows = pa.ipc.open_stream(pa.memory_map(str(kept))).read_all()
        return Table(rows, facts["fingerprint"], tuple(facts["notes"]))
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None  # absent or damaged: it is made again


def _convert(path: Path, kept: Path) -> Table:
    """Write a file's rows as an arrow stream, with the facts beside it, and map it; where the cache folder cannot be
    written, a folder for temporary files does."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=kept.parent):
            pass
    except OSError:
        kept = Path(tempfile.mkdtemp(prefix="tunebench-")) / kept.name
    partial = kept.with_name(f"{kept.stem}-{os.getpid()}.partial")
    try:
        facts = json.dumps(_write(path, partial))
        partial.replace(kept)
        partial.write_text(facts)
        partial.replace(kept.with_suffix(".json"))
    except OSError as error:
        raise RequestError(
            f"{path}: its rows cannot be kept in {kept.parent}: {error.strerror}.", code="not-written"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    found = _mapped(kept)
    if found is None:
        raise RequestError(f"{path}: what was kept of its rows in {kept.parent} cannot be read back.", code="damaged")
    return found


class _Hashing:
    """A binary file that hashes the bytes read from it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest, self.closed = file, hashlib.sha256(), False

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.digest.update(data)
        return data

    def lines(self) -> Iterator[bytes]:
        """Lines with their ends, each hashed when it is read."""
        for line in self.file:
            self.digest.update(line)
            yield line


def _trimmed(schema: pa.Schema) -> pa.Schema:
    """Column names without surrounding spaces ("text, label"), where they stay different."""
    names = [name.strip() for name in schema.names]
    if names == schema.names or len(set(names)) < len(names):
        return schema
    import pyarrow as pa

    fields = [field.with_name(name) for field, name in zip(schema, names, strict=True)]
    return pa.schema(fields, metadata=schema.metadata)


def _write(path: Path, target: Path) -> dict[str, Any]:
    import pyarrow as pa

    suffix = path.suffix.lower()
    readers: dict[str, Callable[[Path, _Hashing, list[str]], Iterator[pa.RecordBatch]]] = {
        ".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".parquet": _parquet,
    }  # fmt: skip
    if suffix not in readers:
        raise RequestError(f"{path}: files of rows end in {', '.join(SUFFIXES)}.", code="unsupported")
    if suffix != ".parquet":
        _check_text(path)
    notes: list[str] = []
    with path.open("rb") as file, target.open("wb") as out:
        hashing = _Hashing(file)
        batches = readers[suffix](path, hashing, notes)
        first = next(batches, None)
        if first is None or first.num_rows == 0:
            below = " below its column names" if suffix in (".csv", ".tsv") else ""
            raise RequestError(f"Data file {path} has no rows{below}.", code="invalid-data")
        schema = _trimmed(first.schema)
        _check_names(path, schema.names)
        with pa.ipc.new_stream(out, schema) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(first.columns, schema=schema))
            for batch in batches:
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
        while hashing.read(1 << 20):
            continue  # what a reader had no need of counts too
    return {"fingerprint": hashing.digest.hexdigest(), "notes": notes}


def _check_names(path: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RequestError(
            f"{path}: two columns are called '{twice[0]}'. Rename one of them in its first line.", code="invalid-data"
        )


def _check_text(path: Path) -> None:
    """Refuse a file that is not text, by its first bytes."""
    with path.open("rb") as file:
        head = file.read(4096)
    kind = next((what for magic, what in _MAGIC.items() if head.startswith(magic)), None)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise RequestError(
            f"{path} is UTF-16, not UTF-8. Convert it: iconv -f UTF-16 -t UTF-8 {path.name}", code="damaged"
        )
    if kind is None and b"\0" in head:
        kind = "binary data"
    if kind is not None:
        raise RequestError(
            f"{path} is {kind}, not text, whatever its name says. Save it as {path.suffix} in UTF-8.", code="damaged"
        )


def _not_utf8(path: Path) -> RequestError:
    """The message with the place of the first byte that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                found = f"byte 0x{line[error.start]:02x} at character {len(line[: error.start].decode('utf-8')) + 1}"
                return RequestError(
                    f"{path}, line {number}: {found} is not UTF-8. Save the file as UTF-8, for example: "
                    f"iconv -f WINDOWS-1252 -t UTF-8 {path.name}",
                    code="damaged",
                )
    return RequestError(f"{path} is not UTF-8.", code="damaged")


def _csv(path: Path, file: _Hashing, notes: list[str]) -> Iterator[pa.RecordBatch]:
    """Rows of a csv or tsv file, every column as text."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    first, separator = _heading(path)
    mark, quote = _delimiter(path, first, separator, notes)
    above = 1 if separator else 0
    try:
        names = next(csv.reader([first.rstrip("\r\n")], delimiter=mark, quoting=quote), [])
    except csv.Error as error:
        raise RequestError(
            f"{path}, line 1: {error}. Lines must end in a newline, not in a carriage return alone (old Mac files).",
            code="damaged",
        ) from error
    _check_names(path, names)
    ragged: list[Any] = []

    def keep(row: Any) -> str:
        ragged.append(row)
        return "skip"

    try:
        reader = arrow.open_csv(
            file,
            read_options=arrow.ReadOptions(use_threads=False, block_size=_BLOCK, skip_rows=above),
            parse_options=arrow.ParseOptions(
                delimiter=mark, quote_char='"' if quote == csv.QUOTE_MINIMAL else False, newlines_in_values=True,
                invalid_row_handler=keep,
            ),
            convert_options=arrow.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )  # fmt: skip
        for batch in reader:
            if ragged:
                break
            yield batch
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error):
            raise _not_utf8(path) from error
        raise RequestError(
            f"{path} is not a readable {path.suffix} file: {str(error).splitlines()[0]}", code="damaged"
        ) from error
    if ragged:
        raise _ragged(path, ragged[0], (mark, quote), above)


def _heading(path: Path) -> tuple[str, str | None]:
    """The line with the column names, and the separator that a line ``sep=;`` above it names, as Excel writes it."""
    with path.open("rb") as file:
        lines = file.readline(), file.readline()
    try:
        first = lines[0].decode("utf-8-sig")
        named = re.fullmatch(r'"?sep=(.)"?', first.rstrip("\r\n")) if path.suffix.lower() == ".csv" else None
        return (lines[1].decode("utf-8"), named[1]) if named else (first, None)
    except UnicodeDecodeError:
        raise _not_utf8(path) from None


def _delimiter(path: Path, first: str, named: str | None, notes: list[str]) -> tuple[str, _Quoting]:
    """What separates cells, and how csv quotes: tabs in .tsv, where quotes mean nothing; else a comma, or what the
    first line has in its place."""
    if path.suffix.lower() == ".tsv":
        return "\t", csv.QUOTE_NONE
    if named is not None:
        return named, csv.QUOTE_MINIMAL
    for mark, name in ((",", ""), (";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if mark in first:
            if name:
                notes.append(f"its cells are separated by {name}")
            return mark, csv.QUOTE_MINIMAL
    return ",", csv.QUOTE_MINIMAL


def _ragged(path: Path, row: Any, form: tuple[str, _Quoting], above: int) -> RequestError:
    """Name the line of the first row that has too many or too few cells; ``above`` lines are above the column names."""
    where, (mark, quote) = f"row {row.number}", form
    with path.open(encoding="utf-8-sig", newline="") as file:
        for _ in range(above):
            file.readline()
        reader = csv.reader(file, delimiter=mark, quoting=quote)
        begun = 0
        try:
            for cells in reader:
                if cells and len(cells) != row.expected_columns:
                    where = f"line {above + begun + 1}"
                    break
                begun = reader.line_num
        except csv.Error:
            pass  # the row's number must do
    text = str(row.text).splitlines()[0] if row.text else ""
    shown = text if len(text) <= 60 else text[:57] + "…"
    hint = 'A text that holds the separator or a line break must stand in double quotes ("…").'
    if mark == "\t" and quote == csv.QUOTE_NONE:
        hint = "In .tsv a tab always parts two cells and a line break two rows; a text with one of them needs .csv."
    if row.actual_columns < row.expected_columns:
        hint = f"Is a cell missing, or the line broken in two? {hint}"
    count = "1 cell" if row.actual_columns == 1 else f"{row.actual_columns} cells"
    return RequestError(
        f"{path}, {where}: {count}, but the first line names {row.expected_columns} columns: {shown}\n  {hint}",
        code="damaged",
    )


def _jsonl(path: Path, file: _Hashing, notes: list[str]) -> Iterator[pa.RecordBatch]:
    """Rows of a file with one JSON object a line."""

    def objects() -> Iterator[dict[str, Any]]:
        for number, line in enumerate(file.lines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip())
            except UnicodeDecodeError:
                raise _not_utf8(path) from None
            except RecursionError as error:
                raise RequestError(f"{path}, line {number}: nested too deeply.", code="damaged") from error
            except json.JSONDecodeError as error:
                hint = ""
                if number == 1 and line.strip()[:1] == b"[":
                    hint = " It looks like one list of all rows: name the file .json."
                raise RequestError(
                    f"{path}, line {number}: not JSON: {error.msg} at character {error.colno}.{hint}",
                    code="damaged",
                ) from error
            if not isinstance(row, dict):
                raise RequestError(
                    f"{path}, line {number}: must be one JSON object, {{…}}, not {_kind(row)}.", code="damaged"
                )
            yield row

    return _batches(path, objects(), notes)


def _json(path: Path, file: _Hashing, notes: list[str]) -> Iterator[pa.RecordBatch]:
    """Rows of a JSON file: a list of objects, or an object that has one such list."""
    if path.stat().st_size > _JSON_BYTES:
        raise RequestError(
            f"{path} is one JSON value of more than {_JSON_BYTES >> 20} MB: give it as .jsonl instead.",
            code="too-large",
        )
    try:
        value = json.loads(file.read().decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    except RecursionError as error:
        raise RequestError(f"{path} is nested too deeply.", code="damaged") from error
    except ValueError as error:
        said = " It looks like JSON lines: name it .jsonl." if "Extra data" in str(error) else ""
        raise RequestError(f"{path} is not JSON: {error}.{said}", code="damaged") from error
    if isinstance(value, dict):
        lists = [member for member in value.values() if isinstance(member, list)]
        value = lists[0] if len(lists) == 1 else value
    wrong = "it" if not isinstance(value, list) else next(
        (f"item {index}" for index, row in enumerate(value) if not isinstance(row, dict)), None
    )  # fmt: skip
    if wrong is not None:
        raise RequestError(f"{path} must be a list of JSON objects, one a row; {wrong} is not.", code="damaged")
    return _batches(path, iter(value), notes)


def _batches(path: Path, rows: Iterator[dict[str, Any]], notes: list[str]) -> Iterator[pa.RecordBatch]:
    """Objects as batches of text columns: numbers and booleans as JSON writes them, null for missing values."""
    import pyarrow as pa

    schema: pa.Schema | None = None
    late: set[str] = set()
    nested: set[str] = set()
    while part := [row for _, row in zip(range(_ROWS), rows, strict=False)]:
        if schema is None:
            schema = pa.schema([(key, pa.string()) for key in dict.fromkeys(key for row in part for key in row)])
        late |= {key for row in part for key in row} - set(schema.names)
        nested |= {key for row in part for key, value in row.items() if isinstance(value, list | dict)}
        try:
            cells = [pa.array([_cell(row.get(key)) for row in part], pa.string()) for key in schema.names]
        except UnicodeEncodeError as error:
            cut = error.object[error.start : error.end].encode("unicode_escape").decode()
            raise RequestError(
                f"{path}: a text holds half a character ({cut}, as a cut emoji leaves it).", code="invalid-data"
            ) from error
        except RecursionError as error:
            raise RequestError(f"{path}: a value is nested too deeply.", code="damaged") from error
        yield pa.record_batch(cells, schema=schema)
    if nested:
        said = (
            "holds lists or objects, read as the text of their JSON; a text of its own (a chat's question, its answer) "
        )
        notes.append(f"{', '.join(sorted(nested))} {said}needs a key of its own")
    if late:
        notes.append(f"keys that the first {_ROWS:,} rows lack are left out: {', '.join(sorted(late))}")


def _cell(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):  # how json.dumps writes a missing number
        return None
    return json.dumps(value, ensure_ascii=False)


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", int: "a number", float: "a number"}.get(type(value), "this")


def _plain(column: pa.Array) -> pa.Array:
    """A column with categories and views as their values, and NaN as null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        return _plain(column.dictionary_decode())
    if str(column.type) in ("string_view", "large_string_view"):
        return column.cast(pa.string())
    if pa.types.is_floating(column.type):
        return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return column


def _parquet(path: Path, file: _Hashing, notes: list[str]) -> Iterator[pa.RecordBatch]:
    """Rows of a parquet file with their types."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=True) as source:
            for batch in source.iter_batches(batch_size=_ROWS):
                columns = [_plain(column) for column in batch.columns]
                fields = [pa.field(name, column.type) for name, column in zip(batch.schema.names, columns, strict=True)]
                yield pa.record_batch(columns, schema=pa.schema(fields, batch.schema.metadata))
    except (OSError, pa.ArrowException) as error:
        raise RequestError(
            f"{path} is not a readable parquet file: {str(error).splitlines()[0]}", code="damaged"
        ) from error
