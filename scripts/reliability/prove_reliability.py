"""Run the reliability suite and write its table: what was tried, how often, what failed.

    python scripts/reliability/prove_reliability.py [--only kills] [--results FILE] [--page PAGE]

The cases are the tests in `tests/soak`. With `--results` the counts of a part (`--only`) join
those of the parts before, so that the suite can be run file by file; `--page` puts the table of
everything in that file between the marks of the page.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "tests" / "soak"
# In this process: the tally sees what is collected, and trials do not share cores.
OPTIONS = ("-m", "soak", "-n", "0")
_BEGIN, _END = "<!-- table -->", "<!-- end of table -->"
Row = dict[str, Any]


class Tally:
    """Counts trials by case, as a pytest plugin.

    Attributes:
        rows: Case -> what happens, tried, failed, not run, largest figures, seconds.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self._cases: dict[str, str] = {}
        self._counts: dict[str, bool] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note which case every test belongs to."""
        for item in items:
            case, outcome = item.get_closest_marker("soak").args  # type: ignore[union-attr]  # all are marked
            self._cases[item.nodeid] = case
            self._counts[item.nodeid] = "trials" in getattr(item, "fixturenames", ())
            self.rows.setdefault(case, _empty(outcome))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count what a test tried; one that counts nothing is one trial."""
        row = self.rows[self._cases[report.nodeid]]
        row["seconds"] += report.duration
        counted: dict[str, Any] = dict(report.user_properties)
        if report.skipped:
            row["not run"] += 1
        if report.failed and report.when != "teardown":  # there `trials` tells of those it counted
            row["tried"], row["failed"] = row["tried"] + 1, row["failed"] + 1
        if report.when == "teardown":
            row["tried"] += counted.get("tried", 0)
            row["failed"] += counted.get("failed", 0)
            for name, value in counted.get("largest", {}).items():
                row["largest"][name] = max(value, row["largest"].get(name, value))
        if report.when == "call" and report.passed and not self._counts[report.nodeid]:
            row["tried"] += 1


def _empty(outcome: str) -> Row:
    counts = {"tried": 0, "failed": 0, "not run": 0, "seconds": 0.0}
    return {"outcome": outcome, **counts, "largest": {}}


def table(rows: dict[str, Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| case | tried | failed | what happens |", "|---|---:|---:|---|"]
    for case, row in rows.items():
        figures = "".join(f"; largest {name} {v:.2g}" for name, v in row["largest"].items())
        skipped = f" ({row['not run']} not run)" if row["not run"] else ""
        lines.append(
            f"| {case} | {row['tried']:,}{skipped} | {row['failed']} | {row['outcome']}{figures} |"
        )
    tried, failed = (sum(row[name] for row in rows.values()) for name in ("tried", "failed"))
    return "\n".join([*lines, f"| **all** | **{tried:,}** | **{failed}** | |"])


def parts(only: str) -> list[Path]:
    """The files of the suite with `only` in their names."""
    return [path for path in sorted(SUITE.glob("test_*.py")) if only in path.name]


def main() -> None:
    """Run the suite, print the table; exit code 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of a file's name in tests/soak")
    parser.add_argument("--results", type=Path, help="counts of all parts run so far, JSON")
    parser.add_argument("--page", type=Path, help="page whose table is replaced")
    arguments = parser.parse_args()
    files = [str(path) for path in parts(arguments.only)]
    if not files:
        parser.error(f"--only {arguments.only!r} is in the name of no file in tests/soak")
    tally, started = Tally(), time.monotonic()
    code = pytest.main([*OPTIONS, "--rootdir", str(ROOT), *files], plugins=[tally])
    rows = tally.rows
    if arguments.results is not None:
        before = json.loads(arguments.results.read_text()) if arguments.results.is_file() else {}
        rows = before | rows
        arguments.results.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"\n{table(rows)}\n\n{time.monotonic() - started:.0f} s")
    if arguments.page is not None:
        text = arguments.page.read_text(encoding="utf-8")
        between = re.compile(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", re.DOTALL)
        page = between.sub(lambda _: f"{_BEGIN}\n{table(rows)}\n{_END}", text)
        arguments.page.write_text(page, encoding="utf-8")
    sys.exit(code)


if __name__ == "__main__":
    main()
