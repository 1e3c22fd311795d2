"""Features of an arm for the exploration bonus: the gradient of its score in all LoRA parameters.

One batched forward and one batched backward serve all K arms. With y = W x + b + s B (A x) in an
adapted layer and g the gradient of the scores in y, the gradient of arm k's score is, summed over
the tokens t of that arm,

    d f_k / d B = s sum_t g_t (A x_t)^T,    d f_k / d A = s sum_t (B^T g_t) x_t^T.

During the call every adapted layer runs as one autograd function that computes these on its way
back and writes them to their place, so that no layer's gradient outlives its turn. Arms do not mix
in the network, so the backward of sum_k f_k serves all arms; gradients of parameters are never
formed. DoRA scales y and so g, and is otherwise the same (`vitucb.models.dora_layers`).

The same trick, for full layers: Goodfellow, "Efficient per-example gradient computations" -
https://arxiv.org/abs/1510.01799
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from vitucb.models.dora_layers import with_magnitude
from vitucb.models.grad_mode import with_gradients
from vitucb.models.lora import LoRAPair, lora_pairs
from vitucb.models.lora_layers import (
    AdaptedLayer,
    Comparison,
    Operands,
    adapted_output,
    find_adapted_layers,
    input_gradient,
    layers_run_by,
    operands_of,
    through_factors,
)

_logger = logging.getLogger(__name__)

Sink: TypeAlias = Callable[[int, Tensor], None]
"""Takes the offset of a factor's first coordinate and its per-arm gradients, (K, rows, columns)."""


class BlockProjection(Protocol):
    """A linear map R^p -> R^d that can be fed its input block by block."""

    sketch_dim: int

    def add_block(self, out: Tensor, offset: int, block: Tensor) -> None:
        """Add the image of coordinates `offset`.. of the input, (K, m), to `out` (K, d)."""
        ...


