"""One pass of a backbone for several runs that differ in their adapters alone.

The images of all runs go through the frozen weights as one batch; in an adapted layer the factors
of the runs form stacks, A (s, r, in) and B (s, out, r), and every run's part of the batch meets its
own. A processor is kept as busy by one run as by many; a device that waits for the next small
operation is not, and there are s times fewer of them.

A pass always has the same size: where a run has nothing to ask, zeros stand in. So what a run gets
depends on its place and on the size of the stack, to the last bit, and never on the other runs.
Against the same run alone it differs by the rounding of a larger product.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from vitucb.learning.gradient_features import GradientBuffer, Sink
from vitucb.models.lora import LoRAPair, lora_pairs
from vitucb.models.lora_layers import AdaptedLayer, find_adapted_layers, layers_run_by, operands_of
from vitucb.models.onednn_linear import fast_linear
from vitucb.models.reward_model import RewardModel

Readout: TypeAlias = Callable[[Tensor], Tensor]
"""From the last layer (n, d) to what is differentiated, (n,)."""
Objective: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From the last layer (n, d) to what is minimised and the loss to report."""


class SharedPass(Protocol):
    """A run's access to passes that it shares with other runs."""

    def features(self, inputs: Tensor) -> Tensor:
        """The last layer (n, d) of inputs (n, ...), without a graph."""
        ...

    def gradients(self, inputs: Tensor, readout: Readout) -> Tensor:
        """Gradients (n, p) of `readout` of the last layer in all LoRA factors."""
        ...

    def train(self, inputs: Tensor, objective: Objective) -> Tensor:
        """Set the `.grad` of every LoRA factor and of what else `objective` holds; its loss."""
        ...


