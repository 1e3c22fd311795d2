"""What an optimizer step costs beside torch's fused AdamW, and what its state weighs beside Adam's.

CPU time of one thread (on an accelerator time on the clock), the minimum over interleaved repeats,
on the LoRA pairs of ViT-S (48 pairs of rank 8) and of the embedded nano ViT. For ViT-S also as a
share of one forward and backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from vitucb.cli.bench.clock import clock_of
from vitucb.cli.bench.scoring import Row, least_times, make_frozen, one_thread
from vitucb.models.lora import LoRAPair, add_lora, lora_pairs
from vitucb.optim import create_optimizer

REFERENCE = "torch AdamW, fused"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    REFERENCE: ("adamw", {"fused": True}),
    "torch AdamW, foreach": ("adamw", {"foreach": True}),
    "lora-plus, fused": ("lora-plus", {"fused": True}),
    "scaled-gd": ("scaled-gd", {}),
    "scaled-adam": ("scaled-adam", {}),
    "lora-fa": ("lora-fa", {}),
    "lamb": ("lamb", {}),
    "lora-pro, x zero": ("lora-pro", {"x_mode": "zero"}),
    "lora-pro": ("lora-pro", {}),
    "lora-pro, sgd": ("lora-pro", {"base": "sgd"}),
    "lora-rite": ("lora-rite", {}),
    "lora-muon": ("lora-muon", {}),
}
FULL = "lora-pro, full moments"
MODELS = {"ViT-S/16, 48 pairs": "vit_small_patch16_224", "vitucb-nano": "vitucb-nano"}
RANK, REPEATS, BATCH = 8, 60, 8


class CountOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base is untyped
    """Counts tensor operations that are not views, and the bytes of what they return.

    Attributes:
        count: Operations so far.
        bytes: Of their results so far, also where a result is one of the inputs.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's base is untyped
        self.count = self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and count it."""
        result = func(*args, **(kwargs or {}))
        if not (func.is_view or func is torch.ops.aten._unsafe_view.default):
            self.count += 1
            tensors = result if isinstance(result, tuple | list) else (result,)
            self.bytes += sum(t.nbytes for t in tensors if isinstance(t, Tensor))
        return result


def copy_pairs(pairs: list[LoRAPair]) -> list[LoRAPair]:
    """Fresh factors of the same shapes, with gradients, lora_B not zero."""
    generator = torch.Generator().manual_seed(0)

    def draw(like: Tensor, scale: float) -> Tensor:
        return (scale * torch.randn(like.shape, generator=generator)).to(like.device)

    copies = []
    for pair in pairs:
        A, B = Parameter(draw(pair.A, pair.A.shape[1] ** -0.5)), Parameter(draw(pair.B, 0.1))
        A.grad, B.grad = draw(A, 0.01), draw(B, 0.01)
        copies.append(LoRAPair(pair.name, A, B, pair.scaling, None))
    return copies


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of the optimizer's state tensors."""
    return sum(
        value.numel() * value.element_size()
        for entries in optimizer.state.values()
        for value in entries.values()
        if isinstance(value, Tensor)
    )


def count_operations(optimizer: Optimizer) -> int:
    """Tensor operations of one step that are not views."""
    counter = CountOperations()
    with counter:
        optimizer.step()
    return counter.count


def pass_time(model: nn.Module, device: str) -> float:
    """Time of one forward and backward pass at batch 8, 224 px, ms."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, 224, 224, generator=generator).to(device)

    def call() -> None:
        torch.autograd.backward(model(images).square().mean())

    return least_times({"pass": call}, repeats=2, clock=clock_of(device))["pass"]


def model_rows(label: str, backbone: str, device: str, repeats: int = REPEATS) -> list[Row]:
    """One row per optimizer on the pairs of one model."""
    model, clock = add_lora(make_frozen(backbone, None), rank=RANK).to(device), clock_of(device)
    pairs = lora_pairs(model)
    built = {
        name: create_optimizer(key, copy_pairs(pairs), lr=1e-4, **options)
        for name, (key, options) in CASES.items()
    }
    # Torch's own class too: what the common safety checks of the plain optimizers cost.
    bare_factors = [p for pair in copy_pairs(pairs) for p in (pair.A, pair.B)]
    built = {"torch alone": torch.optim.AdamW(bare_factors, lr=1e-4, fused=True), **built}
    steps: dict[str, Callable[[], object]] = {name: o.step for name, o in built.items()}
    times = least_times(steps, repeats, clock)
    full = create_optimizer("lora-pro", copy_pairs(pairs), lr=1e-4, moments="full")
    built[FULL] = full
    times |= least_times({FULL: full.step}, 3, clock)
    whole = pass_time(model, device) if backbone != "vitucb-nano" else None
    adam = state_bytes(built["torch alone"])
    return [
        {
            "pairs": label,
            "optimizer": name,
            "ms": times[name],
            "x fused AdamW": times[name] / times["torch alone"],
            "% of a pass, batch 8": "-" if whole is None else 100.0 * times[name] / whole,
            "operations": count_operations(optimizer),
            "state MiB": state_bytes(optimizer) / 2**20,
            "state / Adam's": state_bytes(optimizer) / adam,
        }
        for name, optimizer in built.items()
    ]


def run_suite(device: str = "cpu") -> list[Row]:
    """The table of `vitucb bench --suite optimizers`; about a minute on one thread."""
    with one_thread():
        return [row for model in MODELS.items() for row in model_rows(*model, device)]
