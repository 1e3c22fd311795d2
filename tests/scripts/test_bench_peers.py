"""Published libraries beside ours: their adapters, the arithmetic of the tables, a short run."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import vitucb
from tests.scripts.studies import SCRIPTS, folders, run, table
from vitucb.agents.baselines.frozen_features import build_frozen_features
from vitucb.config import AgentConfig


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("bench_peers")


class StubBandit:
    """Chooses at random from torch's global generator, and keeps what it is told."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.contexts: list[Tensor] = []
        self.feedback: list[tuple[Tensor, Tensor]] = []
        self.trained = 0

    def __call__(self, contexts: Tensor) -> tuple[Tensor, Tensor]:
        self.contexts.append(contexts)
        arm = torch.randint(contexts.shape[1], (1,))
        return torch.nn.functional.one_hot(arm, contexts.shape[1]), torch.ones(1)

    def record_feedback(self, contexts: Tensor, rewards: Tensor) -> None:
        self.feedback.append((contexts, rewards))


class StubTrainer:
    """Counts trainings."""

    def __init__(self, **options: Any) -> None:
        assert options["max_epochs"] == 1

    def fit(self, bandit: StubBandit) -> None:
        bandit.trained += 1


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "calvera.bandits", SimpleNamespace(LinearUCBBandit=StubBandit))
    monkeypatch.setitem(sys.modules, "lightning.pytorch", SimpleNamespace(Trainer=StubTrainer))


@pytest.mark.parametrize("name", ["lin-ucb", "kernel-ucb"])
def test_the_frozen_forward_is_told_apart_from_choosing(peers: ModuleType, name: str) -> None:
    episode, clocked = peers.make(name, 0, 2)
    episode.play_round()
    forward, choose, _ = clocked.rows[0]
    assert forward > 0
    assert choose > 0


@pytest.mark.usefixtures("stub")
def test_a_peer_sees_features_and_learns_every_reward_with_chance_of_its_own(
    peers: ModuleType,
) -> None:
    def play(global_seed: int) -> tuple[list[int], StubBandit]:
        env = gym.make("vitucb/ImageArms-v0", dataset="digits", num_arms=4, max_episode_steps=6)
        frozen = build_frozen_features(AgentConfig(), env, "cpu")
        agent = peers.PEERS["calvera LinearUCB"].build(frozen, 0, 4)
        torch.manual_seed(global_seed)
        rounds = list(vitucb.run(env, agent, seed=0))
        assert torch.initial_seed() == global_seed
        return [round.decision.action for round in rounds], agent._bandit

    actions, bandit = play(1)
    assert actions == play(2)[0]
    assert bandit.trained == 6
    assert bandit.settings == {"n_features": 192}
    for action, seen, (fed, rewards) in zip(actions, bandit.contexts, bandit.feedback, strict=True):
        assert seen.shape == (1, 4, 192)
        assert torch.equal(fed, seen[:, [action]])
        assert rewards.shape == (1, 1)


class StubAgile:
    """Takes the arm with the largest first number, and counts what it is taught."""

    batch_size, learn_step = 3, 2

    def __init__(
        self, contexts: gym.spaces.Box, arms: gym.spaces.Discrete, **settings: Any
    ) -> None:
        assert contexts.shape == (192,)
        self.arms, self.settings, self.batches = int(arms.n), settings, list[Any]()

    def get_action(self, contexts: np.ndarray) -> int:
        assert contexts.shape == (self.arms, 192)
        return int(contexts[:, 0].argmax())

    def learn(self, batch: list[Any]) -> None:
        self.batches.append(batch)


class StubBuffer:
    """Remembers rows and gives back the last ones."""

    def __init__(self, max_size: int) -> None:
        self.rows: list[Any] = []

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: Any) -> None:
        self.rows.append(row)

    def sample(self, count: int) -> list[Any]:
        return self.rows[-count:]


