"""Merging adapters into the frozen base weights, in a way that loses nothing and can be saved.

PEFT's own `layer.merge()` marks the adapter as merged and ignores its factors from then on, so it
cannot serve a chain. Here base = pretrained + delta, where delta is kept in float32 (float64 for a
float64 base): a hundred merges of 1e-5 into bfloat16 weights of size 0.05 would otherwise keep a
tenth of their sum. The delta is saved with the optimizer and reproduces the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitucb.models.lora import LoRAPair

_ENTRIES = 64


class BaseWeights:
    """The base weights of LoRA pairs as pretrained + delta.

    Attributes:
        delta: Sum of everything merged so far, one (m, n) per pair.
    """

    def __init__(self, pairs: Sequence[LoRAPair]) -> None:
        """Remember the pretrained weights.

        Raises:
            ValueError: If a pair has no floating-point base weight of the shape of B A.
        """
        self.bases = [_checked_base(pair) for pair in pairs]
        wide = [torch.float64 if b.dtype == torch.float64 else torch.float32 for b in self.bases]
        both = list(zip(self.bases, wide, strict=True))
        self.pretrained = [base.detach().to(dtype, copy=True) for base, dtype in both]
        self.delta = [torch.zeros_like(weight) for weight in self.pretrained]

    def add(self, index: int, update: Tensor) -> None:
        """Merge `update` (m, n) into base weight `index`, in place."""
        self.delta[index] += update.to(self.delta[index].dtype)
        self.write(index, self.delta[index])

    @torch.no_grad()
    def write(self, index: int, delta: Tensor) -> None:
        """Set base weight `index` to pretrained + delta, rounded to its dtype."""
        # Not through .data: who shares the weight can tell by its version that it has changed.
        self.bases[index].copy_(self.pretrained[index] + delta)

    def fingerprint(self, index: int) -> Tensor:
        """Some entries of a pretrained weight, by which it is known again, at most 64."""
        entries = self.pretrained[index].flatten()
        return entries[:: max(1, len(entries) // _ENTRIES)][:_ENTRIES].clone()

    def check_same(self, index: int, name: str, fingerprint: Tensor) -> None:
        """See that a state belongs to the pretrained weight `index`, that of the pair `name`.

        Raises:
            ValueError: If it does not: merges would count twice.
        """
        own = self.fingerprint(index)
        # Another dtype rounds by at most as much.
        if not torch.allclose(own, fingerprint.to(own), rtol=2.0**-8, atol=1e-6):
            raise ValueError(
                f"pair {name!r}: the base weight is not the one that this optimizer state began "
                "with; build the optimizer on the pretrained model, and load its state, which sets "
                "the weights, after or instead of the model's"
            )


def _checked_base(pair: LoRAPair) -> Tensor:
    base = pair.base
    if base is None:
        raise ValueError(f"pair {pair.name!r} has no base weight to merge into")
    if not base.is_floating_point() or base.dtype.itemsize < 2:
        raise ValueError(
            f"pair {pair.name!r} has a quantised base weight ({base.dtype}); merging needs a "
            "floating-point one: load the model unquantised"
        )
    if base.shape != (pair.B.shape[0], pair.A.shape[1]):
        raise ValueError(
            f"pair {pair.name!r}: base weight {tuple(base.shape)} is not of the shape of B A; "
            "layers with fan_in_fan_out cannot be merged here"
        )
    return base


def check_mergeable(model: nn.Module, adapter: str = "default") -> None:
    """Check that merging B A reproduces what the layers of `model` compute.

    Raises:
        ValueError: If a LoRA layer has DoRA, a bias of its own, dropout or a transposed weight.
    """
    for name, module in model.named_modules():
        if adapter not in getattr(module, "lora_A", {}):
            continue
        dropout = module.lora_dropout[adapter] if hasattr(module, "lora_dropout") else None
        reasons = {
            "use_dora": _flag(module, "use_dora", adapter),
            "lora_bias": _flag(module, "lora_bias", adapter),
            "fan_in_fan_out": bool(getattr(module, "fan_in_fan_out", False)),
            "lora_dropout": isinstance(dropout, nn.Dropout) and dropout.p > 0.0,
        }
        if found := [reason for reason, present in reasons.items() if present]:
            raise ValueError(
                f"layer {name!r} uses {', '.join(found)}: merging would change the function; "
                "switch it off or choose an optimizer that does not merge"
            )


def _flag(module: nn.Module, attribute: str, adapter: str) -> bool:
    value = getattr(module, attribute, False)
    return bool(value.get(adapter, False)) if isinstance(value, dict) else bool(value)