class AdapterStack:
    """Reward models of one make, at places 0 to size - 1, that go through one backbone."""

    def __init__(self, size: int) -> None:
        """Make room for `size` models."""
        self._size = size
        self._models: dict[int, RewardModel] = {}
        self._pairs: dict[int, list[LoRAPair]] = {}
        self._layers: list[AdaptedLayer] = []
        self._versions: dict[int, list[int]] = {}
        self._is_checked = False

    def put(self, place: int, model: RewardModel) -> None:
        """Give `model` a place; it uses the frozen weights of the first from now on.

        Raises:
            ValueError: If its adapters are not plain LoRA, or another model has other weights.
        """
        pairs = lora_pairs(model)
        layers = find_adapted_layers(model, pairs)
        if len(layers) < len(pairs):
            raise ValueError("parallel.seeds needs plain LoRA layers; play these seeds one by one")
        if self._models:
            _share_frozen(next(iter(self._models.values())), model)
        else:
            self._layers = layers
        self._models[place], self._pairs[place] = model, pairs
        self._versions[place] = _versions(pairs)

    def answer(self, kind: Hashable, requests: Mapping[int, Any]) -> dict[int, Any]:
        """One pass for all `requests`: `kind` is (what, shape of the inputs of each)."""
        assert isinstance(kind, tuple)
        what, _ = kind
        for place in requests:
            if _versions(self._pairs[place]) != self._versions[place]:
                raise RuntimeError(
                    "parallel.seeds: the optimizer changed frozen weights, which all seeds share; "
                    "play these seeds one by one"
                )
        with torch.inference_mode(False):
            answers: dict[int, Any] = getattr(self, f"_{what}")(requests)
        return answers

    @torch.no_grad()
    def _features(self, requests: Mapping[int, Tensor]) -> dict[int, Tensor]:
        hidden = self._hidden(requests, None, 0, lambda offset, grads: None)
        return {place: hidden[place] for place in requests}

    @torch.enable_grad()
    def _gradients(self, requests: Mapping[int, tuple[Tensor, Readout]]) -> dict[int, Any]:
        inputs = {place: given for place, (given, _) in requests.items()}
        anchor = torch.zeros((), requires_grad=True)
        images = self._size * len(next(iter(inputs.values())))
        pairs = [layer.pair for layer in self._layers]
        dim = sum(pair.A.numel() + pair.B.numel() for pair in pairs)
        phi = torch.zeros(images, dim, dtype=pairs[0].A.dtype, device=pairs[0].A.device)
        hidden = self._hidden(inputs, anchor, images, GradientBuffer(phi))
        read = {place: _tried(readout, hidden[place]) for place, (_, readout) in requests.items()}
        sums = [r.sum() for r in read.values() if isinstance(r, Tensor)]
        if sums:
            torch.autograd.grad(torch.stack(sums).sum(), anchor, allow_unused=True)
        rows = phi.view(self._size, -1, dim)
        return {p: r if isinstance(r, Exception) else rows[p] for p, r in read.items()}

    @torch.enable_grad()
    def _train(self, requests: Mapping[int, tuple[Tensor, Objective]]) -> dict[int, Any]:
        inputs = {place: given for place, (given, _) in requests.items()}
        anchor = torch.zeros((), requires_grad=True)
        hidden = self._hidden(inputs, anchor, self._size, self._keep_gradients(requests))
        read = {place: _tried(aim, hidden[place]) for place, (_, aim) in requests.items()}
        parts = [r[0] for r in read.values() if not isinstance(r, Exception)]
        if parts:
            torch.autograd.backward(torch.stack(parts).sum())
        return {p: r if isinstance(r, Exception) else r[1].detach() for p, r in read.items()}

    def _keep_gradients(self, places: Mapping[int, object]) -> Sink:
        """Puts the stacked gradients (s, ...) of a factor into the `.grad` of every run's own."""
        factors: dict[int, dict[int, torch.nn.Parameter]] = {}
        for place in places:
            offset = 0
            for pair in self._pairs[place]:
                for factor in (pair.A, pair.B):
                    factors.setdefault(offset, {})[place] = factor
                    offset += factor.numel()

        def keep(offset: int, grads: Tensor) -> None:
            grads = grads.contiguous()
            for place, factor in factors[offset].items():
                if factor.requires_grad:
                    before = factor.grad
                    factor.grad = grads[place] if before is None else before + grads[place]

        return keep

    def _hidden(
        self, inputs: Mapping[int, Tensor], anchor: Tensor | None, groups: int, sink: Sink
    ) -> Sequence[Tensor]:
        """The last layer (n, d) of every place, for inputs (n, ...); zeros where there are none.

        Args:
            inputs: By place.
            anchor: Brings the first layer into the graph.
            groups: Into how many parts the batch is cut for the gradients given to `sink`.
            sink: Takes the gradients of the factors, (groups, ...), on the way back.
        """
        some = next(iter(inputs.values()))
        batch = torch.stack(
            [inputs[p] if p in inputs else torch.zeros_like(some) for p in range(self._size)]
        ).flatten(0, 1)
        model, stacks = next(iter(self._models.values())), self._stacked_factors()

        def run(layer: AdaptedLayer, x: Tensor) -> Tensor:
            A, B = stacks[layer.offset]
            y: Tensor = _Stacked.apply(x, anchor, A, B, layer, model.precision, groups, sink)
            return y

        with layers_run_by(run, self._layers):
            features = model.features(batch)
        hidden = features.view(self._size, len(some), -1).unbind()
        if not self._is_checked:
            self._is_checked = True
            self._check(inputs, hidden, model.precision)
        return hidden

    @torch.no_grad()
    def _stacked_factors(self) -> dict[int, tuple[Tensor, Tensor]]:
        """A (s, r, in) and B (s, out, r) of every layer, by its offset; zeros where no run is."""
        stacks = {}
        for number, layer in enumerate(self._layers):
            pairs = {place: of_run[number] for place, of_run in self._pairs.items()}
            blank = torch.zeros_like(layer.pair.A), torch.zeros_like(layer.pair.B)
            factors = [(pairs[p].A, pairs[p].B) if p in pairs else blank for p in range(self._size)]
            A, B = (torch.stack(of_all) for of_all in zip(*factors, strict=True))
            stacks[layer.offset] = A, B
        return stacks

    @torch.no_grad()
    def _check(
        self,
        inputs: Mapping[int, Tensor],
        hidden: Sequence[Tensor],
        precision: torch.dtype | None,
    ) -> None:
        """Compare the first pass with every run's own model.

        Raises:
            RuntimeError: If they give something else.
        """
        for place, given in inputs.items():
            alone = self._models[place].features(given)
            tolerance = torch.finfo(precision or alone.dtype).eps ** 0.5
            if not torch.allclose(hidden[place], alone, rtol=tolerance, atol=tolerance):
                raise RuntimeError(
                    "parallel.seeds: the backbone mixes the images of a batch, or an adapted layer "
                    "computes something else than W x + b + s B (A x); play these seeds one by one"
                )


