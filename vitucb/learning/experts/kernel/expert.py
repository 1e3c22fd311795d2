"""The expert `kernel`: a Gaussian process on frozen features, coarse and fine.

KernelUCB (Valko et al., "Finite-time analysis of kernelised contextual bandits", UAI 2013) and
GP-UCB (Srinivas et al., "Gaussian process optimization in the bandit setting", ICML 2010) with a
kernel of two scales (`features`), prior variances by evidence (`scales`), an exact posterior
(`regression`), and a multiplier for each scale: what classes are worth pays for being
explored, the oddities of single images hardly. It knows no image before it is offered.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitucb.learning.awaited_choices import AwaitedChoices
from vitucb.learning.experts.expert import Offer, Prediction
from vitucb.learning.experts.kernel.arms import Arms
from vitucb.learning.experts.kernel.features import (
    GROUPS,
    Features,
    KernelFeatures,
    KernelSettings,
    fit_kernel,
)
from vitucb.learning.experts.kernel.regression import (
    Moments,
    Seen,
    TwoScaleRegression,
    noise_variance,
)
from vitucb.learning.experts.kernel.reward_sums import RewardedImages
from vitucb.learning.experts.kernel.scales import START, best_scales
from vitucb.learning.image_memory import ImageMemory, image_key
from vitucb.learning.reward_scale import RewardScale
from vitucb.seeding import numpy_generator
from vitucb.types import State

Array = NDArray[np.float64]
_FIRST_FITS = (1, 4, 10, 20, 40, 60)
_GROWTH = 1.5
_STALENESS = 0.05  # of a discounted weight, at most
_FORGOTTEN = 1e-9  # what counts for less is nothing
# Before that evidence is too weak to tell scales; measured.
_EVIDENCE_FROM = 60


@dataclass(frozen=True, slots=True)
class KernelLimits:
    """Bounds of what the expert keeps, whatever the horizon.

    Attributes:
        offered: Distinct images offered, of which the kernel is made.
        rewarded: Distinct images rewarded; past it the oldest merge into their neighbours.
        awaited: Choices whose reward has not come; past it the oldest count as lost.
    """

    offered: int = 2_000
    rewarded: int = 4_000
    awaited: int = 1_000


class KernelExpert:
    """A two-scale Gaussian process that learns by rank-one updates, for arms with an image each.

    Kernel and scales are fitted anew after 1, 4, 10, 20, 40 and 60 choices and then at every growth
    by half. In between, posterior and noise are exact for the current kernel. At a fit the past is
    that of `RewardedImages`. With a discount, every weight in the covariance is exact at a rebuild
    and at most 5 % off before the next.
    """

    groups: tuple[str, ...] = GROUPS
    """Names of the prior variances."""
    _start: tuple[float, ...] = START
    _num_ids = 0  # columns at the end of a row
    _kernel_type: type[Features] = KernelFeatures
    _regression_type: type[TwoScaleRegression] = TwoScaleRegression

    def __init__(
        self,
        seed: int,
        *,
        coarse_alpha: float = 2.0,
        fine_alpha: float = 0.5,
        discount: float = 1.0,
        settings: KernelSettings | None = None,
        limits: KernelLimits | None = None,
    ) -> None:
        """Start with nothing learnt.

        Args:
            seed: Of the starts of k-means.
            coarse_alpha: Multiplier of the deviation of constant and coarse part.
            fine_alpha: Multiplier of the deviation of the fine part.
            discount: Weight of an observation after one more round, 1 for none.
            settings: Shape of the kernel.
            limits: Bounds of what is kept.

        Raises:
            ValueError: If a multiplier is negative or the discount not in (0, 1].
        """
        if min(coarse_alpha, fine_alpha) < 0:
            raise ValueError(f"alphas {coarse_alpha}, {fine_alpha} must be at least 0")
        if not 0 < discount <= 1:
            raise ValueError(f"discount {discount} must be in (0, 1]")
        limits = limits or KernelLimits()
        self._alphas, self._discount = (coarse_alpha, fine_alpha), discount
        self._settings = settings or KernelSettings()
        self._rng = numpy_generator(seed, "kernel")
        self._offered = ImageMemory(limits.offered)
        self._rewarded = RewardedImages(limits.rewarded, self._num_ids)
        self._awaited = AwaitedChoices(limits.awaited, discount)
        self._scale = RewardScale()
        self._rho = self._start
        self._level = 0.0
        self._since_rebuild = 0
        self._next_fit = _FIRST_FITS[0]
        self._kernel: Features | None = None
        self._regression: TwoScaleRegression | None = None
        self._latest: tuple[Offer, Arms] | None = None

    def predict(self, offer: Offer) -> Prediction:
        """Posterior means, deviations and the two bonuses; changes nothing.

        Raises:
            ValueError: If the arms share one image.
        """
        arms, sigma = self._look_at(offer), self.noise
        if self._regression is None:
            zeros = np.zeros(offer.num_arms)
            return Prediction(zeros, zeros + sigma, zeros + sum(self._alphas) * sigma)
        awaited = np.array([self._awaited.count(key) for key in arms.keys])
        whole, coarse, fine = self._regression.deviations(self._seen(arms, awaited))
        bonus = sigma * (self._alphas[0] * coarse + self._alphas[1] * fine)
        mean = self._level + self._regression.means(self._seen(arms))
        return Prediction(mean, sigma * whole, bonus)

    @property
    def noise(self) -> float:
        """Deviation of the noise, reward units."""
        regression = self._regression
        errors, count = (regression.errors, regression.count) if regression else (0.0, 0.0)
        return float(np.sqrt(noise_variance(errors, count, self._prior_noise)))

    @property
    def _prior_noise(self) -> float:
        """Prior guess of the noise variance: half of that of the rewards."""
        return self._scale.std**2 / 2

    def choose(self, offer: Offer, action: int) -> None:
        """Remember what was offered, and await the reward of the choice.

        Raises:
            ValueError: If the arms share one image.
        """
        arms = self._look_at(offer)
        if self._discount < 1:
            self._pass_round()
        self._offered.add(arms.keys, arms.rows)
        self._awaited.add(arms.keys[action], arms.rows[action])
        if not self._fit_if_due():
            key = arms.keys[action]
            self._expect(key, arms.rows[action], beside=self._awaited.count(key) - 1)

    def observe(self, offer: Offer, action: int, reward: float, age: int) -> dict[str, float]:
        """Learn from a reward, `age` rounds after its choice; returns the noise and the scales.

        Raises:
            ValueError: If the arms share one image.
        """
        arms = self._look_at(offer)
        key, row = arms.keys[action], arms.rows[action]
        was_awaited = self._awaited.take(key, age)
        weight = self._discount**age
        self._scale.add(reward)
        if weight > _FORGOTTEN:
            if self._regression is not None:
                self._learn(key, row, reward, weight, was_awaited=was_awaited)
            self._rewarded.add_image(key, row, reward, weight)
        self._fit_if_due()
        return {
            "kernel/noise": self.noise,
            **{f"kernel/rho_{name}": rho for name, rho in zip(self.groups, self._rho, strict=True)},
        }

    def _learn(
        self, key: bytes, row: Array, reward: float, weight: float, *, was_awaited: bool
    ) -> None:
        assert self._regression is not None
        if self._scale.count == 1:
            self._level = reward
        if not was_awaited:
            self._expect(key, row, weight, beside=self._awaited.count(key))
        seen = self._seen(self._arms([key], row[None]))
        self._regression.learn(seen, reward - self._level, weight)
        if len(self._awaited) == 0 and not self._awaited.has_lost:
            self._regression.settle()

    def _expect(self, key: bytes, row: Array, weight: float = 1.0, *, beside: float) -> None:
        """Narrow the widths as this reward will; `beside` it others of its image are awaited."""
        if self._regression is not None:
            seen = self._seen(self._arms([key], row[None]), np.array([beside]))
            self._regression.expect(seen, weight)

    def _look_at(self, offer: Offer) -> Arms:
        """Keys and features of the arms; those of the latest offer are kept."""
        if self._latest is None or self._latest[0] is not offer:
            if offer.is_shared:
                raise ValueError(
                    "the expert 'kernel' needs an image per arm; this environment shows one image "
                    "to all of them: choose the experts linear, softmax or adapted"
                )
            self._latest = (offer, self._arms(*self._rows(offer)))
        return self._latest[1]

    def _rows(self, offer: Offer) -> tuple[list[bytes], Array]:
        """What tells the arms apart, and rows (K, d) from which a kernel makes features."""
        return [image_key(image) for image in offer.images], offer.features.numpy()

    def _arms(self, keys: list[bytes], rows: Array) -> Arms:
        latest = None if self._latest is None else self._latest[1]
        if latest is not None and len(keys) == 1 and keys[0] in latest.keys:
            return latest.only(latest.keys.index(keys[0]))
        if self._kernel is None or self._regression is None:
            return Arms(keys, rows, np.zeros((len(rows), 0)), np.zeros(len(rows)))
        return Arms(keys, rows, *self._regression.scaled(self._kernel(rows)))

    def _seen(self, arms: Arms, awaited: Array | float = 0.0) -> Seen:
        """The arms with their rewards, and with `awaited` (n,) more of each as if they had come."""
        counts, sums = self._rewarded.look_up(arms.keys, self._level)
        return Seen(arms.phi, arms.effects, counts + awaited, sums)

    def _pass_round(self) -> None:
        """Let what was learnt fade."""
        self._rewarded.discount(self._discount)
        self._since_rebuild += 1
        if self._regression is not None:
            self._regression.discount(self._discount)
            if 1 - self._discount**self._since_rebuild > _STALENESS:
                self._rebuild()

    def _fit_if_due(self) -> bool:
        """Fit kernel and scales anew if enough happened since; whether that was so."""
        happened = max(self._awaited.total, self._scale.count)
        if happened < self._next_fit or len(self._offered) == 0:
            return False
        while self._next_fit <= happened:
            self._next_fit = _fit_after(self._next_fit)
        self._kernel = self._fit(self._offered.features)
        self._rebuild(choose_scales=self._scale.count >= _EVIDENCE_FROM)
        return True

    def _rebuild(self, *, choose_scales: bool = False) -> None:
        """The posterior of the current kernel from all that is remembered."""
        assert self._kernel is not None
        past, sizes = self._rewarded, self._kernel.group_sizes
        self._level = past.mean
        parts = self._kernel(past.features) if len(past) else np.zeros((0, sum(sizes)))
        sums, squares = past.centred(self._level)
        if choose_scales:
            self._rho = self._best_scales(parts, sizes, past.counts, sums, squares)
        self._regression = self._regression_type(sizes, self._rho)
        if len(past):
            seen = Seen(*self._regression.scaled(parts), past.counts, sums)
            self._regression.condition(Moments(seen, squares))
        self._latest = None
        self._awaited.has_lost, self._since_rebuild = False, 0
        self._expect_all()

    def _fit(self, memory: Array) -> Features:
        """A kernel for images like those of `memory`, rows (n, d)."""
        return fit_kernel(memory, self._settings, self._rng)

    def _best_scales(
        self, parts: Array, sizes: tuple[int, ...], counts: Array, sums: Array, squares: float
    ) -> tuple[float, ...]:
        assert self._kernel is not None
        is_separated = self._kernel.is_separated
        return best_scales(
            parts, sizes, counts, sums, squares, self._prior_noise, is_separated=is_separated
        )

    def _expect_all(self) -> None:
        """Narrow the widths of a new posterior by everything that is awaited."""
        assert self._regression is not None
        before: defaultdict[bytes, float] = defaultdict(float)
        for (key, row), weight in zip(self._awaited.images, self._awaited.weights, strict=True):
            if weight > _FORGOTTEN:
                seen = self._seen(self._arms([key], row[None]), before[key])
                self._regression.expect(seen, weight)
                before[key] += weight

    def state_dict(self) -> State:
        """Everything learnt and remembered, and the generator."""
        return {
            "rng": self._rng.bit_generator.state,
            "offered": self._offered.state_dict(),
            "rewarded": self._rewarded.state_dict(),
            "awaited": self._awaited.state_dict(),
            "scale": self._scale.state_dict(),
            "rho": list(self._rho),
            "level": self._level,
            "since_rebuild": self._since_rebuild,
            "next_fit": self._next_fit,
            "kernel": None if self._kernel is None else self._kernel.state_dict(),
            "regression": None if self._regression is None else self._regression.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: If it was learnt with ids of items and creatives and this is without them,
                or the other way round.
        """
        if len(state["rho"]) != len(self.groups):
            was, here = "with", "without"
            if len(state["rho"]) < len(self.groups):
                was, here = here, was
            raise ValueError(
                f"the expert 'kernel' learnt {was} ids of items and creatives and is to go on "
                f"{here} them, as agents do that act on images alone: play with env.options "
                "context_ids false"
            )
        self._rng.bit_generator.state = state["rng"]
        self._offered.load_state_dict(state["offered"])
        self._rewarded.load_state_dict(state["rewarded"])
        self._awaited.load_state_dict(state["awaited"])
        self._scale.load_state_dict(state["scale"])
        self._rho = tuple(map(float, state["rho"]))
        self._level, self._next_fit = float(state["level"]), int(state["next_fit"])
        self._since_rebuild = int(state["since_rebuild"])
        kernel, regression = state["kernel"], state["regression"]
        self._kernel = None if kernel is None else self._kernel_type.from_state(kernel)
        kind = self._regression_type
        self._regression = None if regression is None else kind.from_state(regression)
        self._latest = None


def _fit_after(count: int) -> int:
    """When the next fit is due after one at `count` choices."""
    later = [step for step in _FIRST_FITS if step > count]
    return later[0] if later else int(count * _GROWTH) + 1
