"""State dicts on disk: tensors in safetensors, everything else in JSON, nothing that executes.

`state.json` mirrors the nested dict; where a tensor or an array stood it holds a reference into
`state.safetensors`, or the names of its chunks in a `ChunkStore`. Each file replaces its
predecessor in one step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vitucb.storage.atomic_files import replace_file, write_durably
from vitucb.storage.chunk_store import ChunkStore
from vitucb.types import State

_TENSOR, _ARRAY, _ITEMS, _CHUNKS = "__tensor__", "__array__", "__items__", "__pieces__"
_DEVICE = "device"
# Smaller arrays share one file: a file each would cost more than writing them again.
_MIN_CHUNKED_BYTES = 8 * 1024


def save_state(state: State, folder: Path, chunks: ChunkStore | None = None) -> None:
    """Write a state dict to `folder`.

    Args:
        state: Nested dicts, lists and tuples of tensors, numpy arrays, numbers, strings, None.
        folder: Made if missing.
        chunks: Where arrays above 8 KiB go, so that states saved one after the other share what
            did not change; None keeps everything in `folder`.

    Raises:
        TypeError: If the state holds anything else.
        OSError: If a file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = _strip(state, tensors, chunks)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "state.safetensors.tmp"
    try:
        save_file(tensors, temporary)
    except SafetensorError as error:  # a full disk, say, in a type of its own
        raise OSError(f"{temporary} cannot be written: {error}") from error
    replace_file(temporary, folder / "state.safetensors")
    write_durably(folder / "state.json", json.dumps(tree))


def load_state(
    folder: Path, chunks: ChunkStore | None = None, *, keep_devices: bool = False
) -> State:
    """Read what `save_state` wrote; lists come back as lists, tuples too.

    Args:
        folder: Where the state is.
        chunks: The store that was given to `save_state`.
        keep_devices: Put tensors back on the devices they were on; on the CPU otherwise.

    Raises:
        ValueError: If a file is missing or damaged, or a device is not there.
    """
    try:
        tree = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "state.safetensors")
        state: State = _fill(tree, tensors, chunks, keep_devices)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"checkpoint {folder} cannot be read: {error}") from error
    except Exception as error:  # safetensors raises its own type for a damaged header
        raise ValueError(f"checkpoint {folder} is damaged: {error}") from error
    return state


def _strip(value: Any, tensors: dict[str, torch.Tensor], chunks: ChunkStore | None) -> Any:
    """`value` with its tensors moved into `tensors` or `chunks`, references in their place."""
    if isinstance(value, torch.Tensor | np.ndarray):
        tensor = torch.as_tensor(value).detach()
        kind = _ARRAY if isinstance(value, np.ndarray) else _TENSOR
        device = {} if tensor.device.type == "cpu" else {_DEVICE: str(tensor.device)}
        tensor = tensor.cpu()
        if chunks is not None and tensor.nbytes >= _MIN_CHUNKED_BYTES:
            return {_CHUNKS: _cut(tensor, chunks) | {"kind": kind}, **device}
        name = str(len(tensors))
        # A copy: safetensors refuses tensors that share memory.
        tensors[name] = tensor.clone().contiguous()
        return {kind: name, **device}
    if isinstance(value, dict):
        # As pairs, because JSON would turn the integer keys of optimizers into strings.
        return {_ITEMS: [[key, _strip(item, tensors, chunks)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_strip(item, tensors, chunks) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a state dict holds a {type(value).__name__}; only data can be saved")


def _fill(
    tree: Any, tensors: dict[str, torch.Tensor], chunks: ChunkStore | None, keep_devices: bool
) -> Any:
    """Undo `_strip`."""
    if isinstance(tree, list):
        return [_fill(item, tensors, chunks, keep_devices) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if _ITEMS in tree:
        pairs = tree[_ITEMS]
        return {key: _fill(item, tensors, chunks, keep_devices) for key, item in pairs}
    if _CHUNKS in tree:
        tensor, kind = _join(tree[_CHUNKS], chunks), tree[_CHUNKS]["kind"]
    else:
        kind = _TENSOR if _TENSOR in tree else _ARRAY
        tensor = tensors[tree[kind]]
    if kind == _ARRAY:
        return tensor.numpy()
    return tensor.to(tree.get(_DEVICE, "cpu")) if keep_devices else tensor


def _cut(tensor: torch.Tensor, chunks: ChunkStore) -> dict[str, Any]:
    """Type, shape and the names of the stored chunks of `tensor`."""
    names = chunks.put(_bytes_of(tensor.contiguous()))
    dtype = str(tensor.dtype).removeprefix("torch.")
    return {"names": names, "dtype": dtype, "shape": list(tensor.shape)}


def _join(reference: dict[str, Any], chunks: ChunkStore | None) -> torch.Tensor:
    """Undo `_cut`."""
    if chunks is None:
        raise ValueError("it was saved in chunks; give their folder")
    tensor = torch.empty(reference["shape"], dtype=getattr(torch, reference["dtype"]))
    chunks.read_into(_bytes_of(tensor), reference["names"])
    return tensor


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor, shared."""
    array: NDArray[np.uint8] = tensor.reshape(-1).view(torch.uint8).numpy()
    return array.data