class _Stacked(torch.autograd.Function):
    """An adapted layer on a batch of s equal parts, each with factors of its own."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        anchor: Tensor | None,
        A: Tensor,
        B: Tensor,
        layer: AdaptedLayer,
        precision: torch.dtype | None,
        groups: int,
        sink: Sink,
    ) -> Tensor:
        weight = operands_of(x, layer, precision).weight
        bias = None if layer.base.bias is None else layer.base.bias.to(weight.dtype)
        y = fast_linear(x.to(weight.dtype), weight, bias).to(x.dtype)
        z = torch.bmm(x.reshape(len(A), -1, A.shape[2]).to(A.dtype), A.mT).mul_(layer.pair.scaling)
        parts = y.view(len(B), -1, B.shape[1])
        if y.dtype == z.dtype:
            parts.baddbmm_(z, B.mT)
        else:
            parts.add_(torch.bmm(z, B.mT))
        ctx.save_for_backward(x, z, weight, A, B)
        ctx.layer, ctx.groups, ctx.sink = layer, groups, sink
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, z, weight, A, B = ctx.saved_tensors
        (runs, rank, width), height, layer = A.shape, B.shape[1], ctx.layer
        g = grads[0].reshape(runs, -1, height)
        g_factor = g.to(B.dtype)
        g_z = torch.bmm(B.mT, g_factor.mT).mul_(layer.pair.scaling).mT
        by_group = (ctx.groups, -1)
        of_group = x.reshape(*by_group, width).to(A.dtype)
        ctx.sink(layer.offset, torch.bmm(g_z.reshape(*by_group, rank).mT, of_group))
        grad_b = torch.bmm(z.view(*by_group, rank).mT, g_factor.reshape(*by_group, height))
        ctx.sink(layer.offset + rank * width, grad_b.mT)
        g_x = None
        if ctx.needs_input_grad[0]:
            g_x = fast_linear(g.to(weight.dtype), weight.mT).to(x.dtype)
            if g_x.dtype == A.dtype:
                g_x.baddbmm_(g_z, A)
            else:
                g_x = (g_x + torch.bmm(g_z, A)).to(x.dtype)
            g_x = g_x.view(x.shape)
        return g_x, *[None] * 7


def _tried(read: Callable[[Tensor], Any], hidden: Tensor) -> Any:
    """What a run makes of its last layer; an exception is its own affair."""
    try:
        return read(hidden)
    except Exception as error:
        return error


def _versions(pairs: Sequence[LoRAPair]) -> list[int]:
    """Counts of the changes to the frozen weights."""
    return [-1 if pair.base is None else pair.base._version for pair in pairs]


def _share_frozen(first: RewardModel, model: RewardModel) -> None:
    """Let `model` use the frozen weights of `first`, which must be equal."""
    own = dict(model.backbone.named_parameters())
    for name, parameter in first.backbone.named_parameters():
        if parameter.requires_grad:
            continue
        if name not in own or not torch.equal(own[name], parameter):
            raise ValueError(
                f"parallel.seeds: '{name}' differs between seeds, so they cannot share a backbone; "
                "play these seeds one by one"
            )
        own[name].data = parameter.data
