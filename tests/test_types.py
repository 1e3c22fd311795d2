from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import vitucb
from vitucb.serving.answers import NumberedDecision
from vitucb.types import Decision

IMAGES = np.zeros((3, 8, 8, 3), np.uint8)


def make(**changes: Any) -> Decision:
    values: dict[str, Any] = {
        "action": np.int64(1),
        "propensity": np.float64(0.25),
        "mean": np.array([0.5, -1.25, np.inf]),
        "width": np.array([1.0, 2.0, np.nan]),
        "phi": np.zeros(1_000),
        "round": 7,
        "bonus": np.array([0.1, 0.2, -np.inf]),
    }
    return Decision(**(values | changes))


def test_a_decision_goes_through_json_and_back() -> None:
    decision = make()
    text = json.dumps(decision.to_dict(), allow_nan=False)
    again = Decision.from_dict(json.loads(text))
    assert (again.action, again.propensity, again.round, again.phi) == (1, 0.25, 7, None)
    for name in ("mean", "width", "bonus"):
        np.testing.assert_array_equal(getattr(again, name), getattr(decision, name))
        assert getattr(again, name).dtype == np.float64


def test_a_numbered_decision_keeps_its_id_and_its_reward_finds_it() -> None:
    agent = vitucb.deploy("lin-ucb", num_arms=3)
    decision = agent.act(IMAGES)
    again = NumberedDecision.from_dict(json.loads(json.dumps(decision.to_dict())))
    assert again.id == decision.id
    assert Decision.from_dict(decision.to_dict()).action == decision.action
    assert agent.observe(again, 1.0).is_learnt
    assert agent.observe(decision, 1.0).outcome == "answered"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": ...}, "decision lacks 'mean'"),
        ({"mean": "much"}, "decision: could not convert"),
        ({"mean": [0.5]}, "action 1 is no arm of its mean"),
        ({"action": None}, "decision: int"),
        ({"propensity": "a"}, "decision: could not convert"),
    ],
)
def test_what_is_no_decision_is_refused(changes: dict[str, Any], message: str) -> None:
    data = make().to_dict() | changes
    with pytest.raises(ValueError, match=message):
        Decision.from_dict({k: v for k, v in data.items() if v is not ...})


def test_fields_of_an_own_class_go_along_if_json_has_them() -> None:
    @dataclass(frozen=True)
    class Mine(Decision):
        note: Any

    values = {k: getattr(make(), k) for k in Decision.__slots__}
    mine = Mine(**values, note=("a", np.float32(0.5)))
    assert mine.to_dict()["note"] == ["a", 0.5]
    with pytest.raises(TypeError, match="note is a set, which JSON has none of"):
        Mine(**values, note={1}).to_dict()


def test_rounds_decisions_and_agents_print_in_a_line() -> None:
    assert repr(make()) == "Decision(arm 1 of 3, mean -1.25, bonus 0.2, propensity 0.25, round 7)"
    agent = vitucb.deploy("lin-ucb", num_arms=3)
    decision = agent.act(IMAGES)
    assert repr(decision).startswith(f"NumberedDecision({decision.id!r}: arm ")
    expected = "lin-ucb, 3 arms, an image each; decided 1, learnt 0, waiting 1"
    assert repr(agent) == f"DeployedAgent({expected})"
    assert repr(agent.agent) == "LinearAgent(lin-ucb, 3 arms, an image each)"
    shared = vitucb.deploy("random", num_arms=3, shares_image=True)
    assert "3 arms, one image for all" in repr(shared)


def test_a_round_prints_in_a_line() -> None:
    import gymnasium as gym

    env = gym.make("vitucb/ImageContext-v0", max_episode_steps=1)
    (played,) = vitucb.run(env, vitucb.make_agent("random", env))
    assert repr(played).startswith(f"Round(0: arm {played.decision.action} of 10, reward ")
    assert len(repr(played)) < 120


def test_what_has_no_id_is_refused_and_counted() -> None:
    agent = vitucb.deploy("random", num_arms=3)
    with pytest.raises(TypeError, match=r"has no id; give a decision of DeployedAgent.act"):
        agent.observe(make(), 1.0)  # type: ignore[arg-type]  # the point
    assert agent.counts.refused == 1


def test_the_number_of_arms_may_change_where_the_agent_looks_at_images() -> None:
    looks, counts = (vitucb.deploy(name, num_arms=3) for name in ("lin-ucb", "ucb1"))
    assert looks.fixed_arms is None
    assert counts.fixed_arms == 3
    for arms in (2, 5, 1):
        decision = looks.act(np.zeros((arms, 8, 8, 3), np.uint8))
        assert len(decision.mean) == arms
        assert looks.observe(decision, 1.0).is_learnt
    with pytest.raises(ValueError, match="agent of 3 arms"):
        counts.act(np.zeros((5, 8, 8, 3), np.uint8))
