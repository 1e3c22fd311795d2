"""How often a round makes the host wait for an accelerator: never more than it does today."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.covering import slow_but
from tests.simulated.accelerator import DEVICE, in_words
from tests.simulated.parts import SMALL_LORA, learn, train
from tests.simulated.plays import Game, play
from vitucb.optim.table import ENTRIES

ALONE: dict[str, Any] = {"experts": ("adapted",), "lora": SMALL_LORA}
# Waits of a round, once the first rounds are over, and the game.
BUDGETS = {
    "images": (1, Game()),
    "labels": (1, Game(is_shared=True)),
    "kernel-ucb": (1, Game("kernel-ucb")),
    "lin-ucb": (1, Game("lin-ucb")),
    "exact": (3, Game(settings=ALONE)),
    "low-rank": (2, Game(settings={**ALONE, "covariance": "low-rank"})),
    "neural-ucb": (7, Game("neural-ucb")),
}
QUICK = ("images", "labels", "exact")


@pytest.mark.parametrize("name", slow_but(QUICK, BUDGETS))
def test_rounds_keep_to_their_budget_of_waits(name: str, aside: Callable[..., Any]) -> None:
    budget, game = BUDGETS[name]
    least = min(aside(play, game, DEVICE).waits, key=lambda waits: waits.total())
    assert least.total() <= budget, f"\n{in_words(least)}"


def test_a_round_that_trains_waits_for_features_and_loss(aside: Callable[..., Any]) -> None:
    # Of three rounds one acts on new weights, and reads the head of them, too.
    waits = aside(learn, "adamw", DEVICE).waits[-3:]
    assert sorted(w.total() for w in waits) <= [2, 2, 3], "\n\n".join(map(in_words, waits))


@pytest.mark.parametrize("name", slow_but(["adamw", "lora-rite"], ENTRIES))
def test_a_step_of_an_optimizer_asks_the_device_nothing(
    name: str, aside: Callable[..., Any]
) -> None:
    waits = aside(train, name, {}, DEVICE).waits
    assert not waits, f"\n{in_words(waits)}"
