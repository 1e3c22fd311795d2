"""State dicts on disk: tensors in safetensors, everything else in JSON, nothing that executes.

`state.json` mirrors the nested dict; where a tensor or an array stood it holds a reference into
`state.safetensors`. Each file replaces its predecessor in one step.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from vitucb.types import State

_TENSOR, _ARRAY, _ITEMS = "__tensor__", "__array__", "__items__"


def save_state(state: State, folder: Path) -> None:
    """Write a state dict to `folder`.

    Args:
        state: Nested dicts, lists and tuples of tensors, numpy arrays, numbers, strings, None.
        folder: Made if missing.

    Raises:
        TypeError: If the state holds anything else.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = _strip(state, tensors)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "state.safetensors.tmp"
    save_file(tensors, temporary)
    _replace(temporary, folder / "state.safetensors")
    temporary = folder / "state.json.tmp"
    temporary.write_text(json.dumps(tree), encoding="utf-8")
    _replace(temporary, folder / "state.json")


def load_state(folder: Path) -> State:
    """Read what `save_state` wrote; lists come back as lists, tuples too.

    Raises:
        ValueError: If a file is missing or damaged.
    """
    try:
        tree = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "state.safetensors")
        state: State = _fill(tree, tensors)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"checkpoint {folder} cannot be read: {error}") from error
    except Exception as error:  # safetensors raises its own type for a damaged header
        raise ValueError(f"checkpoint {folder} is damaged: {error}") from error
    return state


def _strip(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """`value` with its tensors moved into `tensors` and references in their place."""
    if isinstance(value, torch.Tensor | np.ndarray):
        is_array = isinstance(value, np.ndarray)
        name = str(len(tensors))
        tensor = torch.as_tensor(value).detach().cpu()
        # A copy: safetensors refuses tensors that share memory.
        tensors[name] = tensor.clone().contiguous()
        return {_ARRAY if is_array else _TENSOR: name}
    if isinstance(value, dict):
        # As pairs, because JSON would turn the integer keys of optimizers into strings.
        return {_ITEMS: [[key, _strip(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_strip(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a state dict holds a {type(value).__name__}; only data can be saved")


def _fill(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Undo `_strip`."""
    if isinstance(tree, list):
        return [_fill(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if _TENSOR in tree:
        return tensors[tree[_TENSOR]]
    if _ARRAY in tree:
        return tensors[tree[_ARRAY]].numpy()
    return {key: _fill(item, tensors) for key, item in tree[_ITEMS]}


def _replace(temporary: Path, final: Path) -> None:
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
