"""Ids of items and creatives beside pictures: the posterior is exact, and they are of use."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.learning.experts.kernel.optimism import play
from vitucb.learning.experts.expert import Expert, Offer
from vitucb.learning.experts.kernel.context import (
    ContextFeatures,
    ContextKernelExpert,
    ContextRegression,
)
from vitucb.learning.experts.kernel.expert import KernelExpert
from vitucb.learning.experts.kernel.regression import Moments, Seen

Array = NDArray[np.float64]
ITEMS, ARMS, DIM = 8, 3, 6
SIZES, RHO = (3, 2, 2, 1, 2), (0.7, 0.5, 0.2, 0.1, 0.4, 0.9)


class Shop:
    """Items with three creatives each, of a library of five pictures that say nothing."""

    def __init__(self, item_effect: float = 1.0, creative_effect: float = 1.0) -> None:
        """Draw pictures, catalogue and effects."""
        self.rng = np.random.default_rng(0)
        self.images = self.rng.integers(0, 256, (5, 3, 3, 3), dtype=np.uint8)
        self.features = self.rng.standard_normal((5, DIM))
        self.pictures = np.stack([self.rng.permutation(5)[:ARMS] for _ in range(ITEMS)])
        self.worth = item_effect * self.rng.standard_normal((ITEMS, 1))
        self.worth = self.worth + creative_effect * self.rng.standard_normal((ITEMS, ARMS))

    def offer(self) -> tuple[Offer, Array]:
        """A random item with its creatives in random slots, and what each is worth."""
        item, slots = int(self.rng.integers(ITEMS)), self.rng.permutation(ARMS)
        pictures = self.pictures[item, slots]
        ids = np.stack([np.full(ARMS, item), ARMS * item + slots], axis=1)
        features = torch.from_numpy(self.features[pictures])
        return Offer(self.images[pictures], features, ARMS, ids), self.worth[item, slots]


def with_ids() -> ContextKernelExpert:
    """An expert for the shop."""
    return ContextKernelExpert(0, num_items=ITEMS)


def parts_of_six() -> Array:
    """Features of six creatives of three items, (6, 10): indicators, then pictures'."""
    pictures = 0.4 * np.random.default_rng(2).standard_normal((6, sum(SIZES[1:])))
    return np.concatenate([np.eye(3)[[0, 0, 1, 1, 2, 2]], pictures], axis=1)


def test_it_is_an_expert() -> None:
    assert isinstance(with_ids(), Expert)


def test_the_posterior_is_that_of_a_gaussian_process_with_two_more_kernels() -> None:
    parts, rng = parts_of_six(), np.random.default_rng(3)
    regression = ContextRegression(SIZES, RHO)
    phi, effects = regression.scaled(parts)
    counts, sums = np.zeros(6), np.zeros(6)
    rewarded, rewards = [0, 3, 3, 5, 0, 3, 1], rng.standard_normal(7)
    for one, reward in zip(rewarded, rewards, strict=True):
        seen = Seen(phi[[one]], effects[[one]], counts[[one]], sums[[one]])
        regression.learn(seen, reward)
        regression.settle()
        counts[one] += 1
        sums[one] += reward
    # The kernel written out, in units of the noise.
    items, own = parts[:, :3], np.square(parts[:, -2:]).sum(axis=1)
    kernel = 9 + RHO[0] * items @ items.T + RHO[5] * np.eye(6)
    start = 3
    for size, rho in zip(SIZES[1:], RHO[1:5], strict=True):
        part = parts[:, start : start + size]
        kernel += rho * part @ part.T
        start += size
    kernel += RHO[4] * np.diag(np.maximum(1 - own, 0))
    gram = kernel[np.ix_(rewarded, rewarded)] + np.eye(7)
    gain = np.linalg.solve(gram, kernel[rewarded]).T
    expected = np.diag(kernel - gain @ kernel[rewarded])
    seen = Seen(phi, effects, counts, sums)
    np.testing.assert_allclose(regression.means(seen), gain @ rewards)
    np.testing.assert_allclose(regression.deviations(seen)[0], np.sqrt(expected))
    afresh = ContextRegression(SIZES, RHO)
    afresh.condition(Moments(seen, float(np.square(rewards).sum())))
    np.testing.assert_allclose(afresh.means(seen), gain @ rewards)


