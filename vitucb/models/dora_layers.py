"""DoRA on top of a LoRA layer: every output of W' = W + s B A at a magnitude of its own.

With n_i = ||row i of W'|| DoRA's weight has the rows m_i W'_i / n_i, and the norms n get no
gradient (section 4.3 of the paper; PEFT detaches them too). With c = m / n and the plain output
y = W x + b + s B (A x) the layer therefore gives

    c * y + (1 - c) * b,

so that a gradient g of its output is c * g for the plain layer: whatever computes that one, its
gradients of A, B and x, for a batch or for each arm, computes DoRA's too. That of m is, summed over
the rows of a batch, g * (y - b) / n. The norms are of weights alone and thus the same for all arms.
They are taken anew by every forward, which costs a product of rank r: what could be kept from one
forward to the next would go stale unseen where weights are swapped or written through `.data`.

Paper: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation" - https://arxiv.org/abs/2402.09353
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import Parameter

if TYPE_CHECKING:
    from vitucb.models.lora_layers import AdaptedLayer


def find_magnitude(module: nn.Module) -> Parameter | None:
    """The magnitudes m (out,) of a PEFT layer with one adapter; None if it is not DoRA on a Linear.

    PEFT is not imported: its DoRA is known by the names of what the layer holds.
    """
    vectors = getattr(module, "lora_magnitude_vector", None)
    if not isinstance(vectors, nn.ModuleDict) or len(vectors) != 1:
        return None
    (name,) = vectors
    variant = (getattr(module, "lora_variant", None) or {}).get(name)
    magnitude = getattr(vectors[name], "weight", None)
    is_known = type(variant).__name__ == "DoraLinearVariant" and isinstance(magnitude, Parameter)
    return magnitude if is_known else None


def with_magnitude(y: Tensor, layer: AdaptedLayer, *, is_trained: bool) -> Tensor:
    """The output (..., out) of `layer`, from y = W x + b + s B (A x); y itself without DoRA.

    Args:
        y: Plain output (..., out).
        layer: What made it.
        is_trained: Whether the magnitudes get a gradient. Without one y need not be kept.
    """
    if layer.magnitude is None:
        return y
    with torch.set_grad_enabled(is_trained and torch.is_grad_enabled()):
        weight, pair = layer.base.weight.detach(), layer.pair
        merged = torch.addmm(weight, pair.B.detach(), pair.A.detach(), alpha=pair.scaling)
        gain = _gain(layer.magnitude, merged).to(y.dtype)
        bias = layer.base.bias
        offset = None if bias is None else (1 - gain) * bias
    return y * gain if offset is None else torch.addcmul(offset, y, gain)


def with_magnitude_in(merged: Tensor, layer: AdaptedLayer) -> Tensor:
    """The weight (out, in) of `layer`, from W + s B A; that itself without DoRA."""
    if layer.magnitude is None:
        return merged
    return merged * _gain(layer.magnitude, merged)[:, None]


def _gain(magnitude: Tensor, merged: Tensor) -> Tensor:
    """The factors c = m / n (out,), from W + s B A (out, in)."""
    norms: Tensor = torch.linalg.vector_norm(merged, dim=1)
    return magnitude / norms
