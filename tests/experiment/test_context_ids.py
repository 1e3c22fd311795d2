"""Ids of items and creatives on their way through runs, late rewards and saved agents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import vitucb
from vitucb.config import RunConfig, override
from vitucb.experiment.distributed.expert_ranks import _Made, _packed, _unpacked
from vitucb.experiment.playing import play
from vitucb.learning.experts.expert import Offer
from vitucb.learning.experts.kernel.context import ContextKernelExpert
from vitucb.types import Round

SMALL = {"num_items": 4, "num_pictures": 12}


def env_of(**kwargs: Any) -> gym.Env[Any, Any]:
    return gym.make("vitucb/Creatives-v0", max_episode_steps=60, **(SMALL | kwargs))


def test_kernel_takes_the_ids_where_there_are_any() -> None:
    agent: Any = vitucb.make_agent("kernel-ucb", env_of())
    assert isinstance(agent.experts["kernel"], ContextKernelExpert)
    agent = vitucb.make_agent("kernel-ucb", env_of(context_ids=False))
    assert not isinstance(agent.experts["kernel"], ContextKernelExpert)


@pytest.mark.parametrize("name", ["lin-ucb", "item-ucb", "ucb1"])
def test_agents_that_ignore_the_ids_play_the_same_without(name: str) -> None:
    chosen = []
    for shown in (True, False):
        env = env_of(context_ids=shown)
        agent = vitucb.make_agent(name, env, seed=1)
        chosen.append([r.decision.action for r in vitucb.run(env, agent, num_rounds=30)])
    assert chosen[0] == chosen[1]


def test_a_killed_run_with_late_rewards_goes_on_with_its_ids(tmp_path: Path) -> None:
    whole = override(
        RunConfig(),
        {
            "agent": {"name": "kernel-ucb"},
            "env": {"id": "vitucb/Creatives-v0", "options": SMALL, "delay": {"law": "uniform"}},
            "num_rounds": 40,
            "tensorboard": False,
            "checkpoint_every": 20,
            "out": str(tmp_path / "whole"),
        },
    )
    killed = override(whole, {"out": str(tmp_path / "killed")})

    def kill(round: Round) -> None:
        if round.index == 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(killed, kill)
    both = [play(config).folder / "rounds.csv" for config in (whole, killed)]
    assert both[0].read_bytes() == both[1].read_bytes()


def test_ids_travel_to_other_ranks() -> None:
    ids = np.array([[1, 3], [1, 4]])
    offer = Offer(np.zeros((2, 4, 4, 3), np.uint8), torch.zeros(2, 5).double(), 2, ids)
    made = _Made(offer, 1, torch.zeros(1).double())
    (again,) = _unpacked("made/", _packed("made/", [made]), 2)
    np.testing.assert_array_equal(again.offer.context, ids)


def test_an_agent_that_learnt_with_ids_is_not_loaded_to_act_without(tmp_path: Path) -> None:
    env = env_of()
    agent: Any = vitucb.make_agent("vit-ucb", env)
    for _ in vitucb.run(env, agent, num_rounds=5):
        pass
    with pytest.raises(ValueError, match="needs the ids of items and creatives"):
        agent.save(tmp_path / "saved")
    other: Any = vitucb.make_agent("vit-ucb", env_of(context_ids=False))
    with pytest.raises(ValueError, match="act on images alone: play with"):
        other.load_state_dict(agent.state_dict())


def test_an_agent_that_learnt_without_ids_acts_on_images(tmp_path: Path) -> None:
    env = env_of(context_ids=False)
    agent: Any = vitucb.make_agent("vit-ucb", env)
    for _ in vitucb.run(env, agent, num_rounds=5):
        pass
    loaded = vitucb.load_agent(agent.save(tmp_path / "saved"))
    assert 0 <= loaded.act(np.zeros((5, 8, 8, 3), np.uint8)).action < 5
