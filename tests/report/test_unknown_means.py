"""Environments that do not know their mean rewards: agents are compared by what they earned."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import pytest

from vitucb.config import AgentConfig, EnvConfig, RunConfig
from vitucb.experiment.playing import play
from vitucb.report import load_gallery, load_runs, write_report
from vitucb.report.analysis import Analysis, analyse
from vitucb.report.groups import group_runs
from vitucb.report.notes import caveats, warnings
from vitucb.report.sentences import (
    best_rival_sentence,
    comparison_sentence,
    gain_sentence,
    headline,
)
from vitucb.statistics import FloatArray

WriteRun: TypeAlias = Callable[..., Path]


def forget_means(run: Path) -> FloatArray:
    """Make the environment of a run ignorant; returns its rewards."""
    header, *table = (run / "rounds.csv").read_text(encoding="utf-8").splitlines()
    names = header.split(",")
    rows = [dict(zip(names, row.split(","), strict=True)) for row in table]
    unknown = ("expected_reward", "optimal_reward", "regret", "cumulative_regret")
    rows = [row | dict.fromkeys(unknown, "nan") | {"optimal_action": "-1"} for row in rows]
    lines = [header, *(",".join(row.values()) for row in rows)]
    (run / "rounds.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return np.array([float(row["reward"]) for row in rows])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, write_run: WriteRun) -> Path:
    """Three agents, seven seeds, no mean rewards; galleries of the first."""
    folder = tmp_path_factory.mktemp("unknown") / "clicks"
    for agent in ("vit-ucb", "ucb1", "random"):
        for seed in range(7):
            forget_means(write_run(folder, agent, seed, gallery=agent == "vit-ucb" and seed == 0))
    return folder


@pytest.fixture(scope="module")
def analysis(runs: Path) -> Analysis:
    (group,) = group_runs(load_runs(runs))
    return analyse(group)


@pytest.fixture(scope="module")
def page(runs: Path) -> Path:
    return write_report(runs, runs.parent / "out")


def total(run: str, runs: Path) -> list[float]:
    return [float(r.columns["reward"].sum()) for r in load_runs(runs) if r.agent == run]


def test_the_headline_is_the_reward(analysis: Analysis, runs: Path) -> None:
    mean = np.mean(total("vit-ucb", runs))
    assert headline(analysis).startswith(f"vit-ucb: reward {mean:.0f} [")
    assert "after 200 rounds, 0." in headline(analysis)
    assert headline(analysis).endswith(" a round.")


def test_agents_are_paired_by_seed_and_more_is_better(analysis: Analysis, runs: Path) -> None:
    gaps = np.subtract(total("vit-ucb", runs), total("ucb1", runs))
    comparison = next(c for c in analysis.comparisons if c.rival.label == "ucb1")
    assert comparison.paired is not None
    assert comparison.paired.difference.value == pytest.approx(gaps.mean())
    sentence = comparison_sentence(comparison)
    assert sentence.verdict == "better"
    assert sentence.text.startswith("vit-ucb beats ucb1 by ")
    assert "reward, higher in 7 of 7 seeds" in sentence.text
    best = best_rival_sentence(analysis)
    assert best is not None
    assert best.text.startswith("vit-ucb beats ucb1")
    assert "difference in reward" in best.text


def test_what_was_earned_beyond_random_choices_is_paired_by_seed(
    analysis: Analysis, runs: Path
) -> None:
    gaps = np.subtract(total("vit-ucb", runs), total("random", runs))
    assert analysis.main.gain is not None
    assert analysis.main.gain.difference.value == pytest.approx(gaps.mean())
    sentence = gain_sentence(analysis)
    assert sentence is not None
    assert sentence.text.startswith(f"vit-ucb earned {gaps.mean():.1f} [")
    assert "more reward than random choices over 200 rounds" in sentence.text


def test_rates_beside_what_was_earned_are_of_the_same_seeds(
    tmp_path: Path, write_run: WriteRun
) -> None:
    """Of seeds that random play lacks, the agent's rewards of 0 take nothing from its lead."""
    for seed in range(12):
        run = write_run(tmp_path / "exp", "vit-ucb", seed, rounds=20)
        set_rewards(run, [seed < 6] * 20)
        if seed < 6:
            run = write_run(tmp_path / "exp", "random", seed, rounds=20)
            set_rewards(run, [True] * 15 + [False] * 5)
    (group,) = group_runs(load_runs(tmp_path / "exp"))
    sentence = gain_sentence(analyse(group))
    assert sentence is not None
    assert sentence.text.endswith("(1.00 a round against 0.750, 33 % more).")