def test_a_peer_with_a_buffer_steps_once_a_batch_is_full(
    peers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = {
        "agilerl.algorithms": SimpleNamespace(NeuralUCB=StubAgile),
        "agilerl.components.replay_buffer": SimpleNamespace(ReplayBuffer=StubBuffer),
        "tensordict": SimpleNamespace(TensorDict=lambda row, batch_size: row),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    env = gym.make("vitucb/ImageArms-v0", dataset="digits", num_arms=4, max_episode_steps=5)
    frozen = build_frozen_features(AgentConfig(), env, "cpu")
    agent = peers.PEERS["agilerl NeuralUCB, batch 16"].build(frozen, 0, 4)
    rounds = list(vitucb.run(env, agent, seed=0))
    bandit = agent._bandit
    assert bandit.settings == {"batch_size": 16}
    assert len(bandit.batches) == 3 * 2  # two steps after rewards 3, 4 and 5
    rewards = [float(row["reward"]) for row in agent._replay.rows]
    assert rewards == [round.reward for round in rounds]
    assert all(row["obs"].shape == (1, 192) for row in agent._replay.rows)


def test_times_are_medians_and_a_mean_of_the_last_third(peers: ModuleType) -> None:
    seconds = np.zeros((2, 4, 9))
    seconds[:, peers.FORWARD], seconds[:, peers.CHOOSE], seconds[:, peers.LEARN] = 1e-2, 2e-3, 1e-3
    seconds[:, peers.LEARN, 6:] = 3e-3
    seconds[0, peers.LEARN, 8] += 0.06  # training every so many rounds: no median shows it
    reference = np.zeros((2, 4, 9))
    reference[:, peers.CHOOSE] = 3e-2
    header, peer, ours = peers.time_rows({"peer": seconds, peers.REFERENCE: reference})
    assert header[4:7] == ["round, first 3", "round, last 3", "mean, last 3"]
    assert peer[1:] == ["10.0", "2.0", "3.0", "13.0", "15.0", "25.0", "5.0", "0.83"]
    assert ours[1:] == ["-", "30.0", "0.0", "30.0", "30.0", "30.0", "-", "1.00"]


def test_regret_is_cumulative_and_compared_by_seed(peers: ModuleType) -> None:
    peer, ours = np.zeros((2, 4, 10)), np.zeros((2, 4, 10))
    peer[:, peers.REGRET], ours[:, peers.REGRET] = 0.5, [[0.1], [0.2]]
    header, first, second = peers.regret_rows({"peer": peer, peers.REFERENCE: ours})
    assert header[1:4] == ["R(1)", "R(5)", "R(10)"]
    assert first == ["peer", "0.5", "2.5", "5.0", "[5.0, 5.0]", "+3.5", "[3.0, 4.0]", "5 5"]
    assert second[5:7] == ["-", "-"]


@pytest.mark.slow
def test_without_the_peer_ours_play_and_finished_seeds_stay(
    peers: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def main(*agents: str) -> None:
        command = ["bench_peers.py", "--quick", *folders(tmp_path), "--agents", *agents]
        monkeypatch.setattr(sys, "argv", command)
        peers.main()

    main("lin-ucb", "random")
    times = table(tmp_path / "peers-time.csv")
    assert [row[0] for row in times[1:]] == ["lin-ucb", "random"]
    main("lin-ucb")  # of the two, from the file
    assert table(tmp_path / "peers-time.csv")[1:] == times[1:2]
    assert (tmp_path / "peers.png").stat().st_size > 10_000
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main("calvera LinearUCB")
    assert "pip install" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "labels",
    [
        ("calvera NeuralUCB", "calvera NeuralLinear, lazy", "calvera LinearUCB"),
        ("agilerl NeuralUCB, batch 16", "agilerl NeuralTS"),
    ],
)
def test_the_peers_play(labels: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip(labels[0].split()[0], reason="an optional peer is missing")
    run("bench_peers.py", "--quick", *folders(tmp_path), "--agents", *labels, "random")
    _, *rows = table(tmp_path / "peers.csv")
    assert [row[0] for row in rows] == [*labels, "random"]
    _, *times = table(tmp_path / "peers-time.csv")
    assert all(float(row[7]) > 0 for row in times[:-1])
