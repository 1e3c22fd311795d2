"""The script that times sweeps: its arithmetic, and a sweep of two runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_sweep import HEADER, Row, read_trials, summary

from tests.scripts.studies import run


def trial(number: int, way: str, seconds: float, cpu: float, rounds: int = 300) -> Row:
    return dict(zip(HEADER, (16, rounds, number, way, seconds, cpu), strict=True))


def test_a_sweep_is_compared_with_the_runs_alone_of_the_same_turn() -> None:
    trials = [
        trial(0, "alone", 100.0, 180.0),
        trial(0, "processes", 125.0, 200.0),
        trial(1, "alone", 50.0, 90.0),
        trial(1, "processes", 50.0, 90.0),
        trial(2, "processes", 1.0, 1.0),  # without one alone
        trial(0, "alone", 10.0, 20.0, rounds=30),
    ]
    alone, processes, short = summary(trials)
    assert (alone["way"], alone["efficiency"], alone["by CPU time"]) == ("alone", 1, 1)
    assert (processes["way"], processes["trials"]) == ("processes", 2)
    assert (processes["s"], processes["CPU s"]) == (87.5, 145)
    assert processes["busy"] == pytest.approx((0.8 + 0.9) / 2)
    assert [processes[name] for name in ("least", "efficiency", "most")] == [0.8, 0.9, 1]
    assert processes["by CPU time"] == pytest.approx((0.9 + 1) / 2)
    assert (short["rounds"], short["s"]) == (30, 10)


@pytest.mark.slow
def test_a_sweep_of_two_runs_is_measured_once(tmp_path: Path) -> None:
    for _ in range(2):
        options = ["--runs", "2", "--rounds", "3", "--trials", "1", "--out", str(tmp_path)]
        run("bench_sweep.py", *options, "--ways", "alone", "processes")
    rows = read_trials(tmp_path / "sweep-trials.csv")
    assert [row["way"] for row in rows] == ["alone", "processes"]
    assert all(float(row[name]) > 0 for row in rows for name in ("s", "CPU s"))
    assert "2,3,processes,1," in (tmp_path / "sweep.csv").read_text()
