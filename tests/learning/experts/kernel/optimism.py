"""A game on the kernel's features, played by optimism."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vitucb.learning.experts.expert import Offer
from vitucb.learning.experts.kernel.expert import KernelExpert


class Game(Protocol):
    """Rounds of arms."""

    def offer(self) -> tuple[Offer, NDArray[Any]]:
        """What is on offer, and what each arm is worth."""


def play(expert: KernelExpert, game: Game, rounds: int, noise: float = 0.3) -> list[float]:
    """Regrets of optimism, with rewards at once."""
    rng, regrets = np.random.default_rng(1), []
    for _ in range(rounds):
        offer, worth = game.offer()
        prediction = expert.predict(offer)
        action = int((prediction.mean + prediction.bonus).argmax())
        expert.choose(offer, action)
        expert.observe(offer, action, float(worth[action] + noise * rng.standard_normal()), 0)
        regrets.append(float(worth.max() - worth[action]))
    return regrets
