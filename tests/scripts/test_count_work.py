"""Tensor operations of a whole round: never more than today, whatever the round and the arms."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from count_work import CASES, Player, operations_at, row_of

from tests.covering import slow_but
from vitucb.envs.data.datasets import load_dataset


class Budget(NamedTuple):
    """What a round may take after some rounds, and what it may after others."""

    operations: int
    rounds: tuple[int, ...]


# Medians of ten rounds, and a few more for other processors and versions of PyTorch.
BUDGETS = {
    "vit-ucb, an image per arm": Budget(32, (60, 200)),
    "kernel-ucb, an image per arm": Budget(3, (60, 200)),
    "lin-ucb, an image per arm": Budget(32, (60, 200)),
    "lin-ucb, ten labels": Budget(130, (60, 200)),
    "vit-ucb, ten labels, adapted asleep": Budget(156, (60, 200)),
    "vit-ucb, ten labels, a step after every reward": Budget(730, (140,)),
    "adapted alone, an image per arm, exact": Budget(820, (20, 40)),
    "adapted alone, an image per arm, low-rank": Budget(865, (20, 40)),
    "adapted alone, ten labels, exact": Budget(950, (20,)),
}
QUICK = (
    "vit-ucb, an image per arm",
    "kernel-ucb, an image per arm",
    "lin-ucb, an image per arm",
    "adapted alone, an image per arm, exact",
)
OF_IMAGE_ARMS = [label for label in BUDGETS if "an image per arm" in label]


@pytest.mark.parametrize("label", slow_but(QUICK, BUDGETS))
def test_rounds_keep_to_their_budget_of_operations_and_do_not_grow(label: str) -> None:
    budget = BUDGETS[label]
    assert max(operations_at(CASES[label], budget.rounds)) <= budget.operations


@pytest.mark.parametrize("label", slow_but(QUICK[:3], OF_IMAGE_ARMS))
def test_more_arms_take_no_more_operations(label: str) -> None:
    few, many = (operations_at(CASES[label], (20,), num_arms=arms) for arms in (3, 10))
    assert many <= few


def test_every_case_has_a_budget() -> None:
    assert BUDGETS.keys() == CASES.keys()


def test_a_row_tells_operations_and_passes() -> None:
    label = "lin-ucb, an image per arm"
    operations, steady, whole = row_of(CASES[label], at=3, rounds=5)
    player = Player(CASES[label], load_dataset("digits"))
    player.play_to(5)
    assert 0 < int(operations) <= BUDGETS[label].operations
    assert float(steady) == 0
    assert float(whole) == player.agent.image_passes / 5 > 0
