"""Settings drawn at random: refused in words when the agent is built, or played and resumed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.soak.conftest import Trials
from vitucb.agents.factory import make_agent
from vitucb.agents.vit_ucb import ViTUCB
from vitucb.config import LoRAConfig, RunConfig, override
from vitucb.covariance.budgeted import BudgetedCovariance
from vitucb.covariance.dual import DualCovariance
from vitucb.covariance.grouped import GroupedCovariance
from vitucb.covariance.table import COVARIANCES
from vitucb.experiment.environments import make_env
from vitucb.experiment.episode import Episode
from vitucb.optim.table import ENTRIES
from vitucb.policies import POLICIES
from vitucb.storage.state_files import load_state, save_state
from vitucb.types import Agent

ROUNDS, SAVED_AFTER = 36, 20
AGENTS = ("vit-ucb", "vit-ucb", "vit-ucb", "full-finetune", "lin-ucb", "neural-linear")


def drawn_config(seed: int) -> RunConfig:
    """Settings that each agent and environment has by itself, in any combination."""
    pick = random.Random(seed).choice
    link = pick(["gaussian", "gaussian", "bernoulli"])
    agent: dict[str, Any] = {
        "name": pick(AGENTS),
        "features": pick(["lora-gradient", "last-layer", "both"]),
        "covariance": {"name": pick(list(COVARIANCES)), "rank": pick([None, 8])},
        "policy": {"name": pick(sorted(POLICIES)), "radius": pick(["auto", "constant", "oful"])},
        "link": link,
        "head": pick(["ridge", "gradient"]),
        "readout": pick(["prior", "head"]),
        "precision": pick(["float32", "bfloat16", "auto"]),
        "prefix_cache_mib": pick([0, 256]),
        "lora": {
            "rank": pick([1, 2]),
            "targets": pick([["qkv"], ["fc2"], ["proj", "fc1"]]),
            "blocks": pick([[-1], [2]]),
            "init": pick(["default", "orthogonal", "pissa", "olora", "gaussian"]),
            "use_rslora": pick([True, False]),
            "use_dora": pick([True, False, False, False]),
        },
        "training": {
            "batch_size": pick([1, 3]),
            "rebuild": pick(["drift", "doubling", "none"]),
            "discount": pick([1.0, 1.0, 0.9]),
            "replay": pick(["reservoir", "window"]),
            "replay_capacity": pick([1_000, 7]),
            "update_every": pick([1, 1, 3]),
            "gradient_steps": pick([1, 2]),
            "reset_on_drift": pick([True, False]),
            "drift_threshold": pick([0.2, 0.001]),
        },
    }
    if agent["name"] == "vit-ucb":
        agent["experts"] = ["adapted"]
        agent["optimizer"] = {"name": pick(list(ENTRIES)), "lr": pick([1e-4, 1e-2])}
    reward = "bernoulli" if link == "bernoulli" else pick(["bernoulli", "gaussian"])
    env: dict[str, Any] = {"dataset": "digits", "num_arms": pick([2, 3, 10]), "reward": reward}
    if pick([True, False]):
        env["delay"] = {"law": pick(["fixed", "uniform", "geometric", "heavy-tailed"]), "rounds": 5}
        env["delay"]["loss_probability"] = pick([0.0, 0.3])
    if pick([True, False]):
        env["drift"] = {"kind": pick(["abrupt", "gradual", "recurring"])}
    if pick([True, False, False]):
        env["arm_subset"] = {"min_arms": 1}
    if pick([True, False, False, False]):
        env |= {"id": "vitucb/ImageContext-v0", "num_arms": None, "reward": None}
    values = {"agent": agent, "env": env, "seed": seed, "num_rounds": ROUNDS}
    return override(RunConfig(), values)


def play_and_resume(config: RunConfig, agent: Agent, folder: Path) -> None:
    """Play to the end; on the way the agent is saved, and what is loaded must decide alike."""
    episode = Episode(make_env(config.env, ROUNDS), agent, seed=config.seed)
    while not episode.is_over:
        restored = None
        if episode.index == SAVED_AFTER:
            save_state(agent.state_dict(), folder)
            restored = build(config)
            restored.load_state_dict(load_state(folder))
        played = episode.play_round()
        allowed = played.observation["action_mask"] > 0
        assert np.isfinite(played.decision.mean[allowed]).all()
        if restored is not None:
            again = restored.select_action(played.observation)
            assert again.action == played.decision.action
            np.testing.assert_array_equal(again.mean, played.decision.mean)
            np.testing.assert_array_equal(again.width, played.decision.width)


def build(config: RunConfig) -> Agent:
    env = make_env(config.env, ROUNDS)
    return make_agent(config.agent.name, env, seed=config.seed, config=config.agent)


@pytest.mark.soak(
    "Settings of agent, environment and training drawn at random",
    "one line before the first round, or plays on and resumes to the bit",
)
@pytest.mark.parametrize("seed", range(90))
def test_random_settings_are_refused_or_played(seed: int, tmp_path: Path, trials: Trials) -> None:
    try:
        config = drawn_config(seed)
        agent = build(config)
    except ValueError as refusal:
        trials.check("\n" not in str(refusal), str(refusal))
        return
    play_and_resume(config, agent, tmp_path)
    trials.check(True, "")


@pytest.mark.soak(
    "The same with an exact covariance whose budget is used up on the way",
    "one line before the first round, or hands over to the sketch and resumes to the bit",
)
@pytest.mark.parametrize("seed", range(1_000, 1_030))
def test_random_settings_hand_over(seed: int, tmp_path: Path, trials: Trials) -> None:
    lora = {"targets": LoRAConfig.targets, "blocks": None, "rank": 4}
    exact = {"name": "exact", "rank": None, "budget_mib": 1}  # 5 rows
    agent: dict[str, Any] = {"name": "vit-ucb", "experts": ["adapted"], "covariance": exact}
    agent["lora"] = lora
    try:
        config = drawn_config(seed)
        if config.agent.features == "last-layer":
            agent["features"] = "lora-gradient"
        config = override(config, {"agent": agent})
        built = build(config)
    except ValueError as refusal:
        trials.check("\n" not in str(refusal), str(refusal))
        return
    assert isinstance(built, ViTUCB)
    play_and_resume(config, built, tmp_path)
    first = built.covariance
    if isinstance(first, GroupedCovariance):
        first = first.groups["adapters"]
    assert isinstance(first, BudgetedCovariance)
    has_forgotten = config.agent.training.discount < 1 or config.agent.training.reset_on_drift
    trials.check(has_forgotten or not isinstance(first.current, DualCovariance), "no handover")
