"""Products with frozen weights on a CPU, by oneDNN.

PyTorch gives float32 products to MKL, which on processors that are not Intel's leaves AVX-512
unused; oneDNN asks the processor what it can do. Both are exact to rounding. On Intel's processors
and on those without AVX-512 MKL is the faster one, by 5 to 20 %. Small products, other types and
other devices are PyTorch's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from vitucb.models.processor import prefers_onednn

_LEAST_PRODUCTS = 1 << 22
"""Scalar multiplications below which preparing oneDNN's call costs more than it saves."""


def fast_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Products x W' + b as `torch.nn.functional.linear` takes them, without a graph.

    Args:
        x: (..., in).
        weight: W (out, in), contiguous or the transpose of a contiguous matrix for speed.
        bias: (out,).

    Returns:
        (..., out), contiguous.
    """
    return onednn_linear(x, weight, bias) if _is_for_onednn(x, weight) else linear(x, weight, bias)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`fast_linear` by oneDNN whatever the processor and the size; float32 on a CPU."""
    rows = x.reshape(-1, x.shape[-1])
    y = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    # No view: networks that change an output in place could not change that of a function.
    whole: Tensor = torch.ops.aten._unsafe_view(y, [*x.shape[:-1], len(weight)])
    return whole


def _is_for_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        # First what most products of a small model fail: every question costs a microsecond.
        x.numel() * weight.shape[0] >= _LEAST_PRODUCTS
        and prefers_onednn()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and (weight.is_contiguous() or weight.mT.is_contiguous())  # else a hundred times slower
        and torch._C._has_mkldnn
        and bool(torch.backends.mkldnn.enabled)
    )


class FastLinear(nn.Linear):
    """`nn.Linear` that takes its product by `fast_linear` while its parameters are frozen."""

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (..., out) of inputs (..., in)."""
        if not torch.is_grad_enabled():
            return fast_linear(x, self.weight, self.bias)
        if self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad):
            return linear(x, self.weight, self.bias)
        if torch.is_autocast_enabled(x.device.type):  # which does not reach into a function
            return linear(x, self.weight, self.bias)
        if not x.requires_grad:
            return fast_linear(x, self.weight, self.bias)
        y: Tensor = _Frozen.apply(x, self.weight, self.bias)
        return y


class _Frozen(torch.autograd.Function):
    """A product whose gradient is that of x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return fast_linear(x, weight, bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator,unused-ignore]  # torch's is untyped
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return fast_linear(grads[0], weight.mT), None, None


def use_fast_linear(model: nn.Module) -> None:
    """Make every `nn.Linear` in `model` a `FastLinear`; names and parameters stay."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FastLinear
