"""What was saved on one device goes on, on the same one or another, as if never interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.covering import slow_but
from tests.simulated.accelerator import DEVICE
from tests.simulated.parts import SMALL_LORA
from tests.simulated.plays import Game, Played, play, play_deployed, play_in_halves

ALONE: dict[str, Any] = {"experts": ("adapted",), "lora": SMALL_LORA}
GAMES = {
    "images": Game(),
    "labels": Game(settings={"lora": SMALL_LORA}, is_shared=True),
    "adapted": Game(settings=ALONE),
    "adapted-low-rank": Game(settings={**ALONE, "covariance": "low-rank"}),
    "adapted-lora-rite": Game(settings={**ALONE, "optimizer": "lora-rite"}),
    "cola": Game(settings={**ALONE, "optimizer": "cola"}),
    "neural-ucb": Game("neural-ucb"),
    "neural-linear": Game("neural-linear"),
}
MOVES = [(DEVICE, DEVICE, name) for name in GAMES]
MOVES += [(*move, n) for n in ("labels", "adapted") for move in (("cpu", DEVICE), (DEVICE, "cpu"))]
QUICK = [(DEVICE, DEVICE, "labels"), (DEVICE, DEVICE, "adapted")]


@pytest.mark.parametrize("move", slow_but(QUICK, MOVES), ids=" ".join)
def test_a_resumed_play_is_the_uninterrupted_one(
    move: tuple[str, str, str], aside: Callable[..., Played], tmp_path: Path
) -> None:
    first, second, name = move
    whole = aside(play, GAMES[name], "cpu")
    halves = aside(play_in_halves, GAMES[name], first, second, tmp_path)
    assert halves.actions == whole.actions
    np.testing.assert_allclose(halves.means, whole.means, atol=1e-6)
    np.testing.assert_allclose(halves.widths, whole.widths, atol=1e-6)


# Not those with adapters: PEFT writes them by the address of their storage, and there is none.
DEPLOYED = {
    "images": Game(),
    "labels": Game(settings={"experts": ("linear", "softmax")}, is_shared=True),
    "neural-ucb": Game("neural-ucb"),
}


@pytest.mark.parametrize("name", slow_but(["labels"], DEPLOYED))
def test_a_deployed_agent_is_saved_and_loaded_on_the_device(
    name: str, aside: Callable[..., list[int]], tmp_path: Path
) -> None:
    here = aside(play_deployed, DEPLOYED[name], "cpu", tmp_path / "here")
    there = aside(play_deployed, DEPLOYED[name], DEVICE, tmp_path / "there")
    assert there == here
