"""The optimizers by name: import path, paper, state and cost; free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class OptimizerEntry:
    """One row of `vitucb list optimizers`.

    Attributes:
        path: Import path `module:attribute` of the class.
        summary: What it does, in one line.
        paper: arXiv number or reference.
        state: Floats kept per pair (r rank, m outputs, n inputs); Adam keeps 2r(m+n).
        cost: Extra floating point operations per pair and step on top of its base rule.
        lr: Its rate, and `options` its further arguments, in a network that learns online where
            nothing else is asked for; that of lora_A where the factors have two.
        options: See `lr`.
    """

    path: str
    summary: str
    paper: str
    state: str
    cost: str
    lr: float
    options: Mapping[str, Any] = field(default_factory=dict)


# Second moments forget within 100 steps, as the batches of a growing history do.
_ADAM = {"betas": (0.9, 0.99), "weight_decay": 0.0}
_INNER = {"inner_options": _ADAM}

ENTRIES: dict[str, OptimizerEntry] = {
    "sgd": OptimizerEntry(
        "vitucb.optim.plain:SGD",
        "torch.optim.SGD on both factors, steps of W bounded",
        "-",
        "0, r(m+n) with momentum",
        "-",
        lr=0.6,
    ),
    "adamw": OptimizerEntry(
        "torch.optim:AdamW",
        "torch.optim.AdamW on both factors",
        "1711.05101",
        "2r(m+n)",
        "-",
        lr=2e-3,
        options=_ADAM,
    ),
    "lora-plus": OptimizerEntry(
        "vitucb.optim.lora_plus:LoRAPlus",
        "lora_B at `ratio` times the learning rate of lora_A",
        "2402.12354",
        "as the base",
        "-",
        lr=2e-4,
        options=_ADAM,
    ),
    "lora-pro": OptimizerEntry(
        "vitucb.optim.lora_pro:LoRAPro",
        "factor gradients adjusted to follow the full gradient",
        "2407.18242",
        "2r(m+n); 2mn with moments=full",
        "12r^2(m+n), 1 eigh; 8mnr with moments=full",
        lr=6e-4,
        options=_ADAM,
    ),
    "lora-rite": OptimizerEntry(
        "vitucb.optim.lora_rite:LoRARITE",
        "adaptive and independent of how B A is factored",
        "2410.20625",
        "r(m+n) + 3r^2",
        "10r^2(m+n), 3 eigh",
        lr=2e-4,
        options=_ADAM,
    ),
    "lora-muon": OptimizerEntry(
        "vitucb.optim.lora_muon:LoRAMuon",
        "steepest descent of W under the spectral norm, one moment",
        "2606.12921",
        "r(m+n)",
        "6r^2(m+n), 2 eigh",
        lr=2e-2,
    ),
    "scaled-gd": OptimizerEntry(
        "vitucb.optim.scaled:ScaledGD",
        "SGD preconditioned by the Gram of the other factor",
        "2402.02347",
        "0, r(m+n) with momentum",
        "4r^2(m+n), 1 inverse",
        lr=0.2,
    ),
    "scaled-adam": OptimizerEntry(
        "vitucb.optim.scaled:ScaledAdam",
        "AdamW preconditioned by the Gram of the other factor",
        "2402.02347",
        "2r(m+n)",
        "4r^2(m+n), 1 inverse",
        lr=6e-4,
        options=_ADAM,
    ),
    "lora-fa": OptimizerEntry(
        "vitucb.optim.lora_fa:LoRAFA",
        "lora_A frozen, AdamW on the projected lora_B gradient",
        "2308.03303",
        "2rm",
        "2r^2(m+n), 1 eigh",
        lr=2e-3,
        options=_ADAM,
    ),
    "lamb": OptimizerEntry(
        "vitucb.optim.lamb:LAMB",
        "Adam scaled to the norm of each factor",
        "1904.00962",
        "2r(m+n)",
        "-",
        lr=2e-2,
        options=_ADAM,
    ),
    "rac-lora": OptimizerEntry(
        "vitucb.optim.chains.rac_lora:RACLoRA",
        "random sketch on one side, train the other, merge, repeat",
        "2410.08305",
        "2mn (pretrained, delta) + the inner optimizer's",
        "a block: QR 2mr^2, merge 2mnr",
        lr=6e-3,
        options=_INNER,
    ),
    "bernoulli-lora": OptimizerEntry(
        "vitucb.optim.chains.bernoulli_lora:BernoulliLoRA",
        "random sketch on a random side, one step, merge; many estimators",
        "2508.03820",
        "2mn; 3mn to (4 + clients)mn with page, mvr, marina, ef21",
        "a step: QR 2mr^2, merge 2mnr",
        lr=6.0,
    ),
    "cola": OptimizerEntry(
        "vitucb.optim.chains.cola:COLA",
        "train both factors, merge, restart",
        "2401.04151",
        "2mn (pretrained, delta) + the inner optimizer's",
        "a block: merge 2mnr",
        lr=2e-3,
        options=_INNER,
    ),
    "asymmetric-lora": OptimizerEntry(
        "vitucb.optim.chains.asymmetric_lora:AsymmetricLoRA",
        "one factor frozen at an orthonormal draw",
        "2402.16842",
        "2mn (pretrained, delta) + the inner optimizer's",
        "-",
        lr=2e-3,
        options=_INNER,
    ),
}

OPTIMIZERS: dict[str, str] = {name: entry.path for name, entry in ENTRIES.items()}
