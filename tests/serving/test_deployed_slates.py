"""Slates of a deployed agent: a decision for every position, each with its own id and reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vitucb
from tests.covering import slow_but
from vitucb.agents import AGENTS
from vitucb.envs.wrappers.slate_arms import worth_in_last_position
from vitucb.evaluation.logs import open_log
from vitucb.serving.decision_log import DecisionLog
from vitucb.serving.deployed_agent import DeployedAgent

IGW = {"policy": {"name": "igw"}}
SMALL: dict[str, dict[str, Any]] = {
    "lin-ucb": IGW,
    "vit-ucb": {"lora": {"rank": 1}, "training": {"batch_size": 4}},
    "neural-ucb": {"options": {"hidden": 8, "steps": 1}},
    "neural-ts": {"options": {"hidden": 8, "steps": 1}},
    "neural-linear": {"options": {"refresh_every": 3, "steps": 1}, "lora": {"rank": 1}},
    "full-finetune": {"training": {"batch_size": 2}},
    "prototype": {"options": {"rank": 1, "replay": 3}},
}
PLAYABLE = [name for name in AGENTS if name not in ("oracle", "best-fixed-arm")]


def pictures(seed: int, arms: int = 5) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (arms, 8, 8, 3), np.uint8)


def deploy(name: str, **settings: Any) -> DeployedAgent:
    return vitucb.deploy(name, **({"num_arms": 5} | SMALL.get(name, {}) | settings))


@pytest.mark.parametrize("name", slow_but(["ucb1", "lin-ucb"], PLAYABLE))
def test_every_agent_shows_slates_and_learns_from_each_position(name: str) -> None:
    agent = deploy(name)
    for seed in range(3):
        slate = agent.act(pictures(seed), slots=3)
        assert len(set(slate.actions.tolist())) == len({d.id for d in slate.decisions}) == 3
        assert 0 < slate.propensity <= 1
        for decision in reversed(slate.decisions):
            assert agent.observe(decision, 1.0).is_learnt
    assert agent.counts.learnt == agent.counts.decided == 9


def test_one_slot_is_the_decision_itself() -> None:
    one, slate = deploy("lin-ucb"), deploy("lin-ucb")
    for seed in range(4):
        alone, (first,) = one.act(pictures(seed)), slate.act(pictures(seed), slots=1).decisions
        assert (alone.action, alone.propensity) == (first.action, first.propensity)
        np.testing.assert_array_equal(alone.mean, first.mean)
        one.observe(alone, 1.0), slate.observe(first, 1.0)


def test_masked_arms_are_not_shown_and_saved_slates_still_learn(tmp_path: Path) -> None:
    agent = deploy("ucb1")
    slate = agent.act(pictures(0), [0, 1, 1, 1, 0], slots=3)
    assert sorted(slate.actions.tolist()) == [1, 2, 3]
    loaded = vitucb.load_agent(agent.save(tmp_path / "agent"))
    for position, decision in enumerate(slate.decisions):
        worth = worth_in_last_position(1.0, position, (1.0, 0.5, 0.25))
        assert loaded.observe(decision.id, worth).is_learnt


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        (6, "slots 6: 5 arms are on offer; give at most 5"),
        (0, "slots 0 is not usable; give an integer >= 1"),
        (2.0, "slots 2.0 is not usable"),
        (True, "slots True is not usable"),
    ],
)
def test_slates_that_cannot_be_are_refused_and_counted(slots: Any, message: str) -> None:
    agent = deploy("ucb1")
    with pytest.raises(ValueError, match=message):
        agent.act(pictures(0), slots=slots)
    assert (agent.counts.refused, agent.counts.decided) == (1, 0)


def test_the_log_holds_what_was_left_for_every_position(tmp_path: Path) -> None:
    from PIL import Image

    names = [f"{arm}.png" for arm in range(5)]
    for name, pixels in zip(names, pictures(0), strict=True):
        Image.fromarray(pixels).save(tmp_path / name)
    agent, shown = deploy("random"), []
    with DecisionLog(tmp_path / "log.jsonl") as log:
        for _ in range(4):
            slate, mask = agent.act(pictures(0), slots=2), np.ones(5)
            for position, decision in enumerate(slate.decisions):
                log.decided(decision, arm_images=names, action_mask=mask, position=position)
                log.rewarded(decision, float(decision.action == 0))
                mask[decision.action] = 0
                shown.append(decision.action)
    rounds = open_log(tmp_path / "log.jsonl")
    assert rounds.mask.sum(axis=1).tolist() == [5, 4] * 4
    assert rounds.propensities is not None
    np.testing.assert_allclose(rounds.propensities, [1 / 5, 1 / 4] * 4)
    assert rounds.rewards.tolist() == [float(arm == 0) for arm in shown]
