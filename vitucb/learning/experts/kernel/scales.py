"""Prior variances of the parts of the kernel, chosen by evidence.

Which coarse part says most differs between sets of images: clusters where a backbone has learnt
similar classes, the graph where classes are connected, the linear part where what is rated is a
matter of degree. A few mixtures of them are compared; see MacKay, "Bayesian interpolation", 1992.

Rewards of 0 and 1 tell mixtures apart by a few nats at most, and what they leave open the images
decide: where the memory falls into parts that hardly any neighbours join, a class is one or more
of these parts, and nearly all variance in the graph is likelier a priori by `_PRIOR_NATS`. Then
posterior means of images of one class are close, and the best class is not lost among oddities. Of
some images the graph is wrong, and would be for good: where rewards are many, they alone decide.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vitucb.learning.experts.kernel.regression import Moments, Seen, log_evidence, prior_scales

Array = NDArray[np.float64]
# Shares of clusters, graph and linear part.
_MIXTURES = ((0.8, 0.1, 0.1), (0.45, 0.45, 0.1), (0.45, 0.1, 0.45), (0.1, 0.8, 0.1))
_COARSE, _FINE = (0.3, 1.0, 3.0), (0.03, 0.1, 0.3, 1.0)
_IN_GRAPH = (0.02, 0.96, 0.02)
# On three sets of images with classes evidence said up to 5 nats against that.
_PRIOR_NATS = 6.0
# Before, more parts find the best class sooner; after, rewards decide; measured.
_GRAPH_FROM, _GRAPH_UNTIL = 300, 1_000
# Log-normal priors of the coarse and fine variances: center, deviation of the log.
_PRIORS = ((1.0, 0.7), (0.1, 1.2))
START: tuple[float, ...] = (0.6, 0.2, 0.2, 0.1)
"""Variances of clusters, graph, linear and fine part before evidence can tell."""


def best_scales(
    parts: Array,
    sizes: Sequence[int],
    counts: Array,
    sums: Array,
    squares: float,
    prior_noise: float,
    *,
    is_separated: bool,
    first: Sequence[float] = (),
    own: float = 0.0,
) -> tuple[float, ...]:
    """Variances of clusters, graph, linear and fine part with the largest posterior.

    Args:
        parts: Features (n, m - 1) of the images rewarded.
        sizes: Numbers of features of the groups.
        counts: Numbers of their rewards, (n,).
        sums: Sums of their rewards less the level, (n,).
        squares: Sum of the squares of all rewards less the level.
        prior_noise: Prior guess of the noise variance, squared reward units.
        is_separated: Whether the memory of images falls into parts.
        first: Given variances of groups that stand before the clusters.
        own: Given variance that every image has to itself beside the fine part.
    """
    phi = np.concatenate([np.ones((len(parts), 1)), parts], axis=1)
    left = np.maximum(1 - np.square(parts[:, sum(sizes[:-1]) :]).sum(axis=1), 0.0)
    mixtures = dict.fromkeys(_MIXTURES, 0.0)
    if is_separated and _GRAPH_FROM <= counts.sum() < _GRAPH_UNTIL:
        mixtures[_IN_GRAPH] = _PRIOR_NATS
    scored = []
    for fine in _FINE:
        moments = Moments(Seen(phi, fine * left + own, counts, sums), squares)
        for (mixture, nats), coarse in itertools.product(mixtures.items(), _COARSE):
            rho = (*(coarse * share for share in mixture), fine)
            evidence = log_evidence(moments, prior_noise, prior_scales(sizes, (*first, *rho)))
            scored.append((evidence + nats + _log_prior((coarse, fine)), rho))
    return max(scored)[1]


def _log_prior(variances: Sequence[float]) -> float:
    return -sum(
        (math.log(value / center) / deviation) ** 2 / 2
        for value, (center, deviation) in zip(variances, _PRIORS, strict=True)
    )
