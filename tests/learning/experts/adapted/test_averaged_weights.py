"""Averages of weights: against the recursion, and swapped in without a trace."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from vitucb.learning.experts.adapted.averaged_weights import AveragedWeights, horizon


def parameters() -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (5,)]
    return [Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def train(own: list[Parameter], averaged: AveragedWeights, steps: int, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        with torch.no_grad():
            for p in own:
                p.add_(torch.randn(p.shape, generator=generator))
        averaged.update()


@pytest.mark.parametrize(
    ("step", "steps"), [(1, 5.0), (50, 5.0), (100, 10.0), (5_000, 500.0), (90_000, 500.0)]
)
def test_the_horizon_is_a_tenth_of_the_steps_within_bounds(step: int, steps: float) -> None:
    assert horizon(step) == steps


def test_the_average_is_that_of_the_recursion_in_float64() -> None:
    (p,) = own = [Parameter(torch.zeros(4))]
    averaged, expected = AveragedWeights(own), torch.zeros(4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    for step in range(1, 201):
        with torch.no_grad():
            p.copy_(torch.randn(4, generator=generator))
        averaged.update()
        share = 1 / min(max(0.1 * step, 5), 500)
        expected += share * (p.detach().double() - expected)

    torch.testing.assert_close(averaged.average[0].double(), expected, rtol=1e-5, atol=1e-6)


def test_what_is_acted_on_stays_until_it_is_read() -> None:
    own = parameters()
    start = [p.detach().clone() for p in own]
    averaged = AveragedWeights(own)
    train(own, averaged, 3)

    with averaged.in_use():
        assert all(torch.equal(p, s) for p, s in zip(own, start, strict=True))
    averaged.read()
    with averaged.in_use():
        assert all(torch.equal(p, a) for p, a in zip(own, averaged.average, strict=True))


def test_the_live_weights_come_back_even_after_an_error() -> None:
    own = parameters()
    averaged = AveragedWeights(own)
    train(own, averaged, 3)
    live, memory = [p.detach().clone() for p in own], [p.data_ptr() for p in own]

    with pytest.raises(RuntimeError, match="inside"), averaged.in_use():
        raise RuntimeError("inside")

    assert all(torch.equal(p, q) for p, q in zip(own, live, strict=True))
    assert [p.data_ptr() for p in own] == memory


def test_swapping_in_copies_nothing() -> None:
    own = parameters()
    averaged = AveragedWeights(own)

    with averaged.in_use():
        assert [p.data_ptr() for p in own] == [t.data_ptr() for t in averaged.acting]


def test_values_are_averaged_in_place_of_the_parameters() -> None:
    own = parameters()
    averaged = AveragedWeights(own)
    averaged.update([torch.zeros_like(p) for p in own])

    torch.testing.assert_close(averaged.average, [0.8 * p.detach() for p in own])


def test_a_restored_average_goes_on_to_the_bit() -> None:
    own = parameters()
    averaged = AveragedWeights(own)
    train(own, averaged, 60)
    averaged.read()
    other = [Parameter(p.detach().clone()) for p in own]
    restored = AveragedWeights(other)
    restored.load_state_dict(averaged.state_dict())
    for pair in ((own, averaged), (other, restored)):
        train(*pair, 7, seed=4)

    assert all(map(torch.equal, averaged.average, restored.average))
    assert all(map(torch.equal, averaged.acting, restored.acting))
    assert restored.is_read
