"""The figures of merit as a LaTeX table."""

from __future__ import annotations

import itertools
from pathlib import Path

from vitucb.inert_text import visible
from vitucb.report.analysis import Analysis
from vitucb.report.page_tables import Cell, summary_columns, summary_rows
from vitucb.report.sentences import section_title
from vitucb.storage.atomic_files import write_durably

_ESCAPED = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # After the end of a row LaTeX takes them for an argument or a star of its own.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "\N{MINUS SIGN}": "$-$",
    "\N{DIVISION SIGN}": r"$\div$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{SQUARE ROOT}": r"$\surd$",
    "\N{MIDDLE DOT}": r"$\cdot$",
    "\N{NO-BREAK SPACE}": "~",
}


# With them the table is wider than a page; `summary.csv` has them all.
_LEFT_OUT = {"area", "final slope", "exponent", "coverage", "last tenth"}


def escaped(text: str) -> str:
    """`text` as LaTeX writes it, letter by letter; control characters do nothing."""
    return "".join(_ESCAPED.get(character, character) for character in visible(text))


def write_latex(analysis: Analysis, path: Path) -> None:
    """Write the summary table of one group; it needs the package booktabs."""
    write_durably(path, latex_table(analysis))


def latex_table(analysis: Analysis) -> str:
    """Main columns of the page's table, a row an agent; intervals stand below their numbers."""
    columns = [c for c in summary_columns(analysis) if c.heading not in _LEFT_OUT]
    is_kept = [c.heading not in _LEFT_OUT for c in summary_columns(analysis)[1:]]
    rows = []
    for row in summary_rows(analysis):
        cells = list(itertools.compress(row.cells, is_kept))
        rows.append(_line([row.label, *(cell.text for cell in cells)]))
        if any(cell.interval for cell in cells):
            rows.append(_line(["", *map(_interval, cells)], is_escaped=True))
    lines = [
        f"% {visible(section_title(analysis))}",
        "% \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        "\\toprule",
        _line([column.heading for column in columns]),
        "\\midrule",
        *rows,
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _interval(cell: Cell) -> str:
    return f"{{\\footnotesize {escaped(cell.interval)}}}" if cell.interval else ""


def _line(cells: list[str], *, is_escaped: bool = False) -> str:
    return " & ".join(cells if is_escaped else map(escaped, cells)) + r" \\"
