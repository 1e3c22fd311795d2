"""Build any optimizer by name or import path for the LoRA pairs of a model."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer

from vitucb.models.lora import LoRAPair, lora_pairs
from vitucb.optim.chains.merging import check_mergeable
from vitucb.optim.options import check_options
from vitucb.optim.plain import PlainOptimizer
from vitucb.optim.table import OPTIMIZERS
from vitucb.registry import lookup


def create_optimizer(
    name: str,
    model_or_pairs: nn.Module | Sequence[LoRAPair],
    *,
    lr: float,
    other_params: Iterable[Parameter] = (),
    **options: Any,
) -> Optimizer:
    """An optimizer for LoRA pairs, with the head stepped by AdamW in the same `step()`.

    Args:
        name: A name of `OPTIMIZERS`, or `package.module:Name` of a `torch.optim.Optimizer` class.
            A class whose first argument is called `pairs` gets the pairs, any other the parameters.
        model_or_pairs: A model with LoRA layers, or its pairs.
        lr: Learning rate of the adapters.
        other_params: Head and other non-LoRA parameters, stepped by AdamW without decay.
        **options: Options of the optimizer; `other_lr` (learning rate of `other_params`, default
            `lr`) is an option of all of them.

    Returns:
        The optimizer; `param_groups` holds every hyper-parameter.

    Raises:
        ValueError: If the name or an option is unknown, or a value is out of range.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from vitucb.models.lora import LoRAPair
        >>> A, B = nn.Parameter(torch.eye(2, 3)), nn.Parameter(torch.zeros(4, 2))
        >>> pair = LoRAPair("layer", A, B, scaling=2.0, base=None)
        >>> create_optimizer("lora-plus", [pair], lr=1e-3, ratio=8.0).param_groups[1]["lr"]
        0.008
    """
    optimizer_class = lookup("optimizer", name, OPTIMIZERS)
    if isinstance(model_or_pairs, nn.Module):
        pairs = lora_pairs(model_or_pairs)
    else:
        pairs = list(model_or_pairs)
    others = list(other_params)
    takes_pairs = _takes_pairs(optimizer_class)
    check_options(
        name, optimizer_class, options, extra=() if takes_pairs else ("other_lr", "max_step")
    )
    if isinstance(model_or_pairs, nn.Module) and _changes_base(optimizer_class, options):
        check_mergeable(model_or_pairs)
    if takes_pairs:
        built: Optimizer = optimizer_class(pairs, lr=lr, other_params=others, **options)
        return built
    return PlainOptimizer(pairs, lr, optimizer_class, other_params=others, **options)


def changes_base(name: str, options: Mapping[str, Any]) -> bool:
    """Whether an optimizer writes into the base weights, which others leave frozen.

    Args:
        name: As in `create_optimizer`.
        options: As in `create_optimizer`.

    Raises:
        ValueError: If the name is unknown.
    """
    return _changes_base(lookup("optimizer", name, OPTIMIZERS), options)


def _changes_base(optimizer_class: Any, options: Mapping[str, Any]) -> bool:
    """What the class says of itself; one that says nothing leaves the base alone."""
    asked = getattr(optimizer_class, "changes_base", None)
    return asked is not None and bool(asked(options))


def has_changed_base(optimizer: Optimizer) -> bool:
    """Whether a built optimizer writes into the base weights, by the options of its first group."""
    return _changes_base(type(optimizer), optimizer.param_groups[0])


def _takes_pairs(optimizer_class: Any) -> bool:
    return next(iter(inspect.signature(optimizer_class).parameters), "") == "pairs"