def test_items_stand_with_the_constant_in_the_coarse_width() -> None:
    """Of an item whose creatives were rewarded often, little is left of all three."""
    parts = np.repeat(parts_of_six()[:1], 400, axis=0)
    parts[:, -2:] = 0  # no two of them alike in the fine scale
    regression = ContextRegression(SIZES, (50.0, *RHO[1:-1], 0.0))
    phi, effects = regression.scaled(parts)
    counts, sums = np.ones(400), np.zeros(400)
    regression.condition(Moments(Seen(phi, effects, counts, sums), 400.0))
    known = regression.deviations(Seen(phi[:1], effects[:1], counts[:1], sums[:1]))[1]
    other = parts[:1].copy()
    other[:, :3] = [0, 0, 1]
    phi, effects = regression.scaled(other)
    unknown = regression.deviations(Seen(phi, effects, np.zeros(1), np.zeros(1)))[1]
    assert known[0] < 1.1 * np.sqrt(1.4 / 400)
    assert unknown[0] > 6


def test_creatives_that_share_their_pictures_are_told_apart() -> None:
    told, blind = play(with_ids(), Shop(), 400), play(KernelExpert(0), Shop(), 400)
    assert sum(told[200:]) < 0.7 * sum(blind[200:])


def test_a_picture_of_many_creatives_is_one_point_of_the_kernel() -> None:
    """Forty pictures, each of twelve creatives: more than an image has neighbours."""
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.standard_normal((40, DIM)))
    images = rng.integers(0, 256, (40, 3, 3, 3), dtype=np.uint8)
    expert = ContextKernelExpert(0, num_items=12)
    for item in range(12):
        for start in range(0, 40, 10):
            shown = np.arange(start, start + 10)
            ids = np.stack([np.full(10, item), 40 * item + shown], axis=1)
            expert.choose(Offer(images[shown], features[shown], 10, ids), 0)
    kernel = expert._fit(expert._offered.features)
    assert np.isfinite(kernel(expert._offered.features)).all()
    assert isinstance(kernel, ContextFeatures)
    assert len(kernel.pictures.graph.points) == 40


def test_evidence_finds_whether_items_and_creatives_matter() -> None:
    found = {}
    for effect in (0.0, 1.0):
        expert = with_ids()
        metrics = {}
        shop, rng = Shop(effect, 0.0), np.random.default_rng(1)
        for _ in range(150):
            offer, worth = shop.offer()
            action = int(rng.integers(ARMS))
            expert.choose(offer, action)
            reward = float(worth[action] + 0.3 * rng.standard_normal())
            metrics = expert.observe(offer, action, reward, 0)
        found[effect] = metrics
    assert found[0.0]["kernel/rho_item"] < 0.1
    assert found[1.0]["kernel/rho_item"] > 1
    assert found[1.0]["kernel/rho_creative"] < 0.1


def test_an_expert_goes_on_as_if_never_stopped() -> None:
    expert, other, shop = with_ids(), with_ids(), Shop()
    play(expert, shop, 70)
    other.load_state_dict(expert.state_dict())
    state = shop.rng.bit_generator.state
    regrets = play(expert, shop, 60)
    shop.rng.bit_generator.state = state
    assert regrets == play(other, shop, 60)


def test_more_items_than_features_share_them() -> None:
    expert, shop = ContextKernelExpert(0, num_items=1_000_000), Shop()
    play(expert, shop, 30)
    offer, _ = shop.offer()
    ids = offer.context
    assert ids is not None
    far = dataclasses.replace(offer, context=ids + np.array([256 * 3_000, 0]))
    np.testing.assert_array_equal(expert.predict(far).mean, expert.predict(offer).mean)


@pytest.mark.parametrize("learnt_with_ids", [True, False])
def test_a_state_with_ids_and_an_expert_without_do_not_go_together(learnt_with_ids: bool) -> None:
    pair: list[KernelExpert] = [KernelExpert(0), with_ids()]
    learnt, other = pair[learnt_with_ids], pair[not learnt_with_ids]
    with pytest.raises(ValueError, match="context_ids false"):
        other.load_state_dict(learnt.state_dict())


def test_an_observation_without_ids_is_refused() -> None:
    offer, _ = Shop().offer()
    with pytest.raises(ValueError, match="observation has no context"):
        with_ids().predict(dataclasses.replace(offer, context=None))
