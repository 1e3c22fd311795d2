"""Replay recorded optimizer trajectories: `python -m tests.golden.replay FILE...`.

A file of a LoRA optimizer holds factors and gradients of every step; a chain file holds a problem,
the random draws and the weights after every merge. `replay` returns the worst absolute difference.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from vitucb.models.lora import LoRAPair
from vitucb.optim import create_optimizer
from vitucb.optim.chains.bernoulli_lora import BernoulliLoRA
from vitucb.optim.chains.chain import Chain
from vitucb.optim.chains.draws import Draws
from vitucb.optim.chains.rac_lora import RACLoRA

_X_MODES = {"zero": "zero", "sylvester": "sylvester", "symmetry": "symmetric"}


_CHAINS = ("bernoulli", "rac_factor", "fed_rac", "cola", "asymmetric")


def build(
    stem: str, meta: dict[str, Any], pairs: list[LoRAPair], draws: Draws | None = None
) -> Optimizer:
    """The optimizer that `stem` (a file name without suffix or variant) was recorded with.

    The textbook methods have no trust region: `guard` and `max_step` are 0.
    The files marked as bugs of published code get the correct algorithm, and so do not match.
    """
    algorithm, hyper = stem.split("__")[0], dict(meta.get("hyper", {}))
    if algorithm.startswith(_CHAINS):
        return _build_chain(algorithm, meta, pairs, draws)
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
    if name in ("sgd", "scaled-gd"):
        hyper["max_step"] = 0.0
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


def _build_chain(
    algorithm: str, meta: dict[str, Any], pairs: list[LoRAPair], draws: Draws | None
) -> Optimizer:
    if algorithm.startswith("bernoulli"):
        kind = algorithm.removeprefix("bernoulli_").partition("_")
        options: dict[str, Any] = {"p": meta["p"], "b": meta["mvr_b"], "k": meta["topk"]}
        options["max_step"] = 0.0
        options["estimator"] = "subgradient" if kind[0] == "subgrad" else kind[0]
        if kind[2] == "polyak":
            return create_optimizer(
                "bernoulli-lora", pairs, lr=1.0, step_size="polyak", draws=draws, **options
            )
        return create_optimizer("bernoulli-lora", pairs, lr=meta["gamma"], draws=draws, **options)
    plain: dict[str, Any] = {"inner": "sgd" if "sgd" in algorithm else "adamw"}
    plain["inner_options"] = {"weight_decay": 0.0, "max_step": 0.0}
    if algorithm.startswith("asymmetric"):
        trained = "A" if algorithm.endswith("trainA") else "B"
        return create_optimizer(
            "asymmetric-lora", pairs, lr=meta["lr"], trained=trained, draws=draws, **plain
        )
    plain["inner_steps"] = meta["inner"]
    if algorithm.startswith("cola"):
        return create_optimizer("cola", pairs, lr=meta["lr"], draws=draws, **plain)
    side = "right" if algorithm.endswith("trainB") else "left"
    return create_optimizer("rac-lora", pairs, lr=meta["lr"], side=side, draws=draws, **plain)


class RecordedDraws(Draws):
    """Hands out the recorded draws of a chain file."""

    def __init__(self, arrays: dict[str, Tensor]) -> None:
        super().__init__()
        self._arrays = arrays
        self.block = -1
        self.point = 0

    def coin(self, probability: float) -> bool:
        self.block += 1
        coins = self._arrays["coins"]
        self._left = self.block < len(coins) and bool(coins[self.block])
        return self._left

    def gaussian(self, shape: Sequence[int]) -> Tensor:
        if "A" in self._arrays:
            return self._arrays["A"]
        if "sketch" in self._arrays:
            self.block += 1
            sketches = self._arrays["sketch"]
        else:
            sketches = self._arrays["BS" if self._left else "AS"]
        # After the last merge a further block begins, which no file has recorded.
        return sketches[self.block] if self.block < len(sketches) else torch.ones(tuple(shape))

    def initial_factor(self, shape: Sequence[int]) -> Tensor:
        self.block += 1
        recorded = self._arrays["A0"]
        return recorded[self.block] if self.block < len(recorded) else torch.zeros(tuple(shape))

    def estimator_coin(self, probability: float) -> bool:
        return bool(self._arrays["estimator_coins"][self.point])

    def noise(self, shape: Sequence[int], client: int) -> Tensor:
        return self._arrays["dither_uniforms"][self.point, client]


class _Problem:
    """Linear regression (or its absolute-loss variant) in one weight with one adapter."""

    def __init__(self, z: dict[str, Tensor], meta: dict[str, Any]) -> None:
        m, n = z["W0"].shape
        r = meta.get("r") or next(
            z[k].shape[-2 if k in ("A", "A0") else -1] for k in ("A0", "A", "sketch") if k in z
        )
        if "sketch" in z:
            r = min(z["sketch"].shape[-2:])
        base = Parameter(z["W0"].clone(), requires_grad=False)
        A, B = (Parameter(torch.zeros(shape, dtype=base.dtype)) for shape in ((r, n), (m, r)))
        self.pair = LoRAPair("layer", A, B, float(meta.get("s", 1.0)), base)
        self.X = z["X"]
        self.absolute = "Wt" in z
        self.Y = z["X"] @ z["Wt"].mT if self.absolute else z["Y"]

    def closure(self, rows: Tensor | slice = slice(None)) -> Callable[[], float]:
        def evaluate() -> float:
            pair = self.pair
            pair.A.grad = pair.B.grad = None
            assert pair.base is not None
            W = pair.base + pair.scaling * pair.B @ pair.A
            residual = self.X[rows] @ W.mT - self.Y[rows]
            total = residual.abs().sum() if self.absolute else 0.5 * residual.square().sum()
            loss = total / residual.shape[0]
            torch.autograd.backward(loss)
            return loss.item()

        return evaluate

    def clients(self, count: int) -> list[Callable[[], float]]:
        return [self.closure(rows) for rows in torch.arange(len(self.X)).chunk(count)]


def _replay_bernoulli(stem: str, meta: dict[str, Any], z: dict[str, Tensor]) -> float:
    problem, draws = _Problem(z, meta), RecordedDraws(z)
    optimizer = build(stem, meta, [problem.pair], draws)
    assert isinstance(optimizer, BernoulliLoRA)
    clients = problem.clients(meta["clients"]) if meta["clients"] > 1 else []
    worst = 0.0
    for t in range(meta["K"]):
        draws.point = t
        if not optimizer.polyak:
            optimizer.param_groups[0]["lr"] = float(z["gamma"][t])
        sample = problem.closure(z["batches"][t]) if "batches" in z else problem.closure()
        needs_full = stem.startswith("bernoulli_page")
        optimizer.step(sample, full=problem.closure() if needs_full else None, clients=clients)
        assert problem.pair.base is not None
        worst = max(worst, _distance(problem.pair.base, z["W"][t + 1]))
        if optimizer.estimates:
            worst = max(worst, _distance(optimizer.estimates[0][0], z["G"][t]))
    return worst


def _replay_blocks(stem: str, meta: dict[str, Any], z: dict[str, Tensor]) -> float:
    problem = _Problem(z, meta)
    pair = problem.pair
    optimizer = build(stem, meta, [pair], RecordedDraws(z))
    worst = 0.0
    if stem.startswith("asymmetric"):
        for _ in range(meta["steps"]):
            optimizer.step(problem.closure())
        return max(_distance(pair.A, z["A"]), _distance(pair.B, z["B"]))
    assert isinstance(optimizer, Chain)
    for block in range(len(z["W"]) - 1):
        if stem.startswith("fed_rac"):
            assert isinstance(optimizer, RACLoRA)
            optimizer.federated_round(
                [[c] * meta["inner"] for c in problem.clients(meta["clients"])]
            )
        else:
            for _ in range(meta["inner"]):
                optimizer.step(problem.closure())
        assert pair.base is not None
        worst = max(worst, _distance(pair.base, z["W"][block + 1]))
    return worst


def replay(path: str | Path) -> float:
    """Worst absolute difference between a recorded trajectory and this library's."""
    path = Path(path)
    with np.load(path) as archive:
        data = {key: archive[key] for key in archive.files}
    meta: dict[str, Any] = json.loads(str(data.pop("meta")))
    arrays = {key: torch.from_numpy(value) for key, value in data.items()}
    if path.stem.startswith("bernoulli"):
        return _replay_bernoulli(path.stem, meta, arrays)
    if path.stem.startswith(_CHAINS):
        return _replay_blocks(path.stem, meta, arrays)
    if path.stem.startswith("pro_algebra"):
        return _replay_algebra(meta, arrays)
    if path.stem.startswith("degenerate"):
        return _replay_degenerate(meta, arrays)
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


