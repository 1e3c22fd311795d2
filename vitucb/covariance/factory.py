"""Make a covariance by name."""

from __future__ import annotations

import torch

from vitucb.covariance.base import FeatureCovariance
from vitucb.covariance.table import COVARIANCES
from vitucb.registry import lookup


def make_covariance(
    name: str,
    dim: int,
    *,
    ridge: float = 1.0,
    rank: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    **options: object,
) -> FeatureCovariance:
    """The covariance called `name`, empty.

    Args:
        name: A key of `COVARIANCES`, or `package.module:Class`.
        dim: Number of features p.
        ridge: Ridge of A, above 0.
        rank: Size of a sketch: directions kept (frequent directions, low rank) or sketch dimension
            (countsketch); None for each one's default; the others ignore it.
        seed: Seed of a random sketch.
        dtype: Of stored features where none have been seen yet; rows are kept in the type of the
            first features that enter. The small algebra is float64 always.
        options: Passed on to the class.

    Raises:
        ValueError: If the name is unknown, or `dim`, `ridge` or `rank` is not usable.
    """
    made: FeatureCovariance = lookup("covariance", name, COVARIANCES)(
        dim, ridge=ridge, rank=rank, seed=seed, dtype=dtype, **options
    )
    return made
