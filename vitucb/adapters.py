"""LoRA adapters on a timm ViT through PEFT, and the list of (lora_A, lora_B) pairs they hold.

Paper: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" -
https://arxiv.org/abs/2106.09685 `lora_pairs` duck-types PEFT layers (modules with `lora_A`,
`lora_B`, `scaling`) and does not import peft.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import Parameter

if TYPE_CHECKING:
    from peft import PeftModel

# The leading "blocks" keeps the patch embedding's own `proj` convolution out of the match.
TARGETS = {"qkv": r"attn\.qkv", "proj": r"attn\.proj", "fc1": r"mlp\.fc1", "fc2": r"mlp\.fc2"}
_LAYER = re.compile(r"blocks\.(\d+)\.(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)$")


@dataclass(frozen=True)
class LoRAPair:
    """One adapted linear layer: W = base + scaling * B @ A.

    Attributes:
        name: Dotted module name of the adapted layer.
        A: PEFT `lora_A.weight`, (r, in).
        B: PEFT `lora_B.weight`, (out, r).
        scaling: alpha / r, or alpha / sqrt(r) with rsLoRA; read from the layer, one per pair.
        base: Frozen pretrained weight (out, in), or None if the layer has none to merge into.
    """

    name: str
    A: Parameter
    B: Parameter
    scaling: float
    base: Tensor | None


def lora_pairs(model: nn.Module, adapter: str = "default") -> list[LoRAPair]:
    """All LoRA pairs of `model`, in module order.

    Args:
        model: Any module holding PEFT-like LoRA layers.
        adapter: Name of the PEFT adapter.

    Raises:
        ValueError: If the model has no LoRA layer of that adapter.
    """
    pairs: list[LoRAPair] = []
    for name, module in model.named_modules():
        factors = getattr(module, "lora_A", None)
        if not isinstance(factors, nn.ModuleDict) or adapter not in factors:
            continue
        base = getattr(module, "base_layer", None)
        pairs.append(
            LoRAPair(
                name=name,
                A=_weight(factors[adapter]),
                B=_weight(module.lora_B[adapter]),
                scaling=float(module.scaling[adapter]),
                base=getattr(base, "weight", None),
            )
        )
    if not pairs:
        raise ValueError(f"the model has no LoRA layer of adapter {adapter!r}; call add_lora first")
    return pairs


def _weight(layer: nn.Module) -> Parameter:
    weight = layer.weight
    assert isinstance(weight, Parameter)
    return weight


def target_regex(
    backbone: nn.Module, targets: Sequence[str], blocks: Sequence[int] | None
) -> tuple[str, int]:
    """The PEFT `target_modules` pattern for the chosen layers, and how many layers it must match.

    Args:
        backbone: A timm ViT with `blocks.N.attn.qkv`, `attn.proj`, `mlp.fc1`, `mlp.fc2`.
        targets: Any of `qkv`, `proj`, `fc1`, `fc2`.
        blocks: 0-based block numbers, negative from the end; None means all.

    Raises:
        ValueError: If a target is unknown, a block is out of range, or nothing matches.
    """
    unknown = [t for t in targets if t not in TARGETS]
    if unknown or not targets:
        raise ValueError(f"lora.targets {list(targets)} must be one or more of {list(TARGETS)}")
    found = [m for name, _ in backbone.named_modules() if (m := _LAYER.search(name))]
    depth = 1 + max((int(m[1]) for m in found), default=-1)
    if depth == 0:
        raise ValueError(
            "the backbone has no blocks.N.attn.qkv layers to adapt; choose a plain timm ViT"
        )
    wanted = range(depth) if blocks is None else blocks
    if any(not -depth <= b < depth for b in wanted):
        raise ValueError(f"lora.blocks {list(wanted)}: the backbone has blocks 0 to {depth - 1}")
    numbers = "|".join(str(b % depth) for b in wanted)
    layers = "|".join(TARGETS[t] for t in targets)
    pattern = rf"(.*\.)?blocks\.({numbers})\.({layers})"
    expected = sum(bool(re.fullmatch(pattern, name)) for name, _ in backbone.named_modules())
    return pattern, expected


def add_lora(
    backbone: nn.Module,
    *,
    rank: int = 4,
    alpha: float = 8.0,
    targets: Sequence[str] = ("qkv", "proj", "fc1", "fc2"),
    blocks: Sequence[int] | None = None,
    seed: int = 0,
) -> PeftModel:
    """Freeze `backbone` and put PEFT LoRA adapters on its attention and MLP layers.

    Args:
        backbone: A timm ViT.
        rank: Rank r of every adapter.
        alpha: LoRA alpha; the scaling of B @ A is alpha / rank.
        targets: Which layers of a block: any of `qkv`, `proj`, `fc1`, `fc2`.
        blocks: Which blocks, negative from the end; None means all.
        seed: Seed of the initial lora_A (lora_B starts at 0).

    Returns:
        The PEFT model; only adapters require gradients.

    Raises:
        ValueError: If a name, block number or rank is not usable.
    """
    from peft import LoraConfig, get_peft_model

    if rank < 1:
        raise ValueError(f"lora.rank {rank} must be at least 1")
    pattern, expected = target_regex(backbone, targets, blocks)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=pattern, lora_dropout=0.0)
    # PEFT draws lora_A from the global generator; the fork keeps the caller's stream untouched.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(backbone, config)
    adapted = len(lora_pairs(model))
    if adapted != expected:
        raise RuntimeError(f"PEFT adapted {adapted} layers where {expected} were asked for")
    return model
