"""Image sets written down as a table: the path of every image with its label, score or both."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitucb.envs.data.image_dataset import ImageDataset, dataset_error
from vitucb.envs.data.image_source import Reading, file_source, read_source
from vitucb.envs.data.tables import Row, TableError, label_text, read_table

_LONGEST_SHOWN = 200
SUFFIXES = (".csv", ".parquet")
"""File names of manifests."""


def load_manifest(path: Path, score_name: str, reading: Reading) -> ImageDataset:
    """A CSV (UTF-8, with a header line) or Parquet table, one image a row.

    Columns: `path`, absolute or relative to the folder of the table; `label`, any text, and/or
    `score`, a number. Others are ignored. Classes are in sorted order, as numbers if all are whole
    numbers; 2.0 is 2.

    Args:
        path: The table.
        score_name: Column of the scores; empty for `score`.
        reading: How to read the images.

    Raises:
        ValueError: If the table cannot be read, a column is missing, or a row does not fit.
    """
    name = str(path)
    score_column = score_name or "score"
    rows = _rows(path, ("path", "label", score_column))
    if not rows:
        raise dataset_error(name, "has no rows; write one per image")
    columns = rows[0][1].keys()
    has_labels, has_scores = "label" in columns, score_column in columns
    if "path" not in columns or not (has_labels or has_scores) or (score_name and not has_scores):
        wanted = f"path and {score_name}" if score_name else "path, and label or score"
        raise dataset_error(
            name, f"has columns {', '.join(map(str, columns)) or 'none'}; it needs {wanted}"
        )
    paths = [_text(name, line, row, "path") for line, row in rows]
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()
    if has_labels:
        texts = [label_text(_text(name, line, row, "label")) for line, row in rows]
        class_names = _in_order(set(texts))
        index = {text: position for position, text in enumerate(class_names)}
        labels = np.array([index[text] for text in texts], np.int64)
    scores: NDArray[np.float32] | None = None
    if has_scores:
        values = [_number(name, line, row, score_column) for line, row in rows]
        scores = np.array(values, np.float32)
    source = file_source(name, path.parent, paths)
    return read_source(source, reading, labels, scores, class_names)


def _rows(path: Path, columns: Collection[str]) -> list[Row]:
    try:
        return list(read_table(path, columns))
    except TableError as error:
        where = "" if error.line is None else f"line {error.line}: "
        raise dataset_error(str(path), f"{where}{error.problem}") from error


def _text(name: str, line: int, row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    text = "" if value is None else str(value).strip()
    if not text or any(character in text for character in "\0\n\r"):
        raise dataset_error(name, f"line {line}: {column} {_shown(value)} is no name; fill it in")
    return text


def _number(name: str, line: int, row: Mapping[str, Any], column: str) -> float:
    try:
        number = float(row[column])
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= float(np.finfo(np.float32).max):  # NaN too
        raise dataset_error(
            name,
            f"line {line}: {column} {_shown(row[column])} is no finite number; mend or remove it",
        )
    return number


def _in_order(names: set[str]) -> tuple[str, ...]:
    try:
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    except ValueError:
        return tuple(sorted(names))


def _shown(value: object) -> str:
    """A value for a message of one line that is not too long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
