"""Hidden click rates of creatives: what a picture, an item and a creative of it are worth.

    rate = logistic(low + (high - low) s(z)),   z = sqrt(a) q + sqrt(b) u + sqrt(c) w

with low and high the log-odds of the least and the largest rate, s a logistic curve that makes a
standard normal z all but uniform, q the quality of the picture, u the effect of the item and w that
of the creative, all standard normal, and a + b + c = 1. Day by day, u and w forget a share d of
their variance and draw as much anew: e <- sqrt(1 - d) e + sqrt(d) N(0, 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitucb.envs.data.image_dataset import ImageDataset

Array = NDArray[np.float64]
# 1 / (1 + exp(-1.702 z)) is within 0.01 of the normal distribution function.
_STEEPNESS = 1.702


@dataclass(frozen=True, slots=True)
class ClickSettings:
    """What a law is drawn from; all of it checked by the environment.

    Attributes:
        num_items: Items N.
        num_creatives: Creatives K of every item.
        num_pictures: Pictures that the items share.
        shares: Parts a, b, c of picture, item and creative in the variance of z, of sum 1.
        drift: Share d of the variance of u and w that is new every day.
        click_rates: Least and largest rate, in (0, 1).
    """

    num_items: int
    num_creatives: int
    num_pictures: int
    shares: tuple[float, float, float]
    drift: float
    click_rates: tuple[float, float]


class ClickLaw:
    """A catalogue of creatives and their click rates of the day.

    Attributes:
        pictures: Which image of the data set every creative is, int64 (N, K).
        rates: Click rates of today, float64 (N, K).
    """

    def __init__(
        self, settings: ClickSettings, dataset: ImageDataset, rng: np.random.Generator
    ) -> None:
        """Draw catalogue, qualities and effects of the first day.

        Args:
            settings: Sizes, shares and range.
            dataset: Rated images, whose scores are their quality; or labelled ones, where every
                class has a random quality.
            rng: Draws all of it, and what is new on later days.
        """
        self._settings, self._rng = settings, rng
        items, creatives = settings.num_items, settings.num_creatives
        library = rng.choice(len(dataset.images), settings.num_pictures, replace=False)
        places = [rng.choice(len(library), creatives, replace=False) for _ in range(items)]
        self.pictures: NDArray[np.int64] = library[np.stack(places)]
        self._quality = picture_qualities(dataset, rng)[self.pictures]
        self._items = rng.standard_normal((items, 1))
        self._creatives = rng.standard_normal((items, creatives))
        self.rates = self._rates()

    def next_day(self) -> None:
        """Let effects of items and creatives drift."""
        self._items = self._drifted(self._items)
        self._creatives = self._drifted(self._creatives)
        self.rates = self._rates()

    def _drifted(self, effects: Array) -> Array:
        new = self._rng.standard_normal(effects.shape)
        drift = self._settings.drift
        moved: Array = np.sqrt(1 - drift) * effects + np.sqrt(drift) * new
        return moved

    def _rates(self) -> Array:
        picture, item, creative = np.sqrt(self._settings.shares)
        latent = picture * self._quality + item * self._items + creative * self._creatives
        low, high = np.log(self._settings.click_rates) - np.log1p(
            -np.array(self._settings.click_rates)
        )
        return _logistic(low + (high - low) * _logistic(_STEEPNESS * latent))


def picture_qualities(dataset: ImageDataset, rng: np.random.Generator) -> Array:
    """Quality of every image (n,), of mean 0 and variance 1 over images, or over classes.

    Args:
        dataset: Its scores are qualities where it has them.
        rng: Draws a quality for every class where it has none.
    """
    if dataset.scores is not None:
        return _standardised(dataset.scores.astype(np.float64))
    assert dataset.labels is not None  # a set has either
    return _standardised(rng.standard_normal(dataset.num_classes))[dataset.labels]


def _standardised(values: Array) -> Array:
    centred = values - values.mean()
    standard: Array = centred / max(float(np.sqrt(np.square(centred).mean())), 1e-300)
    return standard


def _logistic(values: Array) -> Array:
    odds: Array = 1 / (1 + np.exp(-values))
    return odds
