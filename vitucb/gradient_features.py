"""Features of an arm for the exploration bonus: the gradient of its score in all LoRA parameters.

One batched forward and one batched backward serve all K arms. A LoRA layer adds o = B (A x) to its
output, so the gradient of arm k's score f_k is, summed over the tokens t of that arm,

    d f_k / d B = sum_t delta_t (A x_t)^T,    d f_k / d A = sum_t (B^T delta_t) x_t^T,

with delta = d f / d o. Forward hooks keep x, A x and o; `autograd.grad(sum_k f_k, [o, ...])`
gives every delta, because arms do not mix in the network. No parameter gradient is computed or
stored.

The same trick, for full layers: Goodfellow, "Efficient per-example gradient computations" -
https://arxiv.org/abs/1510.01799
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from vitucb.adapters import LoRAPair, lora_pairs

_logger = logging.getLogger(__name__)


class BlockProjection(Protocol):
    """A linear map R^p -> R^d that can be fed its input block by block."""

    sketch_dim: int

    def add_block(self, out: Tensor, offset: int, block: Tensor) -> None:
        """Add the image of coordinates `offset`.. of the input, (K, m), to `out` (K, d)."""
        ...


class HeadedModel(Protocol):
    """A model whose score is a linear head on its features."""

    head: nn.Linear

    def features(self, images: Tensor) -> Tensor:
        """Last-layer features of `images` (b, 3, H, W): float (b, d)."""
        ...


@dataclass
class _Tap:
    """What the hooks of one LoRA layer saw, one entry for each time the layer ran."""

    x: list[Tensor] = field(default_factory=list)
    z: list[Tensor] = field(default_factory=list)
    o: list[Tensor] = field(default_factory=list)

    def see_a(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self.x.append(args[0].detach())

    def see_b(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if not output.requires_grad:
            # The first adapted layer of a model whose factors are all frozen: start the graph here.
            output.requires_grad_()
        self.z.append(args[0].detach())
        self.o.append(output)

    @property
    def is_complete(self) -> bool:
        return bool(self.o) and len(self.x) == len(self.o)


def lora_gradient(x: Tensor, z: Tensor, delta: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Per-arm gradients of the score in the two factors of one LoRA layer.

    Args:
        x: Inputs of the layer, (K, tokens, n).
        z: A x, (K, tokens, r).
        delta: Gradient of the summed score in o = B z, (K, tokens, m).
        B: The up factor, (m, r).

    Returns:
        Gradients in A, (K, r, n), and in B, (K, m, r).
    """
    return torch.bmm((delta @ B).mT, x), torch.bmm(delta.mT, z)


def _by_arm(tensor: Tensor, arms: int) -> Tensor:
    """(arms * windows, ..., n) -> (arms, tokens, n)."""
    return tensor.reshape(arms, -1, tensor.shape[-1])


