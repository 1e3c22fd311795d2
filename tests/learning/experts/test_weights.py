"""Weights follow predictions: regret bounds, changes, units, sleep."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitucb.learning.experts.expert import Prediction
from vitucb.learning.experts.weights import (
    ExpertWeights,
    WeightRule,
    mix,
    mixture_loss,
    newcomer_loss,
    weights_of,
)

PLAIN = WeightRule(discount=1.0, eta=0.5, share=0.0)


def rewards(count: int, seed: int = 0) -> list[float]:
    draws: list[float] = (np.random.default_rng(seed).random(count) < 0.6).astype(float).tolist()
    return draws


def watch(
    weights: ExpertWeights, stream: Iterable[tuple[dict[str, float | None], float]]
) -> list[tuple[str, ...]]:
    return [weights.observe(means, reward) for means, reward in stream]


def test_weights_sum_to_one_and_the_smaller_loss_has_the_larger() -> None:
    found = weights_of(np.array([3.0, 1.0, math.inf, 2.0]), 0.5, 0.03)
    assert found.sum() == pytest.approx(1.0)
    assert found[1] > found[3] > found[0] >= 0.01
    assert found[2] == 0.0


def test_weights_equal_the_formula() -> None:
    raw = np.exp(-0.2 * np.array([1.0, 4.0]))
    expected = 0.99 * raw / raw.sum() + 0.005
    np.testing.assert_allclose(weights_of(np.array([1.0, 4.0]), 0.2, 0.01), expected)


def test_losses_of_any_size_do_not_overflow() -> None:
    np.testing.assert_allclose(weights_of(np.array([1e9, 2e9]), 1.0, 0.0), [1.0, 0.0])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5), st.floats(0.01, 2.0))
def test_the_mixture_is_charged_no_more_than_its_mean_loss(losses: list[float], eta: float) -> None:
    array, even = np.array(losses), np.full(len(losses), 1 / len(losses))
    assert mixture_loss(array, even, eta) <= array.mean() + 1e-9
    assert mixture_loss(array, even, eta) >= array.min() - 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_squared_loss_of_the_mixture_is_at_most_that_of_the_best_and_log_of_the_number_over_eta(
    seed: int,
) -> None:
    # Losses in [0, 1]: exponentially concave for eta <= 1 / 2 (Vovk 1990).
    rng, names = np.random.default_rng(seed), ("a", "b", "c", "d")
    losses, mixed = np.zeros(4), 0.0
    for reward in rewards(400, seed):
        means = np.clip(np.array([0.6, 0.5, 0.1, reward]) + 0.3 * rng.standard_normal(4), 0, 1)
        means[3] = rng.random()
        mixed += (float(weights_of(losses, 0.5, 0.0) @ means) - reward) ** 2
        losses += (means - reward) ** 2
    assert mixed <= losses.min() + math.log(len(names)) / 0.5 + 1e-9


def test_the_best_expert_gets_the_weight() -> None:
    weights = ExpertWeights(("good", "bad"))
    watch(weights, (({"good": 0.6, "bad": 0.1}, r) for r in rewards(300)))
    assert weights.weights["good"] > 0.9


def test_weights_recover_after_a_change() -> None:
    weights = ExpertWeights(("first", "second"))
    watch(weights, (({"first": r, "second": 1 - r}, r) for r in rewards(2_000)))
    assert weights.weights["first"] > 0.98
    watch(weights, (({"first": 1 - r, "second": r}, r) for r in rewards(300, 1)))
    assert weights.weights["second"] > 0.98


@pytest.mark.parametrize(("unit", "level"), [(1e-3, 0.0), (1e4, 0.0), (1.0, 1000.0), (-2.0, 5.0)])
def test_weights_have_no_unit(unit: float, level: float) -> None:
    plain, other = ExpertWeights(("a", "b")), ExpertWeights(("a", "b"))
    for reward in rewards(200):
        plain.observe({"a": 0.7, "b": 0.2}, reward)
        other.observe({"a": level + unit * 0.7, "b": level + unit * 0.2}, level + unit * reward)
    # Until two different rewards came, nothing tells the unit.
    np.testing.assert_allclose(
        list(other.weights.values()), list(plain.weights.values()), rtol=1e-6
    )


def test_a_wild_prediction_is_clipped_to_the_rewards_seen() -> None:
    weights = ExpertWeights(("wild", "tame"), rule=PLAIN)
    watch(weights, (({"wild": 1e6, "tame": 1.0}, r) for r in rewards(50)))
    assert weights.losses["wild"] == weights.losses["tame"]


def test_an_expert_without_a_prediction_keeps_its_standing() -> None:
    weights = ExpertWeights(("a", "b", "late"), rule=WeightRule(eta=0.5, share=0.0))
    watch(weights, (({"a": 0.6, "b": 0.4, "late": 0.5}, r) for r in rewards(50)))
    before = weights.weights["late"]
    weights.observe({"a": 0.6, "b": 0.4, "late": None}, 1.0)
    # All but for the discount of what was lost before.
    assert weights.weights["late"] == pytest.approx(before, rel=0.02)


def test_a_reward_that_nobody_predicted_changes_no_weight() -> None:
    weights = ExpertWeights(("a", "b"))
    watch(weights, (({"a": 0.6, "b": 0.1}, r) for r in rewards(20)))
    before = weights.weights
    weights.observe({"a": None, "b": None}, 1.0)
    assert weights.weights == before


SLEEPY = WeightRule(patience=50)


def sleepy(bad_until: float = math.inf, count: int = 2_000) -> tuple[ExpertWeights, list[bool]]:
    weights, asleep = ExpertWeights(("good", "lazy"), trained=("lazy",), rule=SLEEPY), []
    for t, reward in enumerate(rewards(count)):
        good = 0.6 if t < bad_until else 0.0
        lazy = None if "lazy" in weights.asleep else (1 - reward if t < bad_until else reward)
        weights.observe({"good": good, "lazy": lazy}, reward)
        asleep.append("lazy" in weights.asleep)
    return weights, asleep


def test_an_expert_with_little_weight_for_long_sleeps_twice_as_long_every_time() -> None:
    _, asleep = sleepy()
    naps = [len(list(run)) for is_asleep, run in itertools.groupby(asleep) if is_asleep]
    assert naps[:4] == [50, 100, 200, 400]


def test_the_weight_of_a_sleeper_goes_to_the_others() -> None:
    _, asleep = sleepy(count=400)
    weights, _ = sleepy(count=asleep.index(True) + 1)
    assert weights.asleep == {"lazy"}
    assert weights.weights == {"good": 1.0, "lazy": 0.0}


def test_a_sleeper_that_has_become_better_takes_over_when_it_wakes() -> None:
    weights, asleep = sleepy(bad_until=600, count=1_500)
    assert not any(asleep[-300:])
    assert weights.weights["lazy"] > 0.9


def test_only_experts_that_cost_training_sleep() -> None:
    weights = ExpertWeights(("good", "bad"), rule=SLEEPY)
    watch(weights, (({"good": r, "bad": 1 - r}, r) for r in rewards(500)))
    assert not weights.asleep


def test_a_newcomer_starts_with_the_least_weight() -> None:
    rule, losses = WeightRule(), np.array([30.0, 31.0])
    found = weights_of(np.append(losses, newcomer_loss(losses, rule)), rule.eta, rule.share)
    assert found[-1] == pytest.approx(rule.least)


def test_a_newcomer_as_good_as_the_best_has_a_fair_share_after_the_patience() -> None:
    _, asleep = sleepy(count=400)
    woken = asleep.index(False, asleep.index(True))
    weights, _ = sleepy(count=woken + 1)
    assert weights.weights["lazy"] == pytest.approx(SLEEPY.least, rel=0.2)
    watch(weights, (({"good": 0.6, "lazy": 0.6}, r) for r in rewards(500)))
    assert weights.weights["lazy"] > 0.3


def test_an_expert_with_nothing_to_say_starts_asleep_and_enters_with_the_least_weight() -> None:
    weights = ExpertWeights(("good", "late"), trained=("late",), starts_after={"late": 30})
    seen = []
    for reward in rewards(31):
        seen.append("late" in weights.asleep)
        late = None if seen[-1] else 0.6
        changed = weights.observe({"good": 0.6, "late": late}, reward)
        if changed:
            assert weights.weights["late"] == pytest.approx(WeightRule().least)
    assert seen == [True] * 30 + [False]


def test_one_without_training_keeps_silent_and_enters_with_an_even_weight() -> None:
    weights = ExpertWeights(("good", "few"), starts_after={"few": 20})
    seen = []
    for reward in rewards(21):
        seen.append("few" in weights.asleep)
        few = None if seen[-1] else 0.6
        weights.observe({"good": 0.6, "few": few}, reward)
        assert weights.weights["few"] == pytest.approx(0.0 if len(seen) < 20 else 0.5)
    assert seen == [True] * 20 + [False]


def test_somebody_is_awake_from_the_start() -> None:
    weights = ExpertWeights(("only",), trained=("only",), starts_after={"only": 30})
    assert not weights.asleep
    weights = ExpertWeights(("a", "b"), trained=("a",), starts_after={"a": 84, "b": 20})
    assert weights.asleep == {"a"}


def test_restored_weights_continue_identically() -> None:
    weights, _ = sleepy(count=173)
    restored = ExpertWeights(("good", "lazy"), trained=("lazy",), rule=SLEEPY)
    restored.load_state_dict(weights.state_dict())
    for reward in rewards(120, 3):
        lazy = None if "lazy" in weights.asleep else 0.3
        pair = [w.observe({"good": 0.5, "lazy": lazy}, reward) for w in (weights, restored)]
        assert pair[0] == pair[1]
        assert weights.metrics() == restored.metrics()


def test_the_mixture_of_one_has_its_bits() -> None:
    mean, width = np.random.default_rng(0).random((2, 4))
    mixed = mix([Prediction(mean, width, 0.3 * width)], [1.0])
    np.testing.assert_array_equal(mixed.mean, mean)
    np.testing.assert_array_equal(mixed.bonus, 0.3 * width)


def test_an_expert_without_widths_takes_those_of_the_others() -> None:
    one, two, zero = np.ones(2), np.full(2, 2.0), np.zeros(2)
    parts = [Prediction(one, one, two), Prediction(two, zero, zero), Prediction(zero, two, one)]
    mixed = mix(parts, [0.3, 0.6, 0.1])
    np.testing.assert_allclose(mixed.mean, 1.5)
    np.testing.assert_allclose(mixed.width, 0.75 * 1 + 0.25 * 2)
    np.testing.assert_allclose(mixed.bonus, 0.75 * 2 + 0.25 * 1)


def test_a_mixture_without_any_width_has_none() -> None:
    mixed = mix([Prediction(np.ones(2), np.zeros(2), np.zeros(2))], [1.0])
    np.testing.assert_array_equal(mixed.bonus, 0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"discount": 0.0}, "discount 0.0 must be in"),
        ({"eta": math.inf}, "eta inf must be finite"),
        ({"share": 1.0}, "share 1.0 must be in"),
        ({"patience": 0}, "patience 0 must be at least 1"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightRule(**settings)  # type: ignore[arg-type]  # one setting at a time


def test_names_must_differ_and_trained_ones_be_among_them() -> None:
    with pytest.raises(ValueError, match="a name of its own"):
        ExpertWeights(("a", "a"))
    with pytest.raises(ValueError, match="trained c: not among a, b"):
        ExpertWeights(("a", "b"), trained=("c",))
    with pytest.raises(ValueError, match="starts_after c: not among the experts"):
        ExpertWeights(("a", "b"), trained=("b",), starts_after={"c": 5})


def test_a_sleeper_that_was_right_where_all_others_were_far_off_costs_nothing() -> None:
    assert mixture_loss(np.array([0.0, 5_000.0]), np.array([0.0, 1.0]), 0.2) == 5_000.0


def test_the_state_of_experts_in_another_order_is_refused() -> None:
    state = ExpertWeights(("a", "b")).state_dict()
    with pytest.raises(ValueError, match="of the experts a, b, in this order; this agent has b, a"):
        ExpertWeights(("b", "a")).load_state_dict(state)
    del state["names"]  # as older states are
    ExpertWeights(("a", "b")).load_state_dict(state)
