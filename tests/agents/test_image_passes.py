"""Agents count the images that go through their backbone, each way."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

import vitucb
from tests.covering import slow_but
from vitucb.learning.experts.adapted.expert import AdaptedExpert

SMALL: dict[str, Any] = {
    "lora": {"rank": 1, "blocks": (-1,), "targets": ("qkv",)},
    "training": {"batch_size": 4},
}
ALONE = {**SMALL, "experts": ("adapted",)}
# What sends images through a network in every round. Rows are computed anew in some.
TRAINED: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "adapted alone": ("vit-ucb", False, ALONE),
    "adapted alone, low-rank": ("vit-ucb", False, {**ALONE, "covariance": "low-rank"}),
    "adapted alone, labels": ("vit-ucb", True, ALONE),
    "adapted alone, last layer": ("vit-ucb", True, {**ALONE, "features": "last-layer"}),
    "adapted alone, both": ("vit-ucb", False, {**ALONE, "features": "both"}),
    "neural-linear": ("neural-linear", False, {**SMALL, "options": {"refresh_every": 8}}),
    "full-finetune": ("full-finetune", True, {"training": {"batch_size": 4}}),
    "prototype": ("prototype", False, {"options": {"covariance": "diagonal"}}),
    "prototype, batched": (
        "prototype",
        False,
        {"options": {"gradients": "batched", "covariance": "diagonal"}},
    ),
}
QUICK = ("adapted alone", "adapted alone, last layer", "neural-linear", "prototype")


def environment(is_shared: bool, rounds: int) -> gym.Env[Any, Any]:
    name = "ImageContext" if is_shared else "ImageArms"
    return gym.make(f"vitucb/{name}-v0", num_arms=3, max_episode_steps=rounds)


class Passes:
    """What went through the last block of a backbone: twice where gradients came back."""

    def __init__(self, backbone: nn.Module) -> None:
        self.count = 0
        blocks = [m for name, m in backbone.named_modules() if name.endswith("blocks.3")]
        blocks[0].register_forward_pre_hook(self._add)

    def _add(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.count += len(inputs[0]) * (2 if torch.is_grad_enabled() else 1)


def backbone_of(agent: Any) -> nn.Module:
    model = agent.trainer.model if hasattr(agent, "trainer") else agent._model
    backbone: nn.Module = model.backbone
    return backbone


@pytest.mark.parametrize("name", slow_but(QUICK, TRAINED))
def test_what_is_counted_went_through_the_backbone(name: str) -> None:
    kind, is_shared, settings = TRAINED[name]
    env = environment(is_shared, 24)
    # With tokens held, images come as far as the last block when they are made.
    agent: Any = vitucb.make_agent(kind, env, prefix_cache_mib=0, **settings)
    rounds = vitucb.run(env, agent)
    for _ in range(4):  # layers are compared with PEFT's at first
        next(rounds)
    passes, before = Passes(backbone_of(agent)), agent.image_passes
    for _ in rounds:
        pass
    assert agent.image_passes - before == passes.count > 0


@pytest.mark.parametrize("name", ["lin-ucb", "kernel-ucb", "vit-ucb", "neural-ucb"])
def test_of_frozen_features_an_image_counts_once(name: str) -> None:
    env = environment(False, 30)
    agent: Any = vitucb.make_agent(name, env)
    shown = [image.tobytes() for r in vitucb.run(env, agent) for image in r.observation["images"]]
    assert agent.image_passes == len(set(shown)) < len(shown)


def test_a_mixture_counts_frozen_features_and_its_network() -> None:
    env = environment(True, 100)
    agent: Any = vitucb.make_agent("vit-ucb", env, **SMALL)
    shown = {r.observation["images"].tobytes() for r in vitucb.run(env, agent)}
    adapted = agent.experts["adapted"]
    assert isinstance(adapted, AdaptedExpert)
    network = adapted.network
    assert network.ways_back == 4 * network.steps > 0
    assert agent.image_passes == len(shown) + network.passes + network.ways_back


@pytest.mark.parametrize("name", ["ucb1", "item-ucb", "random", "oracle"])
def test_agents_without_a_network_count_none(name: str) -> None:
    env = environment(False, 5)
    agent: Any = vitucb.make_agent(name, env)
    for _ in vitucb.run(env, agent):
        pass
    assert agent.image_passes == 0


@pytest.mark.parametrize("name", ["neural-linear", "full-finetune"])
def test_one_image_that_all_labels_share_goes_through_once(name: str) -> None:
    env = environment(True, 2)
    agent: Any = vitucb.make_agent(name, env, seed=0, training={"batch_size": 4})
    obs, _ = env.reset(seed=0)
    assert agent.select_action(obs).mean.shape == (3,)
    assert agent.image_passes == 1


def test_a_hundred_labels_need_no_matrix_over_all_of_them() -> None:
    agent = vitucb.deploy("neural-linear", num_arms=100, shares_image=True)
    assert agent.act(np.zeros((8, 8, 3), np.uint8)).mean.shape == (100,)
