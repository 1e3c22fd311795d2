"""A simulated accelerator: the device `sim`, on which every operation runs on the processor.

It is as strict as a GPU, and tells what a GPU would only be slow at. Tensors of `sim` and of the
processor do not mix, save for those of no dimension; `.numpy()` is refused; and whenever the host
would wait for the device (`item`, `tolist`, `bool`, copies back, `nonzero` and masks, errors of
linear algebra, indices on the processor) the line of this project that did it is counted. Copies to
the device are not counted: they can be queued. Operations are the processor's own, attention with
its fused kernel, too: results are the same to the bit, so that no difference is one of rounding.

PyTorch has one spare device, PrivateUse1, which is named once in a process and stays; it needs
PyTorch 2.9 (`torch.utils.backend_registration`). A tensor of `sim` wraps one of the processor.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

import vitucb

DEVICE = "sim"
CAN_SIMULATE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
WHY_NOT = f"needs PyTorch 2.9 or later for a device in Python, this is {torch.__version__}"

_ROOT = Path(vitucb.__file__).resolve().parents[1]
_OURS = tuple(f"{_ROOT / folder}/" for folder in ("vitucb", "agents", "envs"))
_CPU = torch.device("cpu")
# What the host must know the outcome of before it goes on.
_WAITING = {
    "aten::_local_scalar_dense": "value",
    "aten::is_nonzero": "truth",
    "aten::equal": "truth",
    "aten::nonzero": "size",
    "aten::masked_select": "size",
    "aten::_unique2": "size",
    "aten::bincount": "size",
    "aten::_linalg_check_errors": "errors of linear algebra",
}
_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
_COPYING = ("aten::_to_copy", "aten::copy_")

_waits: Counter[str] = Counter()
_library: list[Any] = []


class SimulatedTensor(Tensor):
    """A tensor of `sim`, whose numbers lie in `raw`."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> SimulatedTensor:
        made: SimulatedTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            layout=raw.layout,
            device=torch.device(DEVICE, 0),
        )
        made.raw = raw
        return made

    def __init__(self, raw: Tensor) -> None:
        """All is done by `__new__`."""

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # PyTorch declares no class method
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _dispatch(func, *args, **(kwargs or {}))

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            "can't convert sim:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
            "to host memory first."
        )

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]  # declared without a name
        return f"{DEVICE}:{self.raw!r}"

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:  # PyTorch's own would leave `raw` behind
        assert isinstance(value, SimulatedTensor)
        self.raw = value.raw

    def tolist(self) -> Any:
        return self.cpu().tolist()


def install() -> None:
    """Name the spare device of this process `sim`; once in a process."""
    if _library:
        return
    backend_registration._setup_privateuseone_for_python_backend(DEVICE)
    make_library: Any = torch.library.Library  # whose methods have no types
    made = make_library("_", "IMPL")
    made.fallback(_dispatch, "PrivateUse1")
    aten = torch.ops.aten
    copies = make_library("aten", "IMPL")
    # `torch.as_tensor` of a number copies where the fallback is not reached.
    for operator in (aten._to_copy.default, aten.copy_.default, *_resizing(aten)):
        copies.impl(operator, partial(_dispatch, operator), "PrivateUse1")
    copies.impl(aten.scaled_dot_product_attention.default, _attention, "AutogradPrivateUse1")
    _library.extend((made, copies))


def _resizing(aten: Any) -> list[Any]:
    """What else makes an empty tensor first and then one of the right shape: a wrapper stays."""
    aranges = [aten.arange.default, aten.arange.start, aten.arange.start_step]
    return [aten.eye.default, aten.eye.m, *aranges, aten.linspace.default]


def take_waits() -> Counter[str]:
    """Waits of the host by `file:line what` since the last call."""
    taken = Counter(_waits)
    _waits.clear()
    return taken


def _dispatch(func: Any, *args: Any, **kwargs: Any) -> Any:
    leaves = tree_leaves((args, kwargs))
    simulated = [x for x in leaves if isinstance(x, SimulatedTensor)]
    others = [x for x in leaves if isinstance(x, Tensor) and not isinstance(x, SimulatedTensor)]
    name = func._schema.name
    asked = kwargs.get("device")
    asked = None if asked is None else torch.device(asked)
    if simulated:
        _check_devices(func, args, kwargs, others)
        _count_waits(name, args, asked)
    kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    if asked is not None:
        kwargs["device"] = _CPU
    out = func(*tree_map(_raw, args), **tree_map(_raw, kwargs))
    if name == "aten::copy_":
        return args[0]
    on_device = asked.type == DEVICE if asked is not None else bool(simulated)
    known = {id(x.raw): x for x in simulated}  # what an operation in place returns

    def wrapped(value: Any) -> Any:
        if not on_device or not isinstance(value, Tensor):
            return value
        return known[id(value)] if id(value) in known else SimulatedTensor(value)

    return tree_map(wrapped, out)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    """The kernel that the processor takes; PyTorch would take a slower one on a spare device."""
    if options.pop("enable_gqa", False):
        raise NotImplementedError("attention with groups of queries is not simulated")
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    made: Tensor = fused(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, **options)[0]
    return made


def _raw(value: Any) -> Any:
    return value.raw if isinstance(value, SimulatedTensor) else value


def _check_devices(func: Any, args: Any, kwargs: dict[str, Any], others: list[Tensor]) -> None:
    """Refuse what a GPU refuses; numbers of the processor may enter, and indices into a tensor."""
    name = func._schema.name
    if name in _COPYING or (name in _INDEXING and isinstance(args[0], SimulatedTensor)):
        return
    written = [
        value
        for argument, value in zip(func._schema.arguments, args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    theirs = {id(x) for x in others}
    bad = [x for x in others if x.dim() > 0]
    bad += [x for x in tree_leaves(written) if id(x) in theirs and x.dim() == 0]
    if bad:
        shapes = ", ".join(str(tuple(x.shape)) for x in bad)
        raise RuntimeError(
            f"Expected all tensors to be on the same device: {func} at {_place()} got sim and, on "
            f"the cpu, {shapes}"
        )


def _count_waits(name: str, args: Any, asked: torch.device | None) -> None:
    what = _WAITING.get(name)
    is_copy = name == "aten::_to_copy" and asked is not None and asked.type == "cpu"
    if is_copy or (name == "aten::copy_" and not isinstance(args[0], SimulatedTensor)):
        what = "copy"
    elif name in _INDEXING:
        indices = [x for x in tree_leaves(args[1]) if isinstance(x, Tensor)]
        if any(not isinstance(x, SimulatedTensor) and x.dim() > 0 for x in indices):
            what = "index of the cpu"
        elif any(x.dtype in (torch.bool, torch.uint8) for x in indices):
            what = "mask"
    if what is not None:
        _waits[f"{_place()} {what}"] += 1


def _place() -> str:
    """File and line of this project that is being run."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_OURS):
            return f"{Path(path).relative_to(_ROOT)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


def in_words(waits: Counter[str], places: int = 30) -> str:
    """The places that wait, the busiest first."""
    rows: Iterable[tuple[str, int]] = waits.most_common(places)
    return "\n".join(f"{count:4d} x {place}" for place, count in rows)
