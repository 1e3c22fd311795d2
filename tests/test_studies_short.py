"""Studies of feedback, chains and covariances, in their short versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.studies import folders, run, table


def test_late_and_drifting_rewards(tmp_path: Path) -> None:
    agents = ["--agents", "lin-ucb", "ucb1", "--workers", "1"]
    run("study_feedback.py", "--quick", *agents, *folders(tmp_path))
    _, *late = table(tmp_path / "delay.csv")
    assert [row[0] for row in late[:2]] == ["lin-ucb, delay 0", "lin-ucb, delay 32"]
    _, *drifted = table(tmp_path / "drift.csv")
    assert [row[0] for row in drifted] == ["lin-ucb", "lin-ucb, discount 0.99", "ucb1"]
    for _, first, second, both, *_ in drifted:
        assert float(first) + float(second) == pytest.approx(float(both), abs=1)
    assert (tmp_path / "feedback.png").stat().st_size > 10_000


def test_chains(tmp_path: Path) -> None:
    run("study_chain_convergence.py", "--quick", "--out", str(tmp_path))
    _, *estimators = table(tmp_path / "chains-estimators.csv")
    assert all(float(mean) <= float(bound) for _, mean, bound, _ in estimators)
    assert (tmp_path / "chains.png").stat().st_size > 10_000


def test_covariances(tmp_path: Path) -> None:
    run("study_covariance.py", "--quick", "--out", str(tmp_path))
    header, *rows = table(tmp_path / "covariance.csv")
    ratio = {
        row[header.index("covariance")]: float(row[header.index("ratio median")]) for row in rows
    }
    assert ratio["low-rank 4096 -> 256"] == pytest.approx(1.0, abs=0.02)
    assert ratio["diagonal"] > 1.2
    assert (tmp_path / "covariance.png").stat().st_size > 10_000
