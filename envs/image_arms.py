"""K candidate images a round, one reward: the image-arms bandit."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vitucb.envs.datasets import load_dataset
from vitucb.envs.image_dataset import ImageDataset

RewardLaw: TypeAlias = Literal["bernoulli", "gaussian", "score"]
"""0 or 1 by class, normal around the mean of the class, normal around the score of the image."""


class ImageArmsEnv(gymnasium.Env[dict[str, Any], np.int64]):
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
    - `shuffle_slots`: False fixes arm i to class i, which lets context-free bandits compete.
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

    # gymnasium declares it as an instance attribute, so ClassVar would be an override error.
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        dataset: str | os.PathLike[str] | ImageDataset = "digits",
        num_arms: int = 10,
        reward: RewardLaw = "bernoulli",
        class_rewards: Sequence[float] | None = None,
        noise_std: float = 1.0,
        image_size: int | None = None,
        shuffle_slots: bool = True,
        render_mode: str | None = None,
    ) -> None:
        _check_arguments(num_arms, reward, noise_std, render_mode)
        if isinstance(dataset, ImageDataset) and image_size is not None:
            raise ValueError(
                "image_size does not resize an ImageDataset; give load_dataset the size"
            )
        if not isinstance(dataset, ImageDataset):
            dataset = load_dataset(dataset, image_size=image_size)
        self.dataset = dataset
        self.num_arms = int(num_arms)
        self.reward = reward
        self.noise_std = float(noise_std)
        self.shuffle_slots = shuffle_slots
        self.render_mode = render_mode
        _check_fit(dataset, self.num_arms, reward, shuffle_slots)
        self.class_rewards = _class_means(dataset, reward, class_rewards)
        self._index_classes()
        self._has_streams = False
        shape = (self.num_arms, *dataset.images.shape[1:])
        parts: dict[str, spaces.Space[Any]] = {
            "images": spaces.Box(0, 255, shape, np.uint8),
            "action_mask": spaces.MultiBinary(self.num_arms),
        }
        self.observation_space = spaces.Dict(parts)
        self.action_space = spaces.Discrete(self.num_arms)

    @property
    def num_classes(self) -> int:
        """Number of classes in the data set, 0 for a purely rated one."""
        return self.dataset.num_classes

    @property
    def expected_rewards(self) -> NDArray[np.float64]:
        """Mean reward of every arm on offer now, float64 (K,)."""
        if self.dataset.scores is not None and self.reward == "score":
            return self.dataset.scores[self._items].astype(np.float64)
        return self.class_rewards[self._classes]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Start an episode; without a seed the streams go on where they were."""
        super().reset(seed=seed, options=options)
        if seed is not None or not self._has_streams:
            # Two generators, so that a law that draws other noise still sees the same images.
            self._context_rng, self._noise_rng = self.np_random.spawn(2)
            self._has_streams = True
        self._draw_round()
        return self._observation(), _info(math.nan, math.nan, -1)

    def step(
        self, action: int | np.int64
    ) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Pay the chosen arm's reward and draw the next round.

        Raises:
            ValueError: If the action is not in 0..K-1.
        """
        if not 0 <= action < self.num_arms:
            raise ValueError(f"action {action} is no arm; choose 0..{self.num_arms - 1}")
        means = self.expected_rewards
        best = int(means.argmax())
        info = _info(float(means[action]), float(means[best]), best)
        reward = self._reward(float(means[action]), float(self._noise[action]))
        self._draw_round()
        return self._observation(), reward, False, False, info

    def render(self) -> NDArray[np.uint8] | None:
        """The current arms side by side, uint8 (H, K*W, 3); None without a render mode."""
        if self.render_mode is None:
            return None
        return np.concatenate(self._images(), axis=1)

    def _index_classes(self) -> None:
        """Group image indices by class: class c has `_counts[c]` of them from `_starts[c]` on."""
        labels = self.dataset.labels if self.dataset.labels is not None else np.zeros(0, np.int64)
        self._by_class = np.argsort(labels, kind="stable")
        self._counts = np.bincount(labels, minlength=self.num_classes)
        self._starts = np.cumsum(self._counts) - self._counts

    def _draw_round(self) -> None:
        rng, arms = self._context_rng, self.num_arms
        if self.reward == "score":
            self._items = rng.choice(len(self.dataset.images), arms, replace=False)
        else:
            # A random order of a random subset: slots come shuffled.
            self._classes = (
                rng.permutation(self.num_classes)[:arms] if self.shuffle_slots else np.arange(arms)
            )
            within = rng.integers(0, self._counts[self._classes])
            self._items = self._by_class[self._starts[self._classes] + within]
        is_binary = self.reward == "bernoulli"
        draw = self._noise_rng.random if is_binary else self._noise_rng.standard_normal
        self._noise = draw(arms)

    def _reward(self, mean: float, noise: float) -> float:
        if self.reward == "bernoulli":
            return float(noise < mean)
        return mean + self.noise_std * noise

    def _images(self) -> NDArray[np.uint8]:
        return self.dataset.images[self._items]

    def _observation(self) -> dict[str, NDArray[Any]]:
        return {"images": self._images(), "action_mask": np.ones(self.num_arms, np.int8)}


def _info(expected_reward: float, optimal_reward: float, optimal_action: int) -> dict[str, Any]:
    return {
        "expected_reward": expected_reward,
        "optimal_reward": optimal_reward,
        "regret": optimal_reward - expected_reward,
        "optimal_action": optimal_action,
    }


def _check_arguments(num_arms: int, reward: str, noise_std: float, render_mode: str | None) -> None:
    if reward not in get_args(RewardLaw):
        raise ValueError(f"unknown reward {reward!r}; known: {', '.join(get_args(RewardLaw))}")
    if isinstance(num_arms, bool) or not isinstance(num_arms, int | np.integer) or num_arms < 2:
        raise ValueError(f"num_arms {num_arms!r} is no number of arms; choose an integer >= 2")
    is_number = isinstance(noise_std, Real) and not isinstance(noise_std, bool)
    if not is_number or not math.isfinite(noise_std) or noise_std < 0:
        raise ValueError(f"noise_std {noise_std!r} is no standard deviation; choose a number >= 0")
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"unknown render_mode {render_mode!r}; choose rgb_array or none")


def _check_fit(dataset: ImageDataset, arms: int, reward: RewardLaw, shuffle_slots: bool) -> None:
    """Refuse what the data set cannot provide."""
    if reward == "score":
        if dataset.scores is None:
            raise dataset.error("reward 'score' needs scores; choose bernoulli or gaussian")
        if arms > len(dataset.images):
            raise dataset.error(
                f"num_arms {arms} exceeds its {len(dataset.images)} images; choose fewer arms"
            )
        if not shuffle_slots:
            raise ValueError("shuffle_slots=False needs classes; drop it for reward 'score'")
    elif dataset.labels is None:
        raise dataset.error(f"reward {reward!r} needs labels; choose reward 'score'")
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
    try:
        means = np.array(class_rewards, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"class_rewards {class_rewards!r} is no list of numbers: {error}"
        ) from error
    if means.shape != (count,):
        raise dataset.error(
            f"class_rewards has shape {means.shape}; give {count} numbers, one per class"
        )
    is_allowed = np.isfinite(means)
    if reward == "bernoulli":
        is_allowed &= (means >= 0) & (means <= 1)
    if not is_allowed.all():
        worst = int(np.argmin(is_allowed))
        allowed = "a probability in [0, 1]" if reward == "bernoulli" else "a finite number"
        raise ValueError(f"class_rewards[{worst}] is {means[worst]}; give {allowed}")
    return means
