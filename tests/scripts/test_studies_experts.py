"""The studies of experts, in their short versions."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.scripts.studies import SCRIPTS, folders, run, table
from vitucb.assets import DEFAULT_BACKBONE
from vitucb.config import load_config


def test_what_is_lost_on_images_never_rewarded(tmp_path: Path) -> None:
    quick = ["digits", "--quick", *folders(tmp_path)]
    run("study_experts.py", *quick, "--agents", "item-ucb", "--workers", "1")
    header, *agents = table(tmp_path / "experts.csv")
    regret = float(agents[0][header.index("R(T)")])
    run("study_memory.py", *quick)
    header, *rows = table(tmp_path / "memory.csv")
    columns = [header.index(name) for name in ("rounds", "regret a round", "share of chance")]
    found = [[float(row[column]) for column in columns] for row in rows]
    # The second half of 30 rounds, and no more regret in it than in all of them.
    assert sum(rounds for rounds, _, _ in found) == 15
    assert 0 < sum(rounds * lost for rounds, lost, _ in found) < regret
    assert all(0 < share < 3 for _, _, share in found)


def test_an_agent_with_other_settings(tmp_path: Path) -> None:
    label = "lin-ucb policy.alpha=9"
    quick = ["digits", "--quick", *folders(tmp_path)]
    run("study_experts.py", *quick, "--agents", "lin-ucb", label, "--workers", "1")
    _, *agents = table(tmp_path / "experts.csv")
    (config,) = tmp_path.glob("runs/experts/digits/*alpha*/config.yaml")

    assert [agent[1] for agent in agents] == ["lin-ucb", label]
    assert load_config(config).agent.policy.alpha == 9


def test_what_an_agent_loses_that_is_told_the_classes(tmp_path: Path) -> None:
    out = ["--rounds", "200", "--simulated-runs", "20", "--out", str(tmp_path)]
    run("study_told_classes.py", *out)
    _, *rows = table(tmp_path / "told-classes.csv")
    laws = {"bernoulli": 200 * 0.8, "normal": 200 * 9.0}
    assert len(rows) == 12
    for law, _, mean, median, most, worst in rows:
        assert 0 < float(median) <= float(most) <= laws[law]
        assert 0 < float(mean) <= float(worst) <= laws[law]


def test_agents_are_compared_on_the_seeds_that_both_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS / "studies")
    import study_experts

    # Seed 1 of one and seed 2 of the other have not finished; on the others the gap is 1.
    ends = {"vit-ucb": {0: 11.0, 2: 50.0, 3: 31.0}, "lin-ucb": {0: 10.0, 1: 90.0, 3: 30.0}}
    curves = {
        label: {seed: np.array([0.0, end]) for seed, end in by_seed.items()}
        for label, by_seed in ends.items()
    }
    _, row = study_experts.rows_of("digits", curves, dict.fromkeys(ends, 1.0))
    assert row[6:8] == ["1.050", "1.0 [1.0, 1.0]"]


def test_runs_of_another_backbone_lie_in_folders_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS / "studies")
    from study_tools import base_config

    found = []
    for backbone in ("vitucb-nano", DEFAULT_BACKBONE):
        options = argparse.Namespace(backbone=backbone, rounds=3, runs="runs")
        base = base_config(options, "experts/digits", {})
        assert base.agent.backbone == backbone
        found.append(base.experiment)
    assert found == ["experts/digits-vitucb-nano", "experts/digits"]


def test_a_run_of_other_settings_is_not_in_the_table(tmp_path: Path) -> None:
    digits = ["digits", "--seeds", "1", "--workers", "1", "--agents", "lin-ucb"]
    run("study_experts.py", *digits, "--rounds", "3", *folders(tmp_path))
    run("study_experts.py", *digits, "--rounds", "2", "--table", *folders(tmp_path))
    assert len(table(tmp_path / "experts.csv")) == 1


def test_a_study_whose_runs_fail_leaves_its_table_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "mnist.csv").write_text("published", encoding="utf-8")
    asked = ["mnist", "--agents", "random", "--quick", "--workers", "1", "--data", str(tmp_path)]
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run("study_bandits.py", *asked, *folders(tmp_path))
    said = failed.value.stderr.decode()
    assert "mnist_test10k.npz': no such file" in said
    assert "1 of 1 runs failed" in said
    assert "Traceback" not in said
    assert (tmp_path / "mnist.csv").read_text(encoding="utf-8") == "published"
