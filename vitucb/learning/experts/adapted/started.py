"""The adapted expert whose adapters start from data that it has to wait for.

Until there is enough of it the adapters are neutral, B = 0, and nothing is trained: the start is
made right before the first step, of the first images offered or the first rewards in the replay, so
optimizer moments and averages know nothing of factors from before. Every process of a run makes it
by itself, of what all share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from vitucb.config.lora import DATA_INITS
from vitucb.learning.experts.adapted.augmentation import ImageCopies
from vitucb.learning.experts.adapted.averaged_weights import AveragedWeights
from vitucb.learning.experts.adapted.expert import AdaptedExpert
from vitucb.learning.experts.adapted.likelihoods import Likelihood
from vitucb.learning.experts.adapted.network import AdaptedNetwork
from vitucb.learning.experts.adapted.output_widths import OutputWidths
from vitucb.learning.experts.adapted.settings import AdaptedSettings
from vitucb.learning.experts.adapted.starts import DATA_STARTS, Factors, StartData, check_rank
from vitucb.learning.experts.adapted.views import PatchDropout, Views
from vitucb.learning.experts.expert import Offer
from vitucb.learning.replay import Batch, Replay
from vitucb.models.lora import LoRAPair, save_adapters
from vitucb.models.reward_model import RewardModel
from vitucb.types import State

Images = Sequence[NDArray[np.uint8]]
# Images whose activations are held at a time.
_CHUNK = 64


class StartedNetwork(AdaptedNetwork):
    """A network that is given its start once.

    Attributes:
        start: Name of the start, see `DATA_STARTS`.
        is_started: Whether it has it.
    """

    def __init__(
        self,
        model: RewardModel,
        copies: ImageCopies,
        optimizer: Optimizer,
        *,
        start: str,
        seed: int,
        patch_dropout: PatchDropout | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            model: As for `AdaptedNetwork`, with neutral adapters.
            copies: As for `AdaptedNetwork`.
            optimizer: Leaves base weights alone.
            start: Name of the start.
            seed: Of random projections.
            patch_dropout: As for `AdaptedNetwork`; the start is made of whole images.

        Raises:
            ValueError: If the rank is too large for the start.
        """
        super().__init__(model, copies, optimizer, patch_dropout=patch_dropout)
        check_rank(start, self._pairs)
        self.start, self._seed, self.is_started = start, seed, False
        # Of a start that is taken out of the base weights: the factors, and those weights before.
        self._initial: Factors = []
        self._pretrained: list[Tensor] = []

    def begin(self, images: Images, batch: Batch, likelihood: Likelihood) -> None:
        """Make the start.

        Args:
            images: What a start from images is taken from.
            batch: What a start from rewards is taken from.
            likelihood: Of these rewards.
        """
        data = StartData(
            self.model,
            self._pairs,
            lambda: self._forward(images),
            lambda: self._backward(batch, likelihood),
            self._seed,
        )
        start = DATA_STARTS[self.start]
        factors = self._undisturbed(lambda: start.make(data))
        with torch.no_grad():
            for pair, (a, b) in zip(self._pairs, factors, strict=True):
                pair.A.copy_(a)
                pair.B.copy_(b)
        if start.is_taken_out:
            self._take_out(factors)
        self.is_started = True
        self._average = AveragedWeights(self._trained)
        self._merged = {}
        self.version += 1

    def _undisturbed(self, make: Callable[[], Factors]) -> Factors:
        """What `make` returns, copied; the model is afterwards as it was."""
        self._optimizer.zero_grad(set_to_none=True)
        before = [(p, p.data, p.requires_grad) for p in self.model.parameters()]
        try:
            dtype = self._pairs[0].A.dtype
            return [
                (a.detach().to(dtype, copy=True), b.detach().to(dtype, copy=True))
                for a, b in make()
            ]
        finally:
            for parameter, value, needs_gradient in before:
                parameter.data, parameter.grad = value, None  # PEFT sets weights, it changes none
                parameter.requires_grad_(needs_gradient)

    @torch.no_grad()
    def _take_out(self, factors: Factors) -> None:
        """Set base weights to those before, less s B A; without factors, to those before."""
        if not self._pretrained:
            self._pretrained = [_base(pair).detach().clone() for pair in self._pairs]
        for pair, weight in zip(self._pairs, self._pretrained, strict=True):
            _base(pair).copy_(weight)
        for pair, (a, b) in zip(self._pairs if factors else (), factors, strict=True):
            _base(pair).addmm_(b, a, alpha=-pair.scaling)
        self._initial = factors

    @torch.no_grad()
    def _forward(self, images: Images) -> None:
        """The whole network on images, all tokens of its last block too."""
        self.model.eval()
        prefix = self.model.prefix
        for start in range(0, len(images), _CHUNK):
            tokens = self.tokens(images[start : start + _CHUNK])
            if prefix is not None and prefix.gave(tokens):
                prefix.after(tokens)
            else:
                self.model.backbone(tokens)
            self.passes += len(tokens)

    def _backward(self, batch: Batch, likelihood: Likelihood) -> None:
        """Leave the gradients of the mean loss of a batch.

        A head of zeros passes none on. So it takes the first step that AdamW would: by its rate
        against the sign of every entry.
        """
        head = list(self.model.head.parameters())
        for parameter in head:
            parameter.requires_grad_(True)
        for loss in self._losses(batch, likelihood):
            torch.autograd.backward(loss, inputs=head)
        for parameter in head:
            assert parameter.grad is not None
            parameter.data = parameter.data - self._rates[-1] * parameter.grad.sign()
            parameter.requires_grad_(False)
        parts = -(-len(batch.images) // _CHUNK)
        for loss in self._losses(batch, likelihood):
            # PEFT divides the sum of the gradients by how many there were.
            torch.autograd.backward(loss * parts)
        self.ways_back += len(batch.images)

    def _losses(self, batch: Batch, likelihood: Likelihood) -> Iterator[Tensor]:
        """Parts of the mean loss of a batch, one after another."""
        for start in range(0, len(batch.images), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(batch.images)))
            whole = Views(np.zeros(len(rows), np.int64))
            mean = self._loss(batch.take(rows), whole, likelihood, self._features_of)
            yield mean * (len(rows) / len(batch.images))

    def _features_of(self, tokens: Tensor) -> Tensor:
        # The quick layers know no gradient of a base weight; PEFT's hooks want one of the inputs.
        return self.model.features(tokens.detach().requires_grad_())

    @torch.no_grad()
    def save_adapter(self, folder: Path) -> None:
        """As `AdaptedNetwork`, unless the start has changed the base weights."""
        with self._average.in_use():
            save_adapters(
                self.model.backbone,
                folder,
                is_base_changed=bool(self._initial),
                changed_by=f"the start {self.start}",
            )

    def state_dict(self) -> State:
        """That of `AdaptedNetwork`, and the start."""
        initial = [[a.clone(), b.clone()] for a, b in self._initial]
        return {**super().state_dict(), "is_started": self.is_started, "initial": initial}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.is_started = bool(state["is_started"])
        device = self.model.head.weight.device
        if state["initial"] or self._initial:
            self._take_out([(a.to(device), b.to(device)) for a, b in state["initial"]])
        super().load_state_dict(state)