class _PerArm(torch.autograd.Function):
    """An adapted layer whose backward hands per-arm gradients of A and B to a sink."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        anchor: Tensor,
        layer: AdaptedLayer,
        precision: torch.dtype | None,
        arms: int,
        sink: Sink,
    ) -> Tensor:
        operands = operands_of(x, layer, precision)
        y, z = adapted_output(operands, layer)
        ctx.save_for_backward(z, *operands)
        ctx.layer, ctx.arms, ctx.sink = layer, arms, sink
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, *saved = ctx.saved_tensors
        o, offset = Operands(*saved), ctx.layer.offset
        g = grads[0].reshape(-1, len(o.B))
        g_factor, g_z = through_factors(g, o, ctx.layer)
        by_arm = (ctx.arms, -1)
        x_arm = o.x.reshape(*by_arm, o.A.shape[1]).to(o.A.dtype)
        ctx.sink(offset, torch.bmm(g_z.reshape(*by_arm, len(o.A)).mT, x_arm))
        grad_b = torch.bmm(z.view(*by_arm, len(o.A)).mT, g_factor.view(*by_arm, len(o.B)))
        ctx.sink(offset + o.A.numel(), grad_b.mT)
        grad_x = input_gradient(g, g_z, o) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, None, None, None


class LoRAGradientFeatures:
    """phi_k = gradient of the score of arm k in every LoRA factor, and the score itself.

    Coordinates go pair by pair, A flattened and then B flattened: phi_k is the concatenation of
    `autograd.grad(f_k, [A_1, B_1, A_2, B_2, ...])`. The head is not part of it: its gradient [h; 1]
    would carry nearly all of the norm and turn the bonus into a last-layer one.

    The first call, and the first one with B not 0, compare scores and summed features with the
    model's own forward and autograd.
    Where they differ (layers that use their factors elsewhere), or where a layer is no PEFT
    LoRA layer on an `nn.Linear`, every call takes the slow way: one batched forward and K
    backwards. That is logged once. A call in which adapters are merged, disabled, under dropout or
    of another scaling than at first is slow too.

    The model must not mix the arms of a batch (no batch normalisation in training mode) and should
    be in evaluation mode. Parameters' `.grad` is left alone, and the layers are as before after the
    call.

    Attributes:
        scale: Factor on every feature, e.g. 1 / RMS norm of the first arms; 1 to begin with.
        pairs: The LoRA pairs differentiated.
        is_fast: Whether features come from one backward rather than from K.
    """

    def __init__(
        self,
        model: nn.Module,
        pairs: Sequence[LoRAPair] | None = None,
        *,
        dtype: torch.dtype | None = None,
        precision: torch.dtype | None = None,
    ) -> None:
        """Look up the LoRA layers of `model`.

        Args:
            model: Maps images (b, 3, H, W) to scores (b,).
            pairs: Which LoRA pairs to differentiate; None means all of `model`.
            dtype: Of the features; None means that of the factors.
            precision: Type of the products with frozen weights; None means that of the weights.

        Raises:
            ValueError: If there is no LoRA pair.
        """
        self.model = model
        self.pairs = list(lora_pairs(model) if pairs is None else pairs)
        if not self.pairs:
            raise ValueError("no LoRA pair to differentiate; call add_lora first")
        self.scale = 1.0
        self.dtype = self.pairs[0].A.dtype if dtype is None else dtype
        self._factors = [factor for pair in self.pairs for factor in (pair.A, pair.B)]
        self._layers = find_adapted_layers(model, self.pairs)
        self.is_fast = True
        self._comparison, self._precision = Comparison(self.pairs[0].B), precision
        if len(self._layers) < len(self.pairs):
            self._fall_back("a pair does not belong to a LoRA layer on an nn.Linear")

    @property
    def dim(self) -> int:
        """Number of features p: all entries of all factors."""
        return sum(factor.numel() for factor in self._factors)

    def __call__(self, images: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scores and gradient features of all arms.

        Args:
            images: (K, 3, H, W), what the model takes.
            out: Where to write the features, (K, p) of any float type; None allocates.

        Returns:
            Scores (K,) and features (K, p), both detached.

        Raises:
            ValueError: If the model does not give one score per image, or `out` has another shape.
        """
        shape = (len(images), self.dim)
        with with_gradients():
            if out is None:
                out = torch.zeros(shape, dtype=self.dtype, device=self._factors[0].device)
            elif out.shape != shape:
                raise ValueError(f"out has shape {tuple(out.shape)}; it must be {shape}")
            else:
                out.zero_()  # A layer the model skips writes nothing.
            return self._run(images, GradientBuffer(out)), out

    def project(self, images: Tensor, projection: BlockProjection) -> tuple[Tensor, Tensor]:
        """Scores and projected features; the (K, p) matrix never exists.

        Args:
            images: (K, 3, H, W).
            projection: A linear map of R^p, e.g. the `projection` of a sketched covariance.

        Returns:
            Scores (K,) and projected features (K, projection.sketch_dim), both detached.
        """
        with with_gradients():
            shape = (len(images), projection.sketch_dim)
            out = torch.zeros(shape, dtype=self.dtype, device=self._factors[0].device)

            def sink(offset: int, grads: Tensor) -> None:
                projection.add_block(out, offset, grads.reshape(len(images), -1).to(out.dtype))

            return self._run(images, sink), out

    def _run(self, images: Tensor, sink: Sink) -> Tensor:
        """Send the gradients of all factors to `sink`; returns the scores."""
        if images.is_inference():
            images = images.clone()  # Inference tensors cannot be saved for a backward.
        if self.is_fast and self._comparison.is_due:
            self._check(images)
        if self.is_fast and all(layer.is_plain for layer in self._layers):
            return self._fast(images, sink)
        return self._slow(images, sink)

    def _fast(self, images: Tensor, sink: Sink) -> Tensor:
        anchor = torch.zeros((), requires_grad=True)  # Brings the first layer into the graph.

        def run(layer: AdaptedLayer, x: Tensor) -> Tensor:
            y: Tensor = _PerArm.apply(x, anchor, layer, self._precision, len(images), sink)
            return with_magnitude(y, layer, is_trained=False)

        with layers_run_by(run, self._layers):
            scores = self._scores(images)
        weight = torch.full_like(scores, self.scale)
        torch.autograd.grad(scores, anchor, weight, allow_unused=True)
        return scores.detach()

    def _slow(self, images: Tensor, sink: Sink) -> Tensor:
        with _requiring_grad(self._factors):
            scores = self._scores(images)
            rows = [
                torch.autograd.grad(
                    score * self.scale, self._factors, retain_graph=True, materialize_grads=True
                )
                for score in scores
            ]
        offset = 0
        for grads in zip(*rows, strict=True):
            sink(offset, torch.stack(grads))
            offset += grads[0].numel()
        return scores.detach()

    def _scores(self, images: Tensor) -> Tensor:
        scores: Tensor = self.model(images)
        if scores.shape != (len(images),):
            raise ValueError(
                f"the model gave scores of shape {tuple(scores.shape)} for {len(images)} images; "
                f"it must give ({len(images)},)"
            )
        return scores

    def _check(self, images: Tensor) -> None:
        """Compare the fast way with autograd, once, and give it up where they differ."""
        if not all(layer.is_plain for layer in self._layers):
            return
        with _requiring_grad(self._factors):
            scores = self._scores(images)
            weight = torch.full_like(scores, self.scale)
            exact = torch.autograd.grad(scores, self._factors, weight, materialize_grads=True)
        out = torch.zeros(len(images), self.dim, dtype=scores.dtype, device=scores.device)
        try:
            fast_scores = self._fast(images, GradientBuffer(out))
        except (RuntimeError, TypeError) as error:
            self._fall_back(f"an adapted layer cannot be run directly ({error})")
            return
        reference = torch.cat([grad.flatten() for grad in exact])
        tolerance = torch.finfo(self._precision or scores.dtype).eps ** 0.5
        agrees = bool(
            (out.sum(0) - reference).norm() <= tolerance * out.norm() * len(images) ** 0.5
        ) and torch.allclose(fast_scores, scores, rtol=tolerance, atol=tolerance)
        self._comparison.made()
        if not agrees:
            self._fall_back("an adapted layer computes neither LoRA nor DoRA")

    def _fall_back(self, reason: str) -> None:
        self.is_fast = False
        _logger.warning("gradient features take one backward per arm (slow): %s", reason)


class GradientBuffer:
    """A sink that writes to (K, p), and adds where a layer ran more than once."""

    def __init__(self, out: Tensor) -> None:
        """Write to `out` (K, p)."""
        self.out = out
        self._written: set[int] = set()

    def __call__(self, offset: int, grads: Tensor) -> None:
        """Take the gradients (K, rows, columns) of the factor that begins at `offset`."""
        arms, rows, columns = grads.shape
        place = self.out.narrow(1, offset, rows * columns).view(arms, rows, columns)
        if offset in self._written:
            place.add_(grads)
        else:
            place.copy_(grads)
            self._written.add(offset)


@contextlib.contextmanager
def _requiring_grad(factors: Sequence[Tensor]) -> Iterator[None]:
    """Every one of `factors` requires grad inside; as before outside."""
    frozen = [factor for factor in factors if not factor.requires_grad]
    for factor in frozen:
        factor.requires_grad_(True)
    try:
        yield
    finally:
        for factor in frozen:
            factor.requires_grad_(False)