def set_rewards(run: Path, rewards: Sequence[bool]) -> None:
    header, *table = (run / "rounds.csv").read_text(encoding="utf-8").splitlines()
    place = header.split(",").index("reward")
    rows = [row.split(",") for row in table]
    for row, reward in zip(rows, rewards, strict=True):
        row[place] = str(float(reward))
    lines = [header, *(",".join(row) for row in rows)]
    (run / "rounds.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_the_agent_that_earned_least_comes_last_and_is_warned_of(
    tmp_path: Path, write_run: WriteRun
) -> None:
    for agent, label in (("random", "vit-ucb"), ("vit-ucb", "lin-ucb")):
        for seed in range(3):
            run = write_run(tmp_path / "exp", agent, seed, label=label)
            config = (run / "config.yaml").read_text(encoding="utf-8")
            config = config.replace(f"name: {agent}", f"name: {label}")
            (run / "config.yaml").write_text(config, encoding="utf-8")
            forget_means(run)
    (group,) = group_runs(load_runs(tmp_path / "exp"))
    (warning,) = warnings(analyse(group))
    assert warning.startswith("vit-ucb loses to lin-ucb, which only fits a line")
    assert ": reward " in warning


def test_that_regret_is_unknown_is_said(analysis: Analysis) -> None:
    text = " ".join(caveats(analysis))
    assert "regret is unknown and agents are compared by the rewards they got" in text
    assert "oracle" not in text


def test_the_page_shows_rewards_and_no_regret(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert "Cumulative reward" in html
    assert "More than random play, paired by seed" in html
    assert "total reward" in html
    assert not re.search(r">\s*nan\b", html, flags=re.IGNORECASE)
    names = {path.stem for path in page.parent.glob("figures/*.svg")}
    assert {"reward", "differences", "learning", "calibration", "diagnostics"} <= names
    assert names.isdisjoint({"regret", "growth"})
    for absent in ("Cumulative regret", "Share of rounds with the best arm", "True mean inside"):
        assert absent not in html


def test_only_a_second_panel_that_was_drawn_is_explained(
    page: Path, tmp_path: Path, write_run: WriteRun
) -> None:
    for agent in ("vit-ucb", "ucb1"):
        forget_means(write_run(tmp_path / "alone", agent, 0, rounds=30))
    alone = write_report(tmp_path / "alone", tmp_path / "out").read_text(encoding="utf-8")
    assert "Higher is better.</figcaption>" in alone
    told = "in the second panel, what random play got on the same seeds is taken off."
    assert told in page.read_text(encoding="utf-8")
    assert "random play got" not in alone


def test_tables_hold_rewards_and_leave_regret_empty(page: Path, runs: Path) -> None:
    with (page.parent / "tables" / "summary.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["agent"]: row for row in csv.DictReader(file)}
    assert rows["vit-ucb"]["final_regret"] == rows["vit-ucb"]["coverage"] == ""
    gain = np.mean(total("vit-ucb", runs)) - np.mean(total("random", runs))
    assert float(rows["vit-ucb"]["reward_over_random"]) == pytest.approx(gain)
    assert rows["random"]["reward_over_random"] == ""


class Clicks(gym.Env[Any, Any]):
    """Three gray squares; nobody knows how often they are clicked."""

    def __init__(self) -> None:
        shape = gym.spaces.Box(0, 255, (3, 8, 8, 3), np.uint8)
        mask = gym.spaces.MultiBinary(3)
        self.observation_space = gym.spaces.Dict({"images": shape, "action_mask": mask})
        self.action_space = gym.spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, object]]:
        super().reset(seed=seed)
        return self._draw(), {}

    def _draw(self) -> dict[str, np.ndarray]:
        images = self.np_random.integers(256, size=(3, 8, 8, 3), dtype=np.uint8)
        self._clicks = self.np_random.random(3) < (0.2, 0.5, 0.9)
        return {"images": images, "action_mask": np.ones(3, np.int8)}

    def step(
        self, action: np.int64
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, float]]:
        reward, nan = float(self._clicks[action]), float("nan")
        info = {"expected_reward": nan, "optimal_reward": nan, "regret": nan, "optimal_action": -1}
        return self._draw(), reward, False, False, info


def test_an_environment_that_cannot_know_plays_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = gym.envs.registration.EnvSpec("test/Clicks-v0", lambda **_: Clicks())
    monkeypatch.setitem(gym.registry, "test/Clicks-v0", spec)
    for name in ("ucb1", "random"):
        config = RunConfig(
            experiment="clicks",
            out=str(tmp_path),
            num_rounds=30,
            env=EnvConfig(id="test/Clicks-v0"),
            agent=AgentConfig(name=name),
            tensorboard=False,
        )
        play(config)
    found = load_runs(tmp_path / "clicks")
    assert [run.knows_regret for run in found] == [False, False]
    summary = (found[0].folder / "summary.json").read_text(encoding="utf-8")
    assert json.loads(summary, parse_constant=pytest.fail)["cumulative_regret"] is None
    gallery = load_gallery(found[1])
    assert gallery is not None
    assert np.isnan(gallery.expected_rewards).all()
    assert (gallery.optimal_action == -1).all()
    html = write_report(tmp_path / "clicks", tmp_path / "out").read_text(encoding="utf-8")
    assert "ucb1: reward " in html
    assert "What ucb1 (seed 0) saw and chose" in html
    assert "true mean" not in html
