"""A replay of tensors: features, or images of any size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from vitucb.types import State


class TensorReplay:
    """Inputs, outputs and rewards of the history, a uniform sample of it once full.

    As `vitucb.learning.replay.Replay`, for inputs that are tensors rather than images.

    Attributes:
        seen: Rewards seen, kept or not.
    """

    def __init__(self, capacity: int, generator: torch.Generator) -> None:
        """Make an empty memory; `generator` draws the reservoir and the batches.

        Raises:
            ValueError: If `capacity` is less than 1.
        """
        if capacity < 1:
            raise ValueError(f"agent.training.replay_capacity {capacity} must be at least 1")
        self.seen = 0
        self._capacity, self._generator = capacity, generator
        self._inputs: list[Tensor] = []
        self._outputs: list[int] = []
        self._rewards: list[float] = []

    def __len__(self) -> int:
        return len(self._inputs)

    def add(self, x: Tensor, output: int, reward: float) -> None:
        """Remember one input (...), the output it was judged by, and its reward."""
        self.seen += 1
        if len(self._inputs) < self._capacity:
            self._inputs.append(x)
            self._outputs.append(output)
            self._rewards.append(reward)
            return
        slot = int(torch.randint(self.seen, (), generator=self._generator))
        if slot < self._capacity:
            self._inputs[slot], self._outputs[slot], self._rewards[slot] = x, output, reward

    def sample(self, size: int) -> tuple[list[Tensor], Tensor, Tensor]:
        """Inputs (...) each, outputs int64 (n,), rewards float64 (n,) of a batch, no repeats."""
        order = torch.randperm(len(self._inputs), generator=self._generator)[:size].tolist()
        return self._items(order)

    def chunks(self, size: int) -> Iterator[tuple[list[Tensor], Tensor, Tensor]]:
        """Everything held, `size` at a time, as `sample` gives it."""
        for start in range(0, len(self), size):
            yield self._items(range(start, min(start + size, len(self))))

    def _items(self, slots: Iterable[int]) -> tuple[list[Tensor], Tensor, Tensor]:
        slots = list(slots)
        return (
            [self._inputs[i] for i in slots],
            torch.tensor([self._outputs[i] for i in slots]),
            torch.tensor([self._rewards[i] for i in slots], dtype=torch.float64),
        )

    def state_dict(self) -> State:
        """Everything held, and the generator."""
        return {
            "inputs": _packed(self._inputs),
            "outputs": torch.tensor(self._outputs, dtype=torch.int64),
            "rewards": torch.tensor(self._rewards, dtype=torch.float64),
            "seen": self.seen,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._inputs = [] if state["inputs"] is None else list(state["inputs"])
        self._outputs = state["outputs"].tolist()
        self._rewards = state["rewards"].tolist()
        self.seen = int(state["seen"])
        self._generator.set_state(state["generator"])


def _packed(inputs: Sequence[Tensor]) -> Tensor | list[Tensor] | None:
    """One tensor where all have one shape."""
    if not inputs:
        return None
    return torch.stack(list(inputs)) if len({x.shape for x in inputs}) == 1 else list(inputs)
