"""All factors of one rank in a few stacks: a step costs a fixed number of tensor operations.

Every factor is held in wide form (r, d): lora_A as it is, lora_B transposed. Then both sides obey
the same formulas, layers of equal d share a stack whatever their side, and the r x r matrices of
all factors form one batch. In wide form X_A = A, X_B = B^T and the gradients are g_A, g_B^T.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vitucb.adapters import LoRAPair

Stacks = list[Tensor]


class FactorBatch:
    """F = 2 * pairs factors of one rank, device and dtype, ordered by their long dimension d.

    Attributes:
        pairs: The pairs.
        parameters: The F parameters in stack order.
        is_B: Which of them are lora_B.
        dual: Position of the other factor of the same pair, int64 (F,).
        index_A: Position of every pair's lora_A, int64 (pairs,).
        index_B: Position of every pair's lora_B, int64 (pairs,).
        scaling: Scaling s of the pair of each factor, float64 (F,).
        rows: Long dimension d of each factor, float64 (F,).
        sizes: Number of factors in each stack.
        dtype: Arithmetic dtype: float64 for float64 parameters, else float32.
        missing: Positions of factors without a gradient in the current step; they do not move.
        state: State stacks by name, owned by the optimizer.
    """

    def __init__(self, pairs: Sequence[LoRAPair]) -> None:
        self.pairs = list(pairs)
        entries = [(pair.A.shape[1], i, False) for i, pair in enumerate(pairs)]
        entries += [(pair.B.shape[0], i, True) for i, pair in enumerate(pairs)]
        entries.sort(key=lambda entry: entry[0])
        position = {entry[1:]: k for k, entry in enumerate(entries)}
        self.is_B = [entry[2] for entry in entries]
        self.parameters = [pairs[i].B if is_b else pairs[i].A for _, i, is_b in entries]
        long_dims = [entry[0] for entry in entries]
        self.sizes = [long_dims.count(d) for d in sorted(set(long_dims))]
        self.rank = int(pairs[0].A.shape[0])
        first = self.parameters[0]
        self.parameter_dtype, self.device = first.dtype, first.device
        self.dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
        everyone = range(len(pairs))
        self.dual = self._index(position[i, not is_b] for _, i, is_b in entries)
        self.index_A = self._index(position[i, False] for i in everyone)
        self.index_B = self._index(position[i, True] for i in everyone)
        self.scaling = self._float(pairs[i].scaling for _, i, _ in entries)
        self.rows = self._float(float(d) for d in long_dims)
        self.missing: list[int] = []
        self.state: dict[str, Stacks] = {}
        # Within a stack lora_A come first: the sort by d is stable.
        ends = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes))]
        self._first_B = [
            self.is_B[end - size : end].count(False)
            for size, end in zip(self.sizes, ends, strict=True)
        ]

    def _index(self, values: object) -> Tensor:
        return torch.tensor(list(values), device=self.device)  # type: ignore[call-overload]  # an iterable of ints

    def _float(self, values: object) -> Tensor:
        return torch.tensor(list(values), dtype=torch.float64, device=self.device)  # type: ignore[call-overload]  # an iterable of floats

    def wide(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Views (r, d) of tensors shaped like the parameters."""
        return [t.mT if b else t for t, b in zip(tensors, self.is_B, strict=True)]

    def stack(self, tensors: Sequence[Tensor]) -> Stacks:
        """Stacks (f, r, d) of tensors shaped like the parameters, in the arithmetic dtype."""
        views, stacks, start = self.wide(tensors), [], 0
        for size in self.sizes:
            stacks.append(torch.stack(views[start : start + size]).to(self.dtype))
            start += size
        return stacks

    def unstack(self, stacks: Stacks) -> list[Tensor]:
        """Views of the stacks shaped like the parameters."""
        return self.wide([view for stack in stacks for view in stack.unbind()])

    def gradients(self, maximize: bool) -> Stacks:
        """Stacks of the gradients, zero where a factor has none."""
        grads = [p.grad for p in self.parameters]
        self.missing = [k for k, grad in enumerate(grads) if grad is None]
        present = [
            torch.zeros_like(p) if grad is None else grad
            for p, grad in zip(self.parameters, grads, strict=True)
        ]
        stacks = self.stack(present)
        return [-g for g in stacks] if maximize else stacks

    def finite(self, gradients: Stacks) -> Tensor:
        """Whether both gradients of a factor's pair have a finite norm, bool (F,)."""
        norms = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients]
        finite = torch.cat(norms).isfinite()
        return finite & finite[self.dual]

    def store(self, stacks: Stacks) -> None:
        """Write stacks back to the parameters that have a gradient."""
        targets: list[Tensor] = list(self.parameters)
        sources = self.unstack(stacks)
        if self.missing:
            skip = set(self.missing)
            targets = [p for k, p in enumerate(targets) if k not in skip]
            sources = [s for k, s in enumerate(sources) if k not in skip]
        torch._foreach_copy_(targets, sources)

    def freeze_missing(self, steps: Stacks) -> None:
        """Zero the steps of factors without a gradient, in place."""
        for k in self.missing:
            self._one(steps, k).zero_()

    def _one(self, stacks: Stacks, k: int) -> Tensor:
        for stack in stacks:
            if k < stack.shape[0]:
                return stack[k]
            k -= stack.shape[0]
        raise IndexError(k)

    def only_B(self, stacks: Sequence[Tensor]) -> Stacks:  # noqa: N802  # the factor's name
        """The part of each stack that belongs to lora_B, where there is one."""
        parts = [stack[first:] for stack, first in zip(stacks, self._first_B, strict=True)]
        return [part for part in parts if part.shape[0]]

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Cut a tensor (F, ...) into one piece per stack."""
        return torch.split(values, self.sizes)
