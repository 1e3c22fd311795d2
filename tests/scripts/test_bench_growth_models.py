"""The script that times rounds on larger backbones: its table, and a row of the smallest."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_growth_models import CASES, HEADER, MODELS, SMALLEST, read_rows, write_rows

from tests.scripts.studies import run


def test_rows_are_kept_in_the_order_of_models_and_cases(tmp_path: Path) -> None:
    path, (first, *_), (one, two, *_) = tmp_path / "a.csv", reversed(MODELS), CASES
    rows = [dict.fromkeys(HEADER, "-") | {"model": first, "agent": who} for who in (two, one)]
    rows.append(rows[0] | {"model": next(iter(MODELS))})
    assert read_rows(path) == []
    write_rows(path, rows)
    assert read_rows(path) == [rows[2], rows[1], rows[0]]


@pytest.mark.slow
def test_a_row_is_measured_once(tmp_path: Path) -> None:
    path = tmp_path / "growth-models.csv"
    for who in ("adapted alone, low-rank", "ten labels, a step after every reward"):
        options = ["--models", SMALLEST, "--rounds", "1", "--out", str(tmp_path)]
        run("bench_growth_models.py", *options, "--agents", who)
        run("bench_growth_models.py", *options, "--agents", who)
    rows = read_rows(path)
    assert [row["agent"][:5] for row in rows] == ["ten l", "adapt"]
    assert rows[0]["parameters"] == rows[1]["parameters"] == "98304"
    assert all(float(row["ms"]) > 0 and float(row["MiB"]) > 0 for row in rows)
    assert float(rows[1]["training %"]) > 0
