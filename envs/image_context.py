"""One image a round, K labels to choose from: the image-context bandit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from vitucb.envs.data.image_dataset import ImageDataset
from vitucb.envs.image_bandit import DatasetLike, ImageBandit, checked_means

ContextLaw: TypeAlias = Literal["bernoulli", "gaussian"]
"""0 or 1 with the mean as probability, normal around the mean."""


class ImageContextEnv(ImageBandit):
    """A contextual bandit whose context is an image and whose K actions are labels.

    ## Description
    Every round shows one image; action a answers that it is of class a. By default the answer pays
    1 if right and 0 if wrong, so that regret counts errors: the law of the published neural
    bandits. Images and the reward noise of *all* actions are drawn before the action is known,
    from two generators of their own.

    ## Action Space
    `Discrete(K)`: the label.

    ## Observation Space
    `Dict` of `images`, uint8 (1, H, W, 3), the one image that all actions share, and
    `action_mask`, int8 (K,), all ones.

    ## Rewards
    Their means are `class_rewards[class of the image, action]`: `match_reward` on the diagonal and
    `mismatch_reward` off it, or any matrix.
    - `bernoulli`: 1 with that probability, else 0. With the defaults, 1 and 0, exactly 1[a = y].
    - `gaussian`: normal with that mean and standard deviation `noise_std`.

    ## Episode End
    Never terminates. `gymnasium.make` truncates at `max_episode_steps`: one experiment is one
    episode.

    ## Info
    Always `expected_reward`, `optimal_reward`, `regret` (float) and `optimal_action` (int) of the
    round just played; NaN and -1 at reset.

    ## Arguments
    - `dataset`: a name for `load_dataset`, or an `ImageDataset`, with labels.
    - `num_arms`: K; shows images of the first K classes only. None for all classes.
    - `reward`: `bernoulli` or `gaussian`.
    - `match_reward`, `mismatch_reward`: mean reward of the right and of every wrong label.
    - `class_rewards`: mean rewards (K, K), one row per class, instead of these two.
    - `noise_std`: standard deviation of `gaussian` rewards; unused by `bernoulli`.
    - `with_replacement`: False shows every image once before any is shown again.
    - `image_size`: side in pixels to resize images to; None keeps the data set's own size.
    - `render_mode`: `rgb_array` renders the image.

    ## Version History
    - v0: first version.

    Attributes:
        dataset: The image set.
        class_rewards: Mean reward by class and action, float64 (K, K). Writing to it changes the
            means from the current round on, without disturbing images or noise.

    Raises:
        ValueError: If an argument is out of range or does not fit the data set.
    """

    def __init__(
        self,
        dataset: DatasetLike = "digits",
        num_arms: int | None = None,
        reward: ContextLaw = "bernoulli",
        match_reward: float = 1.0,
        mismatch_reward: float = 0.0,
        class_rewards: Sequence[Sequence[float]] | None = None,
        noise_std: float = 1.0,
        with_replacement: bool = True,
        image_size: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            dataset,
            image_size,
            num_arms=num_arms,
            reward=reward,
            laws=get_args(ContextLaw),
            noise_std=noise_std,
            render_mode=render_mode,
        )
        self.reward, self.with_replacement = reward, with_replacement
        self._labels = _labels(self.dataset, self.num_arms)
        self._shown = np.flatnonzero(self._labels < self.num_arms)
        pair = (match_reward, mismatch_reward)
        if class_rewards is not None and pair != (1.0, 0.0):
            raise ValueError("class_rewards replaces match_reward and mismatch_reward; give one")
        is_binary = reward == "bernoulli"
        if class_rewards is None:
            names = "match_reward, mismatch_reward"
            match, mismatch = checked_means(names, pair, (2,), is_probability=is_binary)
            self.class_rewards = np.where(np.eye(self.num_arms, dtype=bool), match, mismatch)
        else:
            self.class_rewards = checked_means(
                "class_rewards", class_rewards, (self.num_arms,) * 2, is_probability=is_binary
            )
        self._forget_contexts()
        self._set_spaces(num_images=1)

    @property
    def expected_rewards(self) -> NDArray[np.float64]:
        """Mean reward of every label for the image shown now, float64 (K,)."""
        means: NDArray[np.float64] = self.class_rewards[self._labels[self._items[0]]].copy()
        return means

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the K actions: the classes they stand for."""
        return self.dataset.class_names[: self.num_arms]

    def _forget_contexts(self) -> None:
        self._queue: list[int] = []

    def _draw_items(self, rng: np.random.Generator) -> NDArray[np.int64]:
        if self.with_replacement:
            return self._shown[rng.integers(0, len(self._shown), 1)]
        if not self._queue:
            self._queue = rng.permutation(self._shown).tolist()
        return np.array([self._queue.pop()])


def _labels(dataset: ImageDataset, num_arms: int) -> NDArray[np.int64]:
    """The labels of a set that has at least `num_arms` classes."""
    if dataset.labels is None:
        raise dataset.error("its images are rated, not labelled; use vitucb/RatedItems-v0")
    if num_arms > dataset.num_classes:
        raise dataset.error(
            f"num_arms {num_arms} exceeds its {dataset.num_classes} classes; "
            f"choose num_arms of at most {dataset.num_classes}"
        )
    return dataset.labels
