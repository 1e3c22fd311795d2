"""An item with its creatives a round, clicks as the reward: the bandit of display advertising."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vitucb.envs.click_law import ClickLaw, ClickSettings
from vitucb.envs.data.image_dataset import ImageDataset
from vitucb.envs.image_bandit import DatasetLike, ImageBandit

_MOST_IMPRESSIONS = 100_000
_MOST_CREATIVES = 1_000_000


class CreativesEnv(ImageBandit):
    """A contextual bandit that shows one of K pictures for an item and is paid in clicks.

    ## Description
    Every round an item comes up, each as often as the others, with its K creatives, which are
    pictures, in random slots. How often a creative is clicked is hidden: a mix of the quality of
    its picture, an effect of the item and one of the creative; see `click_law`. Effects of items
    and creatives drift from day to day. The task is that of Wang et al., "A hybrid bandit model
    with visual priors for creative ranking in display advertising", WWW 2021, with a law of clicks
    of our own in place of their logs.

    A rated data set gives the quality of its images as scores. In a labelled one every class has a
    random quality. Catalogue, qualities and effects are drawn from the reset seed.

    ## Action Space
    `Discrete(K)`: the creative in that slot.

    ## Observation Space
    `Dict` of `images`, uint8 (K, H, W, 3), `action_mask`, int8 (K,), all ones, and, unless
    `context_ids` is off, `context`, int64 (K, 2): the item and the creative in every slot. Items
    are 0..N-1 and creatives 0..N*K-1; nobody has to look at them.

    ## Rewards
    The share of `impressions` that is clicked, each independently with the rate of the creative:
    1 or 0 where the choice is shown once.

    ## Episode End
    Never terminates. `gymnasium.make` truncates at `max_episode_steps`: one experiment is one
    episode.

    ## Info
    Always `expected_reward`, `optimal_reward`, `regret` (float) and `optimal_action` (int) of the
    round just played; NaN and -1 at reset.

    ## Arguments
    - `dataset`: a name for `load_dataset`, or an `ImageDataset`.
    - `num_arms`: K, creatives of every item.
    - `num_items`: N.
    - `num_pictures`: the items share a library of so many random pictures of the data set, at
      least K; None for all of it. The creatives of one item are different pictures; few pictures
      stand for many items.
    - `rounds_per_day`: rounds until effects drift.
    - `impressions`: how often a choice is shown before its share of clicks is paid.
    - `click_rates`: least and largest rate, both in (0, 1).
    - `visual_weight`, `item_weight`, `creative_weight`: parts of the three in the variance of what
      becomes the rate; divided by their sum.
    - `drift`: share of the variance of item and creative effects that is new every day, in [0, 1].
    - `context_ids`: whether observations have `context`.
    - `image_size`: side in pixels to resize images to; None keeps the data set's own size.
    - `render_mode`: `rgb_array` renders the creatives as one row.

    ## Version History
    - v0: first version.

    Attributes:
        dataset: The image set.
        reward: `clicks`.

    Raises:
        ValueError: If an argument is out of range or does not fit the data set.
    """

    reward = "clicks"

    def __init__(
        self,
        dataset: DatasetLike = "digits",
        num_arms: int = 5,
        num_items: int = 100,
        num_pictures: int | None = None,
        rounds_per_day: int = 500,
        impressions: int = 1,
        click_rates: Sequence[float] = (0.01, 0.3),
        visual_weight: float = 0.5,
        item_weight: float = 0.2,
        creative_weight: float = 0.3,
        drift: float = 0.05,
        context_ids: bool = True,
        image_size: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            dataset,
            image_size,
            num_arms=num_arms,
            reward="bernoulli",
            laws=("bernoulli",),
            noise_std=0.0,
            render_mode=render_mode,
        )
        self._require_arms()
        items = _integer("num_items", num_items, 1, _MOST_CREATIVES // self.num_arms)
        self._rounds_per_day = _integer("rounds_per_day", rounds_per_day, 1)
        self._impressions = _integer("impressions", impressions, 1, _MOST_IMPRESSIONS)
        if not isinstance(context_ids, bool):
            raise ValueError(f"context_ids {context_ids!r} is no truth value; give True or False")
        weights = {"visual": visual_weight, "item": item_weight, "creative": creative_weight}
        self._settings = ClickSettings(
            num_items=items,
            num_creatives=self.num_arms,
            num_pictures=_library(self.dataset, num_pictures, self.num_arms),
            shares=_shares(self.dataset, weights),
            drift=_number("drift", drift, 0, 1),
            click_rates=_rates(click_rates),
        )
        self._item, self._slots, self._rounds = 0, np.arange(self.num_arms), 0
        self._shows_ids = context_ids
        self._set_spaces(num_images=self.num_arms)
        if context_ids:
            most = np.tile([items, items * self.num_arms], (self.num_arms, 1))
            assert isinstance(self.observation_space, gymnasium.spaces.Dict)
            self.observation_space["context"] = gymnasium.spaces.MultiDiscrete(most)

    @property
    def expected_rewards(self) -> NDArray[np.float64]:
        """Click rate of the creative in every slot now, float64 (K,)."""
        rates: NDArray[np.float64] = self._law.rates[self._item, self._slots]
        return rates

    @property
    def arm_classes(self) -> NDArray[np.int64]:
        """Class of the picture in every slot now, (K,); empty for a set without classes."""
        labels = self.dataset.labels
        return np.zeros(0, np.int64) if labels is None else labels[self._items]

    def _forget_contexts(self) -> None:
        self._law = ClickLaw(self._settings, self.dataset, self.np_random.spawn(1)[0])
        self._rounds = 0

    def _draw_round(self) -> None:
        if self._rounds and self._rounds % self._rounds_per_day == 0:
            self._law.next_day()
        self._rounds += 1
        self._items = self._draw_items(self._context_rng)
        self._noise = self._noise_rng.random((self.num_arms, self._impressions))

    def _draw_items(self, rng: np.random.Generator) -> NDArray[np.int64]:
        self._item = int(rng.integers(self._settings.num_items))
        self._slots = rng.permutation(self.num_arms)
        pictures: NDArray[np.int64] = self._law.pictures[self._item, self._slots]
        return pictures

    def _pay(self, mean: float, noise: Any) -> float:
        return float((noise < mean).mean())

    def _observation(self) -> dict[str, NDArray[Any]]:
        obs = super()._observation()
        if self._shows_ids:
            creatives = self._item * self.num_arms + self._slots
            obs["context"] = np.stack([np.full_like(creatives, self._item), creatives], axis=1)
        return obs


def _library(dataset: ImageDataset, num_pictures: int | None, num_arms: int) -> int:
    """How many pictures the items share, checked against the data set."""
    most = len(dataset.images)
    if num_arms > most:
        raise dataset.error(f"num_arms {num_arms} exceeds its {most} images; choose fewer arms")
    if num_pictures is None:
        return most
    return _integer("num_pictures", num_pictures, num_arms, most)


def _shares(dataset: ImageDataset, weights: dict[str, float]) -> tuple[float, float, float]:
    """The weights divided by their sum."""
    values = [_number(f"{name}_weight", weight, 0) for name, weight in weights.items()]
    if sum(values) <= 0:
        raise ValueError("visual_weight, item_weight and creative_weight are all 0; raise one")
    scores = dataset.scores
    if values[0] > 0 and scores is not None and scores.min() == scores.max():
        raise dataset.error("its scores are all equal; set visual_weight 0, or rate its images")
    visual, item, creative = (value / sum(values) for value in values)
    return visual, item, creative


def _rates(click_rates: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = map(float, click_rates)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"click_rates {click_rates!r} are no two numbers; give the least and the largest rate"
        ) from error
    if not 0 < low < high < 1:
        raise ValueError(
            f"click_rates {low}, {high} are no range of rates; give 0 < least < largest < 1"
        )
    return low, high


def _integer(name: str, value: object, least: int, most: int | None = None) -> int:
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < least or (most is not None and value > most):  # type: ignore[operator]  # checked
        allowed = f">= {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} {value!r} is out of range; choose an integer {allowed}")
    return int(value)  # type: ignore[call-overload,no-any-return]  # checked


def _number(name: str, value: object, least: float, most: float = math.inf) -> float:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not least <= value <= most:  # type: ignore[arg-type,operator]  # checked
        allowed = f">= {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise ValueError(f"{name} {value!r} is out of range; choose a number {allowed}")
    return float(value)  # type: ignore[arg-type]  # checked
