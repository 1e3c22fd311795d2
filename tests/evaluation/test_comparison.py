from __future__ import annotations

import numpy as np
import pytest

from vitucb.evaluation.comparison import compare
from vitucb.evaluation.estimators import check_logged, estimate_values, estimator_terms


def test_a_gain_is_resampled_as_one() -> None:
    """What a policy shares with the log does not widen the interval of their difference."""
    rng = np.random.default_rng(0)
    rewards, actions = rng.normal(5, 3, 400), rng.integers(0, 2, 400)
    rewards += actions
    half = np.full(400, 0.5)
    nearly_uniform = np.tile([0.45, 0.55], (400, 1))
    log = check_logged(rewards, actions, half, nearly_uniform)
    terms = estimator_terms(log)
    entries = [("policy", name, terms[name]) for name in terms]
    found = compare(entries, rewards, np.random.default_rng(1), num_resamples=500, confidence=0.95)
    alone = estimate_values(log, np.random.default_rng(1), num_resamples=500)
    for one, two in zip(found, alone, strict=True):
        assert one.name == two.name
        assert (one.value, one.low, one.high) == pytest.approx((two.value, two.low, two.high))
    snips = next(each for each in found if each.name == "snips")
    assert snips.high - snips.low > 0.5
    assert snips.gain_high - snips.gain_low < 0.1
    assert snips.gain == pytest.approx(snips.value - rewards.mean())
