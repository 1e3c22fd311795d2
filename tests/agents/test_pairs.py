"""Every agent with every policy resumes; every feature map goes with every covariance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vitucb
from tests.agents.two_digits import two_digits
from tests.covering import covering_pairs
from vitucb.covariance.table import COVARIANCES
from vitucb.policies import POLICIES
from vitucb.storage.state_files import load_state, save_state
from vitucb.types import Agent, Round

SMALL_VIT: dict[str, Any] = {
    "lora": {"rank": 1, "targets": ["qkv"], "blocks": [-1]},
    "training": {"batch_size": 2},
}
# The agents that leave the policy open.
AGENTS: dict[str, dict[str, Any]] = {
    "vit-ucb": SMALL_VIT,
    "full-finetune": SMALL_VIT,
    "lin-ucb": {},
    "neural-ucb": {"options": {"hidden": 4, "steps": 1}},
    "prototype": {"options": {"rank": 1, "covariance": "exact", "gradients": "batched"}},
}


def build(name: str, policy: str, seed: int) -> Agent:
    return vitucb.make_agent(name, two_digits(6), seed=seed, policy=policy, **AGENTS[name])


@pytest.mark.parametrize(("name", "policy"), covering_pairs(AGENTS, sorted(POLICIES)))
def test_resumes_bit_for_bit(name: str, policy: str, tmp_path: Path) -> None:
    agent = build(name, policy, 0)
    tail: list[Round] = []
    for played in vitucb.run(two_digits(6), agent, seed=0):
        if played.index == 2:
            save_state(agent.state_dict(), tmp_path)
        tail = [*tail, played] if played.index > 2 else []
    restored = build(name, policy, 7)
    restored.load_state_dict(load_state(tmp_path))
    assert len(tail) == 3
    for played in tail:
        decision = restored.select_action(played.observation)
        then = played.decision
        assert (decision.action, decision.propensity) == (then.action, then.propensity)
        np.testing.assert_array_equal(decision.mean, then.mean)
        np.testing.assert_array_equal(decision.width, then.width)
        restored.update(played.observation, decision, played.reward)


FEATURES: dict[str, dict[str, Any]] = {
    "lora-gradient": {},
    "last-layer": {"features": "last-layer"},
    "both": {"features": "both"},
    "lora-gradient of the score": {"readout": "head"},
}


@pytest.mark.parametrize(("features", "covariance"), covering_pairs(FEATURES, COVARIANCES))
def test_features_go_with_covariance(features: str, covariance: str) -> None:
    env = two_digits(18)
    settings = SMALL_VIT | FEATURES[features] | {"covariance": covariance}
    agent = vitucb.make_agent("vit-ucb", env, **settings)
    rounds = list(vitucb.run(env, agent, seed=0))
    assert len(rounds) == 18  # past the first rebuild
    widths = np.array([played.decision.width for played in rounds])
    assert np.isfinite(widths).all()
    assert (widths > 0).all()
