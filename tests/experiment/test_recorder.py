"""The run folder: what is in it, when it counts as finished, what survives a failure."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml

from vitucb.config import RunConfig, override
from vitucb.experiment.environments import make_env
from vitucb.experiment.episode import run
from vitucb.experiment.playing import play
from vitucb.experiment.recorder import Recorder
from vitucb.experiment.rounds_file import ROUND_COLUMNS
from vitucb.experiment.run_folder import RunFolder, is_finished, run_folder


def config(tmp_path: Path, **changes: Any) -> RunConfig:
    base = {"out": str(tmp_path), "agent": {"name": "ucb1"}, "num_rounds": 40}
    return override(RunConfig(), base | changes)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "rounds.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_folder_holds_everything_of_a_run(tmp_path: Path) -> None:
    folder = play(config(tmp_path)).folder
    assert folder == tmp_path / "default" / "ucb1__vitucb-ImageArms-v0__s0"
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "environment.json", "rounds.csv", "summary.json"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert yaml.safe_load((folder / "config.yaml").read_text())["agent"]["name"] == "ucb1"
    assert "torch" in json.loads((folder / "environment.json").read_text())["packages"]


def test_rounds_add_up(tmp_path: Path) -> None:
    folder = play(config(tmp_path)).folder
    table = rows(folder)
    assert tuple(table[0]) == ROUND_COLUMNS
    assert [int(row["round"]) for row in table] == list(range(40))
    regrets = [float(row["regret"]) for row in table]
    assert float(table[-1]["cumulative_regret"]) == pytest.approx(sum(regrets))
    for row in table:
        gap = float(row["optimal_reward"]) - float(row["expected_reward"])
        assert float(row["regret"]) == pytest.approx(gap)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["rounds"] == 40
    assert summary["cumulative_regret"] == pytest.approx(sum(regrets))
    assert summary["mean_reward"] == pytest.approx(np.mean([float(r["reward"]) for r in table]))


def test_metrics_hold_the_last_report_of_every_kind(tmp_path: Path) -> None:
    folder = play(config(tmp_path, agent={"name": "lin-ucb"}, num_rounds=15)).folder
    with (folder / "metrics.csv").open(newline="") as file:
        noise = [int(r["round"]) for r in csv.DictReader(file) if r["metric"] == "score/noise"]
    assert noise == [0, 10, 14]


def test_one_of_several_arms_thought_best_is_a_greedy_choice(tmp_path: Path) -> None:
    """Every image is new, so `item-ucb` thinks the same of all of them: it explores nothing."""
    env = {"num_arms": 5, "dataset": "digits"}
    table = rows(play(config(tmp_path, agent={"name": "item-ucb"}, env=env, num_rounds=8)).folder)
    assert [row["greedy_action"] for row in table] == [row["action"] for row in table]


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    files = [
        (play(config(tmp_path / name, seed=seed)).folder / "rounds.csv").read_bytes()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert files[0] == files[1] != files[2]


def test_gallery_shows_rounds_from_first_to_last(tmp_path: Path) -> None:
    folder = play(config(tmp_path)).folder
    with np.load(folder / "gallery.npz", allow_pickle=False) as gallery:
        assert gallery["round"][[0, -1]].tolist() == [0, 39]
        assert gallery["images"].shape[1:3] == (10, 8)
        assert gallery["mean"].shape == gallery["expected_rewards"].shape
        best = gallery["expected_rewards"].argmax(axis=1)
        np.testing.assert_array_equal(best, gallery["optimal_action"])
        recorded = [float(rows(folder)[t]["regret"]) for t in gallery["round"]]
        np.testing.assert_allclose(gallery["regret"], recorded)


def test_gallery_tells_what_was_on_offer(tmp_path: Path) -> None:
    folder = play(config(tmp_path, env={"arm_subset": {"min_arms": 3}})).folder
    with np.load(folder / "gallery.npz", allow_pickle=False) as gallery:
        mask = gallery["action_mask"]
        assert mask.shape == gallery["mean"].shape
        assert 3 <= mask.sum(axis=1).min() < 10
        np.testing.assert_array_equal(mask[np.arange(len(mask)), gallery["action"]], 1)


def test_pictures_of_a_slate_are_offered_once_for_all_positions(tmp_path: Path) -> None:
    folder = play(config(tmp_path, num_rounds=30, env={"slate": {"slots": 3}})).folder
    summary = json.loads((folder / "summary.json").read_text())
    offers = summary["distinct_images"] * summary["offers_per_image"]
    assert offers == pytest.approx(10 * 10)  # ten slates from ten pictures


def test_reward_that_is_not_finite_stops_the_run_and_keeps_the_rounds_before(
    tmp_path: Path,
) -> None:
    class Broken(gym.Wrapper[Any, Any, Any, Any]):
        rounds = 0

        def step(self, action: Any) -> Any:
            obs, reward, *rest = self.env.step(action)
            self.rounds += 1
            return obs, math.nan if self.rounds == 8 else reward, *rest

    from vitucb.agents.factory import make_agent

    settings = config(tmp_path)
    env = Broken(make_env(settings.env, 40))
    agent = make_agent("ucb1", env)

    def record() -> None:
        with Recorder(RunFolder.of(settings), {}) as recorder:
            for finished in run(env, agent):
                recorder.write(finished)

    with pytest.raises(ValueError, match=r"round 7: the environment returned reward nan"):
        record()
    assert len(rows(run_folder(settings))) == 7
    assert not is_finished(run_folder(settings))


def test_run_without_rounds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_rounds 0 must be at least 1"):
        play(config(tmp_path, num_rounds=0))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
