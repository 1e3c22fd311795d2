"""What commands print: errors in one line, tables."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from vitucb.inert_text import visible


class UsageError(Exception):
    """A mistake on the command line, already worded for the user."""


def fail(message: str, code: int = 2) -> NoReturn:
    """End the process with exit code `code` and one line on stderr."""
    print(visible(" ".join(message.split())), file=sys.stderr)
    raise SystemExit(code)


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as a Markdown table, columns in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[cell(c) for c in columns], *([cell(row.get(c, "")) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def cell(value: object) -> str:
    """A value as a table shows it."""
    return f"{value:.4g}" if isinstance(value, float) else visible(str(value))
