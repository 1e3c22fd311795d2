"""Choices on a device against those on the processor, for `on_a_gpu.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from gpu_players import CONTESTANTS, Contestant
from numpy.typing import NDArray
from time_budget import Budget, Row, in_turn, out_of_time

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Choices:
    """What an agent did.

    Attributes:
        actions: Arm of every round.
        scores: Mean and bonus of all arms, float64 (T, K), reward units.
    """

    actions: list[int]
    scores: Array


def choose(who: Contestant, arms: int, rounds: int, device: str, budget: Budget) -> Choices:
    """Play on the embedded backbone, so many rounds as the budget has, one at least."""
    player = who.make(arms, {"backbone": "vitucb-nano"}, device)
    decisions = [player.round().decision]
    while len(decisions) < rounds and budget.left() > 0:
        decisions.append(player.round().decision)
    scores = np.array([decision.mean + decision.bonus for decision in decisions])
    return Choices([decision.action for decision in decisions], scores)


def compare(here: Choices, there: Choices) -> Row:
    """The first round that differs, and how far scores differ up to it.

    Args:
        here: On the processor.
        there: On the device.

    Returns:
        Rounds compared; `differs in round`, from 0, or none; `difference of scores`, the largest up
        to that round, after which histories are different ones; `gap of the two arms`, by how much
        the processor's choice is better there on the processor.
    """
    rounds = min(len(here.actions), len(there.actions))
    pairs = zip(here.actions, there.actions, strict=False)
    first = next((t for t, (mine, other) in enumerate(pairs) if mine != other), None)
    compared = rounds if first is None else first + 1
    far = float(np.abs(here.scores[:compared] - there.scores[:compared]).max())
    row: Row = {"rounds": rounds, "differs in round": "none", "difference of scores": far}
    if first is None:
        return row
    scores = here.scores[first]
    gap = float(scores[here.actions[first]] - scores[there.actions[first]])
    return row | {"differs in round": first, "gap of the two arms": gap}


def choice_rows(device: str, arms: int, rounds: int, budget: Budget) -> Iterator[Row]:
    """A row per agent: the same seed on the processor and on `device`.

    Where they differ, a second row is without TF32, which PyTorch allows CUDA's convolutions.
    """
    for (name, who), part in in_turn(list(CONTESTANTS.items()), budget):
        if part is None:
            yield {"agent": name, **out_of_time(budget)}
            continue
        here = choose(who, arms, rounds, "cpu", part.part(0.5))
        play = partial(choose, who, arms, len(here.actions), device, part)
        row = compare(here, play())
        yield {"agent": name, **row}
        if row["differs in round"] != "none":
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                yield {"agent": f"{name}, no TF32", **compare(here, play())}
