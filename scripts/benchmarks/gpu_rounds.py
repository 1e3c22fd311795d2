"""How long a round takes on a device, for `on_a_gpu.py`."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_players import CONTESTANTS, Device
from time_budget import Budget, Row, in_turn, out_of_time
from torch import nn

from vitucb.cli.bench.clock import clock_of
from vitucb.cli.bench.contestant import model_settings
from vitucb.cli.bench.end_to_end import MODELS
from vitucb.cli.bench.scoring import least_times, make_bare, make_images

HORIZON = 10_000


class Backbones:
    """Settings of the backbones, whose random weights are made once."""

    def __init__(self, folder: Path) -> None:
        """Keep weights in `folder`."""
        self._folder, self._made = folder, dict[str, dict[str, Any]]()

    def __call__(self, label: str) -> dict[str, Any]:
        """Settings of a key of `MODELS`."""
        if label not in self._made:
            backbone, img_size, _ = MODELS[label]
            folder = self._folder / backbone
            folder.mkdir()
            self._made[label] = model_settings(backbone, img_size, folder)
        return self._made[label]


def bare_forward_ms(label: str, arms: int, device: str) -> float:
    """Milliseconds of timm's own model on K images."""
    backbone, img_size, _ = MODELS[label]
    bare = make_bare(backbone, img_size).to(device)
    images = make_images(img_size)[:1].repeat(arms, 1, 1, 1).to(device)
    call = partial(_without_gradients, bare, images)
    return least_times({"": call}, 3, clock_of(device))[""]


def _without_gradients(model: nn.Module, images: torch.Tensor) -> None:
    with torch.no_grad():
        model(images)


def round_rows(
    device: Device,
    backbones: Callable[[str], dict[str, Any]],
    models: Sequence[str],
    arms: Sequence[int],
    rounds: int,
    warm_up: int,
    budget: Budget,
) -> Iterator[Row]:
    """A row per model, number of arms and agent; at most `rounds` rounds after warming up.

    Warming up takes no more than `warm_up` rounds.
    """
    forwards: dict[tuple[str, int], float] = {}
    cases = list(itertools.product(models, arms, CONTESTANTS))
    for (model, k, who), part in in_turn(cases, budget):
        case: Row = {"model": model, "arms": k, "agent": who}
        if part is None:
            yield case | out_of_time(budget)
            continue
        if (model, k) not in forwards:
            forwards[model, k] = bare_forward_ms(model, k, device.name)
        if device.is_cuda:
            torch.cuda.reset_peak_memory_stats(device.name)
        player = CONTESTANTS[who].make(k, backbones(model), device.name)
        first = min(warm_up, CONTESTANTS[who].warm_up)
        before = len(player.seconds(first, part.part(0.5)))
        taken = player.seconds(rounds, part)
        ms = 1e3 * statistics.median(taken)
        waits = player.waits(device) if part.left() > 5 * ms / 1e3 else None
        figures: Row = {
            "from round": before,
            "rounds": len(taken),
            "ms": ms,
            "mean, ms": 1e3 * statistics.mean(taken),
            "x bare forward": ms / forwards[model, k],
            "waits": "-" if waits is None else waits,
        }
        if device.is_cuda:
            figures["MiB"] = torch.cuda.max_memory_allocated(device.name) / 2**20
        yield case | figures


def extrapolated(seconds: Sequence[float], rounds: int) -> float:
    """Seconds of so many rounds, if the rest take as long as the last third of those played."""
    last = seconds[-max(1, len(seconds) // 3) :]
    return sum(seconds) + (rounds - len(seconds)) * statistics.mean(last)


def horizon_rows(
    device: Device, backbone: dict[str, Any], arms: int, rounds: int, budget: Budget
) -> Iterator[Row]:
    """How long 10,000 rounds take, by the first `rounds` of them."""
    for who, part in in_turn(["vit-ucb, an image per arm", "vit-ucb, labels"], budget):
        if part is None:
            yield {"agent": who, **out_of_time(budget)}
            continue
        player = CONTESTANTS[who].make(arms, backbone, device.name)
        seconds = player.seconds(rounds, part)
        yield {
            "agent": who,
            "arms": arms,
            "rounds played": len(seconds),
            "s": sum(seconds),
            f"s for {HORIZON:,} rounds": extrapolated(seconds, HORIZON),
        }
