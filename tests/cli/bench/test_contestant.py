"""What is timed are rounds of images that were seen before, copies to train on included."""

from __future__ import annotations

import pytest

from vitucb.agents.expert_agent import ExpertAgent
from vitucb.cli.bench.contestant import Contestant, keep_asleep
from vitucb.learning.experts.adapted.expert import AdaptedExpert


@pytest.mark.slow
def test_steps_find_every_copy_held() -> None:
    experts = ("softmax", "adapted")
    contestant = Contestant("vit-ucb", {"experts": experts}, {}, has_labels=True, num_images=60)
    assert isinstance(contestant.agent, ExpertAgent)
    expert = contestant.agent.experts["adapted"]
    assert isinstance(expert, AdaptedExpert)
    held = expert.network.misses

    keep_asleep(contestant.agent, "adapted", rewards=66)
    contestant.skip(68)

    assert held == 3 * 60
    assert expert.network.steps > 0
    assert expert.network.misses == held
