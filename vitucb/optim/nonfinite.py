"""Steps that leave alone what has a gradient that is not finite, where the device decides which.

To ask a device whether all gradients are finite is to wait for all it has still to do. Here bad
gradients become zeros, any torch optimizer steps, and what had them gets its old values back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


@contextmanager
def left_alone(
    units: Sequence[Sequence[Parameter]], state: Mapping[Tensor, dict[str, Any]]
) -> Iterator[Tensor]:
    """Inside, all gradients are finite; a unit with one that was not ends as it began.

    Numbers that the optimizer keeps on the host, such as its count of steps, go on: they are not
    those of one unit alone to a device that does not tell which it is.

    Args:
        units: Parameters that step together or not at all.
        state: What the optimizer keeps of each parameter.

    Yields:
        Whether each unit steps, bool (U,), on the device.
    """
    grads = [[p.grad for p in unit if p.grad is not None] for unit in units]
    good = torch.stack([_all_finite(own, units[0][0]) for own in grads])
    kept = [
        (p, p.grad, p.detach().clone(), _moments(p, state), ok)
        for unit, ok in zip(units, good.unbind(), strict=True)
        for p in unit
        if p.grad is not None
    ]
    try:
        for parameter, grad, _, _, ok in kept:
            parameter.grad = torch.where(ok, grad, torch.zeros_like(grad))
        yield good
        for parameter, _, before, moments, ok in kept:
            parameter.copy_(torch.where(ok, parameter, before))
            for name, moment in moments.items():
                state[parameter][name].copy_(torch.where(ok, state[parameter][name], moment))
    finally:
        for parameter, grad, *_ in kept:
            parameter.grad = grad


def _all_finite(grads: Sequence[Tensor], like: Tensor) -> Tensor:
    if not grads:
        return torch.ones((), dtype=torch.bool, device=like.device)
    return torch.stack([grad.isfinite().all() for grad in grads]).all()


def _moments(parameter: Parameter, state: Mapping[Tensor, dict[str, Any]]) -> dict[str, Tensor]:
    """Copies of what the optimizer keeps of a parameter on its device, by name."""
    return {
        name: value.clone()
        for name, value in state.get(parameter, {}).items()
        if isinstance(value, Tensor) and value.device == parameter.device
    }
