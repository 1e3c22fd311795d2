"""The loop with rewards that come late: each reaches the agent once, with its own decision."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

import vitucb
from vitucb.experiment.episode import Episode, Recorded, merged_metrics, run
from vitucb.storage.state_files import load_state, save_state
from vitucb.types import Decision, Observation, State, decision_from_state, decision_state


class Late(gym.Wrapper[Any, Any, Any, Any]):
    """Delivers rewards two rounds late, in swapped pairs; every fifth is lost."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.arrivals: list[tuple[int, float]] = []
        self.lost: list[int] = []
        self.drawn: list[float] = []

    @property
    def drawn_reward(self) -> float:
        return self.drawn[-1]

    def step(self, action: Any) -> Any:
        obs, reward, *rest = self.env.step(action)
        t = len(self.drawn)
        self.drawn.append(float(reward))
        due = [t - 2, t - 3] if t % 2 and t >= 3 else []
        self.arrivals = [(i, self.drawn[i]) for i in due if i % 5]
        self.lost = [t] if t % 5 == 0 else []
        return obs, math.nan, *rest


class Reusing(gym.Wrapper[Any, Any, Any, Any]):
    """Writes every observation into the same arrays."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.obs: dict[str, Any] = {}

    def reset(self, **kwargs: Any) -> Any:
        obs, info = self.env.reset(**kwargs)
        self.obs = {name: part.copy() for name, part in obs.items()}
        return self.obs, info

    def step(self, action: Any) -> Any:
        obs, *rest = self.env.step(action)
        for name, part in obs.items():
            self.obs[name][...] = part
        return self.obs, *rest


class Diary:
    """Chooses arm 0 and notes what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, float]] = []
        self.rounds = 0

    def select_action(self, obs: Observation) -> Decision:
        self.rounds += 1
        zeros = np.zeros(len(obs["action_mask"]))
        return Decision(0, 1.0, zeros, zeros, None, self.rounds - 1, zeros)

    def update(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        self.seen.append((decision.round, int(obs["images"].sum()), reward))
        return {"train/loss": reward, "score/noise": float(decision.round)}

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        pass


def late_env() -> Late:
    return Late(gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=12))


def test_each_late_reward_meets_its_own_decision_and_images() -> None:
    agent, env = Diary(), late_env()
    rounds = list(run(env, agent, seed=0))
    assert [r.reward for r in rounds] == env.drawn
    assert [index for index, _, _ in agent.seen] == [1, 3, 2, 4, 7, 6, 9, 8]
    for index, images, reward in agent.seen:
        assert reward == rounds[index].reward
        assert images == int(rounds[index].observation["images"].sum())


def test_lost_rewards_are_not_waited_for() -> None:
    episode = Episode(late_env(), Diary())
    while not episode.is_over:
        episode.play_round()
    assert list(episode.state_dict()["pending"]) == [11]


def test_pending_decisions_come_back_with_their_images() -> None:
    whole = Diary()
    rounds = list(run(late_env(), whole, seed=0))
    first, second = Diary(), Diary()
    episode = Episode(late_env(), first, seed=0)
    for _ in range(6):
        episode.play_round()
    second.rounds = 6
    again = Episode(late_env(), second, seed=0)
    recorded = [Recorded(r.decision.action, r.reward, r.regret) for r in rounds]
    again.resume(episode.state_dict(), recorded)
    assert second.seen == []
    while not again.is_over:
        again.play_round()
    assert first.seen + second.seen == whole.seen
    assert again.cumulative_regret == rounds[-1].cumulative_regret


@dataclasses.dataclass(frozen=True)
class Weighed(Decision):
    """A decision of an agent's own."""

    probabilities: NDArray[np.float64]


class WeighedDiary(Diary):
    """Learns from what only its own decisions hold."""

    def select_action(self, obs: Observation) -> Decision:
        plain = super().select_action(obs)
        values = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}
        return Weighed(**values, probabilities=np.full(3, float(plain.round)))

    def update(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        assert isinstance(decision, Weighed)
        return super().update(obs, decision, reward + float(decision.probabilities.sum()))


def test_decisions_of_an_agents_own_class_come_back_from_disk(tmp_path: Path) -> None:
    whole, first, second = WeighedDiary(), WeighedDiary(), WeighedDiary()
    rounds = list(run(late_env(), whole, seed=0))
    episode = Episode(late_env(), first, seed=0)
    for _ in range(6):
        episode.play_round()
    save_state(episode.state_dict(), tmp_path)
    again = Episode(late_env(), second, seed=0)
    recorded = [Recorded(r.decision.action, r.reward, r.regret) for r in rounds]
    again.resume(load_state(tmp_path), recorded)
    second.rounds = 6
    while not again.is_over:
        again.play_round()
    assert first.seen + second.seen == whole.seen


@pytest.mark.parametrize("path", ["nowhere:Nobody", f"{__name__}:Lost", f"{__name__}:Diary"])
def test_decision_whose_class_is_gone_is_named(path: str) -> None:
    state = decision_state(WeighedDiary().select_action({"action_mask": np.ones(3, np.int8)}))
    with pytest.raises(
        ValueError, match=f"is a {path}, and the agent.s module .* no Decision of that name"
    ):
        decision_from_state(state | {"class": path}, WeighedDiary())


def test_reward_that_arrives_twice_is_refused() -> None:
    class Twice(Late):
        def step(self, action: Any) -> Any:
            result = super().step(action)
            self.arrivals = [(0, 1.0)]
            return result

    env = Twice(gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=12))
    with pytest.raises(ValueError, match="a reward of round 0 arrived"):
        list(run(env, Diary()))


