"""The log of faults that were reported elsewhere names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "fault_reports.md"
ROWS = (
    [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| [")]
    if (PAGE.is_file())
    else []
)


@pytest.mark.skipif(not ROWS, reason="the documentation is not here")
def test_every_report_is_a_link_and_every_test_exists() -> None:
    assert len(ROWS) >= 30
    for row in ROWS:
        report, _, _, result, test = (cell.strip() for cell in row.strip("|").split(" | "))
        assert re.match(r"\[[^\]]+ \d+\]\(https://github\.com/\S+/(issues|pull)/\d+\)", report), row
        assert result in ("right", "**mended**", "left"), row
        if result != "left":
            path, _, name = test.strip("`| ").partition("::")
            assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), test
