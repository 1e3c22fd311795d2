"""LoRA optimizers beside the same algorithms in PEFT and pytorch-optimizer.

LoRA+, ScaledAdam (Riemannian preconditioning) and LoRA-RITE step the LoRA pairs of one model with
the same gradients: first the largest difference of W = B A after some steps of the same random
gradients, relative to how far W moved, then CPU time of a step, all in turn on one thread. Settings
are the peer's; where ours differ by default it is said in the row. Writes `peers-optimizers.csv`.

    pip install --target PEERS --no-deps pytorch-optimizer
    PYTHONPATH=PEERS python scripts/benchmarks/bench_peer_optimizers.py
    python scripts/benchmarks/bench_peer_optimizers.py --rows lora-plus "lora-plus, PEFT"

PEFT is part of the project's environment.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from peer_tools import Call, chosen_rows, cpu_times, machine, peer_parser, time_cells
from study_tools import out_folder, write_table
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from vitucb.cli.bench.scoring import make_frozen, one_thread
from vitucb.models.lora import LoRAPair, add_lora, lora_pairs
from vitucb.optim import create_optimizer

MODELS: Final = {"vitucb-nano": "vitucb-nano", "ViT-S/16": "vit_small_patch16_224"}
RANK, STEPS = 8, 20
LR, RATIO = 1e-4, 16.0
Build: TypeAlias = Callable[[nn.Module], Optimizer]


def ours(name: str, **options: Any) -> Build:
    """An optimizer of `vitucb.optim`."""
    return lambda model: create_optimizer(name, model, lr=LR, **options)


def peft_loraplus(model: nn.Module) -> Optimizer:
    """`create_loraplus_optimizer`, with torch's fused AdamW as ours has it."""
    peft = importlib.import_module("peft.optimizers")
    return _optimizer(
        peft.create_loraplus_optimizer(model, AdamW, lr=LR, loraplus_lr_ratio=RATIO, fused=True)
    )


def peft_riemannian(model: nn.Module) -> Optimizer:
    """`create_riemannian_optimizer` around AdamW without decay."""
    peft = importlib.import_module("peft.optimizers")
    options = {"lr": LR, "reg": 1e-2, "weight_decay": 0.0, "fused": True}
    return _optimizer(peft.create_riemannian_optimizer(model, AdamW, **options))


def pytorch_optimizer_rite(model: nn.Module) -> Optimizer:
    """`LoRARite`: (out, r) and (r, in) in alternation, each with its dimension of rank."""
    rite = importlib.import_module("pytorch_optimizer").LoRARite
    factors = [factor for pair in lora_pairs(model) for factor in (pair.B, pair.A)]
    return _optimizer(rite(factors, lr=LR, lora_l_dim=-1, lora_r_dim=0))


def _optimizer(built: object) -> Optimizer:
    assert isinstance(built, Optimizer)
    return built


@dataclass(frozen=True, slots=True)
class Row:
    """An optimizer, and the one of ours that it is compared with.

    Attributes:
        build: Makes it for the LoRA pairs of a model.
        reference: The row whose trajectory and time stand for 0 and 1.
        module: The peer's module that must be installed; None where nothing need be.
    """

    build: Build
    reference: str
    module: str | None = None


ROWS: Final = {
    "lora-plus": Row(ours("lora-plus", ratio=RATIO, weight_decay=0.0, fused=True), "lora-plus"),
    "lora-plus, PEFT": Row(peft_loraplus, "lora-plus"),
    "scaled-adam": Row(ours("scaled-adam"), "scaled-adam"),
    "scaled-adam, PEFT": Row(peft_riemannian, "scaled-adam"),
    "lora-rite, compat official": Row(
        ours("lora-rite", compat="official"), "lora-rite, compat official"
    ),
    "lora-rite, pytorch-optimizer": Row(
        pytorch_optimizer_rite, "lora-rite, compat official", "pytorch_optimizer"
    ),
    "lora-rite, our defaults": Row(ours("lora-rite"), "lora-rite, compat official"),
}


