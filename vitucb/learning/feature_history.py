"""The covariance of the features of past choices, kept true to the adapters of today.

Adapters move with every reward, and the rows that are already in the covariance go stale: squared
widths come out too large, by 2 to 14 times after a hundred steps of a large learning rate. So the
rows are computed anew from the images, whenever the history has doubled, and whenever a probe of
them has moved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitucb.covariance import FeatureCovariance
from vitucb.covariance.projected import ProjectedCovariance
from vitucb.learning.feature_maps import FeatureMap, FeatureScale, GradientMap
from vitucb.learning.links import Link
from vitucb.learning.refresh import LEAST_WEIGHT, RefreshSchedule, RefreshSettings
from vitucb.learning.replay import Replay
from vitucb.storage.limits import limit
from vitucb.types import State

_CHUNK = 64
_PROBE = 8
# Images on offer lately whose mean feature is the centre.
_OFFERED = 80
# Decisions whose reward may never come are counted in the covariance while they are remembered.
MAX_PENDING = 1_000

Images = list[NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A choice, as a history elsewhere needs it to count it too.

    Attributes:
        round: When it was made.
        phi: Its scaled features (p,).
        weight: Of the observation.
        image: What was chosen, uint8 (H, W, C), or the context of the choice.
        action: Output of the model that scores it.
    """

    round: int
    phi: Tensor
    weight: float
    image: NDArray[np.uint8]
    action: int


