"""How often the images of a run came again: says how far remembering them alone could go."""

from __future__ import annotations

import numpy as np

from vitucb.learning.recurrence import Recurrence
from vitucb.types import Observation, State


class OfferedImages:
    """Counts the images on offer in every round; unknown once a round could not be counted."""

    def __init__(self) -> None:
        """Start before the first round."""
        self._recurrence: Recurrence | None = Recurrence()

    def add(self, obs: Observation) -> None:
        """Count the images of a round that an arm may be chosen for.

        Args:
            obs: `images` (K, H, W, C), or (1, H, W, C) for all arms, and `action_mask` (K,). Where
                `images` holds no pixels, names of files, say, nothing is known.
        """
        if self._recurrence is None:
            return
        images = [np.asarray(image) for image in obs.get("images", ())]
        if any(image.dtype.kind not in "buif" or not image.ndim for image in images):
            self._recurrence = None
            return
        allowed = np.asarray(obs["action_mask"]).astype(bool).tolist()
        if len(images) == len(allowed):
            # A masked arm is not on offer, and what stands in its place may be a blank.
            images = [
                image for image, is_allowed in zip(images, allowed, strict=True) if is_allowed
            ]
        self._recurrence.add(images)

    def summary(self) -> dict[str, float]:
        """`distinct_images` and `offers_per_image`, a mean; empty where they are not known."""
        if self._recurrence is None or not self._recurrence.distinct_images:
            return {}
        return {
            "distinct_images": self._recurrence.distinct_images,
            "offers_per_image": self._recurrence.offers_per_image,
        }

    def state_dict(self) -> State:
        """The counts; empty where they are not known."""
        return {} if self._recurrence is None else self._recurrence.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned; of nothing, all that follows stays unknown."""
        # Counting from here on would pass for the whole run.
        self._recurrence = Recurrence() if state else None
        if self._recurrence is not None:
            self._recurrence.load_state_dict(state)
