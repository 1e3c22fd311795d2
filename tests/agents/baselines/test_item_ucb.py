"""The agent item-ucb remembers images and is blind to what they show."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import vitucb
from vitucb.agents.baselines.item_ucb import ItemOptions, ItemUCB, item_keys
from vitucb.envs.data.image_dataset import ImageDataset
from vitucb.types import Observation


def pictures(count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)


def observation(images: np.ndarray[Any, np.dtype[np.uint8]], arms: int) -> Observation:
    return {"images": images, "action_mask": np.ones(arms, np.int8)}


def agent(**options: Any) -> ItemUCB:
    discount = options.pop("discount", 1.0)
    return ItemUCB(ItemOptions(**options), np.random.default_rng(0), discount)


def taught(made: ItemUCB, rewards: list[float]) -> ItemUCB:
    """Picture 0 is rewarded in turn with pictures 1 and 2."""
    for t, reward in enumerate(rewards):
        obs = observation(pictures(3)[[0 if t % 2 == 0 else 1 + t % 3 % 2]], 1)
        made.update(obs, made.select_action(obs), reward)
    return made


def rated(rounds: int) -> gym.Env[Any, Any]:
    scores = np.linspace(0, 1, 12, dtype=np.float32)
    dataset = ImageDataset(name="twelve", images=pictures(12), scores=scores)
    return gym.make(
        "vitucb/RatedItems-v0", dataset=dataset, noise_std=0.1, max_episode_steps=rounds
    )


def test_it_learns_every_image_of_a_small_set() -> None:
    env = rated(200)
    rounds = list(vitucb.run(env, vitucb.make_agent("item-ucb", env, seed=0), seed=0))
    assert sum(r.regret for r in rounds[100:]) < 0.25 * sum(r.regret for r in rounds[:50])


def test_an_unseen_image_is_worth_the_mean_of_all_rewards_and_widest() -> None:
    made = taught(agent(), [1.0, 3.0, 1.2, 2.0, 0.9, 3.1])
    decision = made.select_action(observation(pictures(4)[[0, 3]], 2))
    assert decision.mean[1] == pytest.approx(np.mean([1.0, 3.0, 1.2, 2.0, 0.9, 3.1]))
    assert decision.width[1] > decision.width[0]


def test_what_an_image_shows_makes_no_difference() -> None:
    env, images = rated(50), pictures(24)
    one, two = agent(), agent()
    renamed = {image.tobytes(): images[12 + i] for i, image in enumerate(images[:12])}
    for r in vitucb.run(env, one, seed=0):
        other = np.stack([renamed[image.tobytes()] for image in r.observation["images"]])
        decision = two.select_action(observation(other, 3))
        assert decision.action == r.decision.action
        two.update(observation(other, 3), decision, r.reward)


@pytest.mark.parametrize(("unit", "level"), [(1e-3, 0.0), (1.0, 1000.0)])
def test_estimates_follow_the_unit_and_the_level(unit: float, level: float) -> None:
    rewards = np.random.default_rng(1).standard_normal(30).tolist()
    plain = taught(agent(), rewards)
    other = taught(agent(), [level + unit * reward for reward in rewards])
    obs = observation(pictures(4), 4)
    one, two = plain.select_action(obs), other.select_action(obs)
    np.testing.assert_allclose(two.mean, level + unit * one.mean, rtol=1e-6)
    np.testing.assert_allclose(two.bonus, unit * one.bonus, rtol=1e-6)


def test_where_arms_share_an_image_every_arm_of_it_is_an_item() -> None:
    shared, own = observation(pictures(1), 3), observation(pictures(3), 3)
    assert len(set(item_keys(shared)) | set(item_keys(own))) == 6


def test_a_choice_narrows_the_width_before_its_reward_comes() -> None:
    made = taught(agent(), [1.0, 2.0, 1.5, 0.5])
    obs = observation(pictures(1), 1)
    first, second = made.select_action(obs), made.select_action(obs)
    assert second.width[0] < first.width[0]
    assert second.mean[0] == first.mean[0]


def test_told_probabilities_are_those_of_the_choice() -> None:
    made, env = agent(discount=0.9), rated(30)
    for r in vitucb.run(env, agent(discount=0.9), seed=0):
        told = made.probabilities(r.observation)
        decision = made.select_action(r.observation)
        assert told[decision.action] == pytest.approx(decision.propensity)
        made.update(r.observation, decision, r.reward)


def test_told_widths_are_those_of_the_choice_while_noise_is_forgotten() -> None:
    made, env = agent(discount=0.98), rated(80)
    for r in vitucb.run(env, agent(discount=0.98), seed=0):
        _, told = made._posterior(item_keys(r.observation), 0.98)
        decision = made.select_action(r.observation)
        np.testing.assert_allclose(told, decision.width, rtol=1e-9)
        made.update(r.observation, decision, r.reward)


@pytest.mark.parametrize("num_items", [10, 100])
def test_the_noise_is_that_of_the_rewards_however_fast_they_fade(num_items: int) -> None:
    made, rng, images = agent(discount=0.99), np.random.default_rng(0), pictures(num_items)
    worth, found = rng.normal(scale=2, size=num_items), []
    for _ in range(2_000):
        item = rng.integers(num_items)
        obs = observation(images[[item]], 1)
        reward = worth[item] + rng.normal()
        found.append(made.update(obs, made.select_action(obs), reward)["score/noise"] ** 2)
    assert np.mean(found[1_000:]) == pytest.approx(1, abs=0.15)


def test_a_late_reward_counts_as_one_at_once_by_now() -> None:
    late, prompt = agent(discount=0.5), agent(discount=0.5)
    obs = observation(pictures(1), 1)
    waiting = late.select_action(obs)
    prompt.update(obs, prompt.select_action(obs), 2.0)
    for made in (late, prompt):
        made.select_action(obs)
    late.update(obs, waiting, 2.0)
    np.testing.assert_allclose(late._items.counts, prompt._items.counts)


def test_a_restored_agent_continues_identically() -> None:
    env = rated(40)
    one, two = agent(capacity=5, discount=0.99), agent(capacity=5, discount=0.99)
    rounds = list(vitucb.run(env, one, seed=0))
    two.load_state_dict(one.state_dict())
    for r in rounds:
        first, second = one.select_action(r.observation), two.select_action(r.observation)
        assert first.action == second.action
        np.testing.assert_array_equal(first.mean, second.mean)
        one.update(r.observation, first, r.reward)
        two.update(r.observation, second, r.reward)


def test_masked_arms_are_never_chosen() -> None:
    made = agent()
    for _ in range(20):
        obs = {"images": pictures(3), "action_mask": np.array([0, 1, 0], np.int8)}
        assert made.select_action(obs).action == 1


def test_equal_rewards_do_not_end_exploration() -> None:
    made = taught(agent(), [1.0] * 20)
    decision = made.select_action(observation(pictures(4)[[0, 3]], 2))
    assert decision.action == 1


@pytest.mark.parametrize("options", [{"alpha": -1.0}, {"capacity": 1}, {"discount": 0.0}])
def test_settings_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"alpha|capacity|discount"):
        agent(**options)
