"""The words experts share: what a round offers, what an expert predicts, and what an expert is.

An expert predicts the reward of every arm before the reward is seen and learns from every reward,
whoever chose the arm. Experts are mixed by how well they predicted (`weights`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vitucb.types import State, shares_image

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Offer:
    """What a round offers.

    Attributes:
        images: One image for every arm, uint8 (n, H, W, C) with n = K; n = 1 where all arms share
            it.
        features: Frozen last-layer features h / rms of these images, float64 (n, d), on the CPU.
        num_arms: Number of arms K.
        context: Item and creative of every arm, int64 (K, 2), where the environment tells them.
    """

    images: NDArray[np.uint8]
    features: Tensor
    num_arms: int
    context: NDArray[np.int64] | None = None

    @property
    def is_shared(self) -> bool:
        """Whether one image is the context of all arms."""
        return shares_image(len(self.images), self.num_arms)

    def row(self, action: int) -> int:
        """Which of the n images belongs to arm `action`."""
        return 0 if self.is_shared else action


@dataclass(frozen=True, slots=True)
class Prediction:
    """What an expert expects of every arm.

    Attributes:
        mean: Expected reward, float64 (K,), reward units.
        width: Posterior deviation before any multiplier, float64 (K,), >= 0, reward units.
        bonus: The expert's own multiplier times its width, float64 (K,), >= 0, reward units. An
            expert with several widths multiplies each by its own, so this need not be a multiple
            of `width`.
    """

    mean: Array
    width: Array
    bonus: Array


@runtime_checkable
class Expert(Protocol):
    """A model of the rewards that learns from every one of them, whoever chose the arm.

    What an expert may have beside, and `ExpertAgent` uses where it is there: `starts_after`, the
    rewards for which it is not asked at first; `correlation(offer)`, of the arms (K, K), for
    policies that draw them jointly; `parameters`, counts for the summary of a run.
    """

    def predict(self, offer: Offer) -> Prediction:
        """What it expects of every arm, before the reward; draws from no shared generator."""
        ...

    def choose(self, offer: Offer, action: int) -> None:
        """Take note of a choice; its reward may come later or never."""
        ...

    def observe(self, offer: Offer, action: int, reward: float, age: int) -> dict[str, float]:
        """Learn from the reward of a choice.

        Args:
            offer: What the round of the choice offered.
            action: The arm that was chosen.
            reward: Its reward.
            age: Rounds since the choice; 0 where the reward comes at once.

        Returns:
            Metrics as `group/name: value`.
        """
        ...

    def state_dict(self) -> State:
        """Everything needed to continue bit for bit: tensors, arrays and JSON scalars."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        ...


@runtime_checkable
class Sleeper(Expert, Protocol):
    """An expert that costs training, which it can do without for a while.

    Asleep it is not asked for predictions; it is told of choices and rewards as ever, and does
    nothing but remember what its training needs.
    """

    def sleep(self) -> None:
        """Stop training."""
        ...

    def wake(self) -> None:
        """Train on what was remembered, so that the next prediction is worth judging."""
        ...
