"""The state of a batch of factors: stacks to compute with, seen from the optimizer as views."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vitucb.optim.batched.factor_batch import FactorBatch, Stacks


class FactorState:
    """State stacks of one batch, made on first use from the optimizer's per-parameter state.

    `optimizer.state[p][name]` is a view of a stack with the shape of p (or a small one), so the
    optimizer's state is always current and torch's own `state_dict` can be used.
    """

    def __init__(self, batch: FactorBatch, state: MutableMapping[Tensor, dict[str, Any]]) -> None:
        self.batch, self._state = batch, state
        self._stacks: dict[str, Stacks] = {}
        # For every stack the factor that each of its rows belongs to.
        self._owners: dict[str, Sequence[Tensor]] = {}
        self._everyone = torch.arange(len(batch.parameters), device=batch.device)
        self._saved: dict[str, Stacks] | None = None  # while a snapshot is open

    def _declare(
        self, name: str, stacks: Stacks, views: list[Tensor], owners: Sequence[Tensor]
    ) -> None:
        positions = torch.cat(list(owners)).tolist()
        for position, view in zip(positions, views, strict=True):
            entries = self._state[self.batch.parameters[position]]
            known = entries.get(name)
            if known is None:
                view.zero_()
            else:
                view.copy_(known)
            entries[name] = view
        self._stacks[name], self._owners[name] = stacks, owners
        if self._saved is not None:  # made in the middle of a step, from what was there before it
            self._saved[name] = [stack.clone() for stack in stacks]

    def factor(self, name: str) -> Stacks:
        """Stacks shaped like the factors, (f, r, d), zero at first."""
        if name not in self._stacks:
            stacks = self.batch.new_stacks()
            owners = self.batch.split(self._everyone)
            self._declare(name, stacks, self.batch.unstack(stacks), owners)
        return self._stacks[name]

    def factor_B(self, name: str) -> Stacks:  # noqa: N802  # the factor's name
        """Stacks of lora_B only, as `batch.only_B` cuts them, zero at first."""
        if name not in self._stacks:
            stacks = self.batch.only_B(self.batch.new_stacks())
            stacks = [stack.clone() for stack in stacks]
            views = [view.mT for stack in stacks for view in stack.unbind()]
            owners = self.batch.only_B(self.batch.split(self._everyone))
            self._declare(name, stacks, views, owners)
        return self._stacks[name]

    def matrix(self, name: str) -> Stacks:
        """Stacks (pairs, m, n) of the pairs of each shape, kept with lora_B, zero at first."""
        if name not in self._stacks:
            batch = self.batch
            stacks = [
                torch.empty((len(pairs), *shape), dtype=batch.dtype, device=batch.device)
                for shape, pairs in batch.shapes.items()
            ]
            views = [view for stack in stacks for view in stack.unbind()]
            owners = [batch.index_B[pairs] for pairs in batch.shapes.values()]
            self._declare(name, stacks, views, owners)
        return self._stacks[name]

    def small(self, name: str, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """A fixed small shape per factor: (F, *shape), zero at first."""
        if name not in self._stacks:
            size = (len(self.batch.parameters), *shape)
            values = torch.empty(size, dtype=dtype, device=self.batch.device)
            self._declare(name, [values], list(values.unbind()), (self._everyone,))
        return self._stacks[name][0]

    def count_step(self) -> Tensor:
        """Advance the step counter of every factor; float32 (F,)."""
        return self.small("step", dtype=torch.float32).add_(1.0)

    def snapshot(self, x: Stacks, mask: Tensor) -> Callable[[], None]:
        """A function that undoes what happens from now on to the factors where `mask` is false.

        Args:
            x: Wide factors, restored too.
            mask: Which factors may step, bool (F,).
        """
        before = [stack.clone() for stack in x]
        saved = {name: [s.clone() for s in stacks] for name, stacks in self._stacks.items()}
        self._saved = saved

        def restore() -> None:
            self._saved = None
            _restore(x, before, self.batch.split(mask))
            for name, stacks in self._stacks.items():
                _restore(stacks, saved[name], [mask[owner] for owner in self._owners[name]])

        return restore


def _restore(stacks: Stacks, old: Stacks, masks: Sequence[Tensor]) -> None:
    for stack, before, ok in zip(stacks, old, masks, strict=True):
        stack.copy_(torch.where(ok.view(-1, *(1,) * (stack.ndim - 1)), stack, before))
