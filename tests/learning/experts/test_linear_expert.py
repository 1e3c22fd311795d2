"""The expert `linear`: ridge regression, its width, discounts and late rewards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitucb.learning.experts.expert import Offer
from vitucb.learning.experts.linear import LinearExpert, linear_features

DIM = 3


def offers(count: int, arms: int = 4, *, shared: bool = False, seed: int = 0) -> list[Offer]:
    rng, images = np.random.default_rng(seed), 1 if shared else arms
    return [
        Offer(
            np.zeros((images, 2, 2, 3), np.uint8),
            torch.from_numpy(rng.standard_normal((images, DIM))),
            arms,
        )
        for _ in range(count)
    ]


def learn(expert: LinearExpert, rounds: list[Offer], seed: int = 1) -> list[tuple[int, float]]:
    rng, choices = np.random.default_rng(seed), []
    for offer in rounds:
        expert.predict(offer)
        choice = int(rng.integers(offer.num_arms)), float(rng.standard_normal())
        expert.choose(offer, choice[0])
        expert.observe(offer, *choice, 0)
        choices.append(choice)
    return choices


@pytest.mark.parametrize("shared", [False, True])
def test_mean_and_width_equal_the_dense_solution(shared: bool) -> None:
    expert = LinearExpert(DIM, num_blocks=4 if shared else 1, ridge=0.5, alpha=0.7)
    rounds = offers(30, shared=shared)
    choices = learn(expert, rounds)
    rows = [linear_features(o)[a].numpy() for o, (a, _) in zip(rounds, choices, strict=True)]
    phi, rewards = np.stack(rows), np.array([r for _, r in choices])
    gram = phi.T @ phi + 0.5 * np.eye(phi.shape[1])
    query = offers(1, shared=shared, seed=9)[0]
    x, found = linear_features(query).numpy(), expert.predict(query)
    np.testing.assert_allclose(found.mean, x @ np.linalg.solve(gram, phi.T @ rewards))
    deviation = np.sqrt((x * np.linalg.solve(gram, x.T).T).sum(1))
    np.testing.assert_allclose(found.width / deviation, found.width[0] / deviation[0])
    np.testing.assert_array_equal(found.bonus, 0.7 * found.width)


def test_late_rewards_lead_to_the_same_means() -> None:
    prompt, late = LinearExpert(DIM), LinearExpert(DIM)
    rounds = offers(10)
    choices = learn(prompt, rounds)
    for offer, (action, _) in zip(rounds, choices, strict=True):
        late.predict(offer)
        late.choose(offer, action)
    for t in np.random.default_rng(2).permutation(10).tolist():
        action, reward = choices[t]
        late.observe(rounds[t], action, reward, 9 - t)
    query = offers(1, seed=9)[0]
    np.testing.assert_allclose(late.predict(query).mean, prompt.predict(query).mean, atol=1e-12)


def test_a_late_reward_is_compared_with_what_was_expected_at_the_choice() -> None:
    expert = LinearExpert(DIM)
    first, *rest = offers(6)
    expert.predict(first)
    expert.choose(first, 0)
    learn(expert, rest)
    before = expert.state_dict()["noise"]["variance"]
    # A new expert expects 0, and so the error is the reward itself.
    expert.observe(first, 0, 3.0, 5)
    count = expert.state_dict()["noise"]["count"]
    assert expert.state_dict()["noise"]["variance"] == pytest.approx(
        before + (9.0 - before) / count
    )


def test_a_reward_of_a_forgotten_choice_is_learnt_all_the_same() -> None:
    expert = LinearExpert(DIM)
    offer = offers(1)[0]
    expert.observe(offer, 0, 1.0, 7)
    assert expert.predict(offer).mean[0] > 0


@pytest.mark.parametrize("age", [0, 3])
def test_a_discounted_reward_weighs_by_its_age(age: int) -> None:
    expert = LinearExpert(DIM, discount=0.8)
    first, *rest = offers(age + 1)
    expert.predict(first)
    expert.choose(first, 0)
    for offer in rest:
        expert.predict(offer)
        expert.choose(offer, 1)
    expert.observe(first, 0, 2.0, age)
    expected = 2.0 * 0.8**age * linear_features(first)[0]
    torch.testing.assert_close(expert.state_dict()["response"], expected)


def test_asking_twice_lets_one_round_pass() -> None:
    once, twice = LinearExpert(DIM, discount=0.8), LinearExpert(DIM, discount=0.8)
    rounds = offers(5)
    learn(once, rounds)
    for offer in rounds:
        twice.predict(offer)
        twice.predict(offer)
    learn(twice, rounds[:0])
    state = twice.state_dict()
    assert state["has_passed"]
    assert state["rounds"] == 0


def test_a_choice_may_be_told_without_a_prediction() -> None:
    asked, told = LinearExpert(DIM), LinearExpert(DIM)
    offer = offers(1)[0]
    asked.predict(offer)
    for expert in (asked, told):
        expert.choose(offer, 2)
    query = offers(1, seed=9)[0]
    np.testing.assert_array_equal(asked.predict(query).width, told.predict(query).width)


def test_correlation_of_the_same_image_is_one() -> None:
    expert = LinearExpert(DIM)
    learn(expert, offers(10))
    same = torch.ones(2, DIM, dtype=torch.float64)
    offer = Offer(np.zeros((2, 2, 2, 3), np.uint8), same, 2)
    expert.predict(offer)
    np.testing.assert_allclose(expert.correlation(offer), 1.0)


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_restored_expert_continues_identically(discount: float) -> None:
    expert, restored = (LinearExpert(DIM, discount=discount) for _ in range(2))
    rounds = offers(20)
    learn(expert, rounds)
    expert.predict(rounds[0])
    expert.choose(rounds[0], 1)
    restored.load_state_dict(expert.state_dict())
    for each in (expert, restored):
        each.observe(rounds[0], 1, 0.5, 0)
    learn(expert, rounds, seed=4)
    learn(restored, rounds, seed=4)
    one, two = expert.predict(rounds[0]), restored.predict(rounds[0])
    np.testing.assert_array_equal(one.mean, two.mean)
    np.testing.assert_array_equal(one.width, two.width)


def test_a_discount_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="discount 0"):
        LinearExpert(DIM, discount=0.0)
