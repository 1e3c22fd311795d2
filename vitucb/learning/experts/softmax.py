"""The experts `softmax`, `logistic` and `kernel-softmax`: a head for one image with K labels.

`softmax` holds that exactly one label is right, `logistic` takes every label by itself; likelihood
and solver stand in `label_head`. Both read frozen features, `kernel-softmax` those of the kernel
(`kernel.label_kernel`). A head is solved for again, from where it stands, whenever the
rewards have grown by 3 %. Rewards of any range are read on the scale from the least to the largest
seen, which for 0 and 1 are these themselves. Neither has a width of its own: the confidence of a
mixture is that of the experts that have one.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch

from vitucb.learning.experts.expert import Array, Offer, Prediction
from vitucb.learning.experts.label_head import LIKELIHOODS, LabelHead, fit_head
from vitucb.learning.experts.label_history import LabelHistory
from vitucb.learning.experts.label_inputs import FrozenInputs, LabelInputs
from vitucb.types import State

_GROWTH = 0.03
_ITERATIONS = 8
_ITERATIONS_ANEW = 32
# Where the range of the rewards changes by this share, the head is solved for at once.
_RANGE_GROWTH = 0.1


class LabelExpert:
    """Probabilities of K labels of one image, from a head on what `inputs` makes of it."""

    def __init__(
        self,
        num_features: int,
        num_labels: int,
        *,
        likelihood: Literal["softmax", "logistic"] = "softmax",
        inputs: LabelInputs | None = None,
        decay: float = 30.0,
        discount: float = 1.0,
        capacity: int = 20_000,
        seed: int = 0,
    ) -> None:
        """Start from even odds.

        Args:
            num_features: Number of frozen features d.
            num_labels: Number of labels K.
            likelihood: `softmax` for exclusive labels, `logistic` for any others.
            inputs: What the head reads; None for frozen features as they are.
            decay: L2 penalty of the weights, in observations.
            discount: Weight of an observation after one more round, in (0, 1].
            capacity: Most observations kept.
            seed: Of which are kept.

        Raises:
            ValueError: If an argument is out of range.
        """
        if likelihood not in LIKELIHOODS:
            raise ValueError(f"unknown likelihood {likelihood!r}; known: {', '.join(LIKELIHOODS)}")
        if not 0 < discount <= 1:
            raise ValueError(f"discount {discount} must be in (0, 1]")
        self._likelihood, self._decay, self._num_labels = likelihood, decay, num_labels
        self._inputs: LabelInputs = inputs or FrozenInputs(num_features)
        self._head = self._even()
        self._history = LabelHistory(num_features, capacity, discount, seed)
        self._rounds, self._since_fit, self._fitted_count = 0, 0, 0.0
        self._fitted_range = 1.0
        self._is_asleep = False

    def _even(self) -> LabelHead:
        """Even odds, whatever the inputs."""
        weight = np.zeros((self._num_labels, self._inputs.dim))
        return LabelHead(weight, np.zeros(self._num_labels))

    def predict(self, offer: Offer) -> Prediction:
        """Expected rewards of the labels, and no width.

        Raises:
            ValueError: If every arm has an image of its own, or there is another number of labels.
        """
        _check_labels(offer, self._num_labels)
        probabilities = self._probabilities(offer.features[0].double().numpy())
        low, high = self._history.reward_range
        mean = low + (high - low) * probabilities
        return Prediction(mean, np.zeros_like(mean), np.zeros_like(mean))

    def _probabilities(self, features: Array) -> Array:
        logits = torch.from_numpy(self._head.logits(self._inputs.of(features)))
        is_exclusive = self._likelihood == "softmax"
        probabilities: Array = (logits.softmax(0) if is_exclusive else logits.sigmoid()).numpy()
        return probabilities

    def choose(self, offer: Offer, action: int) -> None:
        """Let the round pass, and take note of its image."""
        self._inputs.see(offer)
        self._rounds += 1

    def observe(self, offer: Offer, action: int, reward: float, age: int) -> dict[str, float]:
        """Remember the reward, and solve for the head where it is due."""
        features = offer.features[0].float().numpy()
        self._history.add(features, action, reward, self._rounds - 1 - age)
        self._since_fit += 1
        if self._is_due() and not self._is_asleep:
            self._fit(_ITERATIONS)
        return {}

    def sleep(self) -> None:
        """Remember rewards, but no longer fit."""
        self._is_asleep = True

    def wake(self) -> None:
        """Fit to all that was remembered, and from now on as before."""
        self._is_asleep = False
        if len(self._history):
            self._fit(_ITERATIONS_ANEW)

    def _is_due(self) -> bool:
        low, high = self._history.reward_range
        growth = (high - low) / self._fitted_range
        has_new_range = not 1 / (1 + _RANGE_GROWTH) <= growth <= 1 + _RANGE_GROWTH
        has_grown = self._since_fit >= _GROWTH * self._fitted_count
        return has_new_range or has_grown or self._inputs.is_due

    def _fit(self, iterations: int) -> None:
        if self._inputs.is_due:
            self._inputs.refit()
            self._head, iterations = self._even(), _ITERATIONS_ANEW
        data = self._history.data(self._rounds, self._inputs.of_all)
        mean = self._history.mean
        self._head = fit_head(
            self._head,
            data,
            LIKELIHOODS[self._likelihood],
            decay=self._decay,
            prior_bias=0.0 if self._likelihood == "softmax" else math.log(mean / (1 - mean)),
            iterations=iterations,
        )
        low, high = self._history.reward_range
        self._fitted_range, self._fitted_count, self._since_fit = high - low, data.count, 0

    def state_dict(self) -> State:
        """History, inputs, head and counters."""
        return {
            "inputs": self._inputs.state_dict(),
            "history": self._history.state_dict(),
            "weight": self._head.weight.copy(),
            "bias": self._head.bias.copy(),
            "rounds": self._rounds,
            "since_fit": self._since_fit,
            "fitted_count": self._fitted_count,
            "fitted_range": self._fitted_range,
            "is_asleep": self._is_asleep,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._history.load_state_dict(state["history"])
        self._inputs.load_state_dict(state.get("inputs", {}))
        self._head = LabelHead(
            np.array(state["weight"], np.float64), np.array(state["bias"], np.float64)
        )
        self._rounds, self._since_fit = int(state["rounds"]), int(state["since_fit"])
        self._fitted_count = float(state["fitted_count"])
        self._fitted_range = float(state["fitted_range"])
        self._is_asleep = bool(state["is_asleep"])


def _check_labels(offer: Offer, num_labels: int) -> None:
    if not offer.is_shared:
        raise ValueError(
            "the experts softmax, logistic and kernel-softmax are for one image with K labels; "
            "every arm of this round has an image of its own: leave them out"
        )
    if offer.num_arms != num_labels:
        raise ValueError(
            f"{offer.num_arms} labels on offer, the expert was made for {num_labels}; mask those "
            "that may not be chosen instead"
        )
