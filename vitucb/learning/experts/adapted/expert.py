"""`adapted`: a LoRA vision transformer trained online, on every reward.

It keeps a replay of chosen images and rewards, takes a step after each reward on a batch drawn from
all of them, each image a random one of itself and its shifted copies, and predicts with averaged
weights. Its width is that of a linear output on last-layer features, in units of the error of its
own predictions, each made before the reward was seen.

Training is most of the cost of a round. An expert that is of no use can `sleep`: it then remembers
rewards, and neither trains nor looks at images, until `wake` makes up for some of the steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitucb.learning.experts.adapted.batches import draw_slots
from vitucb.learning.experts.adapted.likelihoods import Likelihood, SquaredLikelihood
from vitucb.learning.experts.adapted.network import AdaptedNetwork
from vitucb.learning.experts.adapted.output_widths import OutputWidths
from vitucb.learning.experts.adapted.schedule import decay, effective_rewards, warm_up
from vitucb.learning.experts.adapted.settings import AdaptedSettings
from vitucb.learning.experts.expert import Array, Offer, Prediction
from vitucb.learning.replay import Replay
from vitucb.learning.reward_scale import ResidualNoise
from vitucb.models.grad_mode import with_gradients
from vitucb.types import State


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the network made of an offer: features (n, d) and means (K,), by which weights."""

    images: NDArray[np.uint8]
    num_arms: int
    version: int
    hidden: Tensor
    mean: Array

    def is_of(self, offer: Offer) -> bool:
        """Whether the offer shows the same images to as many arms."""
        return self.num_arms == offer.num_arms and (
            self.images is offer.images or np.array_equal(self.images, offer.images)
        )


