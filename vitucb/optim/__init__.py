"""Optimizers for LoRA pairs; every one is a `torch.optim.Optimizer`.

The table of names is free of torch; classes and `create_optimizer` are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vitucb.optim.table import ENTRIES, OPTIMIZERS, OptimizerEntry

if TYPE_CHECKING:
    from vitucb.optim.factory import create_optimizer
    from vitucb.optim.lora_plus import LoRAPlus
    from vitucb.optim.plain import PlainOptimizer

_LAZY = {
    "create_optimizer": "vitucb.optim.factory",
    "LoRAPlus": "vitucb.optim.lora_plus",
    "PlainOptimizer": "vitucb.optim.plain",
}

__all__ = [
    "ENTRIES",
    "OPTIMIZERS",
    "LoRAPlus",
    "OptimizerEntry",
    "PlainOptimizer",
    "create_optimizer",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'vitucb.optim' has no attribute {name!r}")
