"""State dicts on disk: tensors in safetensors, everything else in JSON, nothing that executes.

`state.json` mirrors the nested dict; where a tensor or an array stood it holds a reference into
`state.safetensors`, or the names of its chunks in a `ChunkStore`. Each file replaces its
predecessor in one step.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vitucb.storage.atomic_files import create_file, replace_file, temporary_beside, write_durably
from vitucb.storage.chunk_store import CHUNK_BYTES, ChunkStore
from vitucb.storage.foreign_files import check_inside, open_regular, read_json
from vitucb.storage.limits import check_limit, limit
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
    final = folder / "state.safetensors"
    temporary = temporary_beside(final)
    try:
        create_file(temporary).close()
        save_file(tensors, temporary)
        replace_file(temporary, final)
    except SafetensorError as error:  # a full disk, say, in a type of its own
        raise OSError(f"{final} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
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
        check_inside(folder, folder / "state.json")
        check_inside(folder, folder / "state.safetensors")
        tree = read_json(folder / "state.json", is_nested_freely=True)
        with open_regular(folder / "state.safetensors") as file:
            size = os.fstat(file.fileno()).st_size
        state = _Reader(load_file(folder / "state.safetensors"), size, chunks, keep_devices)(tree)
        if not isinstance(state, dict):
            raise ValueError("state.json holds no mapping")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"checkpoint {folder} cannot be read: {_one_line(error)}") from error
    except Exception as error:  # safetensors raises its own type for a damaged header
        raise ValueError(f"checkpoint {folder} is damaged: {_one_line(error)}") from error
    return state


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _strip(value: Any, tensors: dict[str, torch.Tensor], chunks: ChunkStore | None) -> Any:
    """`value` with its tensors moved into `tensors` or `chunks`, references in their place."""
    if isinstance(value, torch.Tensor | np.ndarray):
        if isinstance(value, np.ndarray) and not (
            value.flags.c_contiguous and value.flags.writeable
        ):
            value = value.copy()  # torch takes no negative strides, and warns of read-only memory
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


class _Reader:
    """Undoes `_strip`."""

    def __init__(
        self,
        tensors: dict[str, torch.Tensor],
        size: int,
        chunks: ChunkStore | None,
        keep_devices: bool,
    ) -> None:
        self._tensors, self._chunks, self._keep_devices = tensors, chunks, keep_devices
        self._on_disk, self._claimed = size, 0
        self._names: set[str] = set()
        self._depth, self._ratio = limit("depth"), limit("state_ratio")

    def __call__(self, tree: Any, depth: int = 0) -> Any:
        if depth > self._depth:
            check_limit("depth", depth, "its depth")
        if isinstance(tree, list):
            return [self(item, depth + 1) for item in tree]
        if not isinstance(tree, dict):
            return tree
        if _ITEMS in tree:
            return {key: self(item, depth + 1) for key, item in tree[_ITEMS]}
        if _CHUNKS in tree:
            tensor, kind = self._join(tree[_CHUNKS]), tree[_CHUNKS]["kind"]
        else:
            kind = _TENSOR if _TENSOR in tree else _ARRAY
            tensor = self._tensors[tree[kind]]
            self._claim(tensor.nbytes, ())
        if kind == _ARRAY:
            return tensor.numpy()
        return tensor.to(tree.get(_DEVICE, "cpu")) if self._keep_devices else tensor

    def _join(self, reference: dict[str, Any]) -> torch.Tensor:
        """Undo `_cut`."""
        if self._chunks is None:
            raise ValueError("it was saved in chunks; give their folder")
        names, shape = list(map(str, reference["names"])), list(map(int, reference["shape"]))
        dtype = getattr(torch, reference["dtype"]) if reference["dtype"] in _DTYPES else None
        if dtype is None or any(extent < 0 for extent in shape):
            raise ValueError(f"{reference['dtype']!r} {shape} is no type and shape of an array")
        size = math.prod(shape) * dtype.itemsize
        if -(-size // CHUNK_BYTES) != len(names):
            raise ValueError(f"an array of {size:,} bytes is said to lie in {len(names)} chunks")
        self._claim(size, names)
        tensor = torch.empty(shape, dtype=dtype)
        self._chunks.read_into(_bytes_of(tensor), names)
        return tensor

    def _claim(self, size: int, names: Collection[str]) -> None:
        """Refuse what stands for far more than is on disk: equal chunks are stored once."""
        new = set(names) - self._names
        self._names |= new
        self._on_disk += self._chunks.size_of(new) if self._chunks is not None else 0
        self._claimed += size
        if self._claimed > self._ratio * self._on_disk:
            check_limit("state_mib", self._claimed >> 20, "the size of its arrays in MiB,")


# No attribute of torch but these is looked up: some import on demand.
_DTYPES = frozenset(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))


def _cut(tensor: torch.Tensor, chunks: ChunkStore) -> dict[str, Any]:
    """Type, shape and the names of the stored chunks of `tensor`."""
    names = chunks.put(_bytes_of(tensor.contiguous()))
    dtype = str(tensor.dtype).removeprefix("torch.")
    return {"names": names, "dtype": dtype, "shape": list(tensor.shape)}


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor, shared."""
    array: NDArray[np.uint8] = tensor.reshape(-1).view(torch.uint8).numpy()
    return array.data
