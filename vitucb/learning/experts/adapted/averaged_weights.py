"""Exponential averages of trained weights, to act on.

A network trained on small batches at a high rate jumps around the point it should be at; the mean
of its recent weights is closer to it (Polyak and Juditsky, "Acceleration of stochastic
approximation by averaging", 1992; Izmailov et al., "Averaging weights leads to wider optima and
better generalization", 2018, https://arxiv.org/abs/1803.05407). The horizon grows with the number
of steps, so that the average never holds on to the untrained start.

Not `torch.optim.swa_utils.AveragedModel`: that keeps a deep copy of the whole model, frozen
weights included, and averages all of it at every update; here 34 small tensors are averaged by one
call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from vitucb.types import State

_LEAST_HORIZON, _LARGEST_HORIZON = 5.0, 500.0
_SHARE_OF_STEPS = 0.1


def horizon(step: int) -> float:
    """Steps that the average looks back on after step number `step`: clip(0.1 step, 5, 500)."""
    return min(max(_SHARE_OF_STEPS * step, _LEAST_HORIZON), _LARGEST_HORIZON)


class AveragedWeights:
    """Averages of parameters, and the copy of them that is acted on until the next `read`.

    Between two reads an agent acts on one model: what it makes of an image can be kept.

    Attributes:
        steps: Number of updates.
        is_read: Whether there was a read; until then one acts on the weights of the start.
        average: One for each parameter.
        acting: What is acted on, one for each parameter.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        """Start from `parameters` as they are."""
        self.steps, self.is_read = 0, False
        self._parameters = list(parameters)
        self.average = [p.detach().clone() for p in self._parameters]
        self.acting = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def update(self, values: Sequence[Tensor] | None = None) -> None:
        """Take in the weights after one more step.

        Args:
            values: What to average in place of the parameters' own values, in their order.
        """
        self.steps += 1
        live = [v.detach() for v in (self._parameters if values is None else values)]
        torch._foreach_lerp_(self.average, live, 1.0 / horizon(self.steps))

    @torch.no_grad()
    def read(self) -> None:
        """Act on the average as it is now."""
        torch._foreach_copy_(self.acting, self.average)
        self.is_read = True

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the parameters have the values that are acted on; nothing is copied.

        What was computed from the live values before must not be differentiated afterwards.
        """
        live = [p.data for p in self._parameters]
        try:
            for parameter, acting in zip(self._parameters, self.acting, strict=True):
                parameter.data = acting
            yield
        finally:
            for parameter, own in zip(self._parameters, live, strict=True):
                parameter.data = own

    def state_dict(self) -> State:
        """Both copies, the number of updates, and whether there was a read."""
        return {
            "average": [t.clone() for t in self.average],
            "acting": [t.clone() for t in self.acting],
            "steps": self.steps,
            "is_read": self.is_read,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        for own, loaded in ((self.average, state["average"]), (self.acting, state["acting"])):
            for tensor, value in zip(own, loaded, strict=True):
                tensor.copy_(value)  # one by one: those of a file are on the CPU
        self.steps, self.is_read = int(state["steps"]), bool(state["is_read"])
