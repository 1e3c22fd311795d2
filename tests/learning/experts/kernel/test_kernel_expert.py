"""The expert kernel learns, in any unit, late or at once, and goes on as if never stopped."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.learning.experts.kernel.optimism import play
from vitucb.learning.experts.expert import Expert, Offer
from vitucb.learning.experts.kernel.expert import KernelExpert, KernelLimits, _fit_after

ARMS, DIM = 4, 12


class World:
    """Images of four classes, each worth its class; features around a center of the class."""

    def __init__(self, images: int = 60) -> None:
        """Draw the images."""
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (images, 3, 3, 3), dtype=np.uint8)
        self.classes = np.arange(images) % 4
        self.features = 2 * rng.standard_normal((4, DIM))[self.classes]
        self.features += 0.5 * rng.standard_normal((images, DIM))
        self._rng = rng

    def offer(self) -> tuple[Offer, NDArray[np.int64]]:
        """An offer of random images, and their classes."""
        items = self._rng.choice(len(self.images), ARMS, replace=False)
        features = torch.from_numpy(self.features[items])
        return Offer(self.images[items], features, ARMS), self.classes[items]


def equal(one: Any, two: Any) -> bool:
    """Whether two states are the same to the bit."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    return bool(np.array_equal(one, two))


def test_it_is_an_expert() -> None:
    assert isinstance(KernelExpert(0), Expert)


def test_it_learns_what_classes_are_worth() -> None:
    regrets = play(KernelExpert(0), World(), 120)
    assert sum(regrets[60:]) < 0.25 * sum(regrets[:20])


def test_predicting_changes_nothing() -> None:
    expert, world = KernelExpert(0), World()
    play(expert, world, 15)
    before = expert.state_dict()
    offer, _ = world.offer()
    first, second = expert.predict(offer), expert.predict(offer)
    np.testing.assert_array_equal(first.mean, second.mean)
    assert equal(before, expert.state_dict())


@pytest.mark.parametrize(("unit", "level"), [(1e-3, 0.0), (1.0, 1000.0), (50.0, -7.0)])
def test_predictions_follow_the_unit_and_the_level_of_rewards(unit: float, level: float) -> None:
    plain, other, world = KernelExpert(0), KernelExpert(0), World()
    rng = np.random.default_rng(1)
    for _ in range(70):
        offer, worth = world.offer()
        action = int(rng.integers(ARMS))
        reward = float(worth[action] + rng.standard_normal())
        for expert, paid in ((plain, reward), (other, level + unit * reward)):
            expert.choose(offer, action)
            expert.observe(offer, action, paid, 0)
    offer, _ = world.offer()
    one, two = plain.predict(offer), other.predict(offer)
    np.testing.assert_allclose(two.mean, level + unit * one.mean, rtol=1e-6)
    np.testing.assert_allclose(two.width, unit * one.width, rtol=1e-6)
    np.testing.assert_allclose(two.bonus, unit * one.bonus, rtol=1e-6)


def test_a_choice_narrows_widths_before_its_reward_comes() -> None:
    expert, world = KernelExpert(0), World()
    play(expert, world, 12)
    offer, _ = world.offer()
    before = expert.predict(offer)
    expert.choose(offer, 1)
    after = expert.predict(offer)
    np.testing.assert_array_equal(after.mean, before.mean)
    assert after.width[1] < before.width[1]
    assert (after.width <= before.width + 1e-12).all()


def test_late_rewards_teach_what_rewards_at_once_do() -> None:
    late, prompt, world = KernelExpert(0), KernelExpert(0), World()
    play(late, World(), 12)
    prompt.load_state_dict(late.state_dict())
    offers = [world.offer()[0] for _ in range(5)]
    for offer in offers:
        prompt.choose(offer, 2)
        prompt.observe(offer, 2, 1.0, 0)
        late.choose(offer, 2)
    for place, offer in enumerate(offers):
        late.observe(dataclasses.replace(offer), 2, 1.0, 4 - place)
    offer, _ = world.offer()
    one, two = late.predict(offer), prompt.predict(offer)
    np.testing.assert_allclose(one.mean, two.mean)
    np.testing.assert_allclose(one.width, two.width)


def test_a_reward_nobody_announced_is_learnt() -> None:
    told, asked, world = KernelExpert(0), KernelExpert(0), World()
    play(told, World(), 12)
    asked.load_state_dict(told.state_dict())
    offer, _ = world.offer()
    told.observe(offer, 0, 2.0, 0)
    asked.choose(offer, 0)
    asked.observe(offer, 0, 2.0, 0)
    np.testing.assert_allclose(told.predict(offer).mean, asked.predict(offer).mean)
    np.testing.assert_allclose(told.predict(offer).width, asked.predict(offer).width)


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_a_restored_expert_continues_bit_for_bit(discount: float) -> None:
    expert, other = (KernelExpert(0, discount=discount) for _ in range(2))
    world = World()
    play(expert, world, 25)
    waiting, _ = world.offer()
    expert.choose(waiting, 3)
    other.load_state_dict(expert.state_dict())
    later = [world.offer()[0] for _ in range(50)]
    for one in (expert, other):
        for step, offer in enumerate(later):
            one.predict(offer)
            one.choose(offer, step % ARMS)
            one.observe(offer, step % ARMS, float(step % 5), 0)
        one.observe(waiting, 3, 1.0, 50)
    assert equal(expert.state_dict(), other.state_dict())


