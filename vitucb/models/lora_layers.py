"""Adapted layers run by functions of our own, where they compute y = W x + b + s B (A x) or DoRA.

PEFT's layers take a dozen operations each, and autograd keeps what each of them would need. The
functions here keep x and A x alone, never form a gradient of a frozen weight, and add the small
product onto the large one in place; on request they take the products with frozen weights in
bfloat16. What they give is compared with PEFT's own once; where it
differs (dropout, merged adapters, layers of another kind) PEFT's own is run. DoRA, that y with
magnitudes, is in `vitucb.models.dora_layers`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from vitucb.models.dora_layers import find_magnitude, with_magnitude
from vitucb.models.lora import LoRAPair
from vitucb.models.onednn_linear import fast_linear

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AdaptedLayer:
    """An adapted layer, and where its gradients belong.

    Attributes:
        module: PEFT's layer.
        base: The frozen layer in it.
        pair: Its factors.
        offset: Number of entries of all factors before those of this pair.
        magnitude: DoRA's magnitudes (out,); None where the layer is plain LoRA.
    """

    module: nn.Module
    base: nn.Linear
    pair: LoRAPair
    offset: int
    magnitude: nn.Parameter | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the layer now computes y = W x + b + s B (A x), or DoRA of it."""
        module = self.module
        dropouts = getattr(module, "lora_dropout", None) or {}
        return not (
            "forward" in vars(module)
            or getattr(module, "merged", False)
            or getattr(module, "disable_adapters", False)
            or (module.training and any(getattr(d, "p", 0.0) > 0 for d in dropouts.values()))
            or any(s != self.pair.scaling for s in getattr(module, "scaling", {}).values())
        )


Run: TypeAlias = Callable[[AdaptedLayer, Tensor], Tensor]
"""Output (..., out) of a layer for its input (..., in)."""


def find_adapted_layers(model: nn.Module, pairs: Sequence[LoRAPair]) -> list[AdaptedLayer]:
    """The layers of `pairs` that look like LoRA or DoRA on an `nn.Linear`; others are left out."""
    owners: dict[tuple[int, int], nn.Module] = {}
    for module in model.modules():
        downs, ups = getattr(module, "lora_A", None), getattr(module, "lora_B", None)
        if isinstance(downs, nn.ModuleDict) and isinstance(ups, nn.ModuleDict) and len(downs) == 1:
            key = (id(down.weight) for group in (downs, ups) for down in group.values())
            owners[next(key), next(key)] = module
    layers, offset = [], 0
    for pair in pairs:
        owner = owners.get((id(pair.A), id(pair.B)))
        base = getattr(owner, "base_layer", None)
        if owner is not None and isinstance(base, nn.Linear) and not _is_variant(owner):
            layers.append(AdaptedLayer(owner, base, pair, offset, find_magnitude(owner)))
        offset += pair.A.numel() + pair.B.numel()
    return layers


def _is_variant(module: nn.Module) -> bool:
    """Whether PEFT does something else than LoRA or DoRA: at B = 0 it need not show."""
    biases = getattr(module, "lora_bias", None) or {}
    is_other = bool(getattr(module, "lora_variant", None)) and find_magnitude(module) is None
    return is_other or any(biases.values())


class Comparison:
    """When to compare layers with their own forward: at first, and when B first is not 0.

    At B = 0, where training starts, not every difference shows.
    """

    def __init__(self, up: Tensor) -> None:
        """Of layers of which one has the factor B = `up`."""
        self._up, self._was_made, self._is_final = up, False, False

    @property
    def is_due(self) -> bool:
        """Whether to compare now."""
        return not self._is_final and (not self._was_made or bool(self._up.any()))

    def made(self) -> None:
        """It was made, with the factors as they are."""
        self._was_made, self._is_final = True, bool(self._up.any())


@contextlib.contextmanager
def layers_run_by(run: Run, layers: Sequence[AdaptedLayer]) -> Iterator[None]:
    """Inside, each of `layers` gives what `run` makes of it and of its input."""
    with contextlib.ExitStack() as stack:
        for layer in layers:

            def forward(x: Tensor, layer: AdaptedLayer = layer) -> Tensor:
                return run(layer, x)

            layer.module.__dict__["forward"] = forward
            stack.callback(layer.module.__dict__.pop, "forward")
        yield


class Operands(NamedTuple):
    """What the products of a layer are taken of."""

    x: Tensor
    weight: Tensor
    A: Tensor
    B: Tensor


def operands_of(x: Tensor, layer: AdaptedLayer, precision: torch.dtype | None) -> Operands:
    """The input (..., in), the frozen weight (out, in) in `precision`, A (r, in), B (out, r)."""
    pair, weight = layer.pair, layer.base.weight
    return Operands(x, weight if precision is None else weight.to(precision), pair.A, pair.B)


