"""What plug-ins return is held against what was asked for, and named."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import vitucb
from vitucb.config import RunConfig, override
from vitucb.experiment.playing import play
from vitucb.policies import Choice
from vitucb.registry import import_path
from vitucb.types import Decision


class Player:
    """An agent that returns what it was told to."""

    def __init__(self, decision: Any, metrics: Any = None) -> None:
        self.decision, self.metrics = decision, metrics

    def select_action(self, obs: Any) -> Any:
        return self.decision

    def update(self, obs: Any, decision: Any, reward: float) -> Any:
        return self.metrics


def decision(**changes: Any) -> Decision:
    zeros = np.zeros(3)
    parts: dict[str, Any] = {
        "action": 1,
        "propensity": 1.0,
        "mean": zeros,
        "width": zeros,
        "bonus": zeros,
    }
    return Decision(**({"phi": None, "round": 0} | parts | changes))


def played(agent: Any, rounds: int = 2) -> int:
    env = gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=rounds)
    return len(list(vitucb.run(env, agent, seed=0)))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (3, "select_action returned a int; give a vitucb.Decision"),
        (decision(action=3), r"the agent chose 3; give an arm 0\.\.2"),
        (decision(action=True), "the agent chose True"),
        (decision(propensity=1.5), "propensity 1.5 is no probability in"),
        (decision(propensity=math.nan), "propensity nan is no probability in"),
        (decision(mean=np.zeros(2)), r"mean of the agent's decision has shape \(2,\)"),
    ],
)
def test_a_decision_that_is_none_is_named(returned: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"round 0: .*{message}"):
        played(Player(returned))


def test_an_update_may_tell_nothing_and_nothing_but_metrics() -> None:
    assert played(Player(decision())) == 2
    with pytest.raises(ValueError, match="update returned a float; give metrics by name"):
        played(Player(decision(), 0.5))


def test_a_policy_that_returns_no_choice_is_named() -> None:
    def policy(config: Any) -> Any:
        return lambda mean, width, mask, round, rng: int(mean.argmax())

    globals()["_policy"] = policy
    env = gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=2)
    agent: Any = vitucb.make_agent("lin-ucb", env, policy={"name": f"{__name__}:_policy"})
    with pytest.raises(ValueError, match="the policy returned a int; give a vitucb"):
        list(vitucb.run(env, agent, seed=0))
    assert Choice(0, 1.0, np.zeros(3)).action == 0


def no_expert(context: Any) -> object:
    return object()


class Guess:
    """An expert whose predictions are none."""

    def predict(self, offer: Any) -> Any:
        return np.zeros(offer.num_arms)

    def choose(self, offer: Any, action: int) -> None: ...

    def observe(self, offer: Any, action: int, reward: float, age: int) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None: ...


def guess(context: Any) -> Guess:
    return Guess()


def test_an_expert_that_is_none_is_named() -> None:
    env = gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=2)
    with pytest.raises(ValueError, match="no_expert' made a object, no expert: give it the"):
        vitucb.make_agent("vit-ucb", env, experts=[f"{__name__}:no_expert"])
    agent: Any = vitucb.make_agent("vit-ucb", env, experts=[f"{__name__}:guess", "linear"])
    with pytest.raises(ValueError, match="guess predicted a ndarray; give a vitucb"):
        list(vitucb.run(env, agent, seed=0))


def test_a_module_of_the_current_folder_has_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_very_own.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="python -m vitucb finds it in the current folder"):
        import_path("my_very_own:build")
    with pytest.raises(ValueError, match="check the module name"):
        import_path("nowhere_at_all:build")


def config(tmp_path: Path, **changes: Any) -> RunConfig:
    return override(
        RunConfig(), {"out": str(tmp_path), "agent": "random", "num_rounds": 60} | changes
    )


def test_an_environment_that_ends_early_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = play(config(tmp_path, num_rounds=700, env={"id": "vitucb/Logged-v0"})).folder
    assert "the environment ended after 600 of 700 rounds" in caplog.text
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["rounds"] == 600
    assert summary["acceptance_rate"] == pytest.approx(0.25, abs=0.1)
    assert summary["accepted_mean_reward"] > 1.5 * summary["mean_reward"]
    caplog.clear()
    play(config(tmp_path))
    assert "the environment ended" not in caplog.text


def test_the_expert_of_the_docs_is_mixed_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "agents.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n# my_experts.py\n(.*?)```", page, re.DOTALL)
    assert block is not None
    (tmp_path / "my_experts.py").write_text(block[1], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    experts = ["kernel", "linear", "my_experts:brightness"]
    env = gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=20)
    agent: Any = vitucb.make_agent("vit-ucb", env, experts=experts)
    *_, last = vitucb.run(env, agent, seed=0)
    assert last.metrics["expert/weight/my_experts:brightness"] > 0
    again: Any = vitucb.make_agent("vit-ucb", env, experts=experts)
    again.load_state_dict(agent.state_dict())
    one, two = agent.select_action(last.observation), again.select_action(last.observation)
    np.testing.assert_array_equal(one.mean, two.mean)
