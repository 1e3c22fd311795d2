"""An agent behind a public service: forks, rewards from outside, counters."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

import vitucb
from vitucb.serving.deployed_agent import DeployedAgent

IMAGES = np.zeros((2, 8, 8, 3), np.uint8)


def use(agent: DeployedAgent, pipe: Connection) -> None:
    for call in (lambda: agent.act(IMAGES), lambda: agent.observe("x", 1.0)):
        try:
            call()
            pipe.send("went through")
        except RuntimeError as error:
            pipe.send(str(error))


def test_a_forked_copy_is_refused_and_the_first_goes_on() -> None:
    agent = vitucb.deploy("random", num_arms=2)
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=use, args=(agent, theirs))
    child.start()
    answers = [ours.recv(), ours.recv()]
    child.join()
    assert all("load it in every worker, after the fork" in answer for answer in answers)
    assert agent.observe(agent.act(IMAGES).id, 1.0).is_learnt


def test_rewards_out_of_range_are_refused_also_after_loading(tmp_path: Path) -> None:
    agent = vitucb.deploy("ucb1", num_arms=2, reward_range=(0.0, 1.0))
    decision = agent.act(IMAGES)
    before = agent.agent.state_dict()
    receipt = agent.observe(decision.id, -1e10)
    assert receipt.outcome == "refused"
    assert "not in [0, 1]" in receipt.reason
    assert str(agent.agent.state_dict()) == str(before)
    again = vitucb.load_agent(agent.save(tmp_path / "agent"))
    assert again.reward_range == (0.0, 1.0)
    assert again.observe(decision.id, 1.5).outcome == "refused"
    assert again.observe(decision.id, 1.0).is_learnt
    wider = vitucb.load_agent(tmp_path / "agent", reward_range=(0.0, 2.0))
    assert wider.observe(decision.id, 1.5).is_learnt


@pytest.mark.parametrize("limits", [(1.0, 0.0), (0.0, float("nan")), (0.0, 1e31)])
def test_a_range_that_is_none_is_refused(limits: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="reward_range"):
        vitucb.deploy("random", num_arms=2, reward_range=limits)


def test_refused_calls_are_counted() -> None:
    agent = vitucb.deploy("random", num_arms=2)
    decision = agent.act(IMAGES)
    for images in (IMAGES.astype(float), IMAGES[:0], IMAGES[0]):
        with pytest.raises((TypeError, ValueError)):
            agent.act(images)
    with pytest.raises(TypeError):
        agent.observe(decision.id, "much")  # type: ignore[arg-type]  # the point
    agent.observe(decision.id, float("inf"))
    assert agent.counts.refused == 5
    assert agent.counts.waiting == 1
