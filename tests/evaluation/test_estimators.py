from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vitucb.evaluation.estimators import (
    ESTIMATORS,
    Logged,
    Terms,
    bootstrap_intervals,
    check_logged,
    doubly_robust,
    effective_sample_size,
    estimate_values,
    inverse_propensity,
    self_normalised,
    self_normalised_doubly_robust,
)

Array = NDArray[np.float64]


def simulate(seed: int, rounds: int = 400, arms: int = 4, tilt: float = 1.0) -> dict[str, Array]:
    """A log with context-dependent propensities, and a target policy that prefers other arms."""
    rng = np.random.default_rng(seed)
    means = rng.uniform(0.1, 0.9, (rounds, arms))
    logging = rng.dirichlet(np.full(arms, 2.0), rounds)
    target = np.exp(tilt * 3 * means)
    target /= target.sum(axis=1, keepdims=True)
    cut = rng.random((rounds, 1))
    actions = (logging.cumsum(axis=1) < cut).sum(axis=1).clip(max=arms - 1)
    rows = np.arange(rounds)
    rewards = (rng.random(rounds) < means[rows, actions]).astype(np.float64)
    return {
        "rewards": rewards,
        "actions": actions,
        "propensities": logging[rows, actions],
        "logging": logging,
        "target": target,
        "means": means,
    }


def logged(data: dict[str, Array], q: Array | None = None, target: Array | None = None) -> Logged:
    pi = data["target"] if target is None else target
    return check_logged(data["rewards"], data["actions"], data["propensities"], pi, q)


def test_the_estimators_agree_with_a_hand_computation() -> None:
    log = check_logged(
        [1, 0], [0, 1], [0.5, 0.25], [[0.8, 0.2], [0.5, 0.5]], [[0.6, 0.1], [1, 0.4]]
    )
    # w = 1.6 and 2; q_pi = 0.5 and 0.7; residuals 0.4 and -0.4.
    values = {name: estimator(log).value for name, estimator in ESTIMATORS.items()}
    assert values["dm"] == pytest.approx(0.6)
    assert values["ips"] == pytest.approx(0.8)
    assert inverse_propensity(log, 1.5).value == pytest.approx(0.75)
    assert values["snips"] == pytest.approx(1.6 / 3.6)
    assert values["dr"] == pytest.approx(0.6 + (0.64 - 0.8) / 2)
    assert values["sndr"] == pytest.approx(0.6 + (0.64 - 0.8) / 3.6)
    assert doubly_robust(log, 1.6).value == pytest.approx(0.6 + 0.64 / 2)


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_evaluating_the_logging_policy_without_a_model_gives_the_mean_reward(seed: int) -> None:
    data = simulate(seed, rounds=50)
    log = logged(data, target=data["logging"])
    mean = data["rewards"].mean()
    for name in ("ips", "clipped-ips", "snips", "dr", "sndr"):
        assert ESTIMATORS[name](log).value == pytest.approx(mean)


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_estimators_reduce_to_each_other(seed: int) -> None:
    data = simulate(seed, rounds=50)
    q = np.random.default_rng(seed).random(data["target"].shape)
    log, blind = logged(data, q), logged(data)
    dm, dr = ESTIMATORS["dm"](log), doubly_robust(log)
    assert inverse_propensity(log, math.inf).value == ESTIMATORS["ips"](log).value
    assert doubly_robust(blind).value == pytest.approx(ESTIMATORS["ips"](blind).value)
    assert self_normalised_doubly_robust(blind).value == pytest.approx(self_normalised(log).value)
    assert doubly_robust(log, 0.0).value == pytest.approx(dm.value)
    assert doubly_robust(log, log.weights.max()).value == dr.value
    correction = (log.weights * (log.rewards - log.q_chosen)).mean()
    assert dr.value == pytest.approx(dm.value + correction)


@given(st.integers(0, 10_000), st.floats(-5, 5))
@settings(max_examples=15, deadline=None)
def test_self_normalised_estimates_move_with_the_rewards(seed: int, shift: float) -> None:
    data = simulate(seed, rounds=50)
    before = self_normalised(logged(data)).value
    assert data["rewards"].min() <= before <= data["rewards"].max()
    data["rewards"] = data["rewards"] + shift
    assert self_normalised(logged(data)).value == pytest.approx(before + shift)


def test_a_perfect_model_leaves_doubly_robust_nothing_to_correct() -> None:
    data = simulate(0)
    rows = np.arange(len(data["rewards"]))
    data["rewards"] = data["means"][rows, data["actions"]]
    log = logged(data, data["means"])
    truth = (data["target"] * data["means"]).sum(axis=1).mean()
    assert doubly_robust(log).value == pytest.approx(truth)
    assert ESTIMATORS["dm"](log).value == pytest.approx(truth)


def test_unbiased_estimators_centre_on_the_truth_and_a_wrong_model_does_not_move_them() -> None:
    data = simulate(1, rounds=200)
    truth = (data["target"] * data["means"]).sum(axis=1).mean()
    wrong = np.zeros_like(data["means"])
    rng = np.random.default_rng(2)
    rows = np.arange(200)
    ips, dr = [], []
    for _ in range(400):
        cut = rng.random((200, 1))
        a = (data["logging"].cumsum(axis=1) < cut).sum(axis=1).clip(max=3)
        r = (rng.random(200) < data["means"][rows, a]).astype(float)
        log = check_logged(r, a, data["logging"][rows, a], data["target"], wrong + 0.3)
        ips.append(ESTIMATORS["ips"](log).value)
        dr.append(doubly_robust(log).value)
    for values in (ips, dr):
        assert abs(np.mean(values) - truth) < 4 * np.std(values) / 20


