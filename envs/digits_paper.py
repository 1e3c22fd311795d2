"""The fixed-slot digits bandit of the ViT-UCB research prototype."""

from __future__ import annotations

from vitucb.envs.image_arms import ImageArmsEnv
from vitucb.envs.image_bandit import DatasetLike


class DigitsPaperEnv(ImageArmsEnv):
    """Ten arms in fixed slots: arm i shows a random image of digit i and pays N(i, 3^2).

    ## Description
    `ImageArmsEnv` with `num_arms=10, reward="gaussian", noise_std=3.0, shuffle_slots=False`. The
    slot alone gives the mean away, so context-free bandits solve it too: read results beside
    UCB1's.

    ## Arguments
    `dataset`, `image_size`, `render_mode` as in `ImageArmsEnv`; the set needs at least ten classes.

    ## Version History
    - v0: first version.

    Raises:
        ValueError: As `ImageArmsEnv`.
    """

    def __init__(
        self,
        dataset: DatasetLike = "digits",
        image_size: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            dataset,
            num_arms=10,
            reward="gaussian",
            noise_std=3.0,
            image_size=image_size,
            shuffle_slots=False,
            render_mode=render_mode,
        )
