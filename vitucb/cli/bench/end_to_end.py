"""Whole rounds, and where their time goes: agents on one model, side by side in one process.

CPU time of one thread, median of rounds that alternate between the agents and the bare forward. On
an accelerator time on the clock, not split into phases: each would have to wait for the device.
Rounds show 10 of 369 digits of the packaged set, resized to the model's input, which all have been
seen before: what the first sight of an image costs shows in the row without prefix cache. Batches
of training are full.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from vitucb.agents.vit_ucb import ViTUCB
from vitucb.cli.bench.clock import clock_of, is_cpu
from vitucb.cli.bench.contestant import NEVER, Contestant, keep_asleep, model_settings
from vitucb.cli.bench.scoring import (
    Row,
    fill_covariance,
    least_times,
    make_bare,
    make_images,
    one_thread,
)

MODELS: dict[str, tuple[str, int | None, int]] = {
    "vitucb-nano (32 px)": ("vitucb-nano", None, 40),
    "ViT-Tiny/16 (224 px)": ("vit_tiny_patch16_224", 224, 3),
    "ViT-S/14 (98 px)": ("vit_small_patch14_dinov2", 98, 3),
}
"""Label -> (backbone, image size, rounds timed). Times do not depend on the weights."""
_SCORING_ONLY = {"update_every": NEVER, "rebuild": "none"}
_ALONE = {"experts": ("adapted",)}
_LATE = 10_000
_WARM_UP = 2
AGENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit-ucb": ("vit-ucb", {}),
    "vit-ucb, first rounds": ("vit-ucb", {}),
    "adapted alone": ("vit-ucb", _ALONE),
    "adapted alone, bfloat16": ("vit-ucb", {**_ALONE, "precision": "bfloat16"}),
    "adapted alone, no prefix cache": ("vit-ucb", {**_ALONE, "prefix_cache_mib": 0}),
    "adapted alone, no training": ("vit-ucb", {**_ALONE, "training": _SCORING_ONLY}),
    "adapted alone, no training, bfloat16": (
        "vit-ucb",
        {**_ALONE, "training": _SCORING_ONLY, "precision": "bfloat16"},
    ),
    "adapted alone, no training, last half": (
        "vit-ucb",
        {**_ALONE, "training": _SCORING_ONLY, "lora": {"blocks": "last-half"}},
    ),
    "adapted alone, no training, last layer": (
        "vit-ucb",
        {**_ALONE, "training": _SCORING_ONLY, "features": "last-layer", "covariance": "dense"},
    ),
    "adapted alone, no training, low-rank": (
        "vit-ucb",
        {**_ALONE, "training": _SCORING_ONLY, "covariance": "low-rank"},
    ),
    f"adapted alone, no training, low-rank, round {_LATE:,}": (
        "vit-ucb",
        {**_ALONE, "training": _SCORING_ONLY, "covariance": "low-rank"},
    ),
    "lin-ucb": ("lin-ucb", {}),
    "prototype": ("prototype", {}),
    "neural-ucb": ("neural-ucb", {}),
}
"""Label -> (agent, settings), where every arm has an image."""
OF_LABELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit-ucb, labels, adapted awake": ("vit-ucb", {}),
    "vit-ucb, labels, adapted awake, bfloat16": ("vit-ucb", {"precision": "bfloat16"}),
    "vit-ucb, labels, adapted awake, whole images": (
        "vit-ucb",
        {"training": {"patch_drop_rate": 0.0}},
    ),
    "vit-ucb, labels, adapted asleep": ("vit-ucb", {}),
    "vit-ucb, labels, first rounds": ("vit-ucb", {}),
    "adapted alone, labels": ("vit-ucb", _ALONE),
    "lin-ucb, labels": ("lin-ucb", {}),
}
"""The same where one image is the context of ten labels."""
PLAYED_BEFORE = {
    "vit-ucb": 500,
    "vit-ucb, labels, adapted awake": 100,
    "vit-ucb, labels, adapted awake, bfloat16": 100,
    "vit-ucb, labels, adapted awake, whole images": 100,
    "vit-ucb, labels, adapted asleep": 500,
}
"""Rounds played before any is timed: after 500 experts fit heads and scales ever more seldom, after
100 `adapted` is awake and trains after every reward."""
PEERS = ("prototype", "neural-ucb")
"""Played on the smallest model only: one's update takes p^3, the other has no backbone."""


def contestants(label: str, folder: Path, device: str) -> dict[str, Contestant]:
    """All agents on one model, as far as they are played on it."""
    backbone, img_size, _ = MODELS[label]
    model = model_settings(backbone, img_size, folder)
    made = {}
    for who, (name, settings) in AGENTS.items():
        if name in PEERS and backbone != "vitucb-nano":
            continue
        network = model if name != "neural-ucb" else {}
        made[who] = Contestant(name, settings, network, device=device)
        agent = made[who].agent
        if str(_LATE) in who.replace(",", "") and isinstance(agent, ViTUCB):
            fill_covariance(agent.covariance, _LATE, device)
    for who, (name, settings) in OF_LABELS.items():
        made[who] = Contestant(name, settings, model, has_labels=True, device=device)
        if who == "vit-ucb, labels, adapted asleep":
            keep_asleep(made[who].agent, "adapted")
    for who, rounds in PLAYED_BEFORE.items():
        made[who].skip(rounds)
    return made


def model_rows(label: str, device: str) -> list[Row]:
    """A row per agent on one model."""
    backbone, img_size, rounds = MODELS[label]
    bare, images = make_bare(backbone, img_size).to(device), make_images(img_size).to(device)

    def forward() -> None:
        with torch.no_grad():
            bare(images)

    with tempfile.TemporaryDirectory() as folder:
        agents = contestants(label, Path(folder), device)
    forwards: list[float] = []
    for played in range(_WARM_UP + rounds):
        for contestant in agents.values():
            if played == _WARM_UP:
                contestant.forget_times()
            contestant.play()
        forwards.append(least_times({"": forward}, 1, clock_of(device))[""])
    for contestant in agents.values():
        if is_cpu(device):
            contestant.measure_network()
    return [_row(label, who, c, statistics.median(forwards)) for who, c in agents.items()]


def _row(label: str, who: str, contestant: Contestant, forward: float) -> Row:
    ms, total = 1e3 * statistics.median(contestant.seconds), sum(contestant.seconds)
    parts = {phase: ms * s / total for phase, s in contestant.phases.seconds.items()}

    def share(part: float) -> str | float:
        return 100.0 * part / ms if parts else "-"

    return {
        "model": label,
        "agent": who,
        "ms": ms,
        "rounds/s": 1e3 / ms,
        "x bare forward": ms / forward,
        **{
            f"{phase} %": share(parts.get(phase, 0.0))
            for phase in ("scoring", "covariance", "training", "rebuild")
        },
        "rest %": share(ms - sum(parts.values())),
        "ViT arithmetic %": share(1e3 * contestant.network),
    }


def run_suite(device: str = "cpu") -> list[Row]:
    """The table of `vitucb bench --suite end-to-end`; ten to thirty minutes on one thread."""
    with one_thread():
        return [row for label in MODELS for row in model_rows(label, device)]