class LoRAGradientFeatures:
    """phi_k = gradient of the score of arm k in every LoRA factor, and the score itself.

    Coordinates go pair by pair, A flattened and then B flattened, so that phi_k equals the
    concatenation of `autograd.grad(f_k, [A_1, B_1, A_2, B_2, ...])`. The head is not part of it:
    its gradient [h; 1] would carry nearly all of the norm and turn the bonus into a last-layer
    one.

    The first call compares the sum of the features with autograd. Where they differ (DoRA, layers
    that use their factors elsewhere), or where a pair has no pair of linear layers to hook, every
    call takes the slow way: one batched forward and K backwards. That is logged once.

    The model must not mix the arms of a batch (no batch normalisation in training mode) and
    should be in evaluation mode. Parameters' `.grad` is left alone; hooks exist only during the
    call.

    Attributes:
        scale: Factor on every feature, e.g. 1 / RMS norm of the first arms; 1 to begin with.
        pairs: The LoRA pairs differentiated.
    """

    def __init__(
        self,
        model: nn.Module,
        pairs: Sequence[LoRAPair] | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Look up the LoRA layers of `model`.

        Args:
            model: Maps images (b, 3, H, W) to scores (b,).
            pairs: Which LoRA pairs to differentiate; None means all of `model`.
            dtype: Of the features; None means that of the factors.

        Raises:
            ValueError: If there is no LoRA pair.
        """
        self.model = model
        self.pairs = list(lora_pairs(model) if pairs is None else pairs)
        if not self.pairs:
            raise ValueError("no LoRA pair to differentiate; call add_lora first")
        self.scale = 1.0
        self.dtype = self.pairs[0].A.dtype if dtype is None else dtype
        self._parameters = [factor for pair in self.pairs for factor in (pair.A, pair.B)]
        self._layers = self._linear_layers()
        self._is_fast = self._layers is not None
        self._is_checked = False
        if not self._is_fast:
            self._warn("a factor is not the weight of a linear layer without bias")

    @property
    def dim(self) -> int:
        """Number of features p: all entries of all factors."""
        return sum(factor.numel() for factor in self._parameters)

    @property
    def is_fast(self) -> bool:
        """Whether features come from one backward rather than from K."""
        return self._is_fast

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
        if out is None:
            with torch.inference_mode(False):
                out = torch.empty(shape, dtype=self.dtype, device=self._parameters[0].device)
        elif out.shape != shape:
            raise ValueError(f"out has shape {tuple(out.shape)}; it must be {shape}")
        offset = 0
        with _grad_mode():
            mean, blocks = self._gradients(images)
            for block in blocks:
                end = offset + block[0].numel()
                out[:, offset:end].view(block.shape).copy_(block)
                offset = end
        return mean, out

    def project(self, images: Tensor, projection: BlockProjection) -> tuple[Tensor, Tensor]:
        """Scores and projected features; the (K, p) matrix never exists.

        Args:
            images: (K, 3, H, W).
            projection: A linear map of R^p, e.g. the `projection` of a sketched covariance.

        Returns:
            Scores (K,) and projected features (K, projection.sketch_dim), both detached.
        """
        offset = 0
        with _grad_mode():
            mean, blocks = self._gradients(images)
            shape = (len(images), projection.sketch_dim)
            out = torch.zeros(shape, dtype=self.dtype, device=mean.device)
            for block in blocks:
                flat = block.flatten(1).to(self.dtype)
                projection.add_block(out, offset, flat)
                offset += flat.shape[1]
        return mean, out

    def _gradients(self, images: Tensor) -> tuple[Tensor, Iterator[Tensor]]:
        """Scores, and for each factor its per-arm gradients (K, *factor.shape)."""
        if images.is_inference():
            images = images.clone()  # Inference tensors cannot be saved for a backward.
        if not self._is_fast:
            return self._slow(images)
        with self._taps() as taps:
            scores = self._scores(images)
        if not all(tap.is_complete for tap in taps):
            self._fall_back(
                "an adapted layer did not run its factors (merged or disabled adapters?)"
            )
            return self._slow(images)
        if not self._is_checked and not self._agrees_with_autograd(scores, taps):
            self._fall_back("a layer uses its factors in another way than B (A x)")
            return self._slow(images)
        deltas = self._deltas(scores, taps)
        return scores.detach(), self._blocks(taps, deltas, len(images))

    def _scores(self, images: Tensor) -> Tensor:
        scores: Tensor = self.model(images)
        if scores.shape != (len(images),):
            raise ValueError(
                f"the model gave scores of shape {tuple(scores.shape)} for {len(images)} images; "
                f"it must give ({len(images)},)"
            )
        return scores

    def _deltas(self, scores: Tensor, taps: list[_Tap], retain: bool = False) -> Iterator[Tensor]:
        outputs = [o for tap in taps for o in tap.o]
        weight = torch.full_like(scores, self.scale)
        return iter(torch.autograd.grad(scores, outputs, weight, retain_graph=retain))

    def _blocks(self, taps: list[_Tap], deltas: Iterator[Tensor], arms: int) -> Iterator[Tensor]:
        for pair, tap in zip(self.pairs, taps, strict=True):
            grad_a, grad_b = self._pair_gradient(pair, tap, deltas, arms)
            yield grad_a
            yield grad_b

    @staticmethod
    @torch.no_grad()
    def _pair_gradient(
        pair: LoRAPair, tap: _Tap, deltas: Iterator[Tensor], arms: int
    ) -> tuple[Tensor, Tensor]:
        parts = [
            lora_gradient(_by_arm(x, arms), _by_arm(z, arms), _by_arm(next(deltas), arms), pair.B)
            for x, z in zip(tap.x, tap.z, strict=True)
        ]
        grad_a, grad_b = parts[0]
        for more_a, more_b in parts[1:]:  # One layer run several times: its gradients add up.
            grad_a, grad_b = grad_a + more_a, grad_b + more_b
        return grad_a, grad_b

    def _slow(self, images: Tensor) -> tuple[Tensor, Iterator[Tensor]]:
        with _requiring_grad(self._parameters):
            scores = self._scores(images)
            rows = [
                torch.autograd.grad(
                    score * self.scale, self._parameters, retain_graph=True, materialize_grads=True
                )
                for score in scores
            ]
        return scores.detach(), (torch.stack(grads) for grads in zip(*rows, strict=True))

    def _agrees_with_autograd(self, scores: Tensor, taps: list[_Tap]) -> bool:
        """Whether the summed features equal the gradient of the summed score; asked once."""
        if not all(factor.requires_grad for factor in self._parameters):
            return True  # Frozen factors: autograd has no opinion. Checked when they are trained.
        arms = len(scores)
        try:
            fast = list(self._blocks(taps, self._deltas(scores, taps, retain=True), arms))
        except RuntimeError:  # Shapes that are not arms first, or an output outside the graph.
            return False
        weight = torch.full_like(scores, self.scale)
        reference = torch.autograd.grad(
            scores, self._parameters, weight, retain_graph=True, materialize_grads=True
        )
        self._is_checked = True
        tolerance = torch.finfo(scores.dtype).eps ** 0.5
        return all(
            (block.sum(0) - exact).norm() <= tolerance * (block.norm() * arms**0.5 + exact.norm())
            for block, exact in zip(fast, reference, strict=True)
        )

    @contextlib.contextmanager
    def _taps(self) -> Iterator[list[_Tap]]:
        """Hooks on all pairs for the duration of one forward."""
        assert self._layers is not None
        taps = [_Tap() for _ in self._layers]
        with contextlib.ExitStack() as stack:
            for tap, (layer_a, layer_b) in zip(taps, self._layers, strict=True):
                stack.callback(layer_a.register_forward_hook(tap.see_a).remove)
                stack.callback(layer_b.register_forward_hook(tap.see_b).remove)
            yield taps

    def _linear_layers(self) -> list[tuple[nn.Linear, nn.Linear]] | None:
        """The two linear layers of every pair, or None if one has no such layer."""
        owner: dict[int, nn.Linear] = {}
        for module in self.model.modules():
            if isinstance(module, nn.Linear) and getattr(module, "bias", None) is None:
                owner[id(module.weight)] = module
        if not all(id(factor) in owner for factor in self._parameters):
            return None
        return [(owner[id(pair.A)], owner[id(pair.B)]) for pair in self.pairs]

    def _fall_back(self, reason: str) -> None:
        self._is_fast = False
        self._warn(reason)

    @staticmethod
    def _warn(reason: str) -> None:
        _logger.warning("gradient features take one backward per arm (slow): %s", reason)


class LastLayerFeatures:
    """phi_k = [h_k; 1], the input of the reward head, and the score of arm k, from one forward.

    Attributes:
        scale: Factor on every feature; 1 to begin with.
    """

    def __init__(self, model: HeadedModel) -> None:
        """Use the features and the head of `model`."""
        self.model = model
        self.scale = 1.0

    @property
    def dim(self) -> int:
        """Number of features: the width of the head's input, and one for its bias."""
        return self.model.head.in_features + 1

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (K,) and features (K, d + 1) of `images` (K, 3, H, W)."""
        hidden = self.model.features(images)
        mean: Tensor = self.model.head(hidden).squeeze(-1)
        ones = hidden.new_ones(len(hidden), 1)
        return mean, torch.cat([hidden, ones], dim=1) * self.scale


@contextlib.contextmanager
def _grad_mode() -> Iterator[None]:
    """Gradients on, whatever mode the caller is in."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextlib.contextmanager
def _requiring_grad(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Every one of `parameters` requires grad inside; as before outside."""
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
