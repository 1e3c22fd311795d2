"""Choices that wait for their reward are known again, and bounded."""

from __future__ import annotations

import numpy as np
import pytest

from vitucb.learning.awaited_choices import AwaitedChoices

A, B = b"a" * 16, b"b" * 16


def test_a_choice_is_taken_once_by_image_and_age() -> None:
    awaited = AwaitedChoices(10)
    awaited.add(A, np.zeros(1))
    awaited.add(B, np.zeros(1))
    assert not awaited.take(B, 1)  # that was A
    assert awaited.take(A, 1)
    assert not awaited.take(A, 1)
    assert awaited.count(A) == 0
    assert awaited.count(B) == 1


def test_past_the_bound_the_oldest_is_lost() -> None:
    awaited = AwaitedChoices(2)
    for _ in range(3):
        awaited.add(A, np.zeros(1))
    assert awaited.has_lost
    assert awaited.count(A) == len(awaited) == 2
    assert not awaited.take(A, 2)


def test_restored_choices_are_the_same() -> None:
    awaited, other = AwaitedChoices(3), AwaitedChoices(3)
    for key in (A, B, A, B):
        awaited.add(key, np.ones(2))
    other.load_state_dict(awaited.state_dict())
    assert other.total == 4
    assert other.has_lost
    assert other.take(A, 1)
    assert len(other) == 2


def test_with_a_discount_a_choice_counts_for_less_with_every_one_after_it() -> None:
    awaited, other = AwaitedChoices(10, 0.5), AwaitedChoices(10, 0.5)
    for key in (A, B, A):
        awaited.add(key, np.zeros(1))
    other.load_state_dict(awaited.state_dict())
    for choices in (awaited, other):
        assert choices.count(A) == 1.25
        assert choices.weights == [0.25, 0.5, 1.0]
    awaited.take(A, 0)
    assert awaited.count(A) == 0.25


def test_without_a_discount_choices_are_counted_and_not_weighed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    awaited = AwaitedChoices(10)
    for key in (A, B, A):
        awaited.add(key, np.zeros(1))
    monkeypatch.delattr(AwaitedChoices, "_weight")
    assert (awaited.count(A), awaited.count(B), awaited.count(b"c" * 16)) == (2.0, 1.0, 0.0)
