"""A head on kernel features names groups of images that no line tells apart, from few rewards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitucb.learning.experts.expert import Array, Offer
from vitucb.learning.experts.kernel.label_kernel import KernelInputs
from vitucb.learning.experts.softmax import LabelExpert

DIM, LABELS = 6, 2
CORNERS = np.array([[1, 1], [-1, -1], [1, -1], [-1, 1]], np.float64)


def rounds(count: int, seed: int = 0) -> list[tuple[Offer, int]]:
    """Images around four corners of a square; opposite corners have the same label."""
    rng = np.random.default_rng(seed)
    played = []
    for _ in range(count):
        corner = int(rng.integers(4))
        h = 0.15 * rng.standard_normal(DIM)
        h[:2] += CORNERS[corner]
        image = rng.integers(0, 256, (1, 4, 4, 3), dtype=np.uint8)
        played.append((Offer(image, torch.from_numpy(h[None]), LABELS), corner // 2))
    return played


def kernel_softmax(capacity: int = 1_000) -> LabelExpert:
    return LabelExpert(DIM, LABELS, inputs=KernelInputs(seed=3), decay=10.0, capacity=capacity)


def learn(expert: LabelExpert, played: list[tuple[Offer, int]], seed: int = 1) -> list[Array]:
    """Random labels; what was expected in every round."""
    rng, expected = np.random.default_rng(seed), []
    for offer, label in played:
        expected.append(expert.predict(offer).mean)
        action = int(rng.integers(LABELS))
        expert.choose(offer, action)
        expert.observe(offer, action, float(action == label), 0)
    return expected


def share_right(expert: LabelExpert) -> float:
    fresh = rounds(200, seed=9)
    return float(np.mean([expert.predict(o).mean.argmax() == label for o, label in fresh]))


def test_groups_are_named_where_no_line_tells_them_apart() -> None:
    kernel, plain = kernel_softmax(), LabelExpert(DIM, LABELS)
    for expert in (kernel, plain):
        learn(expert, rounds(60))
    assert share_right(kernel) > 0.95
    assert share_right(plain) < 0.75


def test_before_there_are_images_enough_labels_are_told_by_their_frequency_alone() -> None:
    expert = kernel_softmax()
    learn(expert, rounds(9))
    means = [expert.predict(offer).mean for offer, _ in rounds(5, seed=2)]
    assert all((mean == means[0]).all() for mean in means)


@pytest.mark.parametrize("before", [5, 40, 70])
def test_a_restored_expert_goes_on_to_the_bit(before: int) -> None:
    played = rounds(100)
    whole, first, other = kernel_softmax(), kernel_softmax(), kernel_softmax()
    expected = learn(whole, played[:before]) + learn(whole, played[before:], seed=2)
    learn(first, played[:before])
    other.load_state_dict(first.state_dict())
    found = learn(other, played[before:], seed=2)
    np.testing.assert_array_equal(np.stack(found), np.stack(expected[before:]))


def test_inputs_of_a_history_are_those_of_its_features_after_replacements() -> None:
    rng = np.random.default_rng(0)
    inputs = KernelInputs(seed=0)
    for offer, _ in rounds(30):
        inputs.see(offer)
    inputs.refit()
    features, times = rng.standard_normal((20, DIM)).astype(np.float32), np.arange(20)
    inputs.of_all(features, times)
    features[4], times[4] = rng.standard_normal(DIM), 55
    found = inputs.of_all(features, times)
    each = np.stack([inputs.of(row.astype(np.float64)) for row in features])
    np.testing.assert_allclose(found, each, rtol=1e-5, atol=1e-6)


def test_a_full_history_does_not_grow() -> None:
    expert = kernel_softmax(capacity=25)
    learn(expert, rounds(90))
    assert share_right(expert) > 0.9
    assert len(expert.state_dict()["inputs"]["known"]) == 25


def test_many_looks_at_one_image_fit_nothing() -> None:
    inputs, (offer, _) = KernelInputs(seed=0), rounds(1)[0]
    for _ in range(50):
        inputs.see(offer)
    assert not inputs.is_due
    assert inputs.dim == 0