class AdaptedExpert:
    """Network, replay and widths.

    Attributes:
        network: Is trained, and makes features and outputs.
        replay: Chosen images with their rewards.
        rewards: Number of rewards.
        starts_after: Rewards after which its steps are at their full rate. An untrained network
            expects the same of every arm, which errs less than models with few rewards do, and so
            would have a large weight without telling arms apart.
        is_asleep: Whether it neither trains nor looks at images.
    """

    def __init__(
        self,
        network: AdaptedNetwork,
        likelihood: Likelihood,
        replay: Replay,
        widths: OutputWidths,
        settings: AdaptedSettings,
        rng: np.random.Generator,
    ) -> None:
        """Put the parts together.

        Args:
            network: Not trained yet.
            likelihood: Of the rewards. The first one that it cannot have produced makes the expert
                go on with the squared loss.
            replay: Empty; `window` where the discount is below 1.
            widths: One output for each of the network's.
            settings: How to learn.
            rng: Draws batches and copies.
        """
        self.network, self.replay = network, replay
        self.rewards, self.is_asleep = 0, False
        self.starts_after = settings.schedule.start + settings.schedule.warm_up
        self._squared = SquaredLikelihood()
        is_squared = isinstance(likelihood, SquaredLikelihood)
        self._first_likelihood: Likelihood = self._squared if is_squared else likelihood
        self._likelihood = self._first_likelihood
        self._widths, self._settings, self._rng = widths, settings, rng
        self._noise = ResidualNoise()
        self._steps_due = 0  # while asleep
        self._seen: _Seen | None = None

    @property
    def passes(self) -> int:
        """Images that went through the adapted blocks so far."""
        return self.network.passes

    @property
    def image_passes(self) -> int:
        """Images that went through the adapted blocks so far, each way counted."""
        return self.network.image_passes

    @with_gradients()
    def predict(self, offer: Offer) -> Prediction:
        """Means and widths of all arms under the averaged weights; asleep, the mean of all rewards.

        Raises:
            ValueError: If the arms share an image and are more than there are outputs.
        """
        if self.is_asleep:
            mean = np.full(offer.num_arms, float(self._squared.mean(torch.zeros(1))))
            return Prediction(mean, np.zeros(offer.num_arms), np.zeros(offer.num_arms))
        seen = self._look(offer)
        width = self._noise.std * self._width(offer)
        return Prediction(seen.mean, width, self._settings.alpha * width)

    @with_gradients()
    def features(self, offer: Offer) -> Tensor:
        """Last-layer features of the images under the averaged weights, for other models.

        They are those of the frozen network before training and asleep, and change with
        `network.version`.

        Returns:
            float64 (n, d), in the unit of `offer.features`.
        """
        return offer.features if self.is_asleep else self._look(offer).hidden

    @with_gradients()
    def choose(self, offer: Offer, action: int) -> None:
        """Count a choice in the covariance of the widths."""
        # One that starts asleep trains before it ever looked at an offer.
        self.network.set_unit(list(offer.images), offer.features)
        features = self._width_features(offer)
        if features is not None:
            self._widths.add(features[offer.row(action)], _output(offer, action))

    @with_gradients()
    def observe(self, offer: Offer, action: int, reward: float, age: int) -> dict[str, float]:
        """Remember the image and its reward, and train when it is due.

        Returns:
            `adapted/loss` before the step if there was one, and `adapted/noise`.
        """
        if not self.is_asleep:
            self._noise.add(reward - float(self._look(offer).mean[action]))
            self._noise.see(reward)
        self._squared.add(reward)
        if not self._likelihood.accepts(reward):
            self._likelihood = self._squared
            self.network.reset_head()
        self.replay.add(offer.images[offer.row(action)], reward, _output(offer, action))
        self.rewards += 1
        metrics = {"adapted/noise": self._noise.std}
        if self.rewards >= self._settings.schedule.start:
            if self.is_asleep:
                self._steps_due += 1
            else:
                metrics["adapted/loss"] = self._step()
        if self.rewards % self._settings.read_every == 0 and not self.is_asleep:
            self._read()
        return metrics

    def sleep(self) -> None:
        """Stop training and looking at images; rewards are remembered."""
        self.is_asleep, self._seen = True, None

    @with_gradients()
    def wake(self) -> None:
        """Make up for steps that sleep left out, at most `catch_up_steps`, and go on."""
        self.is_asleep = False
        for _ in range(min(self._steps_due, self._settings.catch_up_steps)):
            self._step()
        self._steps_due = 0
        self._read()

    def _read(self) -> None:
        if self.network.steps:
            self.network.read()

    def _step(self) -> float:
        """One step on a batch of the replay; its loss."""
        settings, schedule = self._settings, self._settings.schedule
        slots = draw_slots(self.replay, settings.batch_size, settings.discount, self._rng)
        batch = self.replay.items(slots)
        views = self.network.draw_views(len(batch.images), self._rng)
        counted = effective_rewards(self.rewards, settings.discount)
        return self.network.step(
            batch,
            views,
            self._likelihood,
            decay=decay(counted, schedule),
            warm_up=warm_up(self.network.steps + 1, schedule),
        )

    def _look(self, offer: Offer) -> _Seen:
        """Features and means of an offer under the weights acted on; kept until these change."""
        seen = self._seen
        if seen is None or seen.version != self.network.version or not seen.is_of(offer):
            hidden = self.network.hidden(list(offer.images), offer.features)
            mean = self._means(offer, hidden)
            self._seen = seen = _Seen(
                offer.images, offer.num_arms, self.network.version, hidden, mean
            )
        return seen

    def _means(self, offer: Offer, hidden: Tensor) -> Array:
        if offer.is_shared and offer.num_arms > self.network.num_outputs:
            raise ValueError(
                f"{offer.num_arms} arms share an image, and the network has "
                f"{self.network.num_outputs} outputs; build it for as many labels as there are"
            )
        means = self._likelihood.mean(self.network.outputs(hidden))
        mean = means[0, : offer.num_arms] if offer.is_shared else means[:, 0]
        prior = float(self._squared.mean(torch.zeros(1)))
        means_or_prior: Array = np.nan_to_num(mean.numpy(), nan=prior, posinf=prior, neginf=prior)
        return means_or_prior

    def _width_features(self, offer: Offer) -> Tensor | None:
        """What the width is computed from, (n, d); None where there is no width now."""
        kind = self._settings.width
        if kind == "none" or (kind == "adapted" and self.is_asleep):
            return None
        return offer.features if kind == "frozen" else self._look(offer).hidden

    def _width(self, offer: Offer) -> Array:
        """Widths of the arms in units of the noise, (K,)."""
        features = self._width_features(offer)
        if features is None:
            return np.zeros(offer.num_arms)
        widths = self._widths(features)
        return widths[0, : offer.num_arms] if offer.is_shared else widths[:, 0]

    def state_dict(self) -> State:
        """Network, replay, widths, running estimates, counters and generator."""
        return {
            "network": self.network.state_dict(),
            "is_squared": self._likelihood is self._squared,
            "squared": self._squared.state_dict(),
            "replay": self.replay.state_dict(),
            "widths": self._widths.state_dict(),
            "noise": self._noise.state_dict(),
            "rewards": self.rewards,
            "is_asleep": self.is_asleep,
            "steps_due": self._steps_due,
            "rng": self._rng.bit_generator.state,
            "seen": self._seen_state(),
        }

    def _seen_state(self) -> State | None:
        """What was made of the last offer: one that comes again is not looked at again."""
        seen = self._seen
        if seen is None or seen.version != self.network.version:
            return None
        return {name: getattr(seen, name) for name in ("images", "num_arms", "hidden", "mean")}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self._squared.load_state_dict(state["squared"])
        self._likelihood = self._squared if state["is_squared"] else self._first_likelihood
        self.replay.load_state_dict(state["replay"])
        self._widths.load_state_dict(state["widths"])
        self._noise.load_state_dict(state["noise"])
        self.rewards, self._steps_due = int(state["rewards"]), int(state["steps_due"])
        self.is_asleep = bool(state["is_asleep"])
        self._rng.bit_generator.state = state["rng"]
        seen = state.get("seen")  # older states have none
        self._seen = None if seen is None else _Seen(**seen, version=self.network.version)


def _output(offer: Offer, action: int) -> int:
    """Which output of the network scores an arm."""
    return action if offer.is_shared else 0