def adapted_output(o: Operands, layer: AdaptedLayer) -> tuple[Tensor, Tensor]:
    """The output (..., out), and s A x (..., r) on the way.

    Only the product with the frozen weight is taken in another precision: thin products gain
    nothing by it, and what the adapters add to a weight would be rounded away.
    """
    z = linear(o.x.to(o.A.dtype), o.A).mul_(layer.pair.scaling)
    bias, dtype = layer.base.bias, o.weight.dtype
    cast = None if bias is None else bias.to(dtype)
    y = fast_linear(o.x.to(dtype), o.weight, cast).to(o.x.dtype)
    if y.dtype == z.dtype:
        y.view(-1, y.shape[-1]).addmm_(z.view(-1, z.shape[-1]), o.B.mT)
    else:
        y = (y + z @ o.B.mT).to(y.dtype)
    return y, z


def through_factors(g: Tensor, o: Operands, layer: AdaptedLayer) -> tuple[Tensor, Tensor]:
    """Gradients (n, out) of the output in the type of the factors, and s B'g' in columns (n, r)."""
    g = g.to(o.B.dtype)
    # B'g' and not g B: a thin result in columns is five times slower on a CPU.
    return g, (o.B.mT @ g.mT).mul_(layer.pair.scaling).mT


def input_gradient(g: Tensor, g_z: Tensor, o: Operands) -> Tensor:
    """Gradient of the input x, from that of the output (n, out) and of A x (n, r)."""
    g_x = fast_linear(g.to(o.weight.dtype), o.weight.mT).to(o.x.dtype)
    if g_x.dtype == o.A.dtype:
        g_x.addmm_(g_z, o.A)
    else:
        g_x = (g_x + g_z @ o.A).to(o.x.dtype)
    return g_x.view(o.x.shape)


class _Trained(torch.autograd.Function):
    """A layer with gradients of its input and of its factors."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        A: Tensor,
        B: Tensor,
        layer: AdaptedLayer,
        precision: torch.dtype | None,
    ) -> Tensor:
        operands = operands_of(x, layer, precision)
        y, z = adapted_output(operands, layer)
        ctx.save_for_backward(z, *operands)  # so that a change before the backward is noticed
        ctx.layer = layer
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, *saved = ctx.saved_tensors
        o = Operands(*saved)
        g = grads[0].reshape(-1, len(o.B))
        g_factor, g_z = through_factors(g, o, ctx.layer)
        wants_x, wants_a, wants_b = ctx.needs_input_grad[:3]
        x = o.x.reshape(-1, o.A.shape[1]).to(o.A.dtype)
        grad_a = g_z.mT @ x if wants_a else None
        grad_b = (z.view(-1, len(o.A)).mT @ g_factor).mT if wants_b else None
        grad_x = input_gradient(g, g_z, o) if wants_x else None
        return grad_x, grad_a, grad_b, None, None


class FastAdapters:
    """Runs the adapted layers of a model for training, the fast way where it is the same.

    Attributes:
        is_fast: Whether the layers are run here; else they are PEFT's own.
    """

    def __init__(
        self,
        model: nn.Module,
        pairs: Sequence[LoRAPair],
        precision: torch.dtype | None = None,
    ) -> None:
        """Look up the layers of `pairs` in `model`.

        Args:
            model: Holds the layers.
            pairs: Their factors.
            precision: Type of the products with frozen weights; None means that of the weights.
        """
        self._precision = precision
        self._layers = find_adapted_layers(model, pairs)
        magnitudes = [x.magnitude for x in self._layers if x.magnitude is not None]
        self._trained = [f for pair in pairs for f in (pair.A, pair.B)] + magnitudes
        self.is_fast = len(self._layers) == len(pairs)
        self._comparison = Comparison(pairs[0].B)

    def __call__(self, function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """`function(inputs)`, a tensor that depends on the layers, with its graph."""
        if not self.is_fast or not all(layer.is_plain for layer in self._layers):
            return function(inputs)
        if self._comparison.is_due:
            self.is_fast = self._agrees(function, inputs)
            self._comparison.made()
            if not self.is_fast:
                _logger.warning("training runs the adapted layers as PEFT does (slower)")
                return function(inputs)
        return self._run(function, inputs)

    def _run(self, function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        def run(layer: AdaptedLayer, x: Tensor) -> Tensor:
            y: Tensor = _Trained.apply(x, layer.pair.A, layer.pair.B, layer, self._precision)
            return with_magnitude(y, layer, is_trained=True)

        with layers_run_by(run, self._layers):
            return function(inputs)

    @torch.enable_grad()
    def _agrees(self, function: Callable[[Tensor], Tensor], inputs: Tensor) -> bool:
        """Whether outputs and gradients are those of the model's own layers."""
        trained = [p for p in self._trained if p.requires_grad]
        try:
            y, fast = function(inputs), self._run(function, inputs)
            # Not ones: the sum of normalised features is constant.
            weight = torch.linspace(-1, 1, y.numel()).view_as(y).to(y)
            own, ours = (
                torch.autograd.grad(outputs, trained, weight, materialize_grads=True)
                for outputs in (y, fast)
            )
        except (RuntimeError, TypeError):
            return False
        tolerance = torch.finfo(self._precision or y.dtype).eps ** 0.5
        difference = torch.cat([(a - b).flatten() for a, b in zip(own, ours, strict=True)])
        size = torch.cat([a.flatten() for a in own]).norm()
        is_same = torch.allclose(fast, y, rtol=tolerance, atol=tolerance)
        return is_same and bool(difference.norm() <= tolerance * size)
