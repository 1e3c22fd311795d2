"""Weights of experts by how well each predicted rewards before it saw them.

Aggregation by exponential weights with a share for everybody: Vovk, "Aggregating strategies",
1990; Herbster and Warmuth, "Tracking the best expert", 1998. After a reward r of arm a,

    L_e <- discount L_e + (clip(mean_e[a]) - r)^2 / scale^2,
    w_e = (1 - share) exp(-eta L_e) / sum + share / E,

with mean_e[a] what expert e expected when the arm was chosen, clipped to the range of the rewards
seen, and scale their deviation, so that eta has no unit. Every expert learns from every reward, so
the weights need no exploration of their own. Without discount and share, squared losses in [0, B]
cost at most log(E) / eta more than those of the best expert for eta <= 1 / (2 B).

An expert without a prediction is charged what the mixture of the others is, so that its standing
does not change (Freund et al., "Using and combining predictors that specialize", 1997). One that
costs training and has had a small weight for long sleeps; see `ExpertWeights`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vitucb.learning.experts.expert import Array, Prediction
from vitucb.learning.reward_scale import RewardScale
from vitucb.types import State


@dataclass(frozen=True, slots=True)
class WeightRule:
    """How losses become weights, and when an expert sleeps.

    Attributes:
        discount: Weight of a loss after one more reward, in (0, 1].
        eta: Sharpness, per squared deviation of the rewards.
        share: What is dealt out evenly, in [0, 1).
        least: Weight below which an expert that costs training may sleep.
        patience: Rewards it must have been below in a row, and the first time asleep.
    """

    discount: float = 0.995
    eta: float = 0.2
    share: float = 0.01
    least: float = 0.02
    patience: int = 500

    def __post_init__(self) -> None:
        if not 0 < self.discount <= 1:
            raise ValueError(f"discount {self.discount} must be in (0, 1]")
        if not (self.eta >= 0 and math.isfinite(self.eta)):
            raise ValueError(f"eta {self.eta} must be finite and >= 0")
        if not 0 <= self.share < 1:
            raise ValueError(f"share {self.share} must be in [0, 1)")
        if self.patience < 1:
            raise ValueError(f"patience {self.patience} must be at least 1")


def weights_of(losses: Array, eta: float, share: float) -> Array:
    """Weights (E,) of discounted losses (E,); infinite losses have weight 0, the rest sum to 1."""
    takes_part = np.isfinite(losses)
    gaps = np.where(takes_part, losses, np.inf) - losses[takes_part].min()
    raw = np.exp(-eta * gaps, where=takes_part, out=np.zeros_like(gaps))
    weights: Array = (1 - share) * raw / raw.sum() + share * takes_part / takes_part.sum()
    return weights


def mixture_loss(losses: Array, weights: Array, eta: float) -> float:
    """What aggregation is charged, -log(sum_e w_e exp(-eta loss_e)) / eta, for losses (E,)."""
    if eta == 0:
        return float(weights @ losses)
    losses, weights = losses[weights > 0], weights[weights > 0]
    least = float(losses.min())
    return least - math.log(float(weights @ np.exp(-eta * (losses - least)))) / eta


def mix(predictions: Sequence[Prediction], weights: Sequence[float]) -> Prediction:
    """The weighted sum of means, widths and bonuses.

    An expert whose widths are all zero tells none: widths and bonuses are those of the others, by
    their relative weights. Else the better such an expert predicts, the less would be explored.

    Args:
        predictions: Of experts that are awake, one at least.
        weights: Theirs, with sum 1.
    """
    mean = sum(w * p.mean for w, p in zip(weights, predictions, strict=True))
    telling = [(w, p) for w, p in zip(weights, predictions, strict=True) if p.width.any()]
    total = sum(w for w, _ in telling)
    zero = np.zeros_like(predictions[0].mean)
    width = sum((w / total * p.width for w, p in telling), start=zero)
    bonus = sum((w / total * p.bonus for w, p in telling), start=zero)
    return Prediction(np.asarray(mean), width, bonus)


class ExpertWeights:
    """Discounted losses of experts by name, their weights, and who sleeps.

    An expert that costs training falls asleep when it has had less than `least` of the weight for
    `patience` rewards. It sleeps that many rewards the first time, and twice as long every time
    after. Waking it gets the loss that gives it the weight `least`: what it lost before says
    nothing of what it is after its retraining, and a model that has proved nothing yet must not
    choose arms. The handicap fades with the discount, so an expert as good as the best has its full
    share after some 500 rewards, a better one sooner, and a worse one sleeps again. One that is
    worth nothing before its first training starts asleep, and enters as one that wakes.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        trained: Collection[str] = (),
        starts_after: Mapping[str, int] | None = None,
        rule: WeightRule | None = None,
    ) -> None:
        """Start from even weights of those that are awake.

        Args:
            names: Of the experts.
            trained: Those that cost training, and so may sleep.
            starts_after: Name -> rewards for which an expert is silent at first, because from so
                few it has nothing to say; those with the fewest speak from the start. One of
                `trained` then enters as one that wakes, any other as if it had erred as much as
                the mixture.
            rule: How losses become weights.

        Raises:
            ValueError: If there is no name, a name twice, or `trained` or `starts_after` has
                others.
        """
        if not names or len(set(names)) < len(names):
            raise ValueError(f"experts {', '.join(names) or 'none'}: give each a name of its own")
        if unknown := sorted(set(trained) - set(names)):
            raise ValueError(f"trained {', '.join(unknown)}: not among {', '.join(names)}")
        self.names, self._trained = tuple(names), frozenset(trained)
        self._rule = rule or WeightRule()
        count = len(names)
        self._losses = np.zeros(count)
        self._is_asleep = np.zeros(count, bool)
        self._small_for, self._wakes_in, self._naps = np.zeros((3, count), np.int64)
        self._begin_asleep(starts_after or {})
        self._scale, self._low, self._high = RewardScale(), math.inf, -math.inf

    def _begin_asleep(self, starts_after: Mapping[str, int]) -> None:
        if unknown := sorted(set(starts_after) - set(self.names)):
            raise ValueError(f"starts_after {', '.join(unknown)}: not among the experts")
        wakes_in = np.array([starts_after.get(name, 0) for name in self.names], np.int64)
        wakes_in[wakes_in == wakes_in.min()] = 0  # somebody has to speak
        self._is_asleep, self._wakes_in = wakes_in > 0, wakes_in

    @property
    def weights(self) -> dict[str, float]:
        """Name -> weight; 0 for those asleep, sum 1."""
        return dict(zip(self.names, self._weights().tolist(), strict=True))

    @property
    def losses(self) -> dict[str, float]:
        """Name -> discounted loss, in squared deviations of the rewards."""
        return dict(zip(self.names, self._losses.tolist(), strict=True))

    @property
    def asleep(self) -> frozenset[str]:
        """Names of the experts that sleep: no prediction, no training."""
        return frozenset(
            n for n, is_asleep in zip(self.names, self._is_asleep, strict=True) if is_asleep
        )

    def _weights(self) -> Array:
        losses = np.where(self._is_asleep, np.inf, self._losses)
        return weights_of(losses, self._rule.eta, self._rule.share)

    def observe(self, means: Mapping[str, float | None], reward: float) -> tuple[str, ...]:
        """Judge what the experts expected of a chosen arm by its reward.

        Args:
            means: Name -> mean expected when the arm was chosen; None where the expert slept.
            reward: What came, however late.

        Returns:
            Names of those that fell asleep or woke up with this reward; `asleep` tells which.
        """
        self._low, self._high = min(self._low, reward), max(self._high, reward)
        self._scale.add(reward)
        told = [means.get(name) for name in self.names]
        expected = np.array([np.nan if mean is None else mean for mean in told], np.float64)
        errors = np.clip(expected, self._low, self._high) - reward
        self._charge(np.square(errors / self._scale.std))
        return self._put_to_sleep_or_wake()

    def _charge(self, losses: Array) -> None:
        """Add losses (E,), NaN where there was no prediction."""
        is_told = np.isfinite(losses)
        if not is_told.any():
            return
        told, weights = losses[is_told], self._weights()[is_told]
        # Predictions made before an expert fell asleep may be all there are.
        weights = (
            weights / weights.sum() if weights.sum() > 0 else np.full(len(told), 1 / len(told))
        )
        charged = np.where(is_told, losses, mixture_loss(told, weights, self._rule.eta))
        self._losses = self._rule.discount * self._losses + charged

    def _put_to_sleep_or_wake(self) -> tuple[str, ...]:
        weights, changed = self._weights(), []
        for i, name in enumerate(self.names):
            if self._is_asleep[i]:
                self._wakes_in[i] -= 1
                if self._wakes_in[i] <= 0:
                    self._wake(i)
                    changed.append(name)
            elif name in self._trained and weights[i] < self._rule.least:
                self._small_for[i] += 1
                if self._small_for[i] >= self._rule.patience:
                    self._is_asleep[i] = True
                    self._wakes_in[i] = self._rule.patience << min(int(self._naps[i]), 20)
                    self._naps[i] += 1
                    changed.append(name)
            else:
                self._small_for[i] = 0
        return tuple(changed)

    def _wake(self, i: int) -> None:
        losses = np.where(self._is_asleep, np.inf, self._losses)
        self._is_asleep[i], self._small_for[i] = False, 0
        if self.names[i] in self._trained:
            self._losses[i] = newcomer_loss(losses[np.isfinite(losses)], self._rule)

    def metrics(self) -> dict[str, float]:
        """Weight, loss and sleep of every expert, by `expert/weight/NAME` and so on."""
        found = {f"expert/weight/{name}": weight for name, weight in self.weights.items()}
        found |= {f"expert/loss/{name}": loss for name, loss in self.losses.items()}
        asleep = self.asleep
        return found | {f"expert/asleep/{name}": float(name in asleep) for name in self.names}

    def state_dict(self) -> State:
        """Losses, sleep and the scale of the rewards."""
        return {
            "losses": self._losses.copy(),
            "is_asleep": self._is_asleep.copy(),
            "small_for": self._small_for.copy(),
            "wakes_in": self._wakes_in.copy(),
            "naps": self._naps.copy(),
            "scale": self._scale.state_dict(),
            "range": np.array([self._low, self._high]),
            "names": list(self.names),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: If it is of other names, or of these in another order.
        """
        names = tuple(state.get("names", self.names))  # older states do not tell
        if names != self.names:
            raise ValueError(
                f"the state is of the experts {', '.join(names)}, in this order; this agent has "
                f"{', '.join(self.names)}: build it with the former"
            )
        self._losses = np.array(state["losses"], np.float64)
        self._is_asleep = np.array(state["is_asleep"], bool)
        self._small_for = np.array(state["small_for"], np.int64)
        self._wakes_in = np.array(state["wakes_in"], np.int64)
        self._naps = np.array(state["naps"], np.int64)
        self._scale.load_state_dict(state["scale"])
        self._low, self._high = map(float, state["range"])


def newcomer_loss(losses: Array, rule: WeightRule) -> float:
    """The loss that gives a newcomer among experts with these losses (E,) the weight `rule.least`.

    Solves (1 - s) x / (x + S) + s / (E + 1) = least for x = exp(-eta loss), S the sum of theirs.
    """
    if rule.eta == 0:
        return float(losses.mean())
    best = float(losses.min())
    total = float(np.exp(-rule.eta * (losses - best)).sum())
    part = (rule.least - rule.share / (len(losses) + 1)) / (1 - rule.share)
    part = min(max(part, 1e-6), 0.5)
    return best - math.log(part / (1 - part) * total) / rule.eta
