"""The studies of optimizers run in their short versions, and their statistics are right."""

from __future__ import annotations

import csv
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
LABELS = ["adamw", "lora-plus", "lora-pro"]


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("study_optimizers")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, study: ModuleType, tmp_path: Path) -> Callable[..., None]:
    folders = ["--out", str(tmp_path), "--runs", str(tmp_path / "runs")]

    def main(script: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [script, "--quick", *folders, *arguments])
        importlib.import_module(script).main()

    return main


@pytest.mark.slow
def test_streams_are_played_once_and_end_in_tables_and_a_figure(
    run: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("study_optimizers")
    _, *rows = table(tmp_path / "optimizers_by_set.csv")
    assert [row[1] for row in rows] == ["no training", "adamw"]
    assert all(10 < float(row[3]) < 100 for row in rows)
    assert {row[0] for row in table(tmp_path / "optimizers.csv")[1:]} == {row[1] for row in rows}
    assert (tmp_path / "optimizers.png").stat().st_size > 10_000
    assert capsys.readouterr().out.count(".json: ") == 4  # two rates tuned, two streams judged
    run("study_optimizers")
    assert ".json: " not in capsys.readouterr().out
    assert table(tmp_path / "optimizers_by_set.csv")[1:] == rows


@pytest.mark.slow
def test_factor_norms(run: Callable[..., None], tmp_path: Path) -> None:
    run("study_factor_norms", "--only", "adamw", "lora-rite, free")
    _, *rows = table(tmp_path / "factor_norms.csv")
    moved = {row[0]: float(row[4]) for row in rows}
    assert 0.1 < moved["adamw"] < moved["lora-rite, free"]
    shares = {row[0]: float(row[1]) for row in table(tmp_path / "factor_norms_bonus.csv")[1:]}
    assert max(shares["adamw"], shares["lora-rite"]) < 0.5 < 0.95 < shares["lora-rite, free"]
    assert (tmp_path / "factor_norms.png").stat().st_size > 10_000


def test_ranks_changes_and_tests_are_those_of_the_blocks(study: ModuleType) -> None:
    # lora-plus always a fifth better than adamw, lora-pro always a fifth worse: 2 sets, 6 seeds.
    base = np.linspace(0.2, 0.6, 12).reshape(2, 6)
    cubes = {
        name: np.stack([values, 0.8 * values, 1.25 * values])[:, :, None]
        for name, values in zip("ab", base, strict=True)
    }
    _, *rows = study.table_of_ranks(cubes, LABELS)
    p = f"{2 * 2.0**-11:.2g}"  # the least possible of 12 pairs, times the two comparisons
    assert rows == [
        ["lora-plus", "1.00", "[1.00, 1.00]", "-20 [-20, -20]", "12 : 0", p],
        ["adamw", "2.00", "[2.00, 2.00]", "-", "-", "-"],
        ["lora-pro", "3.00", "[3.00, 3.00]", "+25 [+25, +25]", "0 : 12", p],
    ]


def test_ordering_compares_each_step_by_set_and_over_all(study: ModuleType) -> None:
    values = np.linspace(0.2, 0.6, 6)
    cubes = {
        "a": np.stack([values, values, 0.5 * values])[:, :, None],
        "b": np.stack([values, values, 2.0 * values])[:, :, None],
    }
    _, *rows = study.table_of_ordering(cubes, LABELS)
    assert [row[:2] for row in rows] == [
        ["lora-plus", "adamw"],
        ["lora-pro", "adamw"],
        ["lora-pro", "lora-plus"],
    ]
    assert rows[1][2:4] == ["-50 [-50, -50]", "+100 [+100, +100]"]
    assert [row[-1] for row in rows] == ["1", "1", "1"]
