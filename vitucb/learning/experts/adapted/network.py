"""A LoRA network in training: tokens in, optimizer steps, averaged weights to act on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import linear
from torch.optim import Optimizer

from vitucb.learning.experts.adapted.augmentation import ImageCopies
from vitucb.learning.experts.adapted.averaged_weights import AveragedWeights
from vitucb.learning.experts.adapted.likelihoods import Likelihood
from vitucb.learning.experts.adapted.views import PatchDropout, Views, take_tokens
from vitucb.learning.replay import Batch
from vitucb.learning.split import BatchSplit, WholeBatch
from vitucb.models.dora_layers import with_magnitude_in
from vitucb.models.lora import LoRAPair, lora_pairs, save_adapters
from vitucb.models.lora_layers import AdaptedLayer, FastAdapters, find_adapted_layers, layers_run_by
from vitucb.models.reward_model import RewardModel
from vitucb.types import State

# Norm of what the head reads. The head starts at 0 and AdamW's steps do not see the size of its
# input: this and the head's rate say how fast outputs move. 0.3 times that of the embedded ViT.
_HEAD_INPUT_NORM = 6.5


class AdaptedNetwork:
    """Reward model, optimizer and averaged weights.

    The head starts at 0, and so do all outputs. Features are in the unit of the frozen network's:
    with adapters untrained they are the same.

    Attributes:
        model: Its trainable parameters are adapters and head.
        passes: Images that went through the adapted blocks so far, in training and in acting.
        ways_back: Of these, those that went back through them, for gradients.
        split: Among whom a batch is split; every one takes the step of the whole batch.
        version: Changes whenever the weights that are acted on do.
    """

    def __init__(
        self,
        model: RewardModel,
        copies: ImageCopies,
        optimizer: Optimizer,
        *,
        changes_base: bool = False,
        patch_dropout: PatchDropout | None = None,
    ) -> None:
        """Put the parts together, and set the head to 0.

        Args:
            model: Backbone with adapters, and a head with one output for every label, or one.
            copies: Tokens, or inputs, of images.
            optimizer: Steps the adapters, and the head in its last group.
            changes_base: Whether the optimizer writes into base weights.
            patch_dropout: Which tokens of an image a step takes; all if None.
        """
        self.model, self.version = model, 0
        self.passes = self.ways_back = 0
        self.split: BatchSplit = WholeBatch()
        self._copies, self._optimizer, self._patch_dropout = copies, optimizer, patch_dropout
        self._zero(model.head.parameters())
        self._rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._pairs = lora_pairs(model)
        self._run_training = FastAdapters(model, self._pairs, model.precision)
        self._layers = find_adapted_layers(model, self._pairs)
        self._trained = [p for p in model.parameters() if p.requires_grad]
        bases = [p.base for p in self._pairs if isinstance(p.base, Parameter)]
        self._bases = bases if changes_base else []
        self._average = AveragedWeights(self._trained + self._bases)
        self._merged: dict[int, Tensor] = {}
        self._scale: float | None = None
        self._head: tuple[int, Tensor, Tensor] | None = None

    @property
    def num_outputs(self) -> int:
        """Outputs of the head."""
        return self.model.head.out_features

    @property
    def num_copies(self) -> int:
        """Copies of every image to train on, numbered from 0, the image itself."""
        return self._copies.num_copies

    @property
    def misses(self) -> int:
        """Images and copies that went through the part before the first adapter so far."""
        return self._copies.misses

    @property
    def image_passes(self) -> int:
        """Images that went through the adapted blocks so far, each way counted."""
        return self.passes + self.ways_back

    @property
    def steps(self) -> int:
        """Optimizer steps taken."""
        return self._average.steps

    @torch.no_grad()
    def hidden(self, images: Sequence[NDArray[np.uint8]], frozen: Tensor) -> Tensor:
        """Last-layer features of images under the weights acted on: float64 (n, d), on the CPU.

        Args:
            images: uint8 (H, W, C) each.
            frozen: Those of the frozen network, float64 (n, d); given back while the weights are
                those of the start, where a pass would make them again.
        """
        self.set_unit(images, frozen)
        assert self._scale is not None
        return self._raw(images) * self._scale if self._average.is_read else frozen

    @torch.no_grad()
    def set_unit(self, images: Sequence[NDArray[np.uint8]], frozen: Tensor) -> None:
        """Tell the unit of the frozen features, once, before anything is trained.

        Args:
            images: uint8 (H, W, C) each.
            frozen: Their frozen features, float64 (n, d).
        """
        if self._scale is None:
            norms = (x.norm(dim=1).square().mean().sqrt() for x in (frozen, self._raw(images)))
            self._scale = float(next(norms) / next(norms).clamp_min(1e-12))

    def _raw(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Last-layer features under the weights acted on in the network's own unit."""
        with self._average.in_use():
            h = self._act(self.tokens(images)).double().cpu()
        self.passes += len(images)
        return h

    @torch.no_grad()
    def outputs(self, hidden: Tensor) -> Tensor:
        """Outputs float64 (n, K) of the head that is acted on, for features (n, d)."""
        weight, bias = self._acting_head()
        return linear(hidden * _HEAD_INPUT_NORM, weight, bias)

    def _acting_head(self) -> tuple[Tensor, Tensor]:
        """Weight and bias that are acted on, float64 on the CPU: the device is asked once."""
        if self._head is None or self._head[0] != self.version:
            with self._average.in_use():
                weight, bias = self.model.head.weight, self.model.head.bias
                both = torch.cat([weight, bias[:, None]], dim=1).double().cpu()
            self._head = self.version, both[:, :-1].contiguous(), both[:, -1].contiguous()
        return self._head[1:]

    def draw_views(self, count: int, rng: np.random.Generator) -> Views:
        """What a step is to see of `count` images."""
        copies = rng.integers(self.num_copies, size=count)
        if self._patch_dropout is None:
            return Views(copies)
        return Views(copies, self._patch_dropout.draw(count, rng))

    def step(
        self,
        batch: Batch,
        views: Views,
        likelihood: Likelihood,
        *,
        decay: float = 1.0,
        warm_up: float = 1.0,
    ) -> float:
        """One optimizer step; the loss before it.

        Args:
            batch: Images with their rewards.
            views: What of each image is seen; see `draw_views`.
            likelihood: What is fitted.
            decay: Factor of all rates.
            warm_up: Further factor of the adapters' rates.

        Raises:
            RuntimeError: If the unit of the features is not known yet.
        """
        if self._scale is None:
            raise RuntimeError("the network does not know its unit yet; call set_unit first")
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * decay * warm_up
        self._optimizer.param_groups[-1]["lr"] = self._rates[-1] * decay
        loss = self._descend(batch, views, likelihood)
        self._average.update(self._effective())
        return loss

    def _descend(self, batch: Batch, views: Views, likelihood: Likelihood) -> float:
        """The optimizer's step on a batch; the loss before it."""
        split = self.split if len(batch.images) >= self.split.size else WholeBatch()
        rows = split.share(np.arange(len(batch.images)))
        share, batch, views = len(rows) / len(batch.images), batch.take(rows), views.take(rows)
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(batch, views, likelihood, self._quick_features) * share
        torch.autograd.backward(loss)
        self.ways_back += len(batch.images)
        loss = split.add_up(self._trained, loss)
        self._optimizer.step()
        return float(loss.detach())

    def _loss(
        self,
        batch: Batch,
        views: Views,
        likelihood: Likelihood,
        features: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """The mean loss of a batch, by `features` (b, d) of its tokens."""
        assert self._scale is not None
        tokens = take_tokens(self.tokens(batch.images, views.copies), views.kept)
        self.model.train()
        outputs = self.model.head(features(tokens) * (self._scale * _HEAD_INPUT_NORM))
        actions = torch.as_tensor(batch.actions, device=outputs.device)
        rewards = torch.as_tensor(batch.rewards).to(outputs)
        self.passes += len(batch.images)
        return likelihood.loss(outputs, actions, rewards)

    def _quick_features(self, tokens: Tensor) -> Tensor:
        return self._run_training(self.model.features, tokens)

    def read(self) -> None:
        """Act on the average weights as they are now."""
        self._average.read()
        self._merge()
        self.version += 1

    @torch.no_grad()
    def save_adapter(self, folder: Path) -> None:
        """Write the averaged adapters for `peft.PeftModel.from_pretrained`; see `save_adapters`."""
        with self._average.in_use():
            save_adapters(self.model.backbone, folder, is_base_changed=bool(self._bases))

    def reset_head(self) -> None:
        """Set the head to 0, its averages too: its outputs are to mean something else."""
        self._zero(self.model.head.parameters())
        first = len(self._trained) - 2
        for values in (self._average.average, self._average.acting):
            self._zero(values[first : first + 2])
        self.version += 1

    @staticmethod
    @torch.no_grad()
    def _zero(tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            tensor.zero_()

    def tokens(
        self, images: Sequence[NDArray[np.uint8]], copies: NDArray[np.int64] | None = None
    ) -> Tensor:
        """Tokens of images, or of their copies, as in `ImageCopies`; made once and held."""
        return self._copies(images, copies).to(self.model.head.weight)

    def _act(self, tokens: Tensor) -> Tensor:
        self.model.eval()
        if not self._merged:
            return self._run_training(self.model.features, tokens)

        def run(layer: AdaptedLayer, x: Tensor) -> Tensor:
            return linear(x, self._merged[layer.offset], layer.base.bias)

        with layers_run_by(run, self._layers):
            return self.model.features(tokens)

    @torch.no_grad()
    def _merge(self) -> None:
        """Each layer's weight, adapters in it, of those acted on: one product instead of three."""
        self.model.eval()
        if len(self._layers) < len(self._pairs) or not all(x.is_plain for x in self._layers):
            return
        with self._average.in_use():
            self._merged = {
                x.offset: with_magnitude_in(_merged_weight(x.pair), x) for x in self._layers
            }

    @torch.no_grad()
    def _effective(self) -> list[Tensor] | None:
        """What to average where base weights change: W + s B A in their place, and factors of 0.

        A merge moves B A into W: averages of the three apart would be of different blocks.
        """
        if not self._bases:
            return None
        factors = {id(f) for pair in self._pairs for f in (pair.A, pair.B)}
        own = [torch.zeros_like(p) if id(p) in factors else p for p in self._trained]
        return own + [_merged_weight(pair) for pair in self._pairs]

    def state_dict(self) -> State:
        """Adapters, head, optimizer, averages, scale and counters."""
        trained = {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad}
        return {
            "model": {name: tensor.clone() for name, tensor in trained.items()},
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.state_dict(),
            "scale": self._scale,
            "passes": self.passes,
            "ways_back": self.ways_back,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in state["model"].items():
                parameters[name].copy_(tensor)
        self._optimizer.load_state_dict(state["optimizer"])
        self._average.load_state_dict(state["average"])
        self._scale, self.passes = state["scale"], int(state["passes"])
        self.ways_back = int(state.get("ways_back", 0))  # older states do not tell
        self.version += 1
        self._merged = {}
        if self._average.is_read:
            self._merge()


def _merged_weight(pair: LoRAPair) -> Tensor:
    base = pair.base
    assert base is not None
    return torch.addmm(base.detach(), pair.B.detach(), pair.A.detach(), alpha=pair.scaling)
