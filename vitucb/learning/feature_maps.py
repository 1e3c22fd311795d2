"""Feature maps of the agent: images in, scores and scaled features of arms out.

The LoRA gradient of an arm's score w'h(x) turns with the head w, which changes after every reward:
rows taken under one head and queries under the next do not fit together, and only the direction w
is ever looked at. The default features are therefore gradients of u'h(x) with a fixed random
readout u, a draw from the prior of the head: they depend on the adapters alone. `readout="head"`
gives the gradient of the score itself.

Where every arm has its image, features are centred, because all arms share an intercept that no
choice depends on. They are brought to length 1, because the length of a gradient says little about
what is known of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from vitucb.learning.gradient_features import BlockProjection, LoRAGradientFeatures
from vitucb.models.lora import lora_pairs
from vitucb.models.lora_layers import FastAdapters
from vitucb.models.reward_model import RewardModel
from vitucb.types import State


class FeatureMap(Protocol):
    """Scores and unscaled features of arms.

    Attributes:
        passes: Images that went through the adapted blocks so far, each way counted.
    """

    passes: int

    @property
    def dims(self) -> list[int]:
        """Number of features of each group; features are their concatenation."""
        ...

    def __call__(self, images: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (n,) and features (n, sum(dims)).

        Args:
            images: Image of each arm, (n, 3, H, W).
            actions: Output of the model that scores it, int64 (n,).
        """
        ...

    def state_dict(self) -> State:
        """What the features depend on besides the model."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        ...


class _Readout(nn.Module):
    """A model of images alone, for given actions: the live score, or a fixed readout."""

    def __init__(self, model: RewardModel, fixed: Tensor | None) -> None:
        super().__init__()
        self.model = model
        self.fixed: Tensor | None = fixed
        self.actions = torch.zeros(0, dtype=torch.int64)
        self.scores = self.hidden = torch.zeros(0)

    def forward(self, images: Tensor) -> Tensor:
        return self.read(self.model.features(images))

    def read(self, hidden: Tensor) -> Tensor:
        """What is differentiated, (n,), from the last layer (n, d); keeps that and the scores."""
        scores: Tensor = self.model.head(hidden).gather(1, self.actions[:, None])[:, 0]
        self.scores, self.hidden = scores.detach(), hidden.detach()
        if self.fixed is None:
            return scores
        readout: Tensor = (hidden * self.fixed[self.actions]).sum(dim=1)
        return readout


class GradientMap:
    """Gradients in all LoRA factors of the score, or of a fixed readout of the last layer.

    With a `projection` the features are projected as they are made: the (n, p) matrix never exists.
    With `with_last_layer` the input of the head follows as a second group, from the same pass.
    """

    def __init__(
        self,
        model: RewardModel,
        *,
        fixed_readout: bool = True,
        projection: BlockProjection | None = None,
        with_last_layer: bool = False,
    ) -> None:
        """Differentiate `model`.

        Args:
            model: Scores images; its head now is the fixed readout, one row per output.
            fixed_readout: Whether to differentiate that readout rather than the live score.
            projection: Linear map of the features, e.g. that of a sketched covariance.
            with_last_layer: Whether to add the group [h; 1] of `LastLayerMap`.
        """
        self.passes = 0
        fixed = model.head.weight.detach().clone() if fixed_readout else None
        self._readout = _Readout(model, fixed)
        self.gradients = LoRAGradientFeatures(
            self._readout, lora_pairs(model), precision=model.precision
        )
        self._projection = projection
        self._last_layer = LastLayerMap(model) if with_last_layer else None

    @property
    def dims(self) -> list[int]:
        """p, or as many as the projection has; and those of the last layer."""
        own = self._projection.sketch_dim if self._projection else self.gradients.dim
        return [own, *(self._last_layer.dims if self._last_layer else [])]

    def __call__(self, images: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (n,) and features (n, sum(dims))."""
        self._readout.actions = actions
        self.passes += 2 * len(images)
        if self._projection is None:
            _, phi = self.gradients(images)
        else:
            _, phi = self.gradients.project(images, self._projection)
        if self._last_layer is not None:
            last = self._last_layer.rows(self._readout.hidden, actions)
            phi = torch.cat([phi, last.to(phi.dtype)], dim=1)
        return self._readout.scores, phi

    def state_dict(self) -> State:
        """The fixed readout, if any, and what is counted; a projection comes from its seed."""
        fixed = self._readout.fixed
        return {"readout": None if fixed is None else fixed.clone(), "passes": self.passes}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        if self._readout.fixed is not None:
            self._readout.fixed.copy_(state["readout"])
        self.passes = int(state.get("passes", 0))  # older states do not tell

    def unprojected(self, images: Tensor, actions: Tensor) -> Tensor:
        """Gradients (n, p) without the projection and without the last layer."""
        self._readout.actions = actions
        self.passes += 2 * len(images)
        return self.gradients(images)[1]


