"""One covariance a label, for features that stand in the block of their label."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vitucb.covariance.base import FeatureCovariance, State
from vitucb.covariance.dense import DenseCovariance
from vitucb.covariance.discounted import DiscountedCovariance
from vitucb.covariance.scored import Scored


class LabelBlocks(FeatureCovariance):
    """A = diag(A_1, ..., A_K) where every row has features in one block only (disjoint models).

    What the p x p matrix of all blocks would say, at 1/K of its work and memory: a row is scored by
    its own block, and an observation changes one.
    """

    def __init__(self, make: Callable[[], FeatureCovariance], num_blocks: int) -> None:
        """Start with nothing counted.

        Args:
            make: An empty covariance of one block.
            num_blocks: Number of labels K.
        """
        self._blocks = [make() for _ in range(num_blocks)]
        self._size = self._blocks[0].dim
        super().__init__(self._size * num_blocks, ridge=self._blocks[0].ridge)

    @property
    def memory_bytes(self) -> int:
        """Bytes of all blocks."""
        return sum(block.memory_bytes for block in self._blocks)

    @property
    def log_det(self) -> float:
        """Information gain log det(A / ridge), nats."""
        return sum(block.log_det for block in self._blocks)

    def _score(self, phi: Tensor) -> Scored:
        own, which = self._own(phi)
        squares = torch.zeros(len(phi), dtype=torch.float64, device=phi.device)
        for index in sorted(set(which.tolist())):
            rows = which == index
            squares[rows] = self._blocks[index]._score(own[rows]).squares.to(squares)
        return Scored(phi, squares)

    def _own(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Features (b, p / K) of rows in their own block, and which it is, int64 (b,).

        Raises:
            ValueError: If a row has features in two blocks.
        """
        blocks = phi.view(len(phi), len(self._blocks), self._size)
        # A row that is not finite is so in all blocks, by 0 times infinity: it is nobody's.
        taken = (torch.nan_to_num(blocks, nan=0.0, posinf=0.0, neginf=0.0) != 0).any(dim=2)
        if bool((taken.sum(dim=1) > 1).any()):
            raise ValueError("features of an arm stand in two blocks; each arm has one of its own")
        which = taken.int().argmax(dim=1)
        return blocks[torch.arange(len(phi)), which], which

    def _cov(self, scored: Scored) -> Tensor:
        own, which = self._own(scored.phi)
        cov = torch.zeros(len(own), len(own), dtype=torch.float64, device=own.device)
        for index in sorted(set(which.tolist())):
            rows = torch.nonzero(which == index)[:, 0]
            block = self._blocks[index]
            cov[rows[:, None], rows] = block._cov(block._score(own[rows])).to(cov)
        return cov

    def _append(self, scored: Scored, weights: Tensor) -> None:
        own, which = self._own(scored.phi)
        for index in sorted(set(which.tolist())):
            rows = which == index
            self._blocks[index].update(own[rows], weights[rows.cpu()])

    def _reset(self) -> None:
        for block in self._blocks:
            block.rebuild([])

    def solve(self, v: Tensor) -> Tensor:
        """A^-1 v for v (..., p): float64 (..., p)."""
        parts = zip(self._blocks, torch.split(v, self._size, dim=-1), strict=True)
        return torch.cat([block.solve(part) for block, part in parts], dim=-1)

    def discount(self, gamma: float) -> None:
        """Forget in every block."""
        self._scored = None
        for block in self._blocks:
            block.discount(gamma)

    def state_dict(self) -> State:
        """Every block's state under its number, and the counters."""
        state: State = {
            f"{index}.{key}": value
            for index, block in enumerate(self._blocks)
            for key, value in block.state_dict().items()
        }
        return {**state, **self._counters()}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned, or the state of one matrix of all blocks."""
        if "matrix" in state:
            state = {**state, **_split(state, self._blocks)}
        self._load_counters(state)
        for index, block in enumerate(self._blocks):
            prefix = f"{index}."
            block.load_state_dict(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )


def ridge_covariance(
    dim: int, num_blocks: int, *, ridge: float, discount: float = 1.0
) -> FeatureCovariance:
    """The covariance of a linear model, empty: dense, and one a label where there are blocks.

    Args:
        dim: Number of features of one block.
        num_blocks: 1, or the number of labels K that share an image.
        ridge: Ridge of A.
        discount: Weight of an observation after one more round; below 1 variances are those of
            `discounted`.
    """
    kind = DenseCovariance if discount == 1 else DiscountedCovariance

    def make() -> FeatureCovariance:
        return kind(dim, ridge=ridge)

    return make() if num_blocks == 1 else LabelBlocks(make, num_blocks)


def _split(state: State, blocks: Sequence[FeatureCovariance]) -> State:
    """States of `blocks` from that of the dense covariance that earlier versions saved.

    Raises:
        ValueError: If it is that of another covariance.
    """
    if not all(type(block) is DenseCovariance for block in blocks):
        raise ValueError(
            "this agent was saved by an earlier version, and its discounted covariance of labels "
            "cannot be read; start it anew"
        )
    found: State = {}
    for index, block in enumerate(blocks):
        stretch = slice(index * block.dim, (index + 1) * block.dim)
        matrix = state["matrix"][stretch, stretch].clone()
        own = block.state_dict() | {
            "matrix": matrix,
            "inverse": state["inverse"][stretch, stretch].clone(),
            "log_det": float(torch.linalg.slogdet(matrix / block.ridge)[1]),
            "since_rebuild": state["since_rebuild"],
        }
        found |= {f"{index}.{key}": value for key, value in own.items()}
    return found
