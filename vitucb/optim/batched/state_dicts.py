"""What torch's state dicts leave to wish for: copies that share no memory, and true dtypes."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def copied(value: Any) -> Any:
    """A state (nested dicts of tensors and plain values) whose tensors share no memory with it."""
    if isinstance(value, dict):
        return {key: copied(entry) for key, entry in value.items()}
    return value.detach().clone() if isinstance(value, Tensor) else value


def restore_dtypes(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Undo torch's cast of loaded state to the parameter's dtype: float32 moments stay float32."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    keys = [key for group in state_dict["param_groups"] for key in group["params"]]
    for key, parameter in zip(keys, parameters, strict=True):
        for name, value in state_dict["state"].get(key, {}).items():
            if isinstance(value, Tensor):
                optimizer.state[parameter][name] = value.detach().clone().to(parameter.device)
