"""Logged bandit rounds: which images were on offer, what was chosen, what came back.

`read_log` reads them from CSV, JSONL or Parquet. Every row is one round, with the fields

- `arm_images`: the images on offer, a JSON list (in CSV also `a.png|b.png`), and `action`: the
  0-based position of the chosen one; or
- `context_image`: the one image that was seen, and `action`: any label or number, without the space
  around it, and 1.0 the same as 1. The actions of the whole log, sorted, are what could be chosen;
  see `LoggedRounds.with_actions`.
- `offered`, where not all of them could be chosen in the round: a list, like `arm_images`, of the
  actions that could, positions or labels.
- `reward`: a finite number.
- `propensity`: probability with which the action was chosen, in (0, 1]; in all rows or in none.

Logs of two other libraries are read too: `obp.py` and `vw_json.py` beside this module say which.

Rewards that came later may stand on lines of their own: rows of a decision and of its reward
with the same `decision_id` are joined.

Paths are relative to the folder of the log. Whatever is wrong is a ValueError that names the file,
the line and the field.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from vitucb.envs.data.decoding import LazyImages
from vitucb.envs.data.image_source import ImageFiles
from vitucb.envs.data.joined_rows import JoinedRows
from vitucb.envs.data.log_rows import LogRow, natural_order, row_error
from vitucb.envs.data.logged_rounds import LoggedRounds
from vitucb.envs.data.obp import read_bandit_feedback
from vitucb.envs.data.tables import Row, TableError, read_table
from vitucb.envs.data.vw_json import VW_SUFFIXES, is_vw_row, vw_events, vw_rounds
from vitucb.storage.limits import check_limit

__all__ = ["FIELDS", "LoggedRounds", "read_log"]

_logger = logging.getLogger(__name__)

FIELDS = ("context_image", "arm_images", "offered", "action", "reward", "propensity")
"""The fields of a row; other columns are ignored."""

_SUFFIXES = (".csv", ".jsonl", ".parquet", ".npz", *VW_SUFFIXES)


def read_log(
    path: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    image_size: int | None = None,
    skip_missing: bool = False,
) -> LoggedRounds:
    """Read a log.

    Args:
        path: A .csv, .jsonl or .parquet file (Parquet needs pyarrow), an .npz of the Open Bandit
            Pipeline, or Vowpal Wabbit's JSON lines.
        columns: Field -> name of its column, where it is not the field's own name.
        image_size: Side in pixels to resize images to; that of the first image if None.
        skip_missing: Leave out rows whose images are missing, instead of refusing the log.

    Returns:
        The rounds; every field is checked and every image file exists.

    Raises:
        ValueError: If the file cannot be read, a field is missing or wrong, or an image is missing;
            names file, line and field.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"log {path}: unknown kind of file; give {', '.join(_SUFFIXES)}")
    if not os.path.isfile(path):
        raise ValueError(f"log {path}: no such file; check the path")
    names = {field: field for field in FIELDS} | dict(columns or {})
    unknown = sorted(set(names) - set(FIELDS))
    if unknown:
        raise ValueError(f"columns: unknown field {unknown[0]!r}; known: {', '.join(FIELDS)}")
    if path.suffix.lower() == ".npz":
        if columns or skip_missing:
            raise ValueError(
                f"log {path}: arrays of the Open Bandit Pipeline have names of their own and hold "
                "their images; leave columns and skip_missing out"
            )
        return read_bandit_feedback(path, image_size=image_size)
    rows: Iterable[Row] = _rows(path, names.values())
    first = list(itertools.islice(rows, 1))
    rows, left_out = itertools.chain(first, rows), 0
    if any(is_vw_row(path, fields) for _, fields in first):
        events, left_out = vw_events(path, rows)
        if not events[0].has_images:
            return vw_rounds(path, events, left_out)
        names = {field: field for field in FIELDS}
        rows = ((event.line, event.fields()) for event in events)
    joined = JoinedRows(path, rows, names["action"], names["reward"])
    parsed = [LogRow.of(path, line, fields, names) for line, fields in joined]
    left_out += joined.without_reward
    if not parsed:
        raise ValueError(f"log {path}: no rounds in it; give one row per round")
    kept = _with_images(path, parsed, skip_missing)
    return _assemble(path, kept, image_size, len(parsed) - len(kept) + left_out)


