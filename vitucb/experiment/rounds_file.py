"""`rounds.csv` of a run folder: its columns, and the one reader of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitucb.storage.foreign_files import read_text

ROUND_COLUMNS = (
    "round",
    "action",
    "reward",
    "expected_reward",
    "optimal_reward",
    "optimal_action",
    "regret",
    "cumulative_regret",
    "propensity",
    "mean",
    "width",
    "bonus",
    "greedy_action",
)


def read_rounds(
    path: Path, columns: Sequence[str] = ROUND_COLUMNS, *, most: int | None = None
) -> dict[str, NDArray[np.float64]]:
    """Columns of a `rounds.csv` by name, float64 (rounds,) each.

    What follows the last newline is no round: a run in progress may have written half a row.

    Args:
        path: The file.
        columns: Those to read; others are ignored.
        most: Read the first so many rounds and no more.

    Raises:
        ValueError: If the file cannot be read, lacks a column or holds what is no number.
    """
    try:
        # Bytes that are no text are found as cells that are no number, if they are read at all.
        text = read_text(path, "table_mib", errors="replace")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; give a run folder") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    header, *rows = text[: text.rfind("\n") + 1].splitlines() or [""]
    names = header.split(",")
    missing = [name for name in columns if name not in names]
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}; record the run again")
    rows = [row for row in rows if row][:most]
    if not rows:
        return {name: np.empty(0) for name in columns}
    places = [names.index(name) for name in columns]
    try:
        table = np.loadtxt(rows, delimiter=",", usecols=places, ndmin=2, comments=None)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; record the run again") from error
    return dict(zip(columns, np.ascontiguousarray(table.T), strict=True))
