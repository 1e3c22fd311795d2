"""Optimizers for LoRA pairs; every one is a `torch.optim.Optimizer`.

The table of names is free of torch; classes and `create_optimizer` are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vitucb.optim.table import ENTRIES, OPTIMIZERS, OptimizerEntry

if TYPE_CHECKING:
    from vitucb.optim.batched.lora_optimizer import LoRAOptimizer
    from vitucb.optim.chains.asymmetric_lora import AsymmetricLoRA
    from vitucb.optim.chains.bernoulli_lora import BernoulliLoRA
    from vitucb.optim.chains.cola import COLA
    from vitucb.optim.chains.rac_lora import RACLoRA
    from vitucb.optim.factory import create_optimizer
    from vitucb.optim.lamb import LAMB
    from vitucb.optim.lora_fa import LoRAFA
    from vitucb.optim.lora_muon import LoRAMuon
    from vitucb.optim.lora_plus import LoRAPlus
    from vitucb.optim.lora_pro import LoRAPro
    from vitucb.optim.lora_rite import LoRARITE
    from vitucb.optim.plain import PlainOptimizer
    from vitucb.optim.scaled import ScaledAdam, ScaledGD

_LAZY = {
    "create_optimizer": "vitucb.optim.factory",
    "RACLoRA": "vitucb.optim.chains.rac_lora",
    "COLA": "vitucb.optim.chains.cola",
    "BernoulliLoRA": "vitucb.optim.chains.bernoulli_lora",
    "AsymmetricLoRA": "vitucb.optim.chains.asymmetric_lora",
    "LAMB": "vitucb.optim.lamb",
    "LoRAFA": "vitucb.optim.lora_fa",
    "LoRAOptimizer": "vitucb.optim.batched.lora_optimizer",
    "LoRAMuon": "vitucb.optim.lora_muon",
    "LoRAPlus": "vitucb.optim.lora_plus",
    "LoRAPro": "vitucb.optim.lora_pro",
    "LoRARITE": "vitucb.optim.lora_rite",
    "PlainOptimizer": "vitucb.optim.plain",
    "ScaledAdam": "vitucb.optim.scaled",
    "ScaledGD": "vitucb.optim.scaled",
}

__all__ = [
    "COLA",
    "ENTRIES",
    "LAMB",
    "OPTIMIZERS",
    "AsymmetricLoRA",
    "BernoulliLoRA",
    "LoRAFA",
    "LoRAMuon",
    "LoRAOptimizer",
    "LoRAPlus",
    "LoRAPro",
    "LoRARITE",
    "OptimizerEntry",
    "PlainOptimizer",
    "RACLoRA",
    "ScaledAdam",
    "ScaledGD",
    "create_optimizer",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'vitucb.optim' has no attribute {name!r}")
