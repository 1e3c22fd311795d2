"""Features of the two-scale kernel as inputs of a head for labels.

Which images are alike is known from pixels alone, long before labels are: a head on clusters and
neighbours of the images offered so far needs few rewards to name a group of them. This is
semi-supervised learning under bandit feedback; see `features` for what the kernel is made of.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vitucb.learning.experts.expert import Array, Offer
from vitucb.learning.experts.kernel.features import KernelFeatures, KernelSettings, fit_kernel
from vitucb.learning.experts.kernel.scales import START
from vitucb.learning.image_memory import ImageMemory, image_key
from vitucb.seeding import numpy_generator
from vitucb.types import State

_OFFERED = 2_000
_FIRST_FIT = 10
_GROWTH = 1.5
_CHUNK = 1_024


class KernelInputs:
    """Kernel features of images, fitted to the latest distinct ones that were offered.

    They are fitted after 10 images, and again whenever the rounds have grown by half.
    """

    def __init__(self, seed: int) -> None:
        """Start from no images; the seed is of the starts of k-means."""
        self._rng = numpy_generator(seed, "label kernel")
        self._offered = ImageMemory(_OFFERED)
        self._kernel: KernelFeatures | None = None
        self._scales = np.zeros(0)
        self._rounds, self._next_fit = 0, _FIRST_FIT
        self._forget()

    def _forget(self) -> None:
        """Inputs of the history have to be made anew."""
        self._known = np.zeros((0, self.dim), np.float32)
        self._known_rounds = np.zeros(0, np.int64)

    @property
    def dim(self) -> int:
        """Number of inputs m; 0 before there are any."""
        return len(self._scales)

    @property
    def is_due(self) -> bool:
        """Whether the rounds have grown by half, and there are images enough."""
        return self._rounds >= self._next_fit and len(self._offered) >= _FIRST_FIT

    def see(self, offer: Offer) -> None:
        """Remember the image of a round."""
        self._offered.add([image_key(offer.images[0])], offer.features[:1].double().numpy())
        self._rounds += 1

    def refit(self) -> None:
        """Fit the kernel to the images remembered."""
        self._set(fit_kernel(self._offered.features, KernelSettings(), self._rng))
        self._next_fit = int(self._rounds * _GROWTH) + 1
        self._forget()

    def _set(self, kernel: KernelFeatures) -> None:
        self._kernel = kernel
        self._scales = np.repeat(np.sqrt(START), kernel.group_sizes)

    def of(self, features: Array) -> Array:
        """Inputs (m,) of frozen features (d,)."""
        inputs: Array = self._map(features[None])[0]
        return inputs

    def _map(self, rows: Array) -> Array:
        if self._kernel is None:
            return np.zeros((len(rows), 0))
        inputs: Array = self._kernel(rows) * self._scales
        return inputs

    def of_all(
        self, features: NDArray[np.float32], rounds: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Inputs (n, m) of a history; those made before are kept."""
        count, held = len(rounds), len(self._known)
        self._known = np.pad(self._known, ((0, count - held), (0, 0)))
        self._known_rounds = np.pad(self._known_rounds, (0, count - held), constant_values=-1)
        missing = np.flatnonzero(self._known_rounds != rounds)
        for start in range(0, len(missing), _CHUNK):
            rows = missing[start : start + _CHUNK]
            self._known[rows] = self._map(features[rows].astype(np.float64))
        self._known_rounds = rounds.copy()
        return self._known

    def state_dict(self) -> State:
        """Images, kernel, inputs of the history, counters and generator."""
        return {
            "offered": self._offered.state_dict(),
            "kernel": None if self._kernel is None else self._kernel.state_dict(),
            "known": self._known.copy(),
            "known_rounds": self._known_rounds.copy(),
            "rounds": self._rounds,
            "next_fit": self._next_fit,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._offered.load_state_dict(state["offered"])
        if state["kernel"] is None:
            self._kernel, self._scales = None, np.zeros(0)
        else:
            self._set(KernelFeatures.from_state(state["kernel"]))
        self._known = np.array(state["known"], np.float32)
        self._known_rounds = np.array(state["known_rounds"], np.int64)
        self._rounds, self._next_fit = int(state["rounds"]), int(state["next_fit"])
        self._rng.bit_generator.state = state["rng"]