def make_pairs(backbone: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A frozen network with LoRA factors of fixed values, B not zero."""
    model: nn.Module = add_lora(make_frozen(backbone, None), rank=RANK).to(dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for pair in lora_pairs(model):
            pair.A.normal_(0.0, pair.A.shape[1] ** -0.5, generator=generator)
            pair.B.normal_(0.0, 0.1, generator=generator)
    return model


def set_gradients(pairs: Sequence[LoRAPair], generator: torch.Generator) -> None:
    """Gradients that are those of some W: G_B = G A', G_A = B' G, with G of rank one."""
    for pair in pairs:
        left = 0.1 * torch.randn(len(pair.B), 1, generator=generator).to(pair.B)
        right = 0.1 * torch.randn(1, pair.A.shape[1], generator=generator).to(pair.A)
        pair.B.grad = (left @ (right @ pair.A.detach().mT)).contiguous()
        pair.A.grad = ((pair.B.detach().mT @ left) @ right).contiguous()


def played(
    row: Row, backbone: str, dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], list[Tensor]]:
    """Every W = B A before and after `STEPS` steps of factors of type `dtype`."""
    model = make_pairs(backbone, dtype)
    pairs, generator = lora_pairs(model), torch.Generator().manual_seed(1)
    before = products(pairs)
    optimizer = row.build(model)
    for _ in range(STEPS):
        set_gradients(pairs, generator)
        optimizer.step()
    return before, products(pairs)


def products(pairs: Sequence[LoRAPair]) -> list[Tensor]:
    """B A of every pair, float64."""
    return [(pair.B.detach().double() @ pair.A.detach().double()) for pair in pairs]


def difference(rows: Sequence[list[Tensor]], before: Sequence[Tensor]) -> float:
    """Largest over pairs of |W - W of the reference|, over how far the reference moved."""
    mine, reference = rows
    return max(
        float((a - b).norm() / (b - start).norm())
        for a, b, start in zip(mine, reference, before, strict=True)
    )


def step_call(row: Row, backbone: str) -> Call:
    """One step with gradients that stay."""
    model = make_pairs(backbone)
    set_gradients(lora_pairs(model), torch.Generator().manual_seed(1))
    gradients = [
        (f, f.grad.clone()) for p in lora_pairs(model) for f in (p.A, p.B) if f.grad is not None
    ]
    optimizer = row.build(model)

    def call() -> None:
        for factor, gradient in gradients:  # PEFT's preconditioner writes into them
            factor.grad = gradient
        optimizer.step()

    return call


def rows_of(label: str, names: Sequence[str], repeats: int) -> list[list[str]]:
    """One row per optimizer on the pairs of one model."""
    backbone = MODELS[label]
    ends = {name: played(ROWS[name], backbone) for name in names}
    times = cpu_times({name: step_call(ROWS[name], backbone) for name in names}, repeats)
    cells = []
    for name in names:
        reference = ROWS[name].reference if ROWS[name].reference in names else name
        before, after = ends[name]
        gap = difference([after, ends[reference][1]], before)
        cells.append([label, name, f"{gap:.1e}", *time_cells(times, name, reference)])
    return cells


def main() -> None:
    """Measure, and write the table."""
    parser = peer_parser(__doc__, ROWS, repeats=21)
    options = parser.parse_args()
    names = chosen_rows(parser, options, {name: row.module for name, row in ROWS.items()})
    labels = list(MODELS)[: 1 if options.quick else None]
    repeats = 2 if options.quick else options.repeats
    header = ["pairs of", "optimizer", f"difference after {STEPS} steps", "ms", "x ours"]
    print(machine())
    with one_thread():
        rows = [row for label in labels for row in rows_of(label, names, repeats)]
    write_table(out_folder(options) / "peers-optimizers.csv", [header, *rows])


if __name__ == "__main__":
    main()
