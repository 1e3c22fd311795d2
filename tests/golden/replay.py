"""Replay recorded optimizer trajectories: `python -m tests.golden.replay FILE...`.

A file of a LoRA optimizer holds factors and gradients of every step; a chain file holds a problem,
the random draws and the weights after every merge. `replay` returns the worst absolute difference.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from vitucb.adapters import LoRAPair
from vitucb.optim import create_optimizer

_X_MODES = {"zero": "zero", "sylvester": "sylvester", "symmetry": "symmetric"}


def build(stem: str, meta: dict[str, Any], pairs: list[LoRAPair]) -> Optimizer:
    """The optimizer that `stem` (a file name without suffix or variant) was recorded with.

    The files marked as bugs of published code get the correct algorithm, and so do not match.
    """
    algorithm, hyper = stem.split("__")[0], dict(meta.get("hyper", {}))
    lr = hyper.pop("lr", 1e-3)
    if algorithm.startswith("rite"):
        return create_optimizer("lora-rite", pairs, lr=lr, **_rite_options(algorithm, hyper))
    if algorithm.startswith("pro"):
        return create_optimizer("lora-pro", pairs, lr=lr, **_pro_options(algorithm, hyper))
    if "betas" in hyper:
        hyper["betas"] = tuple(hyper["betas"])
    if algorithm.startswith("lorafa"):
        return create_optimizer("lora-fa", pairs, lr=lr, **hyper)
    if algorithm.startswith("lamb"):
        if hyper.pop("clamp", None) is not None:
            raise ValueError("LAMB here does not clamp its trust ratio")
        return create_optimizer("lamb", pairs, lr=lr, **hyper)
    names = {"loraplus": "lora-plus", "scaled_adam": "scaled-adam", "scaled_sgd": "scaled-gd"}
    names |= {"adamw": "adamw", "sgd": "sgd"}
    name = next(known for prefix, known in names.items() if algorithm.startswith(prefix))
    return create_optimizer(name, pairs, lr=lr, **hyper)


def _rite_options(algorithm: str, hyper: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"betas": tuple(hyper["betas"])}
    if "paper" in algorithm:
        return {**options, "compat": "paper"}
    if "ema" in algorithm:
        return {**options, "compat": "paper", "average": True, "eps": hyper["eps"]}
    return {
        **options,
        "compat": "official",
        "eps": hyper["eps"],
        "clip_norm": hyper["clip_unmagnified_grad"],
        "skip_rms": hyper["update_skipping"],
        "cap_rms": hyper["update_capping"],
        "weight_decay": hyper["weight_decay"],
        "escaped_mass": hyper["apply_escape"],
        "balance": hyper["balance_param"],
    }


def _pro_options(algorithm: str, hyper: dict[str, Any]) -> dict[str, Any]:
    x_mode = _X_MODES[hyper.get("X", "sylvester")]
    options: dict[str, Any] = {"x_mode": x_mode, "damping": 0.0, "delta": hyper["delta"]}
    options["guard"] = 0.0
    if "sgd" in algorithm:
        return {**options, "base": "sgd"}
    options |= {"betas": tuple(hyper["betas"]), "eps": hyper["eps"]}
    options["weight_decay"] = hyper.get("weight_decay", 0.0)
    if "full" in algorithm:
        return {**options, "moments": "full", "decay": "adapter"}
    return {**options, "decay": "factor"}


def replay(path: str | Path) -> float:
    """Worst absolute difference between a recorded trajectory and this library's."""
    path = Path(path)
    with np.load(path) as archive:
        data = {key: archive[key] for key in archive.files}
    meta: dict[str, Any] = json.loads(str(data.pop("meta")))
    arrays = {key: torch.from_numpy(value) for key, value in data.items()}
    return _replay_factors(path.stem, meta, arrays)


def _replay_factors(stem: str, meta: dict[str, Any], z: dict[str, Tensor]) -> float:
    pairs = [
        LoRAPair(
            f"pair{i}", Parameter(z[f"A{i}"][0].clone()), Parameter(z[f"B{i}"][0].clone()), s, None
        )
        for i, s in enumerate(meta["s"])
    ]
    optimizer = build(stem, meta, pairs)
    worst = 0.0
    for t in range(meta["T"]):
        for i, pair in enumerate(pairs):
            pair.A.grad, pair.B.grad = z[f"gA{i}"][t].clone(), z[f"gB{i}"][t].clone()
        optimizer.step()
        for i, pair in enumerate(pairs):
            worst = max(worst, _distance(pair.A, z[f"A{i}"][t + 1]))
            worst = max(worst, _distance(pair.B, z[f"B{i}"][t + 1]))
    return worst


def _distance(ours: Tensor, recorded: Tensor) -> float:
    return float((ours.detach() - recorded).abs().max().nan_to_num(nan=torch.inf))


def main(paths: list[str]) -> None:
    """Print the worst difference of every file."""
    for path in paths:
        sys.stdout.write(f"{replay(path):.2e}  {Path(path).name}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
