"""K random rated images a round: the recommendation bandit."""

from __future__ import annotations

from vitucb.envs.image_arms import ImageArmsEnv
from vitucb.envs.image_bandit import DatasetLike


class RatedItemsEnv(ImageArmsEnv):
    """K distinct random images of a rated set a round, each worth its rating plus noise.

    ## Description
    Choosing an image pays N(its rating, noise_std^2): `ImageArmsEnv` with `reward="score"`, the law
    of the third experiment of the ViT-UCB research prototype. Every image may come up in every
    slot, so that context-free bandits learn nothing.

    ## Arguments
    - `dataset`: a rated set: an `.npz` file with `scores`, a manifest with a `score` column, or an
      `ImageDataset` with scores. The default, `digits#value`, is a stand-in that needs no download
      and that nobody rated: its rating of a handwritten digit is the digit, 0 to 9.
    - `num_arms`: K, at most the number of images.
    - `noise_std`: standard deviation of the rewards, in units of the rating.
    - `image_size`, `render_mode` as in `ImageArmsEnv`.

    ## Version History
    - v0: first version.

    Raises:
        ValueError: As `ImageArmsEnv`.
    """

    def __init__(
        self,
        dataset: DatasetLike = "digits#value",
        num_arms: int = 3,
        noise_std: float = 1.0,
        image_size: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            dataset,
            num_arms=num_arms,
            reward="score",
            noise_std=noise_std,
            image_size=image_size,
            render_mode=render_mode,
        )
