"""`precision auto` reaches the network of every agent that has one."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch

from vitucb.agents.expert_agent import ExpertAgent
from vitucb.agents.factory import make_agent
from vitucb.agents.vit_ucb import ViTUCB
from vitucb.learning.experts.adapted.expert import AdaptedExpert
from vitucb.models import processor


@pytest.mark.parametrize(("is_faster", "expected"), [(True, torch.bfloat16), (False, None)])
@pytest.mark.parametrize("experts", [["adapted"], ["linear", "adapted"]], ids=["alone", "mixed"])
def test_auto_is_what_the_processor_prefers(
    experts: list[str],
    is_faster: bool,
    expected: torch.dtype | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processor, "prefers_bfloat16", lambda: is_faster)
    env = gym.make("vitucb/ImageContext-v0", dataset="digits")
    agent = make_agent("vit-ucb", env, experts=experts, precision="auto")
    if isinstance(agent, ViTUCB):
        assert agent.trainer.model.precision == expected
    else:
        assert isinstance(agent, ExpertAgent)
        expert = agent.experts["adapted"]
        assert isinstance(expert, AdaptedExpert)
        assert expert.network.model.precision == expected
