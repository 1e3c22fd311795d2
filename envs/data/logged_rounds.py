"""Logged rounds: images, actions, rewards and propensities of a log."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vitucb.envs.data.tables import label_text

_BLACK = (32, 32, 3)  # a picture of nothing, for agents that never look


class Images(Protocol):
    """Images by index: uint8 (n, H, W, 3) for n of them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, 3)."""
        ...

    def __getitem__(self, indices: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """The images at `indices`."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LoggedRounds:
    """A log of n rounds with up to K arms.

    Attributes:
        name: Where it came from; error messages name it.
        images: The distinct images, decoded when looked at.
        items: Index of the image of every slot, int64 (n, K), or (n, 1) where one image is the
            context of all K actions; -1 where there is none.
        mask: 1 where an arm was on offer, int8 (n, K).
        actions: Chosen arms 0..K-1, int64 (n,).
        rewards: float64 (n,), finite.
        propensities: Probability of the chosen arm, float64 (n,), in (0, 1]; None if not kept.
        action_names: Names of the K actions of a context log, else empty.
        expected_rewards: True mean rewards, float64 (n, K), where the log was made up; else None.
        dropped: Rows left out because an image was missing, or the reward.
        contexts: What was seen instead of images, in place of each of them, float32 (N, d); None
            where images were seen. The images are black then.
    """

    name: str
    images: Images
    items: NDArray[np.int64]
    mask: NDArray[np.int8]
    actions: NDArray[np.int64]
    rewards: NDArray[np.float64]
    propensities: NDArray[np.float64] | None
    action_names: tuple[str, ...] = ()
    expected_rewards: NDArray[np.float64] | None = None
    dropped: int = 0
    contexts: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.actions)

    def __deepcopy__(self, memo: dict[int, object]) -> LoggedRounds:
        return self  # never written to, and gymnasium deep-copies the arguments of an environment

    @property
    def num_arms(self) -> int:
        """Largest number of arms on offer, K."""
        return int(self.mask.shape[1])

    def with_actions(self, names: Sequence[str]) -> LoggedRounds:
        """The same rounds with the actions of a log of contexts in the order of `names`.

        Actions that the log does not name come with columns of their own. They were on offer like
        all others, save in rounds in which others were not, and in a log that knows the mean
        rewards of all there were.

        Raises:
            ValueError: If the log has an image per arm, `names` are not at least two different
                ones, or an action of the log is not among them.
        """
        names = tuple(map(str, names))
        texts, own = [*map(label_text, names)], [*map(label_text, self.action_names)]
        if not self.action_names:
            raise ValueError(
                f"log {self.name}: every arm has its image, and actions are positions among them; "
                "name no actions"
            )
        if len(names) < 2 or len(set(texts)) < len(names):
            raise ValueError(f"actions {_listed(names)}: give at least two, and each once")
        for unknown in sorted(set(own) - set(texts)):
            raise ValueError(
                f"log {self.name}: its action {unknown!r} is not among {_listed(names)}"
            )
        place = np.array([texts.index(text) for text in own])
        means = self.expected_rewards

        def moved(columns: NDArray[Any], absent: float | NDArray[Any]) -> NDArray[Any]:
            wide = np.empty((len(self), len(names)), columns.dtype)
            wide[:] = absent
            wide[:, place] = columns
            return wide

        return dataclasses.replace(
            self,
            mask=moved(self.mask, self.mask.min(axis=1, keepdims=True) if means is None else 0),
            actions=place[self.actions],
            action_names=names,
            expected_rewards=None if means is None else moved(means, 0.0),
        )

    def first(self, count: int) -> LoggedRounds:
        """The first `count` rounds.

        Raises:
            ValueError: If `count` is below 1.
        """
        if count < 1:
            raise ValueError(f"log {self.name}: {count} rounds asked for; take at least 1")
        means, propensities = self.expected_rewards, self.propensities
        return dataclasses.replace(
            self,
            items=self.items[:count],
            mask=self.mask[:count],
            actions=self.actions[:count],
            rewards=self.rewards[:count],
            propensities=None if propensities is None else propensities[:count],
            expected_rewards=None if means is None else means[:count],
        )

    def observation(self, index: int) -> dict[str, NDArray[Any]]:
        """What was on offer in round `index`.

        Returns:
            `images` uint8 (K, H, W, 3), black where no arm was, or (1, H, W, 3) where the context
            is shared; `action_mask` int8 (K,); `context` float32 (d,) in a log without images.
        """
        items = self.items[index]
        images = np.zeros((len(items), *self.images.shape[1:]), np.uint8)
        images[items >= 0] = self.images[items[items >= 0]]
        seen = {"images": images, "action_mask": self.mask[index].copy()}
        return seen if self.contexts is None else seen | {"context": self.contexts[items[0]]}


def rounds_without_images(
    name: str,
    contexts: NDArray[np.floating],
    mask: NDArray[np.int8],
    *,
    actions: NDArray[np.int64],
    rewards: NDArray[np.float64],
    propensities: NDArray[np.float64] | None,
    action_names: tuple[str, ...],
    expected_rewards: NDArray[np.float64] | None = None,
    dropped: int = 0,
) -> LoggedRounds:
    """A log of rounds whose contexts are vectors (n, d); the rest as in `LoggedRounds`."""
    distinct, items = np.unique(np.asarray(contexts, np.float32), axis=0, return_inverse=True)
    black = np.broadcast_to(np.zeros(_BLACK[2:], np.uint8), (len(distinct), *_BLACK))
    return LoggedRounds(
        name=name,
        images=black,
        items=items.reshape(-1, 1).astype(np.int64),
        mask=mask,
        actions=actions,
        rewards=rewards,
        propensities=propensities,
        action_names=action_names,
        expected_rewards=expected_rewards,
        dropped=dropped,
        contexts=distinct,
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