class FeatureHistory:
    """Scores arms, and keeps the covariance of what was chosen.

    Attributes:
        covariance: A over the scaled features.
        mean_of_all: Where several histories must stay equal: the mean (1, p) of the features (n, p)
            that each of them gives; the features are centred on it.
    """

    def __init__(
        self,
        features: FeatureMap,
        covariance: FeatureCovariance,
        scale: FeatureScale,
        replay: Replay,
        link: Link,
        inputs: Callable[[Images], Tensor],
        settings: RefreshSettings,
    ) -> None:
        """Put the parts together.

        Args:
            features: Scores and features of arms.
            covariance: A over as many features.
            scale: Centres and scales them.
            replay: Images of the choices whose reward has come.
            link: Weight of an observation.
            inputs: Images to the model's input (b, 3, H, W).
            settings: When rows are computed anew.
        """
        self.covariance, self.scale = covariance, scale
        self.mean_of_all: Callable[[Tensor], Tensor] | None = None
        self._features, self._replay, self._link, self._inputs = features, replay, link, inputs
        self._schedule, self._discount = RefreshSchedule(settings), settings.discount
        self._probe: Tensor | None = None
        # Of what the probe are the features: a full replay will hold other images in its slots.
        self._probed: list[tuple[NDArray[np.uint8], int]] = []
        self._pending: dict[int, tuple[NDArray[np.uint8], int]] = {}
        self._round_of_slot: list[int] = []
        self._offered: deque[tuple[NDArray[np.uint8], int]] = deque(maxlen=_OFFERED)
        self._mark: tuple[State, dict[int, tuple[NDArray[np.uint8], int]]] | None = None

    def preview(self, phi: Tensor) -> Tensor:
        """What `scaled` would give, but nothing is remembered."""
        if not self.scale.needs_centre:
            return self.scale(phi)
        scale = FeatureScale(self._features.dims)
        scale.centre_on(phi)
        return scale(phi)

    def scaled(self, images: Images, actions: NDArray[np.int64], phi: Tensor) -> Tensor:
        """Features (K, p) of the arms on offer, of length 1; centred if they share an intercept."""
        if self.scale.is_centring:
            self._offered.extend(zip((np.array(i) for i in images), actions.tolist(), strict=True))
        if self.scale.needs_centre:
            self._centre_on(phi)
        return self.scale(phi)

    def _centre_on(self, phi: Tensor) -> None:
        self.scale.centre_on(phi if self.mean_of_all is None else self.mean_of_all(phi))

    def score(self, images: Images, actions: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Scores (n,) and unscaled features (n, p) of images and the outputs that score them."""
        is_shared = len(images) > 1 and all(image is images[0] for image in images)
        inputs = self._inputs(images[:1] if is_shared else images)
        if is_shared:  # with a stride of 0, by which a map can tell
            inputs = inputs.expand(len(images), *inputs.shape[1:])
        return self._features(inputs, torch.as_tensor(actions, device=inputs.device))

    @property
    def image_passes(self) -> int:
        """Images that went through the adapted blocks so far, each way counted."""
        return self._features.passes

    @property
    def is_discounted(self) -> bool:
        """Whether past choices lose weight."""
        return self._discount < 1

    def decay(self) -> None:
        """Let a round pass: every past choice counts `discount` times what it did."""
        if self.is_discounted:
            self.covariance.discount(self._discount)

    def choose(
        self, index: int, weight: float, round: int, image: NDArray[np.uint8], action: int
    ) -> None:
        """Count arm `index` of the batch last scored by the covariance as chosen in `round`."""
        self.covariance.update(index=index, weight=weight)
        self._await_reward(round, image, action)

    def _await_reward(self, round: int, image: NDArray[np.uint8], action: int) -> None:
        self._pending[round] = (np.array(image), action)
        while len(self._pending) > MAX_PENDING or self._pends_too_much():
            del self._pending[next(iter(self._pending))]

    def _pends_too_much(self) -> bool:
        size = sum(image.nbytes for image, _ in self._pending.values())
        return len(self._pending) > 1 and size > limit("waiting_mib") << 20

    def mark(self) -> None:
        """Remember which choices count now, for `merge`; copies the covariance."""
        self._mark = (self.covariance.state_dict(), dict(self._pending))

    def merge(self, choices: Sequence[Chosen]) -> None:
        """Count `choices`, the oldest first, instead of those made since the mark.

        Raises:
            RuntimeError: If there is no mark.
        """
        if self._mark is None:
            raise RuntimeError("merge needs a mark to go back to; call mark first")
        covariance, self._pending = self._mark
        self.covariance.load_state_dict(covariance)
        self._mark = None
        if not choices:
            return
        # As if a round passed before each: all of it at once, since discounts multiply.
        decay = self._discount ** np.arange(len(choices))[::-1]
        if self.is_discounted:
            self.covariance.discount(self._discount ** len(choices))
        weights = np.array([choice.weight for choice in choices]) * decay
        self.covariance.update(torch.stack([c.phi for c in choices]), torch.as_tensor(weights))
        for choice in choices:
            self._await_reward(choice.round, choice.image, choice.action)

    def rewarded(self, round: int, slot: int | None) -> None:
        """The reward of the choice of `round` has come, and is in `slot` of the replay."""
        self._pending.pop(round, None)
        if slot == len(self._round_of_slot):
            self._round_of_slot.append(round)
        elif slot is not None:
            self._round_of_slot[slot] = round

    def refresh(self, now: int) -> dict[str, float]:
        """Rebuild when due; metrics of what was found.

        Args:
            now: Rounds decided so far.
        """
        if not len(self._replay):
            return {}
        metrics: dict[str, float] = {}
        schedule, rows = self._schedule, len(self._replay)
        is_due = schedule.is_rebuild_due(now)
        if not is_due and schedule.is_probe_due(now):
            schedule.probed(now, rows)
            metrics["covariance/drift"] = drift = self._probe_drift()
            is_due = schedule.has_moved(drift)
        if is_due:
            schedule.rebuilt(now, rows)
            metrics |= self._rebuild(now)
        return metrics

    def forget(self, now: int) -> None:
        """Forget every choice; the next rebuild is due as at the start."""
        self.covariance.rebuild([])
        self._pending, self._round_of_slot = {}, []
        self._probe, self._probed = None, []
        self._schedule.restart(now)

    def _probe_drift(self) -> float:
        """Relative change |new - old| / |old| of the probe's features since the last rebuild."""
        if self._probe is None:
            return 0.0
        old, newer = self._probe, self._replay.items(slice(len(self._probe), _PROBE))
        # A short probe is topped up: the bits of a pass depend on its size.
        images = [*(image for image, _ in self._probed), *newer.images]
        actions = [*(action for _, action in self._probed), *newer.actions]
        fresh = self.scale(self.score(images, np.array(actions, np.int64))[1])[: len(old)]
        old = old.to(fresh.device)
        return float((fresh - old).norm() / old.norm().clamp_min(1e-20))

    def _rebuild(self, now: int) -> dict[str, float]:
        """Compute all rows anew; how far off the stale ones were, and what the new ones may be."""
        if self.scale.is_centring:
            images, actions = zip(*self._offered, strict=True)
            self._centre_on(self.score(list(images), np.array(actions, np.int64))[1])
        newest = self._replay.items(slice(-_PROBE, None))
        query = self.scale(self.score(newest.images, newest.actions)[1])
        stale = self.covariance.quad_form(query).mean()
        self.covariance.rebuild([])
        for phi, weights in self._rows(now):
            self.covariance.update(phi, weights)
        fresh = self.covariance.quad_form(query).mean()
        return {
            "covariance/stale_ratio": float(stale / fresh.clamp_min(1e-12)),
            **self.covariance.certificate(query),
            **self._sketch_ratio(),
        }

    def _sketch_ratio(self) -> dict[str, float]:
        """Where features are projected: squared widths with, over without, on a few choices."""
        if not (
            isinstance(self.covariance, ProjectedCovariance)
            and isinstance(self._features, GradientMap)
        ):
            return {}
        newest = self._replay.items(slice(-2 * _PROBE, None))
        inputs = self._inputs(newest.images)
        actions = torch.as_tensor(newest.actions, device=inputs.device)
        raw = self._features.unprojected(inputs, actions)
        raw = raw / raw.norm(dim=1, keepdim=True).clamp_min(1e-20)
        half = len(raw) // 2
        return self.covariance.observed_ratio(raw[:half], raw[half:]) if half else {}

    def _rows(self, now: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Scaled features and weights of all choices, in chunks; keeps the probe."""
        # A replay past its capacity is a uniform sample: each item stands for several rounds.
        share = self._replay.seen / len(self._replay) if self._replay.keep == "reservoir" else 1.0
        for start in range(0, len(self._replay), _CHUNK):
            batch = self._replay.items(slice(start, start + _CHUNK))
            rounds = [self._round_of_slot[slot] for slot in batch.slots]
            phi, weights = self._weighted(batch.images, batch.actions, rounds, now)
            if start == 0:
                self._probe = phi[:_PROBE].clone()
                probed = zip(batch.images, batch.actions.tolist(), strict=True)
                self._probed = list(probed)[:_PROBE]
            yield phi, share * weights
        waiting = list(self._pending.items())
        for start in range(0, len(waiting), _CHUNK):
            chunk = waiting[start : start + _CHUNK]
            actions = np.array([action for _, (_, action) in chunk], np.int64)
            images = [image for _, (image, _) in chunk]
            rounds = [round for round, _ in chunk]
            yield self._weighted(images, actions, rounds, now)

    def _weighted(
        self, images: Images, actions: NDArray[np.int64], rounds: list[int], now: int
    ) -> tuple[Tensor, Tensor]:
        scores, phi = self.score(images, actions)
        weights = self._link.weight(scores.double().cpu().numpy())
        decay = self._discount ** (now - 1.0 - np.array(rounds))
        weights = weights * np.where(decay < LEAST_WEIGHT, 0.0, decay)
        return self.scale(phi), torch.as_tensor(weights, device=phi.device)

    def state_dict(self) -> State:
        """Covariance, scale, probe, pending choices and bookkeeping."""
        return {
            "covariance": self.covariance.state_dict(),
            "features": self._features.state_dict(),
            "scale": self.scale.state_dict(),
            **self._schedule.state_dict(),
            "probe": None if self._probe is None else self._probe.clone(),
            "probed": [[image, action] for image, action in self._probed],
            "pending": {str(r): [image, a] for r, (image, a) in self._pending.items()},
            "round_of_slot": np.array(self._round_of_slot, np.int64),
            "offered": [[image, action] for image, action in self._offered],
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.covariance.load_state_dict(state["covariance"])
        self._features.load_state_dict(state["features"])
        self.scale.load_state_dict(state["scale"])
        self._schedule.load_state_dict(state)
        # Without its images, as older states are, a probe tells nothing.
        probed, probe = state.get("probed", []), state["probe"]
        self._probed = [(np.asarray(image, np.uint8), int(action)) for image, action in probed]
        self._probe = probe.clone() if probed and probe is not None else None
        pending = state["pending"].items()
        self._pending = {int(r): (np.asarray(im, np.uint8), int(a)) for r, (im, a) in pending}
        self._round_of_slot = [int(r) for r in state["round_of_slot"]]
        self._offered.clear()
        self._offered.extend((np.asarray(i, np.uint8), int(a)) for i, a in state["offered"])