class StartedExpert(AdaptedExpert):
    """The expert of a `StartedNetwork`: keeps the images that it starts from."""

    def __init__(
        self,
        network: StartedNetwork,
        likelihood: Likelihood,
        replay: Replay,
        widths: OutputWidths,
        settings: AdaptedSettings,
        rng: np.random.Generator,
        *,
        samples: int,
    ) -> None:
        """Put the parts together.

        Args:
            network: Not started.
            likelihood: As for `AdaptedExpert`.
            replay: As for `AdaptedExpert`.
            widths: As for `AdaptedExpert`.
            settings: As for `AdaptedExpert`; the first step must not come before `samples` rewards.
            rng: As for `AdaptedExpert`.
            samples: How many images or rewards the start is taken from.
        """
        super().__init__(network, likelihood, replay, widths, settings, rng)
        self._started, self._samples = network, samples
        self._offered: list[NDArray[np.uint8]] = []

    def choose(self, offer: Offer, action: int) -> None:
        """As `AdaptedExpert`; the first images offered are kept."""
        super().choose(offer, action)
        if not self._started.is_started and DATA_INITS[self._started.start] == "images":
            missing = self._samples - len(self._offered)
            self._offered += [np.array(image) for image in offer.images[:missing]]

    def _step(self) -> float:
        if not self._started.is_started:
            first = self.replay.items(slice(0, self._samples))
            self._started.begin(self._offered, first, self._likelihood)
            self._offered = []
        return super()._step()

    def state_dict(self) -> State:
        """That of `AdaptedExpert`, and the images kept."""
        return {**super().state_dict(), "offered": list(self._offered)}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._offered = [np.array(image, np.uint8) for image in state["offered"]]


def _base(pair: LoRAPair) -> Tensor:
    assert pair.base is not None
    return pair.base
