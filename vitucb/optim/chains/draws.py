"""The random draws of chains: coins, sketches, compressor noise; a test can inject its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Draws:
    """Draws from two generators whose states are saved with the optimizer.

    Coins and sketches come from a stream that every rank shares; compressor noise from a stream of
    its own, which differs between ranks.
    """

    def __init__(self, seed: int = 0, rank: int = 0) -> None:
        self._shared = torch.Generator().manual_seed(seed)
        self._local = torch.Generator().manual_seed(seed + 1_000_003 * (rank + 1))

    def coin(self, probability: float) -> bool:
        """True with the given probability; decides which factor a block trains."""
        return bool(torch.rand((), generator=self._shared, dtype=torch.float64) < probability)

    def gaussian(self, shape: Sequence[int]) -> Tensor:
        """A standard normal matrix, float64, to be made a sketch."""
        return torch.randn(tuple(shape), generator=self._shared, dtype=torch.float64)

    def initial_factor(self, shape: Sequence[int]) -> Tensor:
        """A fresh lora_A as PEFT draws it: uniform on +-1/sqrt(n), float64."""
        unit: Tensor = torch.rand(tuple(shape), generator=self._shared, dtype=torch.float64)
        return (2.0 * unit - 1.0) / math.sqrt(shape[1])

    def estimator_coin(self, probability: float) -> bool:
        """True with the given probability; decides whether an estimator takes a full gradient."""
        return bool(torch.rand((), generator=self._shared, dtype=torch.float64) < probability)

    def noise(self, shape: Sequence[int], client: int) -> Tensor:
        """Uniform numbers of one client's compressor, float64."""
        del client
        return torch.rand(tuple(shape), generator=self._local, dtype=torch.float64)

    def permutation(self, count: int) -> list[int]:
        """A random order of `count` things."""
        order: list[int] = torch.randperm(count, generator=self._shared).tolist()
        return order

    def get_state(self) -> Tensor:
        """Both generators' states, uint8."""
        return torch.stack([self._shared.get_state(), self._local.get_state()])

    def set_state(self, state: Tensor) -> None:
        """Continue from `get_state`."""
        self._shared.set_state(state[0].cpu().clone())
        self._local.set_state(state[1].cpu().clone())

    def __getstate__(self) -> dict[str, Any]:
        return {"state": self.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._shared, self._local = torch.Generator(), torch.Generator()
        self.set_state(state["state"])


def orthonormal_columns(matrix: Tensor) -> Tensor:
    """Q of the QR decomposition with positive diagonal of R: Haar distributed for a Gaussian."""
    q, r = torch.linalg.qr(matrix)
    signs = torch.where(r.diagonal() < 0.0, -1.0, 1.0)
    columns: Tensor = q * signs
    return columns
