"""The studies run, in their short versions, and write their tables and figures."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


def run(script: str, *arguments: str) -> None:
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=300)


def folders(path: Path) -> list[str]:
    return ["--out", str(path), "--runs", str(path / "runs")]


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_invariance(tmp_path: Path) -> None:
    run("study_invariance.py", "--quick", "--out", str(tmp_path))
    _, *rows = table(tmp_path / "invariance.csv")
    far = {name: max(float(cell) for cell in cells) for name, _, *cells in rows}
    assert far["lora-rite"] < 1e-10 < 0.01 < far["adamw"]
    assert (tmp_path / "invariance.png").stat().st_size > 10_000


def test_published_laws(tmp_path: Path) -> None:
    agents = ["--agents", "lin-ucb", "random", "--workers", "1"]
    run("study_bandits.py", "digits-shuffled", "--quick", *agents, *folders(tmp_path))
    _, *rows = table(tmp_path / "digits-shuffled.csv")
    regret = {name: float(cells[2]) for name, *cells in rows}
    assert regret["lin-ucb"] < regret["random"] == pytest.approx(147, abs=1)
    assert (tmp_path / "digits-shuffled.png").stat().st_size > 10_000