def test_effective_sample_size_counts_equal_and_lone_weights() -> None:
    assert effective_sample_size(np.full(7, 1e-200)) == pytest.approx(7)
    assert effective_sample_size([0, 0, 3.0]) == 1
    assert effective_sample_size([0.0, 0.0]) == 0


def test_a_log_without_overlap_has_no_self_normalised_estimate() -> None:
    q = np.tile([0.2, 0.6], (2, 1))
    log = check_logged([1.0, 0.0], [0, 0], [1, 1], np.tile([0.0, 1.0], (2, 1)), q)
    estimates = {e.name: e for e in estimate_values(log, np.random.default_rng(0), num_resamples=9)}
    assert math.isnan(estimates["snips"].value)
    assert math.isnan(estimates["snips"].low)
    assert estimates["ips"].value == 0
    assert estimates["ips"].effective_sample_size == 0
    assert estimates["dm"].value == pytest.approx(0.6)


def test_the_bootstrap_of_a_mean_matches_the_normal_interval() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, 4_000)
    ones = np.ones_like(x)
    terms = Terms(x, 0 * ones, ones, ones)
    ((low, high),) = bootstrap_intervals([terms], rng, num_resamples=4_000)
    half = 1.96 * x.std() / math.sqrt(len(x))
    assert low == pytest.approx(x.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(x.mean() + half, abs=0.1 * half)


def test_intervals_repeat_with_the_generator_and_widen_with_the_confidence() -> None:
    data = simulate(3)
    log = logged(data, data["means"])
    first = estimate_values(log, np.random.default_rng(0), num_resamples=200)
    assert first == estimate_values(log, np.random.default_rng(0), num_resamples=200)
    wide = estimate_values(log, np.random.default_rng(0), num_resamples=200, confidence=0.999)
    assert all(w.high - w.low > e.high - e.low for w, e in zip(wide, first, strict=True))


def test_the_limit_clips_one_estimator_and_switches_the_other() -> None:
    data = simulate(4)
    log = logged(data, np.full_like(data["target"], 0.5))
    estimates = {
        e.name: e
        for e in estimate_values(log, np.random.default_rng(0), max_weight=1.5, num_resamples=9)
    }
    assert estimates["clipped-ips"].value == inverse_propensity(log, 1.5).value
    assert estimates["switch-dr"].value == doubly_robust(log, 1.5).value
    assert estimates["clipped-ips"].max_weight == 1.5
    assert estimates["switch-dr"].max_weight <= 1.5 < estimates["ips"].max_weight


def test_without_resamples_there_is_no_interval() -> None:
    with pytest.raises(ValueError, match="num_resamples 0 is below 1"):
        estimate_values(logged(simulate(0)), np.random.default_rng(0), num_resamples=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"propensities": [0.5, 0.0]},
            r"propensities: 0 in round 1 \(1 such rounds\); give a prob",
        ),
        ({"propensities": [0.5, 1.5]}, "propensities: 1.5 in round 1"),
        ({"rewards": [math.nan, 1.0]}, "rewards: nan in round 0"),
        ({"rewards": []}, r"rewards has shape \(0,\)"),
        ({"actions": [0, 2]}, "actions: 2 in round 1.*0 to 1"),
        ({"actions": [0.0, 1.0]}, "actions are float64"),
        ({"target": [[0.5, 0.6], [0.5, 0.5]]}, "sum of target: 1.1 in round 0"),
        ({"target": [[1.5, -0.5], [0.5, 0.5]]}, "target: -0.5 in round 0"),
        ({"target": [[0.5, 0.5]]}, r"target has shape \(1, 2\)"),
        ({"q": [[0.5], [0.5]]}, r"q has shape \(2, 1\); give \(2, 2\)"),
        ({"q": [[0.5, math.inf], [0.5, 0.5]]}, "q: nan in round 0"),
    ],
)
def test_bad_arrays_are_refused_with_the_round(change: dict[str, object], message: str) -> None:
    arrays: dict[str, object] = {
        "rewards": [0.0, 1.0],
        "actions": [0, 1],
        "propensities": [0.5, 0.5],
        "target": [[0.5, 0.5], [0.5, 0.5]],
    }
    with pytest.raises(ValueError, match=message):
        check_logged(**{**arrays, **change})  # type: ignore[arg-type]  # wrong on purpose


def test_the_limit_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"max_weight 0\.0 must be"):
        estimate_values(logged(simulate(0)), np.random.default_rng(0), max_weight=0.0)


def test_propensities_above_1_by_rounding_count_as_1() -> None:
    target = np.eye(2)
    log = check_logged([1.0, 2.0], [0, 1], [1.0, 1 + 2.0**-52], target)
    assert log.weights.tolist() == [1.0, 1.0]


def test_dividing_by_the_weights_narrows_the_interval_where_rewards_hardly_vary() -> None:
    draw, rounds = np.random.default_rng(0), 400
    target = np.full((rounds, 5), 0.025)
    target[:, 0] = 0.9
    rewards = 1 + 0.01 * draw.normal(size=rounds)
    actions = draw.integers(0, 5, rounds)
    log = check_logged(rewards, actions, np.full(rounds, 0.2), target, np.zeros((rounds, 5)))
    found = {e.name: e for e in estimate_values(log, draw, num_resamples=300)}
    lengths = {name: found[name].high - found[name].low for name in ("ips", "snips")}
    assert lengths["snips"] < 0.05 * lengths["ips"]
