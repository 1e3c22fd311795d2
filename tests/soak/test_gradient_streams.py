"""Gradients from hell, for every optimizer: parameters stay finite, and training goes on."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.optim.problems import Quadratic
from tests.soak.conftest import Trials
from vitucb.optim import OPTIMIZERS, create_optimizer

_BEFORE, _DURING, _AFTER = 5, 10, 60


def _one_nan(gradient: Tensor, step: int) -> Tensor:
    spoilt = gradient.clone()
    spoilt.view(-1)[step % gradient.numel()] = math.nan
    return spoilt


# Refused as a whole: whoever saw them goes on as if they had not been.
REFUSED: dict[str, Callable[[Tensor, int], Tensor]] = {
    "NaN": lambda g, step: torch.full_like(g, math.nan),
    "one NaN entry": _one_nan,
    "inf": lambda g, step: torch.full_like(g, math.inf),
    "-inf": lambda g, step: torch.full_like(g, -math.inf),
    "inf and NaN in turn": lambda g, step: torch.full_like(g, (math.inf, math.nan)[step % 2]),
}
# Numbers like any other, which an optimizer may follow or not, but not to infinity.
FOLLOWED: dict[str, Callable[[Tensor, int], Tensor]] = {
    "1e30": lambda g, step: torch.full_like(g, 1e30),
    "1e30 times the gradient": lambda g, step: 1e30 * g,
    "1e-30 times the gradient": lambda g, step: 1e-30 * g,
    "1e30 and 1e-30 in turn": lambda g, step: (1e30, 1e-30)[step % 2] * g,
    "zeros": lambda g, step: torch.zeros_like(g),
    "sign flips": lambda g, step: (-1) ** step * 1e3 * g,
    "one direction": lambda g, step: torch.ones_like(g),
}
MISSING = ("A", "B", "A and B in turn", "both")


def play(name: str, spoil: Callable[[Quadratic, int], None]) -> tuple[bool, float, float]:
    """Whether all stayed finite, and the losses before and long after the bad gradients."""
    problem = Quadratic.make(dtype=torch.float32, start="zero")
    optimizer = create_optimizer(
        name, problem.pairs, lr=0.02, other_params=[problem.head], other_lr=0.01
    )
    is_finite, begun = True, problem.closure()
    for step in range(_BEFORE + _DURING + _AFTER):

        def closure(step: int = step) -> float:
            loss = problem.closure()
            if _BEFORE <= step < _BEFORE + _DURING:
                spoil(problem, step)
            return loss

        optimizer.step(closure)
        is_finite &= all(bool(v.isfinite().all()) for v in problem.values())
    return is_finite, begun, problem.closure()


def _all(change: Callable[[Tensor, int], Tensor]) -> Callable[[Quadratic, int], None]:
    def spoil(problem: Quadratic, step: int) -> None:
        for parameter in problem.parameters():
            if parameter.grad is not None:
                parameter.grad = change(parameter.grad, step)

    return spoil


def _without(which: str) -> Callable[[Quadratic, int], None]:
    def spoil(problem: Quadratic, step: int) -> None:
        for pair in problem.pairs:
            if which in ("A", "both") or (which not in ("B", "both") and step % 2):
                pair.A.grad = None
            if which in ("B", "both") or (which not in ("A", "both") and not step % 2):
                pair.B.grad = None

    return spoil


@pytest.mark.soak(
    "Gradients of NaN and infinity, 10 in a row, every optimizer",
    "the step is left out; training then lowers the loss as before",
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_that_are_not_finite_leave_no_trace(name: str, trials: Trials) -> None:
    for stream, change in REFUSED.items():
        is_finite, begun, ended = play(name, _all(change))
        trials.check(is_finite and ended < 0.9 * begun, f"{name}, {stream}: {begun} -> {ended}")


@pytest.mark.soak(
    "Gradients of 1e30, 1e-30, 0, flipping signs, every optimizer",
    "every parameter stays finite",
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_of_any_size_leave_parameters_finite(name: str, trials: Trials) -> None:
    for stream, change in FOLLOWED.items():
        trials.check(play(name, _all(change))[0], f"{name}, {stream}")


@pytest.mark.soak(
    "The gradient of one factor, or of both, missing, every optimizer",
    "the factor stays where it is; training then lowers the loss as before",
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_that_are_missing_are_waited_for(name: str, trials: Trials) -> None:
    for which in MISSING:
        is_finite, begun, ended = play(name, _without(which))
        trials.check(
            is_finite and ended < 0.9 * begun, f"{name}, without {which}: {begun}->{ended}"
        )
