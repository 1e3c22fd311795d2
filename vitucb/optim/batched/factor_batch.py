"""All factors of one rank in a few stacks: a step costs a fixed number of tensor operations.

Every factor is held in wide form (r, d): lora_A as it is, lora_B transposed. Then both sides obey
the same formulas, layers of equal d share a stack whatever their side, and the r x r matrices of
all factors form one batch. In wide form X_A = A, X_B = B^T and the gradients are g_A, g_B^T.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vitucb.models.lora import LoRAPair

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
        shapes: The pairs of every shape (m, n) of W, as int64 indices.
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
        # (start, first lora_B, end) of each stack: the sort by d is stable, so lora_A come first.
        self._buffers: dict[str, Stacks] = {}
        self._cuts: list[tuple[int, int, int]] = []
        start = 0
        for size in self.sizes:
            end = start + size
            self._cuts.append((start, start + self.is_B[start:end].count(False), end))
            start = end
        by_shape: dict[tuple[int, int], list[int]] = {}
        for i, pair in enumerate(pairs):
            by_shape.setdefault((pair.B.shape[0], pair.A.shape[1]), []).append(i)
        self.shapes = {shape: self._index(indices) for shape, indices in by_shape.items()}
        dims = sorted(set(long_dims))
        # Which stack a shape's factors are in, and their rows there; found here, without a sync.
        self._places = {
            (m, n): (
                (dims.index(n), self.index_A[pairs] - self._cuts[dims.index(n)][0]),
                (dims.index(m), self.index_B[pairs] - self._cuts[dims.index(m)][0]),
            )
            for (m, n), pairs in self.shapes.items()
        }
        self._shapes = [(size, self.rank, d) for size, d in zip(self.sizes, dims, strict=True)]

    def _index(self, values: object) -> Tensor:
        return torch.tensor(list(values), device=self.device)  # type: ignore[call-overload]  # an iterable of ints

    def _float(self, values: object) -> Tensor:
        return torch.tensor(list(values), dtype=torch.float64, device=self.device)  # type: ignore[call-overload]  # an iterable of floats

    def new_stacks(self) -> Stacks:
        """Uninitialised stacks in the arithmetic dtype."""
        return [torch.empty(shape, dtype=self.dtype, device=self.device) for shape in self._shapes]

    def buffer(self, name: str) -> Stacks:
        """Stacks to reuse in every step; fresh memory would cost more than the algebra."""
        if name not in self._buffers:
            self._buffers[name] = self.new_stacks()
        return self._buffers[name]

    def _tall(self) -> Stacks:
        """Room for the lora_B of every stack in their own shape and dtype."""
        if "tall" not in self._buffers:
            self._buffers["tall"] = [
                torch.empty((end - first_B, d, r), dtype=self.parameter_dtype, device=self.device)
                for (_, first_B, end), (_, r, d) in zip(self._cuts, self._shapes, strict=True)
            ]
        return self._buffers["tall"]

    def stack(self, tensors: Sequence[Tensor], out: Stacks) -> Stacks:
        """Gather tensors shaped like the parameters into the stacks `out`, and return them."""
        for stack, tall, cut in zip(out, self._tall(), self._cuts, strict=True):
            start, first_B, end = cut
            if start < first_B:
                torch.stack(list(tensors[start:first_B]), out=stack[: first_B - start])
            if first_B < end:
                # One transposition of a whole stack is much cheaper than one per factor.
                torch.stack(list(tensors[first_B:end]), out=tall)
                stack[first_B - start :].copy_(tall.mT)
        return out

    def unstack(self, stacks: Stacks) -> list[Tensor]:
        """Views of the stacks shaped like the parameters."""
        views: list[Tensor] = []
        for stack, (start, first_B, _) in zip(stacks, self._cuts, strict=True):
            views += stack[: first_B - start].unbind()
            views += stack[first_B - start :].mT.unbind()
        return views

    def gradients(self, maximize: bool) -> Stacks:
        """Stacks of the gradients, zero where a factor has none."""
        grads = [p.grad for p in self.parameters]
        self.missing = [k for k, grad in enumerate(grads) if grad is None]
        present = [
            torch.zeros_like(p) if grad is None else grad
            for p, grad in zip(self.parameters, grads, strict=True)
        ]
        stacks = self.stack(present, out=self.buffer("gradient"))
        if maximize:
            torch._foreach_neg_(stacks)
        return stacks

    def all_finite(self, gradients: Stacks) -> bool:
        """Whether the squared norms of all gradients are finite; reads data back to the host."""
        squares = [torch.dot(g.view(-1), g.view(-1)) for g in gradients]
        return all(math.isfinite(square.item()) for square in squares)

    def finite(self, gradients: Stacks) -> Tensor:
        """Whether both gradients of a factor's pair have a finite norm, bool (F,)."""
        norms = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients]
        finite = torch.cat(norms).isfinite()
        return finite & finite[self.dual]

    def store(self, stacks: Stacks) -> None:
        """Write stacks back to the parameters that have a gradient."""
        targets: list[Tensor] = list(self.parameters)
        sources: list[Tensor] = []
        for stack, tall, (start, first_B, _) in zip(stacks, self._tall(), self._cuts, strict=True):
            sources += stack[: first_B - start].unbind()
            sources += tall.copy_(stack[first_B - start :].mT).unbind()
        for k in reversed(self.missing):
            del targets[k], sources[k]
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
        cuts = zip(stacks, self._cuts, strict=True)
        return [stack[first - start :] for stack, (start, first, end) in cuts if first < end]

    def gather(self, stacks: Stacks, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The wide factors (k, r, n) and (k, r, m) of the pairs of shape (m, n)."""
        (i, a), (j, b) = self._places[shape]
        return stacks[i][a], stacks[j][b]

    def scatter(self, stacks: Stacks, shape: tuple[int, int], A: Tensor, B: Tensor) -> None:
        """Write what `gather` returned back to where it came from."""
        (i, a), (j, b) = self._places[shape]
        stacks[i][a] = A
        stacks[j][b] = B

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Cut a tensor (F, ...) into one piece per stack."""
        return torch.split(values, self.sizes)
