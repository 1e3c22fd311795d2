"""The experts `softmax` and `logistic` learn labels from right or wrong alone."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch

from vitucb.learning.experts.expert import Offer
from vitucb.learning.experts.softmax import LabelExpert

DIM, LABELS = 4, 3
Likelihood = Literal["softmax", "logistic"]
BOTH: tuple[Likelihood, ...] = ("softmax", "logistic")


def rounds(count: int, seed: int = 0) -> list[tuple[Offer, int]]:
    """Offers of one image, and the right label of each."""
    rng = np.random.default_rng(seed)
    axes = np.random.default_rng(7).standard_normal((DIM, LABELS))
    h = rng.standard_normal((count, DIM))
    image = np.zeros((1, 2, 2, 3), np.uint8)
    labels = (h @ axes).argmax(1).tolist()
    return [
        (Offer(image, torch.from_numpy(x[None]), LABELS), y) for x, y in zip(h, labels, strict=True)
    ]


def learn(
    expert: LabelExpert,
    played: list[tuple[Offer, int]],
    *,
    unit: float = 1.0,
    level: float = 0.0,
    seed: int = 1,
) -> LabelExpert:
    rng = np.random.default_rng(seed)
    for offer, label in played:
        action = int(rng.integers(LABELS))
        expert.choose(offer, action)
        expert.observe(offer, action, level + unit * (action == label), 0)
    return expert


def means(expert: LabelExpert, played: list[tuple[Offer, int]]) -> np.ndarray[Any, Any]:
    return np.stack([expert.predict(offer).mean for offer, _ in played])


@pytest.mark.parametrize("likelihood", BOTH)
def test_labels_are_learnt(likelihood: Likelihood) -> None:
    expert = learn(LabelExpert(DIM, LABELS, likelihood=likelihood), rounds(600))
    fresh = rounds(200, seed=5)
    found = means(expert, fresh).argmax(1)
    assert np.mean(found == [label for _, label in fresh]) > 0.75


def test_before_any_reward_all_labels_are_alike_and_there_is_no_width() -> None:
    expert, offer = LabelExpert(DIM, LABELS), rounds(1)[0][0]
    found = expert.predict(offer)
    np.testing.assert_allclose(found.mean, 1 / LABELS)
    np.testing.assert_array_equal(found.width, 0.0)
    np.testing.assert_array_equal(found.bonus, 0.0)


@pytest.mark.parametrize("likelihood", BOTH)
@pytest.mark.parametrize(("unit", "level"), [(1e-3, 0.0), (2.0, 1000.0)])
def test_means_follow_the_unit_and_the_level_of_the_rewards(
    likelihood: Likelihood, unit: float, level: float
) -> None:
    plain = learn(LabelExpert(DIM, LABELS, likelihood=likelihood), rounds(60))
    other = learn(
        LabelExpert(DIM, LABELS, likelihood=likelihood), rounds(60), unit=unit, level=level
    )
    fresh = rounds(10, seed=5)
    # The scale of rewards is known once two were seen; the path of the solver may differ a little.
    np.testing.assert_allclose((means(other, fresh) - level) / unit, means(plain, fresh), atol=0.05)


def test_softmax_means_sum_to_the_rewards_of_one_right_label() -> None:
    expert = learn(LabelExpert(DIM, LABELS), rounds(50))
    np.testing.assert_allclose(means(expert, rounds(5, seed=5)).sum(1), 1.0)


def test_a_reward_rate_that_ignores_the_image_is_learnt_by_the_intercept() -> None:
    expert, rng = LabelExpert(DIM, LABELS, likelihood="logistic"), np.random.default_rng(3)
    for offer, _ in rounds(900):
        action = int(rng.integers(LABELS))
        expert.choose(offer, action)
        expert.observe(offer, action, float(rng.random() < (0.2, 0.5, 0.8)[action]), 0)
    np.testing.assert_allclose(means(expert, rounds(50, 5)).mean(0), [0.2, 0.5, 0.8], atol=0.08)


def test_a_discount_follows_labels_that_change() -> None:
    changed = [(offer, (label + 1) % LABELS) for offer, label in rounds(250, seed=2)]
    fresh = [(offer, (label + 1) % LABELS) for offer, label in rounds(100, seed=5)]
    hits = {}
    for discount in (1.0, 0.99):
        expert = learn(LabelExpert(DIM, LABELS, discount=discount), rounds(250))
        found = means(learn(expert, changed), fresh).argmax(1)
        hits[discount] = np.mean(found == [label for _, label in fresh])
    assert hits[0.99] > max(0.6, 1.2 * hits[1.0])


def test_asleep_it_remembers_and_awake_it_knows() -> None:
    expert = LabelExpert(DIM, LABELS)
    expert.sleep()
    fresh = rounds(100, seed=5)
    learn(expert, rounds(300))
    np.testing.assert_allclose(means(expert, fresh), 1 / LABELS)
    expert.wake()
    assert np.mean(means(expert, fresh).argmax(1) == [label for _, label in fresh]) > 0.8


def test_late_rewards_of_any_order_teach_the_same_observations() -> None:
    played = rounds(40)
    late = LabelExpert(DIM, LABELS)
    for offer, _ in played:
        late.choose(offer, 0)
    for t in np.random.default_rng(0).permutation(40).tolist():
        late.observe(played[t][0], 0, float(played[t][1] == 0), 39 - t)
    assert sorted(late.state_dict()["history"]["rounds"].tolist()) == list(range(40))


@pytest.mark.parametrize("likelihood", BOTH)
def test_restored_expert_continues_identically(likelihood: Likelihood) -> None:
    expert = learn(LabelExpert(DIM, LABELS, likelihood=likelihood, capacity=30), rounds(50))
    restored = LabelExpert(DIM, LABELS, likelihood=likelihood, capacity=30, seed=9)
    restored.load_state_dict(expert.state_dict())
    more, fresh = rounds(40, seed=3), rounds(5, seed=5)
    np.testing.assert_array_equal(
        means(learn(expert, more), fresh), means(learn(restored, more), fresh)
    )


def test_arms_with_images_of_their_own_are_refused() -> None:
    offer = Offer(np.zeros((3, 2, 2, 3), np.uint8), torch.zeros(3, DIM).double(), 3)
    with pytest.raises(ValueError, match="an image of its own"):
        LabelExpert(DIM, LABELS).predict(offer)


def test_another_number_of_labels_is_refused() -> None:
    offer = Offer(np.zeros((1, 2, 2, 3), np.uint8), torch.zeros(1, DIM).double(), 5)
    with pytest.raises(ValueError, match="5 labels on offer, the expert was made for 3"):
        LabelExpert(DIM, LABELS).predict(offer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"likelihood": "probit"}, "unknown likelihood 'probit'"), ({"discount": 2.0}, "discount 2")],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelExpert(DIM, LABELS, **settings)