class LastLayerMap:
    """[h; 1], the input of the reward head, in the block of the arm's output."""

    def __init__(self, model: RewardModel) -> None:
        """Use the features and the head of `model`."""
        self._model, self.passes = model, 0
        self._adapters = FastAdapters(model, lora_pairs(model), model.precision)

    @property
    def dims(self) -> list[int]:
        """One block of d + 1 for each output."""
        return [self._model.head.out_features * (self._model.head.in_features + 1)]

    @torch.no_grad()
    def __call__(self, images: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (n,) and features (n, outputs (d + 1))."""
        distinct = images[:1] if images.stride(0) == 0 else images  # one image of all actions
        self.passes += len(distinct)
        hidden = self._adapters(self._model.features, distinct).expand(len(images), -1)
        scores = self._model.head(hidden).gather(1, actions[:, None])[:, 0]
        return scores, self.rows(hidden, actions)

    def state_dict(self) -> State:
        """What is counted."""
        return {"passes": self.passes}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.passes = int(state.get("passes", 0))  # older states do not tell

    def rows(self, hidden: Tensor, actions: Tensor) -> Tensor:
        """Features (n, outputs (d + 1)) from the last layer (n, d)."""
        rows = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], dim=1)
        phi = rows.new_zeros(len(rows), self._model.head.out_features, rows.shape[1])
        phi[torch.arange(len(rows)), actions] = rows
        return phi.flatten(1)


class FeatureScale:
    """Centres features and brings every group to length 1, so that the ridge has no unit.

    Attributes:
        is_centring: Whether features are centred: not where every action has an intercept of its
            own, which is to be learnt.
    """

    def __init__(self, dims: Sequence[int], *, is_centring: bool = True) -> None:
        """Scale groups of `dims` features."""
        self._dims, self.is_centring = list(dims), is_centring
        self._centre: Tensor | None = None

    @property
    def needs_centre(self) -> bool:
        """Whether there is no centre yet."""
        return self.is_centring and self._centre is None

    def centre_on(self, phi: Tensor) -> None:
        """Move the centre to the mean of features (n, p); rows scaled before must be scaled again.

        Raises:
            ValueError: If a feature is not finite.
        """
        centre = phi.mean(dim=0)
        if not bool(torch.isfinite(centre).all()):
            raise ValueError("the features of the arms are not finite; lower agent.optimizer.lr")
        self._centre = centre

    def __call__(self, phi: Tensor) -> Tensor:
        """Scaled features, of the shape of `phi` (n, p); a zero stays zero."""
        if self._centre is not None:
            self._centre = self._centre.to(phi.device)  # that of a file is on the CPU
            phi = phi - self._centre
        groups = torch.split(phi, self._dims, dim=1)
        scaled = [g / g.norm(dim=1, keepdim=True).clamp_min(1e-20) for g in groups]
        return scaled[0] if len(scaled) == 1 else torch.cat(scaled, dim=1)

    def state_dict(self) -> State:
        """The centre."""
        return {"centre": None if self._centre is None else self._centre.clone()}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._centre = None if state["centre"] is None else state["centre"].clone()