def _rows(path: Path, columns: Collection[str]) -> Iterator[Row]:
    """The rows of a log with the fields that hold something."""
    try:
        for line, fields in read_table(path, columns):
            yield line, {name: v for name, v in fields.items() if v is not None and v != ""}
    except TableError as error:
        if error.line is None:
            raise ValueError(f"log {path}: {error.problem}") from error
        raise row_error(path, error.line, error.problem) from error


def _with_images(path: Path, rows: list[LogRow], skip_missing: bool) -> list[LogRow]:
    """The rows whose images exist; one kind of log and propensities throughout.

    Raises:
        ValueError: If kinds or propensities are mixed, or images are missing and may not be.
    """
    for row in rows:
        if row.is_context != rows[0].is_context:
            raise row_error(
                path, row.line, "field 'arm_images': a log has it in all rows or in none"
            )
        if (row.propensity is None) != (rows[0].propensity is None):
            raise row_error(path, row.line, "field 'propensity': give it in all rows or in none")
    exists = {p: os.path.isfile(path.parent / p) for p in {p for row in rows for p in row.images}}
    broken = [row for row in rows if not all(exists[p] for p in row.images)]
    if not broken:
        return rows
    missing = [p for p in broken[0].images if not exists[p]]
    field = "context_image" if broken[0].is_context else "arm_images"
    problem = f"field {field!r}: no file {missing[0]!r} (missing images in {len(broken)} rows)"
    if not skip_missing or len(broken) == len(rows):
        raise row_error(path, broken[0].line, f"{problem}; mend the paths, or skip such rows")
    _logger.warning("%s:%d: %s; these rows are left out", path, broken[0].line, problem)
    return [row for row in rows if all(exists[p] for p in row.images)]


def _assemble(path: Path, rows: list[LogRow], image_size: int | None, dropped: int) -> LoggedRounds:
    is_context = rows[0].is_context
    files = sorted({p for row in rows for p in row.images})
    index = {p: i for i, p in enumerate(files)}
    width = max(len(row.images) for row in rows)
    labels = {str(label) for row in rows for label in (row.action, *row.offered)}
    names = tuple(sorted(labels, key=natural_order)) if is_context else ()
    widest = f"{len(rows):,} rounds of up to {max(width, len(names)):,} arms:"
    check_limit("log_cells", len(rows) * max(width, len(names)), f"log {path}: {widest}")
    items = np.full((len(rows), width), -1, np.int64)
    for i, row in enumerate(rows):
        items[i, : len(row.images)] = [index[p] for p in row.images]
    if max(len(names), width) < 2:
        raise ValueError(f"log {path}: one action throughout; there is nothing to choose")
    number = {name: i for i, name in enumerate(names)}
    actions = [number[str(row.action)] if is_context else int(row.action) for row in rows]
    offered = [set(row.offered) for row in rows]
    mask = (items >= 0) & [[not told or k in told for k in range(width)] for told in offered]
    if is_context:
        mask = np.array([[not told or name in told for name in names] for told in offered])
    propensities = [row.propensity for row in rows if row.propensity is not None]
    source = ImageFiles(path.parent, files)
    images = LazyImages(source.open, source.describe, len(files), image_size)
    height, side = images.shape[1:3]
    check_limit(
        "observation_mib",
        width * height * side * 3 >> 20,
        f"log {path}: a round of {width:,} images of {side}x{height} pixels (image_size makes "
        "them smaller): its size in MiB,",
    )
    return LoggedRounds(
        name=str(path),
        images=images,
        items=items,
        mask=mask.astype(np.int8),
        actions=np.array(actions, np.int64),
        rewards=np.array([row.reward for row in rows]),
        propensities=np.array(propensities) if propensities else None,
        action_names=names,
        dropped=dropped,
    )
