"""The glossary knows every word that reports and evaluations put above a column."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitucb.covariance import COVARIANCES
from vitucb.evaluation.estimators import ESTIMATORS
from vitucb.report.page_tables import COST_COLUMNS, REGRET_COLUMNS, REWARD_COLUMNS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "glossary.md"
ROWS = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if "|" in line]
TERMS = " ".join(row[0].lower() for row in ROWS)
TEXT = " ".join(" ".join(row[:-1]) for row in ROWS)
HEADINGS = {column.heading for column in (*REGRET_COLUMNS, *REWARD_COLUMNS, *COST_COLUMNS)}


@pytest.mark.parametrize("heading", sorted(HEADINGS - {"agent", "seeds"}))
def test_columns_of_reports_are_explained(heading: str) -> None:
    assert heading.lower() in TERMS


@pytest.mark.parametrize("name", [*ESTIMATORS, *COVARIANCES])
def test_estimators_and_covariances_are_explained(name: str) -> None:
    assert f"`{name}`" in TEXT


def test_every_term_has_a_meaning_and_a_link() -> None:
    rows = [row for row in ROWS if not row[0].startswith(("| term", "|---"))]
    assert len(rows) > 60
    assert [
        row[0] for row in rows if len(row) < 3 or not row[-2].strip() or "](" not in row[-1]
    ] == []
