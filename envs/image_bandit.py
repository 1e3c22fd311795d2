"""What image bandits have in common: two streams, one step, the checks of their arguments."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Real
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vitucb.envs.data.datasets import load_dataset
from vitucb.envs.data.image_dataset import ImageDataset

DatasetLike = str | os.PathLike[str] | ImageDataset
"""A name for `load_dataset`, or an image set."""


class ImageBandit(gymnasium.Env[dict[str, Any], np.int64]):
    """An image bandit without its context: subclasses draw images and know their mean rewards.

    Images and the reward noise of *all* arms are drawn before the action is known, from two
    generators of their own: agents with one seed face the same stream whatever they choose.

    Args:
        dataset: A name for `load_dataset`, or an `ImageDataset`.
        image_size: Side in pixels to resize images to; None keeps the data set's own size.
        num_arms: Number of actions K, at least 2.
        reward: `bernoulli`: 1 with the probability given by the mean, else 0. Any other: normal
            around the mean.
        laws: The allowed values of `reward`.
        noise_std: Standard deviation of normal rewards.
        render_mode: `rgb_array` or None.

    Raises:
        ValueError: If an argument is out of range or the data set cannot be loaded.
    """

    # gymnasium declares it as an instance attribute, so ClassVar would be an override error.
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        dataset: DatasetLike,
        image_size: int | None,
        *,
        num_arms: int | None,
        reward: str,
        laws: Sequence[str],
        noise_std: float,
        render_mode: str | None,
    ) -> None:
        _check_arguments(num_arms, reward, laws, noise_std, render_mode)
        if isinstance(dataset, ImageDataset) and image_size is not None:
            raise ValueError(
                "image_size does not resize an ImageDataset; give load_dataset the size"
            )
        if not isinstance(dataset, ImageDataset):
            dataset = load_dataset(dataset, image_size=image_size)
        self.dataset = dataset
        self.num_arms = dataset.num_classes if num_arms is None else int(num_arms)
        self.noise_std = float(noise_std)
        self.render_mode = render_mode
        self._is_binary = reward == "bernoulli"
        self._items = np.zeros(0, np.int64)
        self._has_streams = False

    def _require_arms(self) -> None:
        """Refuse as many arms as classes where there are none."""
        if not self.num_arms:
            raise ValueError("num_arms: the images have ratings and no classes; give a number")

    def _set_spaces(self, num_images: int) -> None:
        shape = (num_images, *self.dataset.images.shape[1:])
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
        raise NotImplementedError

    @property
    def arm_rewards(self) -> NDArray[np.float64]:
        """What every arm would pay now, float64 (K,): all are drawn before the action is known."""
        drawn = zip(self.expected_rewards.tolist(), self._noise, strict=True)
        return np.array([self._pay(mean, noise) for mean, noise in drawn])

    def _draw_items(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Indices of the images of the next round, from `rng` alone."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Start an episode; without a seed the streams go on where they were."""
        super().reset(seed=seed, options=options)
        if seed is not None or not self._has_streams:
            # Two generators, so that a law that draws other noise still sees the same images.
            self._context_rng, self._noise_rng = self.np_random.spawn(2)
            self._has_streams = True
            self._forget_contexts()
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
        reward = self._pay(float(means[action]), self._noise[action])
        self._draw_round()
        return self._observation(), reward, False, False, info

    def render(self) -> NDArray[np.uint8] | None:
        """The current images side by side, uint8 (H, n*W, 3); None without a render mode."""
        if self.render_mode is None:
            return None
        return np.concatenate(self._images(), axis=1)

    def _forget_contexts(self) -> None:
        """Called when the streams start anew: drop what was drawn ahead from the old ones."""

    def _draw_round(self) -> None:
        self._items = self._draw_items(self._context_rng)
        draw = self._noise_rng.random if self._is_binary else self._noise_rng.standard_normal
        self._noise = draw(self.num_arms)

    def _pay(self, mean: float, noise: Any) -> float:
        """The reward of an arm from its mean and its part of the noise of the round."""
        return float(noise < mean if self._is_binary else mean + self.noise_std * noise)

    def _images(self) -> NDArray[np.uint8]:
        return self.dataset.images[self._items]

    def _observation(self) -> dict[str, NDArray[Any]]:
        return {"images": self._images(), "action_mask": np.ones(self.num_arms, np.int8)}


def checked_means(
    name: str, means: object, shape: tuple[int, ...], *, is_probability: bool
) -> NDArray[np.float64]:
    """`means` as a float64 array of `shape`, a copy.

    Raises:
        ValueError: If the shape differs, or a value is not finite or, where asked, not in [0, 1].
    """
    try:
        array = np.array(means, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} {means!r} is no list of numbers: {error}") from error
    if array.shape != shape:
        one_each = "one per class" if len(shape) == 1 else "one per class and action"
        size = " x ".join(map(str, shape))
        raise ValueError(f"{name} has shape {array.shape}; give {size} numbers, {one_each}")
    is_allowed = np.isfinite(array)
    if is_probability:
        is_allowed &= (array >= 0) & (array <= 1)
    if not is_allowed.all():
        worst = np.argwhere(~is_allowed)[0]
        allowed = "a probability in [0, 1]" if is_probability else "a finite number"
        where = ", ".join(map(str, worst))
        raise ValueError(f"{name}[{where}] is {array[tuple(worst)]}; give {allowed}")
    return array


def _info(expected_reward: float, optimal_reward: float, optimal_action: int) -> dict[str, Any]:
    return {
        "expected_reward": expected_reward,
        "optimal_reward": optimal_reward,
        "regret": optimal_reward - expected_reward,
        "optimal_action": optimal_action,
    }


def _check_arguments(
    num_arms: object, reward: str, laws: Sequence[str], noise_std: float, render_mode: str | None
) -> None:
    if reward not in laws:
        raise ValueError(f"unknown reward {reward!r}; known: {', '.join(laws)}")
    is_integer = isinstance(num_arms, int | np.integer) and not isinstance(num_arms, bool)
    if num_arms is not None and not (is_integer and num_arms >= 2):  # type: ignore[operator]  # checked
        raise ValueError(f"num_arms {num_arms!r} is no number of arms; choose an integer >= 2")
    is_number = isinstance(noise_std, Real) and not isinstance(noise_std, bool)
    if not is_number or not math.isfinite(noise_std) or noise_std < 0:
        raise ValueError(f"noise_std {noise_std!r} is no standard deviation; choose a number >= 0")
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"unknown render_mode {render_mode!r}; choose rgb_array or none")
