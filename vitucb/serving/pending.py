"""Decisions that wait for their reward: a bounded table, by id.

Rewards come when they like, in any order, twice or never. What a late reward needs is kept, and no
more of it than that; past the cap the oldest decision is forgotten and counted.
"""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vitucb.storage.limits import check_limit, check_observation, limit
from vitucb.types import Decision, Observation, State, decision_from_state, decision_state

Closed = Literal["answered", "forgotten"]


@dataclass(frozen=True, slots=True)
class PendingDecision:
    """A decision, and what a reward of it will need.

    Attributes:
        images: All images of the observation uint8 (n, H, W, C), or the chosen one alone
            (1, H, W, C).
        num_images: n, however many are kept.
        action_mask: int8 (K,).
        decision: Without its feature where nothing will be learnt from it.
    """

    images: NDArray[np.uint8]
    num_images: int
    action_mask: NDArray[np.int8]
    decision: Decision

    @classmethod
    def of(
        cls, obs: Observation, decision: Decision, *, whole: bool, with_phi: bool
    ) -> PendingDecision:
        """Keep a copy of the observation, `whole` or the chosen image of it, and the decision."""
        images, phi = obs["images"], decision.phi
        keep_all = whole or len(images) == 1
        kept = images if keep_all else images[decision.action : decision.action + 1]
        # A row of a (K, p) tensor would keep all of it.
        phi = phi.clone() if with_phi and hasattr(phi, "clone") else phi if with_phi else None
        slim = dataclasses.replace(decision, phi=phi)
        return cls(np.array(kept), len(images), np.array(obs["action_mask"]), slim)

    @property
    def observation(self) -> Observation:
        """What was seen; where only the chosen image is kept, it stands in every arm's place."""
        images = self.images
        if len(images) < self.num_images:
            shape = (self.num_images, *images.shape[1:])
            # No copies, and writable as agents expect, unlike np.broadcast_to.
            images = np.lib.stride_tricks.as_strided(images, shape, (0, *images.strides[1:]))
        return {"images": images, "action_mask": self.action_mask}

    @property
    def nbytes(self) -> int:
        """Memory that it takes, bytes."""
        decision = self.decision
        arrays = (self.images, self.action_mask, decision.mean, decision.width, decision.bonus)
        return sum(int(getattr(each, "nbytes", 0)) for each in (*arrays, decision.phi))

    def state_dict(self) -> State:
        """Arrays and numbers."""
        return {
            "images": self.images,
            "num_images": self.num_images,
            "action_mask": self.action_mask,
            "decision": decision_state(self.decision),
        }

    @classmethod
    def from_state(cls, state: State, agent: object) -> PendingDecision:
        """What `state_dict` described of a decision of `agent`.

        Raises:
            ValueError: If it is of more arms or pixels than the limits allow.
        """
        images, mask = np.asarray(state["images"], np.uint8), np.asarray(state["action_mask"])
        num_images = int(state["num_images"])
        check_observation(num_images, images.nbytes // max(1, len(images)), "a waiting decision")
        check_limit("arms", len(mask), "a waiting decision: its arms,")
        return cls(
            images,
            num_images,
            mask.astype(np.int8),
            decision_from_state(state["decision"], agent),
        )


@dataclass(slots=True)
class PendingDecisions:
    """The decisions that wait, oldest first, and how the latest others ended.

    Attributes:
        capacity: Most decisions kept; as many ids are remembered after their end.
        decided: Decisions ever added.
        forgotten: Decisions that were dropped for want of room.
    """

    capacity: int
    decided: int = 0
    forgotten: int = 0
    _waiting: dict[str, PendingDecision] = field(default_factory=dict)
    _closed: dict[str, Closed] = field(default_factory=dict)
    _bytes: int = 0
    # Two processes that go on from one saved agent must not give out the same ids.
    _prefix: str = field(default_factory=lambda: secrets.token_hex(4))

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ValueError(f"max_unanswered {self.capacity} must be at least 1")

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def num_held(self) -> int:
        """Everything held: decisions that wait and ids that are remembered."""
        return len(self._waiting) + len(self._closed)

    def add(self, waiting: PendingDecision) -> str:
        """Keep a decision; its id."""
        name = f"{self._prefix}-{self.decided}"
        self.decided += 1
        self._waiting[name] = waiting
        self._bytes += waiting.nbytes
        self._drop_oldest()
        return name

    def find(self, name: str) -> PendingDecision | None:
        """The decision of this id, if it waits."""
        return self._waiting.get(name)

    def answer(self, name: str) -> None:
        """The reward of this decision was learnt."""
        self._bytes -= self._waiting.pop(name).nbytes
        self._close(name, "answered")

    def end_of(self, name: str) -> Closed | None:
        """How a decision that no longer waits ended, as far as that is remembered."""
        return self._closed.get(name)

    def _drop_oldest(self) -> None:
        most = limit("waiting_mib") << 20
        while len(self._waiting) > self.capacity or (self._bytes > most and len(self._waiting) > 1):
            oldest = next(iter(self._waiting))
            self._bytes -= self._waiting.pop(oldest).nbytes
            self.forgotten += 1
            self._close(oldest, "forgotten")

    def _close(self, name: str, end: Closed) -> None:
        self._closed[name] = end
        if len(self._closed) > self.capacity:
            del self._closed[next(iter(self._closed))]

    def state_dict(self) -> State:
        """What waits, what is remembered, and the counts."""
        return {
            "capacity": self.capacity,
            "decided": self.decided,
            "forgotten": self.forgotten,
            "waiting": {name: waiting.state_dict() for name, waiting in self._waiting.items()},
            "closed": dict(self._closed),
        }

    def load_state_dict(self, state: State, agent: object) -> None:
        """Restore what `state_dict` returned of decisions of `agent`, save the capacity.

        New ids get another prefix.
        """
        self.decided, self.forgotten = int(state["decided"]), int(state["forgotten"])
        waiting: dict[str, Any] = state["waiting"]
        self._waiting = {name: PendingDecision.from_state(s, agent) for name, s in waiting.items()}
        self._bytes = sum(each.nbytes for each in self._waiting.values())
        self._closed = dict(list(state["closed"].items())[-self.capacity :])
        self._drop_oldest()
