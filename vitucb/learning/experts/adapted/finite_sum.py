"""Optimizers that evaluate gradients themselves, on a replay seen as a finite sum.

The terms of the sum are the images of the replay, each with each of its copies. The sample of a
step is the batch that every other optimizer gets; a full gradient is over all terms, or as many of
them as the optimizer sets as its limit; clients are shards of the replay. The sum is of what is
remembered now: it gains terms from step to step, which no analysis of these estimators has.

Every process of a run evaluates all that is asked for, on the replay that they share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim import Optimizer

from vitucb.learning.experts.adapted.augmentation import ImageCopies
from vitucb.learning.experts.adapted.likelihoods import Likelihood
from vitucb.learning.experts.adapted.network import AdaptedNetwork
from vitucb.learning.experts.adapted.settings import AdaptedSettings
from vitucb.learning.experts.adapted.views import Views
from vitucb.learning.replay import Batch, Replay
from vitucb.models.reward_model import RewardModel
from vitucb.types import State

Terms = NDArray[np.int64]
# Images whose activations are held at a time.
_CHUNK = 64


class ReplaySum:
    """The terms of one step, numbered copies * slot + copy."""

    def __init__(
        self,
        evaluate: Callable[[Terms], float],
        sample: Terms,
        held: int,
        copies: int,
        rng: np.random.Generator,
    ) -> None:
        """Evaluate nothing yet.

        Args:
            evaluate: Leaves the gradients of the mean over terms, and returns it.
            sample: The batch of this step, int64 (b,).
            held: Slots of the replay.
            copies: Copies of every image.
            rng: Draws terms where they are too many, and orders passes.
        """
        self._evaluate, self._sample = evaluate, sample
        self._held, self._copies, self._rng = held, copies, rng

    def sample(self) -> Callable[[], float]:
        """The batch of this step."""
        return self._closure(self._sample)

    def full(self, limit: int) -> Callable[[], float]:
        """All terms, or `limit` of them."""
        return self.shards(1, limit)[0]

    def shards(self, count: int, limit: int) -> list[Callable[[], float]]:
        """Every client's terms; a slot is its client's for good."""
        return [self._closure(self._dealt(client, count, limit)) for client in range(count)]

    def passes(self, count: int, limit: int) -> list[list[Callable[[], float]]]:
        """Every client's terms in random order, in batches as long as the sample."""
        orders = [self._rng.permutation(self._dealt(i, count, limit)) for i in range(count)]
        size = len(self._sample)
        return [
            [self._closure(order[start : start + size]) for start in range(0, len(order), size)]
            for order in orders
        ]

    def _dealt(self, client: int, count: int, limit: int) -> Terms:
        slots = np.arange(client, self._held, count)
        terms: Terms = (slots[:, None] * self._copies + np.arange(self._copies)).ravel()
        most = limit // count
        if len(terms) <= most:
            return terms
        return np.sort(self._rng.choice(terms, most, replace=False, shuffle=False))

    def _closure(self, terms: Terms) -> Callable[[], float]:
        return lambda: self._evaluate(terms)


class FiniteSumNetwork(AdaptedNetwork):
    """A network whose optimizer is handed a finite sum instead of gradients.

    Attributes:
        optimizer: Steps adapters and head.
    """

    def __init__(
        self,
        model: RewardModel,
        copies: ImageCopies,
        optimizer: Optimizer,
        *,
        replay: Replay,
        rng: np.random.Generator,
    ) -> None:
        """Put the parts together.

        Args:
            model: As for `AdaptedNetwork`.
            copies: As for `AdaptedNetwork`.
            optimizer: Has `step_on(terms)`, and merges into base weights.
            replay: That of the expert.
            rng: Draws terms.
        """
        super().__init__(model, copies, optimizer, changes_base=True)
        self.optimizer, self._replay, self._rng = optimizer, replay, rng

    def _descend(self, batch: Batch, views: Views, likelihood: Likelihood) -> float:
        """One step of the optimizer on the terms of the replay; its loss."""
        sample = batch.slots * self.num_copies + views.copies
        terms = ReplaySum(
            lambda chosen: self.evaluate(chosen, likelihood),
            sample,
            len(self._replay),
            self.num_copies,
            self._rng,
        )
        step_on: Callable[[ReplaySum], float] = self._optimizer.step_on  # type: ignore[attr-defined]  # of all that need closures
        return step_on(terms)

    def evaluate(self, terms: Terms, likelihood: Likelihood) -> float:
        """Leave the gradients of the mean loss of `terms`; the loss.

        Args:
            terms: copies * slot + copy of each, int64 (b,).
            likelihood: What is fitted.
        """
        self._optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for start in range(0, len(terms), _CHUNK):
            slots, copies = np.divmod(terms[start : start + _CHUNK], self.num_copies)
            # The quick layers know no gradient of a base weight, which estimators ask for.
            items, views = self._replay.items(slots), Views(copies)
            mean = self._loss(items, views, likelihood, self.model.features)
            loss = mean * (len(slots) / len(terms))
            torch.autograd.backward(loss)
            self.ways_back += len(slots)
            total += float(loss.detach())
        return total

    def state_dict(self) -> State:
        """That of `AdaptedNetwork`, and the generator."""
        return {**super().state_dict(), "terms": self._rng.bit_generator.state}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._rng.bit_generator.state = state["terms"]


def check_finite_sum(optimizer: Any, settings: AdaptedSettings, patch_drop_rate: float) -> None:
    """Refuse settings under which the replay is no finite sum with the optimizer's clients.

    Raises:
        ValueError: If rewards fade, patches are left out at random, or there are more clients than
            rewards before the first step.
    """
    if patch_drop_rate > 0:
        raise ValueError(
            f"agent.training.patch_drop_rate {patch_drop_rate:g}: this estimator needs terms that "
            "are the same whenever they are evaluated; leave it out, or choose estimator sgd"
        )
    if settings.discount < 1:
        raise ValueError(
            f"agent.optimizer.options: this estimator needs a mean over the replay, and with "
            f"discount {settings.discount} rewards fade; choose discount 1, or estimator sgd"
        )
    if optimizer.clients > settings.schedule.start:
        raise ValueError(
            f"agent.optimizer.options: clients {optimizer.clients} are more than the "
            f"{settings.schedule.start} rewards before the first step; lower clients"
        )
