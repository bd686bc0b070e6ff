"""The cells of custom data: class names, class indices, numbers, empty cells."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.core.errors import RequestError
from bench.data import column_inference

# No leading zeros: 007 and 7 are different codes.
_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.[0-9]*)?")

if TYPE_CHECKING:
    import pyarrow as pa

    from bench.data.custom_splits import Part


def class_names(where: str, part: Part, label: str) -> tuple[str, ...]:
    """Class names in the order of their indices: the data set's own, else the values in sorted order."""
    import pyarrow.compute as pc

    names = given_names(part, label)
    values = pc.unique(part.column(label).drop_null()).cast("string").to_pylist()
    if names is not None and len(values) > 1:
        return names
    forms: dict[str, list[str]] = {}
    for value in values:
        if not column_inference.is_empty(value):
            forms.setdefault(_class(value), []).append(value.strip())
    found = sorted((min(same, key=lambda form: (len(form), form)) for same in forms.values()), key=_order)
    if len(found) < 2:
        said = f"every label is '{found[0]}'" if found else "there is no label"
        raise RequestError(f"{where}: {said} (column '{label}'): there is nothing to tell apart.", code="invalid-data")
    if len(found) > 1000:
        raise RequestError(
            f"{where}: the column '{label}' has {len(found):,} different labels. Is it one? Say --set task.label=NAME, "
            "or --set task.kind=regression for numbers.",
            code="ambiguous",
        )
    return tuple(found)


def given_names(part: Part, label: str) -> tuple[str, ...] | None:
    """The class names that the data set itself gives to the indices in a column; None where it gives none."""
    names = getattr(part.dataset.features[label], "names", None)
    return None if names is None else tuple(names)


def _class(value: str) -> str:
    """What a label means: numbers and truth values are one class in whatever form (0 and 0.0, True and true)."""
    text = value.strip()
    if _NUMBER.fullmatch(text):
        number = float(text)
        return str(int(number)) if number.is_integer() else repr(number)
    return text.lower() if text.lower() in ("true", "false") else text


def _order(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def class_indices(part: Part, label: str, labels: tuple[str, ...]) -> np.ndarray[Any, Any]:
    """Class indices of all rows of the table, -1 for values that are not labels."""
    import pyarrow as pa

    values, names = part.table[label], given_names(part, label)
    if names is not None:  # then the cells are indices already
        codes = values.fill_null(-1).to_numpy().astype(np.int64)
        return np.where((codes >= 0) & (codes < len(labels)) & (names == labels), codes, -1)
    index = {_class(name): number for number, name in enumerate(labels)}
    texts = values.cast(pa.string()).combine_chunks().dictionary_encode()
    codes = np.array([*(index.get(_class(value), -1) for value in texts.dictionary.to_pylist()), -1], np.int64)
    return np.asarray(codes[texts.indices.fill_null(len(codes) - 1).to_numpy()])


def numbers(values: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """Numbers, NaN for other cells."""
    import pyarrow as pa

    whole = (
        column_inference.as_numbers(values.drop_null()) if values.null_count else column_inference.as_numbers(values)
    )
    if whole is not None and not values.null_count:
        return np.asarray(whole.to_numpy(), np.float64)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        plain = np.asarray(values.cast(pa.float64()).to_numpy(), np.float64)
        return np.where(np.isfinite(plain), plain, np.nan)

    def one(text: str | None) -> float:
        try:
            number = float(text or "nan")
        except ValueError:
            return np.nan
        return number if np.isfinite(number) else np.nan

    return np.asarray([one(text) for text in values.to_pylist()], np.float64)


def empty_rows(part: Part, names: tuple[str, ...], skip: bool, wrong: list[str], where: str) -> np.ndarray[Any, Any]:
    """The rows of the whole table without text or label; a fault where they may not be dropped."""
    import pyarrow as pa
    import pyarrow.compute as pc

    empty = np.zeros(part.table.num_rows, bool)
    for name in names:
        values = part.table[name]
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            lacking = np.concatenate([_blank(chunk) for chunk in values.chunks])  # one at a time: it may be big
        elif name == names[-1]:
            lacking = pc.is_null(values).to_numpy()
        else:
            wrong.append(f"{where}: the column '{name}' holds {values.type}, not text.")
            continue
        empty |= lacking
        rows = np.flatnonzero(lacking) if part.rows is None else part.rows[lacking[part.rows]]
        if len(rows) and not skip:
            wrong.append(
                f"{where}: the column '{name}' is empty in {_rows(len(rows))}row {rows[0] + 1}. "
                "Leave such rows out with --set task.skip_empty=true."
            )
    return empty


def _rows(count: int) -> str:
    return "" if count == 1 else f"{count:,} rows, the first is "


def _blank(chunk: pa.Array) -> np.ndarray[Any, Any]:
    """The texts of a chunk that are null or blank."""
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(column_inference.empty(chunk), True).to_numpy(zero_copy_only=False))
