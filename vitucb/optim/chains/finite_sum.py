"""What a chain asks of data it may evaluate itself: the loss as a mean over terms.

An optimizer with a true `needs_closures` is stepped by `step_on(terms)` in place of `step()`. A
loop that remembers its samples can offer `terms`; `vitucb run` does, with the replay of the expert
`adapted`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vitucb.optim.chains.full_gradients import Closure


class FiniteSum(Protocol):
    """A loss f = mean of f_i over terms, for this step.

    A closure clears gradients, evaluates the mean over its terms at the weights as they are, and
    returns it; it may be called again, at other weights, and evaluates the same terms.
    """

    def sample(self) -> Closure:
        """The batch of this step."""
        ...

    def full(self, limit: int) -> Closure:
        """All terms, or `limit` of them drawn uniformly where they are more."""
        ...

    def shards(self, count: int, limit: int) -> list[Closure]:
        """All terms, or `limit`, dealt to `count` clients; a term stays with its client."""
        ...

    def passes(self, count: int, limit: int) -> list[list[Closure]]:
        """The same, each client's as batches that make one pass over them."""
        ...


def check_finite_sum_options(clients: int, full_limit: int) -> None:
    """Check what says how a finite sum is used.

    Args:
        clients: Number of clients.
        full_limit: Terms of a full gradient at most.

    Raises:
        ValueError: If there is not a term for every client.
    """
    if clients < 1:
        raise ValueError(f"clients {clients} must be at least 1")
    if full_limit < clients:
        raise ValueError(f"full_limit {full_limit} must be at least the {clients} clients")


def mean_loss(losses: Sequence[float]) -> float:
    """Mean of the losses of several closures."""
    return sum(losses) / len(losses)
