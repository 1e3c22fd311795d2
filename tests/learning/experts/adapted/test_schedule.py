"""At which rate the network trains: closed forms, and what must not be."""

from __future__ import annotations

import pytest

from vitucb.learning.experts.adapted.schedule import (
    Schedule,
    decay,
    effective_rewards,
    warm_up,
)

DEFAULT = Schedule()


def test_the_rate_warms_up_over_20_steps() -> None:
    assert warm_up(1, DEFAULT) == pytest.approx(1 / 20)
    assert warm_up(10, DEFAULT) == pytest.approx(0.5)
    assert warm_up(20, DEFAULT) == warm_up(10_000, DEFAULT) == 1.0


def test_the_rate_falls_as_the_power_of_rewards_past_1000() -> None:
    assert decay(0, DEFAULT) == decay(1_000, DEFAULT) == 1.0
    assert decay(10_000, DEFAULT) == pytest.approx(0.1**0.3)


def test_discounted_rewards_that_count_are_bounded() -> None:
    assert effective_rewards(5_000, 1.0) == 5_000
    assert effective_rewards(5_000, 0.99) == pytest.approx(100)
    assert effective_rewards(7, 0.99) == 7


@pytest.mark.parametrize("name", ["start", "warm_up", "flat_until"])
def test_counts_below_1_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"schedule.{name} 0 must be at least 1"):
        Schedule(**{name: 0})


def test_a_rate_that_rises_is_refused() -> None:
    with pytest.raises(ValueError, match="power -1 must not be negative"):
        Schedule(power=-1)
