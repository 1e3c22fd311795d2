"""On an accelerator agents choose as on the processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.covering import slow_but
from tests.simulated.accelerator import DEVICE
from tests.simulated.plays import Game, Played, play
from vitucb.agents import AGENTS

Aside = Callable[..., Played]

ALONE: dict[str, Any] = {"experts": ("adapted",)}
GAMES = {name: Game(name) for name in AGENTS} | {
    "neural-ucb-cnn": Game("neural-ucb", {"options": {"network": "cnn"}}),
    "labels": Game(is_shared=True),
    "adapted": Game(settings=ALONE),
    "adapted-labels": Game(settings=ALONE, is_shared=True),
    "linear-labels": Game("lin-ucb", is_shared=True),
}


@pytest.mark.parametrize("name", slow_but(["lin-ucb", "neural-ucb", "adapted"], GAMES))
def test_agents_choose_as_on_the_processor(name: str, aside: Aside) -> None:
    here, there = (aside(play, GAMES[name], device) for device in ("cpu", DEVICE))
    assert there.actions == here.actions
    np.testing.assert_allclose(there.means, here.means, atol=1e-4)
