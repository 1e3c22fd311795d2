"""K candidate images a round, one reward: the image-arms bandit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from vitucb.envs.data.image_dataset import ImageDataset
from vitucb.envs.image_bandit import DatasetLike, ImageBandit, checked_means

RewardLaw: TypeAlias = Literal["bernoulli", "gaussian", "score"]
"""0 or 1 by class, normal around the mean of the class, normal around the score of the image."""


class ImageArmsEnv(ImageBandit):
    """A contextual bandit whose K arms are images.

    ## Description
    Every round shows K images: one random image of each of K distinct classes drawn uniformly, in
    random slots, so that only the picture tells what an arm is worth. With `reward="score"` the
    arms are K distinct random images instead. Images and the reward noise of *all* arms are drawn
    before the action is known, from two generators of their own: agents with one seed face the
    same stream whatever they choose.

    ## Action Space
    `Discrete(K)`: the chosen arm.

    ## Observation Space
    `Dict` of `images`, uint8 (K, H, W, 3), and `action_mask`, int8 (K,), all ones.

    ## Rewards
    - `bernoulli`: 1 with the probability of the arm's class, else 0. By default the probabilities
      are evenly spaced from 0.1 to 0.9 over the classes in label order.
    - `gaussian`: N(mean of the arm's class, noise_std^2). The default mean is the class index.
    - `score`: N(score of the image, noise_std^2).

    ## Episode End
    Never terminates. `gymnasium.make` truncates at `max_episode_steps`: one experiment is one
    episode.

    ## Info
    Always `expected_reward`, `optimal_reward`, `regret` (float) and `optimal_action` (int) of the
    round just played; NaN and -1 at reset.

    ## Arguments
    - `dataset`: a name for `load_dataset`, or an `ImageDataset`.
    - `num_arms`: K, 2 up to the number of classes (of images, for `score`).
    - `reward`: `bernoulli`, `gaussian` or `score`.
    - `class_rewards`: mean reward of every class in label order, in [0, 1] for `bernoulli`; None
      for the defaults above.
    - `noise_std`: standard deviation of `gaussian` and `score` rewards; unused by `bernoulli`.
    - `image_size`: side in pixels to resize images to; None keeps the data set's own size.
    - `shuffle_slots`: False fixes arm i to class i, which lets context-free bandits compete; with
      `score`, arms are then random images of their classes and no longer of the whole set.
    - `render_mode`: `rgb_array` renders the arms as one row.

    ## Version History
    - v0: first version.

    Attributes:
        dataset: The image set.
        class_rewards: Mean reward of every class, float64 (C,); empty for `score`. Writing to it
            changes the means from the current round on, without disturbing images or noise.

    Raises:
        ValueError: If an argument is out of range or does not fit the data set.
    """

    def __init__(
        self,
        dataset: DatasetLike = "digits",
        num_arms: int = 10,
        reward: RewardLaw = "bernoulli",
        class_rewards: Sequence[float] | None = None,
        noise_std: float = 1.0,
        image_size: int | None = None,
        shuffle_slots: bool = True,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            dataset,
            image_size,
            num_arms=num_arms,
            reward=reward,
            laws=get_args(RewardLaw),
            noise_std=noise_std,
            render_mode=render_mode,
        )
        self._require_arms()
        self.reward, self.shuffle_slots = reward, shuffle_slots
        _check_fit(self.dataset, self.num_arms, reward, shuffle_slots)
        self.class_rewards = _class_means(self.dataset, reward, class_rewards)
        self._index_classes()
        self._set_spaces(num_images=self.num_arms)

    @property
    def expected_rewards(self) -> NDArray[np.float64]:
        """Mean reward of every arm on offer now, float64 (K,)."""
        if self.dataset.scores is not None and self.reward == "score":
            return self.dataset.scores[self._items].astype(np.float64)
        return self.class_rewards[self._classes]

    @property
    def arm_classes(self) -> NDArray[np.int64]:
        """Class of every arm on offer now, (K,); empty where arms are images of any class."""
        is_any = self.reward == "score" and self.shuffle_slots
        return np.zeros(0, np.int64) if is_any else self._classes.copy()

    def _index_classes(self) -> None:
        """Group image indices by class: class c has `_counts[c]` of them from `_starts[c]` on."""
        labels = self.dataset.labels if self.dataset.labels is not None else np.zeros(0, np.int64)
        self._by_class = np.argsort(labels, kind="stable")
        self._counts = np.bincount(labels, minlength=self.num_classes)
        self._starts = np.cumsum(self._counts) - self._counts

    def _draw_items(self, rng: np.random.Generator) -> NDArray[np.int64]:
        arms = self.num_arms
        if self.reward == "score" and self.shuffle_slots:
            return rng.choice(len(self.dataset.images), arms, replace=False)
        # A random order of a random subset: slots come shuffled.
        self._classes = (
            rng.permutation(self.num_classes)[:arms] if self.shuffle_slots else np.arange(arms)
        )
        within = rng.integers(0, self._counts[self._classes])
        items: NDArray[np.int64] = self._by_class[self._starts[self._classes] + within]
        return items


def _check_fit(dataset: ImageDataset, arms: int, reward: RewardLaw, shuffle_slots: bool) -> None:
    """Refuse what the data set cannot provide."""
    if reward == "score" and dataset.scores is None:
        raise dataset.error("reward 'score' needs scores; choose bernoulli or gaussian")
    if reward == "score" and shuffle_slots:  # any image in any slot: no classes needed
        if arms > len(dataset.images):
            raise dataset.error(
                f"num_arms {arms} exceeds its {len(dataset.images)} images; choose fewer arms"
            )
    elif dataset.labels is None:
        what, other = f"reward {reward!r}", "choose reward 'score'"
        if reward == "score":
            what, other = "shuffle_slots=False", "drop it"
        raise dataset.error(f"{what} needs labels; {other}")
    elif arms > dataset.num_classes:
        raise dataset.error(
            f"num_arms {arms} exceeds its {dataset.num_classes} classes; "
            f"choose num_arms of at most {dataset.num_classes}"
        )


def _class_means(
    dataset: ImageDataset, reward: RewardLaw, class_rewards: Sequence[float] | None
) -> NDArray[np.float64]:
    """Mean reward of every class, checked; the law's default where none are given."""
    count = dataset.num_classes
    if reward == "score":
        if class_rewards is not None:
            raise ValueError("class_rewards has no use with reward 'score'; remove it")
        return np.zeros(0)
    if class_rewards is None:
        return (
            np.linspace(0.1, 0.9, count) if reward == "bernoulli" else np.arange(count, dtype=float)
        )
    is_binary = reward == "bernoulli"
    return checked_means("class_rewards", class_rewards, (count,), is_probability=is_binary)
