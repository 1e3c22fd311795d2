"""Rows of a table in a file: CSV, Parquet, or a JSON object a line."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from vitucb.envs.data.decoding import first_line
from vitucb.storage.foreign_files import open_regular
from vitucb.storage.limits import check_limit

_logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 1_024

_JSON_LINES = (".jsonl", ".json", ".dsjson", ".cb_json")

Row: TypeAlias = tuple[int, Mapping[str, object]]
"""1-based line (row, in Parquet) and its fields; an empty cell of a CSV file is ""."""


_WHOLE = re.compile(r"([+-]?\d+)\.0*")


def label_text(value: object) -> str:
    """The name of a class or an action: a cell without the space around it, 2.0 and "2.0" as 2.

    Tables with gaps turn whole numbers into floats, and the same label would be two.
    """
    text = str(value).strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


class TableError(Exception):
    """What is wrong with a table; whoever reads it says which table that is.

    Attributes:
        problem: What is wrong, and what to do.
        line: The 1-based line of it; None if it is no one line's fault.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        """Tell `problem`, in `line`."""
        super().__init__(problem)
        self.problem, self.line = problem, line


def read_table(path: Path, columns: Collection[str] = ()) -> Iterator[Row]:
    """The rows of a .csv (UTF-8, with a header line) or .parquet file, or of JSON lines.

    Blank lines are no rows, and space around the names in a header is none of theirs. JSON whose
    last line stops midway, as that of a process that was killed does, loses it, with a warning.

    Args:
        path: The file.
        columns: Columns that will be looked at; none of them may be there twice.

    Raises:
        TableError: If the file cannot be read as what its name says, as soon as that is met.
    """
    try:
        if path.suffix.lower() == ".parquet":
            yield from _parquet_rows(path)
        elif path.suffix.lower() in _JSON_LINES:
            yield from _json_rows(path)
        else:
            yield from _csv_rows(path, columns)
    except OSError as error:
        raise TableError(f"cannot be read: {error.strerror or error}; check the file") from error


def _csv_rows(path: Path, columns: Collection[str]) -> Iterator[Row]:
    line = 1
    try:
        with _open(path) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            for name in columns:
                if header.count(name) > 1:
                    raise TableError(f"the header names column {name!r} twice; rename one", 1)
            line = reader.line_num + 1
            for cells in reader:
                if cells and len(cells) != len(header):
                    problem = f"{len(cells)} fields under {len(header)} column names; quote commas"
                    raise TableError(problem, line)
                if cells:
                    yield line, dict(zip(header, cells, strict=True))
                line = reader.line_num + 1
    except (csv.Error, UnicodeError) as error:
        problem = f"cannot be read as CSV: {first_line(error)}; write it as CSV in UTF-8"
        # Text is decoded in blocks: of a wrong byte the line is not known.
        raise TableError(problem, None if isinstance(error, UnicodeError) else line) from error


def _json_rows(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                fields, twice = _decoded(text.decode("utf-8"))
            # json recurses into nested lists, and Python refuses integers of 4,300 digits.
            except (ValueError, RecursionError) as error:
                if text.lstrip().startswith(b"{") and not text.endswith(b"\n"):
                    _logger.warning(
                        "%s:%d: the last line stops midway, as if its writer was stopped; it is "
                        "left out",
                        *(path, line),
                    )
                    return
                raise TableError(f"no JSON in UTF-8: {first_line(error)}", line) from error
            if not isinstance(fields, dict):
                raise TableError('not a JSON object; write {"action": 0, "reward": 1, ...}', line)
            if twice:
                raise TableError(f"field {twice!r} is there twice; which one counts?", line)
            yield line, fields


def _decoded(text: str) -> tuple[Any, str]:
    """What a line of JSON holds, and a name that its object has twice; empty if none.

    Of such a name json keeps the last value. Objects inside may have names twice, as features of
    Vowpal Wabbit do.
    """
    twice = [""]

    def to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        # The object that is the line is the last to end.
        twice[0] = _first_twice(pairs) if len(fields) < len(pairs) else ""
        return fields

    return json.loads(text, object_pairs_hook=to_dict), twice[0]


def _first_twice(pairs: list[tuple[str, Any]]) -> str:
    names = [name for name, _ in pairs]
    return next(name for name in names if names.count(name) > 1)


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise TableError(
            "reading Parquet needs pyarrow; pip install pyarrow, or convert it to CSV"
        ) from error
    try:
        with _open(path) as file:
            rows = _parquet_batches(parquet.ParquetFile(file))
    except TableError:
        raise
    except Exception as error:  # pyarrow's errors share no base class but Exception
        raise TableError(f"cannot be read as Parquet: {first_line(error)}") from error
    yield from enumerate(rows, start=1)


def _parquet_batches(table: Any) -> list[dict[str, object]]:
    """All rows, a few at a time: repeated values take no space in the file, but in memory."""
    rows: list[dict[str, object]] = []
    size = 0
    for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE):
        size += batch.nbytes
        check_limit("table_mib", size >> 20, "its size in MiB once read,")
        rows += batch.to_pylist()
    return rows


def _open(path: Path) -> BinaryIO:
    file = open_regular(path)
    try:
        check_limit("table_mib", os.fstat(file.fileno()).st_size >> 20, "its size in MiB,")
    except ValueError as error:
        file.close()
        raise TableError(str(error)) from error
    return file
