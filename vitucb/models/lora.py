"""LoRA adapters on a timm ViT through PEFT, and the list of (lora_A, lora_B) pairs they hold.

Paper: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" -
https://arxiv.org/abs/2106.09685

`lora_pairs` takes any module with `lora_A`, `lora_B` and `scaling` for a layer of PEFT, and does
not import peft.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from vitucb.config.lora import BlockNames, block_numbers, check_init
from vitucb.models.vit_layers import ROLES, call_every_layer, find_layers

if TYPE_CHECKING:
    from pathlib import Path

    from peft import PeftModel

_logger = logging.getLogger(__name__)


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
    backbone: nn.Module, targets: Sequence[str], blocks: Sequence[int] | BlockNames | None
) -> tuple[str, int]:
    """The PEFT `target_modules` pattern for the chosen layers, and how many layers it must match.

    Args:
        backbone: A vision transformer, see `vitucb.models.vit_layers`.
        targets: Any of `qkv`, `proj`, `fc1`, `fc2`.
        blocks: As in `vitucb.config.lora.block_numbers`.

    Raises:
        ValueError: If a target is unknown or the backbone has none of them, a block is out of
            range, or the backbone is no vision transformer of one width.
    """
    if not targets or any(t not in ROLES for t in targets):
        raise ValueError(f"lora.targets {list(targets)} must be one or more of {list(ROLES)}")
    try:
        layers = find_layers(backbone)
    except ValueError as error:
        raise ValueError(f"the backbone cannot be adapted: {error}") from error
    depth = 1 + max(layer.block for layer in layers)
    numbers = block_numbers(blocks, depth, "lora.blocks")
    if not numbers:
        raise ValueError("lora.blocks is empty; name at least one block, or leave it out for all")
    names = [x.name for x in layers if x.role in targets and x.block in numbers]
    if not names:
        known = sorted({layer.role for layer in layers})
        raise ValueError(f"lora.targets {list(targets)}: the backbone has only {known}")
    # (.*\.)? because PEFT may have wrapped the model; the whole name keeps look-alikes out.
    return rf"(.*\.)?({'|'.join(map(re.escape, names))})", len(names)


def add_lora(
    backbone: nn.Module,
    *,
    rank: int = 4,
    alpha: float | None = None,
    targets: Sequence[str] = ("qkv", "proj", "fc1", "fc2"),
    blocks: Sequence[int] | BlockNames | None = None,
    init: str = "default",
    use_rslora: bool = False,
    use_dora: bool = False,
    seed: int = 0,
) -> PeftModel:
    """Freeze `backbone` and put PEFT LoRA adapters on its attention and MLP layers.

    Args:
        backbone: A timm vision transformer.
        rank: Rank r of every adapter.
        alpha: LoRA alpha; the scaling of B @ A is alpha / rank. Twice the rank if None.
        targets: Which layers of a block: any of `qkv`, `proj`, `fc1`, `fc2`.
        blocks: Which blocks: numbers, negative from the end, or `last-half`; None means all.
        init: One of `vitucb.config.lora.INITS`, or pissa_niter_N. With `default` B is 0; `olora`
            and `pissa` take A and B from the frozen weight, and that much out of it.
        use_rslora: Scale B @ A by alpha / sqrt(rank) instead (Kalajdzievski 2023,
            https://arxiv.org/abs/2312.03732).
        use_dora: Learn the magnitude of every output apart from its direction (DoRA, Liu et al.
            2024, https://arxiv.org/abs/2402.09353).
        seed: Seed of the initial factors.

    Returns:
        The PEFT model; only adapters require gradients.

    Raises:
        ValueError: If a name, block number, rank or start is not usable.
    """
    from peft import LoraConfig, get_peft_model

    if rank < 1:
        raise ValueError(f"lora.rank {rank} must be at least 1")
    check_init(init, rank, "lora.init", waits=False)
    pattern, expected = target_regex(backbone, targets, blocks)
    call_every_layer(backbone)
    config = LoraConfig(
        r=rank,
        lora_alpha=2.0 * rank if alpha is None else alpha,
        target_modules=pattern,
        lora_dropout=0.0,
        init_lora_weights=True if init == "default" else init,
        use_rslora=use_rslora,
        use_dora=use_dora,
    )
    # PEFT draws lora_A from the global generator; the fork keeps the caller's stream untouched.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # that of the CPU alone, as the fork
        model = get_peft_model(backbone, config)
    adapted = len(lora_pairs(model))
    if adapted != expected:
        raise RuntimeError(f"PEFT adapted {adapted} layers where {expected} were asked for")
    return model


def save_adapters(
    model: nn.Module, folder: Path, *, is_base_changed: bool, changed_by: str = "the optimizer"
) -> bool:
    """Write the adapters as `peft.PeftModel.from_pretrained` reads them, if they make up the model.

    Where the base weights are no longer those of the backbone, its own weights and these adapters
    would be another model: then nothing is written, and a warning says so.

    Args:
        model: What `add_lora` returned.
        folder: Where they go.
        is_base_changed: Whether training wrote into the base weights.
        changed_by: What then did.

    Returns:
        Whether they were written.
    """
    start = str(model.peft_config["default"].init_lora_weights)  # type: ignore[index,union-attr]  # a PeftModel
    if is_base_changed or start.startswith("pissa_niter"):
        who = f"{changed_by} changes" if is_base_changed else f"{start} draws"
        _logger.warning(
            "no adapter/ for PEFT: %s the base weights, so that adapters alone would be another "
            "model; what was learnt is in the saved state",
            who,
        )
        return False
    model.save_pretrained(str(folder))  # type: ignore[operator]  # a PeftModel
    return True
