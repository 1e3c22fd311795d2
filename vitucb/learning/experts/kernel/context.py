"""The expert `kernel` where an environment tells the item and the creative of every arm.

    y = level + g_item + phi' theta + u_creative + noise
    g ~ N(0, rho_item sigma^2),   u_creative ~ N(0, (v_i + rho_creative) sigma^2)

with phi, theta and v_i of `regression`: two further kernels, 1 where two arms are of one item, and
1 where they are one creative. Items are indicator features, `_MOST_ITEMS` at most: past it, items
whose ids leave the same remainder share one (feature hashing; Weinberger et al., ICML 2009).
Creatives need none, however many there are: a creative is one picture, and its effect is integrated
out with that of the picture, as there. So another reward stays an update of rank one, and the
posterior exact. Both variances are chosen by evidence after those of the picture's kernel.

An item is worth the same to all its creatives, and stands with constant and coarse part in the
width: rewards of its creatives tell the sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from vitucb.learning.experts.expert import Offer
from vitucb.learning.experts.kernel.expert import KernelExpert
from vitucb.learning.experts.kernel.features import GROUPS, Features, KernelFeatures, fit_kernel
from vitucb.learning.experts.kernel.regression import (
    Moments,
    Seen,
    TwoScaleRegression,
    log_evidence,
    prior_scales,
)
from vitucb.learning.experts.kernel.scales import START, best_scales
from vitucb.learning.image_memory import KEY_BYTES
from vitucb.types import State

Array = NDArray[np.float64]
_MOST_ITEMS = 256
# Clicks of one impression have a noise of many times the effects, those of thousands a fraction.
_VARIANCES = (0.003, 0.03, 0.3, 3.0, 30.0)
_CENTER, _DEVIATION = 0.1, 2.0  # log-normal prior of either


@dataclass(frozen=True, slots=True)
class ContextFeatures:
    """Indicators of items, then the features of a kernel of pictures.

    Attributes:
        pictures: Of all columns of a row but the last, which is the indicator of the item.
        num_items: Number of indicators.
    """

    pictures: KernelFeatures
    num_items: int

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Numbers of features of the groups."""
        return (self.num_items, *self.pictures.group_sizes)

    @property
    def is_separated(self) -> bool:
        """Whether the pictures fall into parts that hardly any neighbours join."""
        return self.pictures.is_separated

    def __call__(self, features: Array) -> Array:
        """Features of all groups (n, m) of rows (n, d + 1)."""
        items = np.eye(self.num_items)[features[:, -1].astype(np.int64)]
        return np.concatenate([items, self.pictures(features[:, :-1])], axis=1)

    def state_dict(self) -> State:
        """All attributes."""
        return {"pictures": self.pictures.state_dict(), "num_items": self.num_items}

    @classmethod
    def from_state(cls, state: State) -> ContextFeatures:
        """What `state_dict` described."""
        return cls(KernelFeatures.from_state(state["pictures"]), int(state["num_items"]))


class ContextRegression(TwoScaleRegression):
    """The posterior with the variance of items before those of pictures, of creatives after."""

    def __init__(self, sizes: Sequence[int], rho: Sequence[float]) -> None:
        """The prior.

        Args:
            sizes: Number of items, then numbers of features of the groups of a kernel.
            rho: Prior variances of items, groups and creatives, in units of the noise variance.
        """
        super().__init__(sizes, rho[:-1])
        self._creative = rho[-1]

    def scaled(self, parts: Array) -> tuple[Array, Array]:
        """Scaled features (n, m) and prior variances of effects (n,) of parts (n, m - 1)."""
        phi, effects = super().scaled(parts)
        return phi, effects + self._creative

    def state_dict(self) -> State:
        """Prior and posterior."""
        state = super().state_dict()
        return state | {"rho": [*state["rho"], self._creative]}


class ContextKernelExpert(KernelExpert):
    """`KernelExpert` that is told item and creative of every arm by `Offer.context`."""

    groups = ("item", *GROUPS, "creative")
    _start = (_CENTER, *START, _CENTER)
    _num_ids = 1
    _kernel_type = ContextFeatures
    _regression_type = ContextRegression

    def __init__(
        self,
        seed: int,
        *,
        num_items: int,
        coarse_alpha: float = 2.0,
        fine_alpha: float = 0.5,
        discount: float = 1.0,
    ) -> None:
        """Start with nothing learnt.

        Args:
            seed: Of the starts of k-means.
            num_items: Ids of items are 0 to one less than that.
            coarse_alpha: Multiplier of the deviation of constant, item and coarse part.
            fine_alpha: Multiplier of the deviation of all that is a creative's own.
            discount: Weight of an observation after one more round, 1 for none.

        Raises:
            ValueError: If a multiplier is negative or the discount not in (0, 1].
        """
        super().__init__(seed, coarse_alpha=coarse_alpha, fine_alpha=fine_alpha, discount=discount)
        self._num_items = min(num_items, _MOST_ITEMS)

    def _rows(self, offer: Offer) -> tuple[list[bytes], Array]:
        pictures, features = super()._rows(offer)
        if offer.context is None:
            raise ValueError(
                "the expert 'kernel' was built with ids of items and creatives, and this "
                "observation has no context; give int64 (K, 2)"
            )
        items, creatives = np.asarray(offer.context, np.int64).T
        keys = [
            blake2b(picture + creative.tobytes(), digest_size=KEY_BYTES).digest()
            for picture, creative in zip(pictures, creatives, strict=True)
        ]
        # As a column of the row it is remembered, awaited and merged with the features.
        return keys, np.column_stack([features, items % self._num_items])

    def _fit(self, memory: Array) -> Features:
        rows = memory[:, :-1]
        # One picture of many creatives is one point: else its neighbours would all be itself.
        first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
        pictures = fit_kernel(rows[first], self._settings, self._rng)
        return ContextFeatures(pictures, self._num_items)

    def _best_scales(
        self, parts: Array, sizes: tuple[int, ...], counts: Array, sums: Array, squares: float
    ) -> tuple[float, ...]:
        item, *_, creative = self._rho
        assert self._kernel is not None
        pictures = best_scales(
            parts,
            sizes,
            counts,
            sums,
            squares,
            self._prior_noise,
            is_separated=self._kernel.is_separated,
            first=(item,),
            own=creative,
        )

        phi = np.concatenate([np.ones((len(parts), 1)), parts], axis=1)
        whole = TwoScaleRegression(sizes, (item, *pictures)).scaled(parts)[1]
        scored = []
        for creative in _VARIANCES:
            moments = Moments(Seen(phi, whole + creative, counts, sums), squares)
            for item in _VARIANCES:
                scales = prior_scales(sizes, (item, *pictures))
                evidence = log_evidence(moments, self._prior_noise, scales)
                scored.append((evidence + _log_prior((item, creative)), item, creative))
        _, item, creative = max(scored)
        return (item, *pictures, creative)


def _log_prior(variances: Sequence[float]) -> float:
    return -sum((math.log(value / _CENTER) / _DEVIATION) ** 2 / 2 for value in variances)