def test_with_a_discount_it_follows_a_change() -> None:
    static, fading, world = KernelExpert(0), KernelExpert(0, discount=0.95), World()
    rng = np.random.default_rng(2)
    errors = []
    for expert in (static, fading):
        for step in range(200):
            offer, worth = world.offer()
            action = int(rng.integers(ARMS))
            sign = 1 if step < 100 else -1
            expert.choose(offer, action)
            expert.observe(offer, action, sign * float(worth[action]), 0)
        offer, worth = world.offer()
        errors.append(abs(expert.predict(offer).mean + worth).mean())
    assert errors[1] < 0.5 * errors[0]


def widths_of_the_first(expert: KernelExpert, offer: Offer) -> float:
    """The width of the first arm in units of the noise."""
    return float(expert.predict(offer).width[0] / expert.noise)


def test_choices_whose_reward_was_lost_fade_with_a_discount() -> None:
    offer, _ = World().offer()
    lost, answered = (KernelExpert(0, discount=0.9) for _ in range(2))
    for expert in (lost, answered):
        for t in range(250):
            action = int(t >= 30)
            expert.choose(offer, action)
            if action or expert is answered:
                expert.observe(offer, action, float(t % 2), 0)
    expected = widths_of_the_first(answered, offer)
    assert widths_of_the_first(lost, offer) == pytest.approx(expected, rel=0.1)
    assert expected > 0.3


def test_a_reward_so_late_that_it_counts_for_nothing_teaches_nothing() -> None:
    offer, _ = World().offer()
    expert = KernelExpert(0, discount=0.5)
    for t in range(80):
        expert.choose(offer, t % ARMS)
    expert.observe(offer, 0, 1.0, 2_000)
    assert len(expert._rewarded) == 0
    assert np.isfinite(expert.predict(offer).mean).all()


def test_a_reward_that_nobody_announced_narrows_as_one_beside_those_that_are() -> None:
    offer, _ = World().offer()
    announced, other = KernelExpert(0), KernelExpert(0)
    for expert in (announced, other):
        for _ in range(5):
            expert.choose(offer, 0)
    before = widths_of_the_first(other, offer)
    other.observe(offer, 0, 0.0, 900)
    other._scale, other._level = announced._scale, announced._level
    announced.choose(offer, 0)
    assert widths_of_the_first(other, offer) < before
    assert widths_of_the_first(other, offer) == pytest.approx(
        widths_of_the_first(announced, offer), rel=1e-9
    )


def test_what_is_kept_is_bounded() -> None:
    limits = KernelLimits(offered=20, rewarded=10, awaited=5)
    expert, world = KernelExpert(0, limits=limits), World()
    play(expert, world, 60)
    for _ in range(12):
        expert.choose(world.offer()[0], 0)
    state = expert.state_dict()
    assert len(state["offered"]["features"]) == 20
    assert len(state["rewarded"]["features"]) == 10
    assert len(state["awaited"]["features"]) == 5
    assert np.isfinite(expert.predict(world.offer()[0]).width).all()


def test_the_number_of_arms_may_change() -> None:
    expert, world = KernelExpert(0), World()
    play(expert, world, 10)
    offer, _ = world.offer()
    fewer = Offer(offer.images[:2], offer.features[:2], 2)
    assert expert.predict(fewer).mean.shape == (2,)


def test_fits_are_ever_rarer() -> None:
    dues = [1]
    while dues[-1] < 500:
        dues.append(_fit_after(dues[-1]))
    assert dues == [1, 4, 10, 20, 40, 60, 91, 137, 206, 310, 466, 700]


def test_arms_that_share_an_image_are_refused() -> None:
    offer, _ = World().offer()
    shared = Offer(offer.images[:1], offer.features[:1], ARMS)
    with pytest.raises(ValueError, match="image per arm"):
        KernelExpert(0).predict(shared)


@pytest.mark.parametrize(("alpha", "discount"), [(1.0, 0.0), (1.0, 1.1), (-1.0, 1.0)])
def test_settings_out_of_range_are_refused(alpha: float, discount: float) -> None:
    with pytest.raises(ValueError, match=r"discount|alphas"):
        KernelExpert(0, fine_alpha=alpha, discount=discount)
