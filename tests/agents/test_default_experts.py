"""What `vit-ucb` is made of by default is at work: the late starts of `adapted` and `linear`."""

from __future__ import annotations

import gymnasium as gym

import vitucb
from vitucb.agents.expert_agent import ExpertAgent
from vitucb.learning.experts.adapted.expert import AdaptedExpert


def test_adapted_sleeps_from_the_start_and_makes_up_for_its_steps_when_it_wakes() -> None:
    env = gym.make("vitucb/ImageContext-v0", max_episode_steps=90)
    agent = vitucb.make_agent("vit-ucb", env)
    assert isinstance(agent, ExpertAgent)
    adapted = agent.experts["adapted"]
    assert isinstance(adapted, AdaptedExpert)
    assert adapted.is_asleep
    slept, steps, seen = 0, [], set()
    model = adapted.network.model
    norm = model.get_submodule("backbone.base_model.model.blocks.0.norm1")
    norm.register_forward_pre_hook(lambda _, x: seen.add((model.training, x[0].shape[1])))
    for _ in vitucb.run(env, agent):
        slept += adapted.is_asleep
        steps.append(adapted.network.steps)
    # Its first steps are due with rewards 64 to 84; round 83 brings the 84th.
    assert slept == adapted.starts_after - 1 == 83
    assert steps[82:85] == [0, 21, 22]
    # It acts on all 16 patches and trains on ten.
    assert seen == {(False, 16), (True, 10)}


def test_linear_is_not_asked_for_twenty_rewards_where_every_arm_has_an_image() -> None:
    env = gym.make("vitucb/ImageArms-v0", max_episode_steps=30)
    agent = vitucb.make_agent("vit-ucb", env)
    assert isinstance(agent, ExpertAgent)
    silent = [agent.weights.weights["linear"] == 0 for _ in vitucb.run(env, agent)]
    assert silent == [True] * 19 + [False] * 11
    assert agent.experts["linear"].state_dict()["rounds"] == 30