def _replay_algebra(meta: dict[str, Any], z: dict[str, Tensor]) -> float:
    """One adjustment in the three gauges X: one SGD step of learning rate 1 shows it."""
    worst = 0.0
    for recorded, x_mode in _X_MODES.items():
        A, B = Parameter(z["A"].clone()), Parameter(z["B"].clone())
        A.grad, B.grad = z["gA"].clone(), z["gB"].clone()
        options: dict[str, Any] = {"x_mode": x_mode, "base": "sgd", "damping": 0.0, "guard": 0.0}
        options["delta"] = float(meta["delta"])
        pair = LoRAPair("layer", A, B, meta["s"], None)
        create_optimizer("lora-pro", [pair], lr=1.0, **options).step()
        dA, dB = z["A"] - A.detach(), z["B"] - B.detach()
        worst = max(
            worst, _distance(dA, z[f"adjA_{recorded}"]), _distance(dB, z[f"adjB_{recorded}"])
        )
        equivalent = meta["s"] * (dB @ z["A"] + z["B"] @ dA)
        worst = max(worst, _distance(equivalent, z["projection"]))
    return worst


def _replay_degenerate(meta: dict[str, Any], z: dict[str, Tensor]) -> float:
    """Rank-1 gradients: by how much a step of safe LoRA-RITE exceeds 5 times AdamW's largest.

    The recorded path of the published code is rounding noise and is not compared with.
    """
    rite, adamw = (_largest_step(name, meta["s"], z) for name in ("lora-rite", "adamw"))
    return max(0.0, rite - 5.0 * adamw)


def _largest_step(name: str, s: float, z: dict[str, Tensor]) -> float:
    A, B = Parameter(z["A0"][0].clone()), Parameter(z["B0"][0].clone())
    optimizer = create_optimizer(name, [LoRAPair("layer", A, B, s, None)], lr=1e-3)
    worst = 0.0
    for G in z["G0"]:
        A.grad, B.grad = s * B.detach().mT @ G, s * G @ A.detach().mT
        before = B.detach() @ A.detach()
        optimizer.step()
        worst = max(worst, float(s * (B.detach() @ A.detach() - before).norm()))
    return worst


def _distance(ours: Tensor, recorded: Tensor) -> float:
    return float((ours.detach() - recorded).abs().max().nan_to_num(nan=torch.inf))


def main(paths: list[str]) -> None:
    """Print the worst difference of every file."""
    for path in paths:
        sys.stdout.write(f"{replay(path):.2e}  {Path(path).name}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