def test_metrics_of_several_arrivals_are_averaged_or_the_last() -> None:
    reports = [{"train/loss": 1.0, "score/noise": 3.0}, {"train/loss": 2.0}, {"score/noise": 4.0}]
    assert merged_metrics(reports) == {"train/loss": 1.5, "score/noise": 4.0}
    assert merged_metrics([]) == {}


class Paying(gym.Wrapper[Any, Any, Any, Any]):
    """Pays `reward` in round 3, and offers nothing in the round after if asked to."""

    def __init__(self, reward: float, *, offers: bool = True) -> None:
        super().__init__(gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=12))
        self.reward, self.offers, self.rounds = reward, offers, 0

    def step(self, action: Any) -> Any:
        obs, reward, *rest = self.env.step(action)
        self.rounds += 1
        if self.rounds == 4:
            reward = self.reward
            obs["action_mask"][:] = self.offers
        return obs, reward, *rest


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf, 1.1e30, -1e300])
def test_reward_that_no_agent_can_learn_is_refused_by_round(reward: float) -> None:
    agent = Diary()
    with pytest.raises(ValueError, match=r"round 3: the environment returned reward"):
        list(run(Paying(reward), agent))
    assert [index for index, _, _ in agent.seen] == [0, 1, 2]


def test_reward_that_arrives_as_nan_is_refused_by_its_round() -> None:
    class Broken(Late):
        def step(self, action: Any) -> Any:
            result = super().step(action)
            self.arrivals = [(index, math.nan) for index, _ in self.arrivals]
            return result

    agent = Diary()
    env = Broken(gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=12))
    with pytest.raises(ValueError, match="round 3: of round 1 arrived reward nan"):
        list(run(env, agent))
    assert agent.seen == []


@pytest.mark.parametrize("name", ["ucb1", "beta-ts", "random", "oracle"])
def test_round_without_an_allowed_arm_is_refused_whoever_plays(name: str) -> None:
    env = Paying(1.0, offers=False)
    with pytest.raises(ValueError, match="round 4: action_mask allows no arm"):
        list(run(env, vitucb.make_agent(name, env, seed=0)))


def test_rounds_with_hidden_regret_are_taken_up_again() -> None:
    class Hiding(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            *result, info = self.env.step(action)
            return *result, info | {"regret": math.nan}

    env = Hiding(gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=12))
    episode = Episode(env, Diary())
    recorded = [
        Recorded(r.decision.action, r.reward, float("nan"))
        for r in (episode.play_round() for _ in range(5))
    ]
    again = Episode(env, Diary())
    again.resume(episode.state_dict(), recorded)
    assert again.index == 5


def test_an_environment_may_reuse_its_arrays() -> None:
    def seen(wrap: Any) -> list[tuple[int, int, float]]:
        env, diary = gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=6), Diary()
        for _ in run(wrap(env), diary, seed=0):
            pass
        return diary.seen

    assert seen(Reusing) == seen(lambda env: env)


def test_decisions_that_wait_at_a_resume_keep_their_images_where_arrays_are_reused() -> None:
    def learnt(played_before: int) -> list[tuple[int, float]]:
        env = Late(Reusing(gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=12)))
        first = Episode(env, Diary(), seed=0)
        recorded = [
            Recorded(r.decision.action, r.reward, r.regret)
            for r in (first.play_round() for _ in range(played_before))
        ]
        env, diary = Late(env.env), Diary()
        episode = Episode(env, diary, seed=0)
        episode.resume(first.state_dict(), recorded)
        while not episode.is_over:
            episode.play_round()
        return [(pixels, reward) for _, pixels, reward in diary.seen]

    late = learnt(7)
    assert late == learnt(0)[-len(late) :]


def test_an_environment_that_tells_no_regret_is_named() -> None:
    class Silent(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            *given, info = self.env.step(action)
            return *given, {key: value for key, value in info.items() if key != "regret"}

    env = Silent(gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=6))
    with pytest.raises(ValueError, match="round 0: the environment's info lacks regret"):
        list(run(env, Diary(), seed=0))
