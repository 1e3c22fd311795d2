"""Tables of `vitucb bench` as JSON files, and two of them side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitucb.storage.foreign_files import read_json

Row = Mapping[str, str | float]
Tables = Mapping[str, Sequence[Row]]
# Figures in these units are times; what else is a number is told apart from names by its type.
_TIMES = ("ms", "score, ms", "score and update, ms")
# Whole numbers that are measured: they may differ between two versions of one thing.
_COUNTS = ("operations",)


def write_tables(path: str | Path, tables: Tables, facts: Mapping[str, object]) -> None:
    """Write the tables of some suites, and the facts of machine and versions."""
    content = {"environment": dict(facts), "suites": {k: list(v) for k, v in tables.items()}}
    Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_tables(path: str | Path) -> Tables:
    """The tables of a file.

    Raises:
        ValueError: If the file is none that `write_tables` wrote.
    """
    try:
        tables: Tables = read_json(Path(path))["suites"]
        if not all(isinstance(row, dict) for suite in tables.values() for row in suite):
            raise TypeError("a row is no object")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"bench file {path} cannot be read: {error!r}; name one that vitucb bench --out wrote"
        ) from error
    return tables


def compare_tables(old: Tables, new: Tables) -> list[dict[str, str | float]]:
    """A row for every time that both hold: what it is of, old, new and new / old.

    Raises:
        ValueError: If they hold none.
    """
    rows: list[dict[str, str | float]] = []
    for suite in old:
        before = {_name(row): row for row in old[suite]}
        for row in new.get(suite, []):
            earlier = before.get(_name(row), {})
            for unit in _TIMES:
                if isinstance(row.get(unit), float) and isinstance(earlier.get(unit), float):
                    was, now = float(earlier[unit]), float(row[unit])
                    what = {"suite": suite, "of": _name(row), "unit": unit}
                    ratio = now / was if was else math.nan
                    rows.append({**what, "old": was, "new": now, "new / old": ratio})
    if not rows:
        raise ValueError("the two files hold no time of the same thing; compare runs of one suite")
    return rows


def _name(row: Row) -> str:
    """What a row is of: its words and whole numbers; measured figures are floats, or `_COUNTS`."""
    words = (v for name, v in row.items() if name not in _COUNTS)
    return ", ".join(str(v) for v in words if isinstance(v, str | int) and v != "-")
