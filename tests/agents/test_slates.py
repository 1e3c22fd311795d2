"""Slates from agents: one slot is the agent itself, and the propensities are those of the draws."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import vitucb
from tests.covering import slow_but
from tests.envs.tiny_arms import arms
from vitucb.agents import AGENTS
from vitucb.agents.slates import Slate, SlateAgent, without
from vitucb.config import RunConfig, override
from vitucb.envs import SlateArms, SlotBySlot
from vitucb.experiment.playing import play
from vitucb.experiment.run_folder import run_folder
from vitucb.seeding import stream_seed
from vitucb.types import Observation, UnusableRewardError

POLICIES: list[dict[str, Any]] = [
    {"name": "igw"},
    {"name": "thompson", "joint": True, "draws": 50},
    {"name": "ucb"},
    {"name": "thompson"},
    {"name": "epsilon-greedy", "epsilon": 0.3},
]
QUICK = POLICIES[:3]
FEW = {"training": {"batch_size": 4}, "lora": {"rank": 1}, "policy": {"draws": 20}}
SMALL: dict[str, dict[str, Any]] = {
    "neural-ucb": {"options": {"hidden": 8, "steps": 1}},
    "neural-ts": {"options": {"hidden": 8, "steps": 1}},
    "neural-linear": FEW,
    "full-finetune": {"training": {"batch_size": 4}},
    "prototype": {"options": {"rank": 1, "replay": 5}},
}


def digits(num_arms: int, slots: int, rounds: int = 60) -> SlateArms:
    env = gym.make("vitucb/ImageArms-v0", num_arms=num_arms, max_episode_steps=rounds)
    return SlateArms(env, slots)


@pytest.mark.parametrize("policy", slow_but(QUICK, POLICIES))
def test_by_hand_it_does_what_the_runner_does(policy: dict[str, Any]) -> None:
    examination = (1.0, 0.6, 0.5)
    inner = gym.make("vitucb/ImageArms-v0", num_arms=5, max_episode_steps=4)
    env = SlateArms(inner, 3, examination)
    agent = vitucb.make_agent("lin-ucb", inner, policy=policy, seed=1)
    rounds = list(vitucb.run(SlotBySlot(env), agent, seed=0))
    assert len(rounds) == 12
    by_hand = SlateAgent(vitucb.make_agent("lin-ucb", inner, policy=policy, seed=1), 3, examination)
    played = SlotBySlot(env)
    played.reset(seed=stream_seed(0, "env"))
    obs, _ = env.reset(seed=stream_seed(0, "env"))
    for start in range(0, 12, 3):
        slate = by_hand.select_slate(obs)
        expected = rounds[start : start + 3]
        assert slate.actions.tolist() == [r.decision.action for r in expected]
        assert slate.propensity == math.prod(r.decision.propensity for r in expected)
        seen = obs
        obs, *_, info = env.step(slate.actions)
        assert info["rewards"].tolist() == [r.reward for r in expected]
        by_hand.update_slate(seen, slate, info["rewards"])


@pytest.mark.parametrize("policy", slow_but(QUICK, POLICIES))
def test_probabilities_of_all_slates_sum_to_one(policy: dict[str, Any]) -> None:
    env = digits(4, 2)
    agent: Any = vitucb.make_agent("lin-ucb", env.env, policy=policy, seed=0)
    slates = SlateAgent(agent, 2)
    obs, _ = env.reset(seed=0)
    for _ in range(3):
        slate = slates.select_slate(obs)
        seen = obs
        obs, *_, info = env.step(slate.actions)
        slates.update_slate(seen, slate, info["rewards"])
    found = all_slates(agent, obs, 2)
    assert len(found) == 12
    # Probabilities of joint draws are estimated anew at every question, and sum to 1 all the same.
    assert sum(found.values()) == pytest.approx(1, abs=1e-9)
    slate = slates.select_slate(obs)
    if not policy.get("joint"):
        assert slate.propensity == pytest.approx(found[tuple(slate.actions.tolist())])


def all_slates(agent: Any, obs: Observation, slots: int) -> dict[tuple[int, ...], float]:
    """Probability of every slate, every choice counted before the next; the agent as it was."""
    before = copy.deepcopy(agent.state_dict())
    left, probability = np.flatnonzero(obs["action_mask"]), agent.probabilities(obs)
    if slots == 1:
        return {(int(arm),): float(probability[arm]) for arm in left}
    found: dict[tuple[int, ...], float] = {}
    for arm in left.tolist():
        only = without(obs, [other for other in left.tolist() if other != arm])
        agent.select_action(only)  # must choose it, and counts it
        rest = all_slates(agent, without(obs, [arm]), slots - 1)
        found |= {(arm, *tail): float(probability[arm]) * p for tail, p in rest.items()}
        agent.load_state_dict(copy.deepcopy(before))
    return found


def config(tmp_path: Path, name: str, slate: dict[str, Any], **agent: Any) -> RunConfig:
    values: dict[str, Any] = {
        "out": str(tmp_path),
        "experiment": "whole" if slate else "ordinary",
        "agent": {"name": name, **agent},
        "env": {"num_arms": 5, "slate": slate},
        "num_rounds": 24,
        "tensorboard": False,
    }
    return override(RunConfig(), values)


@pytest.mark.parametrize(
    "name", slow_but(["item-ucb"], ["lin-ts", "item-ucb", "vit-ucb", "kl-ucb", "random"])
)
def test_one_slot_is_the_ordinary_run_bit_for_bit(name: str, tmp_path: Path) -> None:
    files = ("rounds.csv", "metrics.csv", "summary.json", "classes.csv", "gallery.npz")
    ordinary, one = (play(config(tmp_path, name, slate)).folder for slate in ({}, {"slots": 1}))
    assert ordinary != one
    for file in files:
        assert (ordinary / file).read_bytes() == (one / file).read_bytes()


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.mark.parametrize("killed_after", [10, 12])
def test_a_run_that_died_within_a_slate_ends_with_the_same_bytes(
    killed_after: int, tmp_path: Path
) -> None:
    slate = {"slots": 3, "examination": [1, 0.5, 0.4]}
    whole = config(tmp_path, "gaussian-ts", slate)
    broken = override(whole, {"experiment": "broken", "checkpoint_every": 5})

    def kill(round: vitucb.Round) -> None:
        if round.index + 1 == killed_after:
            raise Killed

    with pytest.raises(Killed):
        play(broken, kill)
    play(whole), play(broken)
    for file in ("rounds.csv", "metrics.csv", "summary.json"):
        assert (run_folder(whole) / file).read_bytes() == (run_folder(broken) / file).read_bytes()


@pytest.mark.parametrize(
    "name", slow_but(["kernel-ucb", "beta-ts", "best-fixed-arm", "oracle"], sorted(AGENTS))
)
def test_every_agent_plays_slates_of_clicks(name: str, tmp_path: Path) -> None:
    slate = {"slots": 3, "examination": [1, 0.5, 0.4]}
    folder = play(config(tmp_path, name, slate, **SMALL.get(name, {}))).folder
    rows = np.genfromtxt(folder / "rounds.csv", delimiter=",", names=True)
    slates = rows["action"].reshape(-1, 3)
    assert all(len(set(slate)) == 3 for slate in slates.tolist())
    regrets = rows["regret"].reshape(-1, 3).sum(axis=1)
    assert (regrets > -1e-9).all()
    if name == "oracle":
        np.testing.assert_allclose(regrets, 0, atol=1e-9)


def test_labels_of_one_image_make_slates_too(tmp_path: Path) -> None:
    changes = {"env": {"id": "vitucb/ImageContext-v0", "num_arms": None}}
    folder = play(override(config(tmp_path, "lin-ucb", {"slots": 3}), changes)).folder
    assert (folder / "summary.json").is_file()


def test_what_does_not_fit_is_refused() -> None:
    env = arms()
    with pytest.raises(ValueError, match="slots 0 is not usable; give an integer >= 1"):
        SlateAgent(vitucb.make_agent("random", env), 0)
    agent = SlateAgent(vitucb.make_agent("random", env), 3)
    obs, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match="slots 3: 2 arms are on offer; give at most 2"):
        agent.select_slate(without(obs, [0, 1]))
    slate = agent.select_slate(obs)
    assert isinstance(slate, Slate)
    with pytest.raises(ValueError, match="give 3, one a position"):
        agent.update_slate(obs, slate, [1.0])


def test_slots_may_be_of_numpy_and_rewards_that_are_none_teach_nothing() -> None:
    env = gym.make("vitucb/ImageArms-v0", num_arms=4, max_episode_steps=4)
    agent = SlateAgent(vitucb.make_agent("ucb1", env, seed=0), np.int64(2))  # type: ignore[arg-type]  # an integer all the same
    obs, _ = env.reset(seed=0)
    slate = agent.select_slate(obs)
    before = str(agent.state_dict())
    with pytest.raises(UnusableRewardError, match="reward nan"):
        agent.update_slate(obs, slate, [1.0, math.nan])
    assert str(agent.state_dict()) == before
