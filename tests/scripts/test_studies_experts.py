"""The studies of experts, in their short versions."""

from __future__ import annotations

from pathlib import Path

from tests.scripts.studies import folders, run, table
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
