"""Studies of feedback, chains and covariances, in their short versions."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.scripts.studies import SCRIPTS, folders, run, table


@pytest.mark.slow
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


@pytest.mark.slow
def test_slates(tmp_path: Path) -> None:
    agents = ["--agents", "item-ucb", "random", "--workers", "1"]
    run("study_slates.py", "--quick", *agents, *folders(tmp_path))
    header, *rows = table(tmp_path / "slates.csv")
    assert header[:3] == ["law", "agent", "regret"]
    assert [row[:2] for row in rows] == [
        [law, agent] for law in ("semi-bandit", "clicks") for agent in ("item-ucb", "random")
    ]


def test_chains(tmp_path: Path) -> None:
    run("study_chain_convergence.py", "--quick", "--out", str(tmp_path))
    _, *estimators = table(tmp_path / "chains-estimators.csv")
    assert all(float(mean) <= float(bound) for _, mean, bound, _ in estimators)
    assert (tmp_path / "chains.png").stat().st_size > 10_000


@pytest.mark.slow
def test_covariances(tmp_path: Path) -> None:
    run("study_covariance.py", "--quick", "--out", str(tmp_path))
    header, *rows = table(tmp_path / "covariance.csv")
    ratio = {
        row[header.index("covariance")]: float(row[header.index("ratio median")]) for row in rows
    }
    assert ratio["low-rank 4096 -> 256"] == pytest.approx(1.0, abs=0.02)
    assert ratio["diagonal"] > 1.2
    assert (tmp_path / "covariance.png").stat().st_size > 10_000


@pytest.mark.slow
def test_regrets_of_covariances_go_on_and_name_their_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    import study_covariance

    rng = np.random.default_rng(0)
    data = tmp_path / "somewhere" / "tiny.npz"
    data.parent.mkdir()
    np.savez(data, images=rng.integers(0, 255, (40, 8, 8, 3), np.uint8), labels=np.arange(40) % 10)
    monkeypatch.setattr(study_covariance, "variants", lambda: {"a, b": {"name": "random"}})
    common = {"dataset": str(data), "rounds": 5, "workers": 1, "runs": str(tmp_path / "runs")}
    options = argparse.Namespace(**common, regret=1, out=tmp_path, backbone="vitucb-nano")
    written = []
    for _ in range(2):
        study_covariance.regrets(options)
        written.append(next(tmp_path.glob("runs/**/*s0/summary.json")).stat().st_mtime_ns)
    assert written[0] == written[1]
    _, row = table(tmp_path / "covariance-regret-tiny.csv")
    assert row[:4] == ["tiny.npz", "5", "0", "a, b"]


def test_a_short_version_leaves_the_published_tables_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS / "studies")
    import study_tools

    monkeypatch.chdir(tmp_path)
    for given, places in (
        ([], (study_tools.RESULTS, "runs")),
        (["--quick"], (Path("runs/quick"), "runs/quick")),
        (["--quick", "--out", "here", "--runs", "there"], (Path("here"), "there")),
    ):
        monkeypatch.setattr("sys.argv", ["study", *given])
        options = study_tools.study_options(study_tools.study_parser("", rounds=2, seeds=2))
        assert (options.out, options.runs) == places


def test_missing_data_are_named_in_a_line(tmp_path: Path) -> None:
    asked = ["--quick", "--only", "adamw", "--data", str(tmp_path), *folders(tmp_path)]
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run("study_rates.py", *asked)
    (said,) = failed.value.stderr.decode().splitlines()
    assert said.startswith(f"no file fashion_mnist_train10k.npz in --data {tmp_path}; name the")
