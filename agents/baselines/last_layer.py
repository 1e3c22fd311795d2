"""Networks that are trained online, with the covariance of their last layer.

The last layer moves with training, so the rows in the covariance are computed anew from the images:
when the history has doubled, or after every training. Choices whose reward is on its way are
computed anew as well.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from vitucb.agents.baselines.tensor_replay import TensorReplay
from vitucb.agents.context import chosen_image, is_image_context, num_label_actions
from vitucb.agents.feature_agent import FeatureAgent
from vitucb.config import AgentConfig
from vitucb.covariance import FeatureCovariance
from vitucb.covariance.label_blocks import ridge_covariance
from vitucb.learning.reward_scale import RewardScale
from vitucb.models.backbone import create_backbone
from vitucb.models.grad_mode import with_gradients
from vitucb.models.lora import add_lora
from vitucb.models.preprocess import Preprocess, as_pixels, preprocess_for
from vitucb.models.reward_model import RewardModel
from vitucb.policies import Array, Policy
from vitucb.seeding import stream_seed
from vitucb.types import Decision, Observation, State

_FIRST_REBUILD = 16
_CHUNK = 64
# Choices whose reward may never come stay in the covariance only as long as they are remembered.
_MAX_PENDING = 1_000


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How a network is trained and its features kept true.

    Attributes:
        every: Train after so many rewards.
        steps: Optimizer steps per training.
        batch_size: Images per step.
        rebuild: Compute features anew when the history has doubled, after each training, or never.
    """

    every: int
    steps: int
    batch_size: int
    rebuild: Literal["doubling", "training", "never"]


@dataclass(slots=True)
class _Pending:
    """A choice whose reward has not come."""

    image: Tensor
    output: int
    phi: Tensor


class LastLayerAgent(FeatureAgent):
    """A network trained online, and features [h / rms, 1] of its last layer.

    Where arms share an image, the network has one output per arm and features stand in the block
    of the arm.
    """

    def __init__(
        self,
        model: RewardModel,
        preprocess: Preprocess,
        optimizer: torch.optim.Optimizer | None,
        plan: TrainingPlan,
        covariance: FeatureCovariance,
        policy: Policy,
        history: TensorReplay,
        rng: np.random.Generator,
    ) -> None:
        """Put the parts together.

        Args:
            model: Backbone and head.
            preprocess: uint8 images to the model's input.
            optimizer: Steps what is trained of `model`; None trains nothing.
            plan: When to train and to compute features anew.
            covariance: A over outputs x (d + 1) features.
            policy: Turns means and widths into an action.
            history: Memory of chosen images uint8 (H, W, C) and their rewards.
            rng: Generator of the policy.
        """
        super().__init__(covariance, policy, rng)
        self._model, self._preprocess, self._optimizer = model, preprocess, optimizer
        self._plan, self._history = plan, history
        self._rewards = RewardScale()
        self._scale: float | None = None
        self._passes = 0
        self._next_rebuild = _FIRST_REBUILD
        self._pending: dict[int, _Pending] = {}
        # Of the choices before it, A has those alone that are in the history or pending.
        self._counted_from = 0
        self._trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        trainable = sum(p.numel() for p in self._trainable.values())
        self.parameters["trainable_parameters"] = trainable if optimizer else 0

    @property
    def image_passes(self) -> int:
        """In scoring, in training and for rows made anew."""
        return self._passes

    @abc.abstractmethod
    def _mean(self, score: Tensor, phi: Tensor) -> Array:
        """Means in reward units (K,) from scores of the network (K,) and features (K, p)."""

    def _take_in(self, phi: Tensor, reward: float) -> None:
        """A reward (without training); `phi` (p,) is the row of its choice in A."""

    def _rebuilt(self, phi: Tensor, rewards: Tensor, weight: float) -> None:
        """Rows (n, p) of rewarded choices were computed anew; called for every chunk."""

    def _begin_rebuild(self) -> None:
        """All rows are about to be computed anew."""

    def _encode(self, images: Sequence[Tensor], outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (n,) and features float64 (n, p) of images uint8 (H, W, C) of any sizes."""
        hidden, scores = self._hidden(images, outputs)
        if self._scale is None:
            self._scale = _rms_norm(hidden)
        return scores, self._rows(hidden, outputs)

    @torch.no_grad()
    def _hidden(self, images: Sequence[Tensor], outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Last layer float64 (n, d) and scores (n,); one image may be that of all outputs."""
        self._model.eval()
        hidden = self._model.features(self._pixels(images)).expand(len(outputs), -1)
        self._passes += len(images)
        scores = self._model.head(hidden).gather(1, outputs.to(hidden.device)[:, None])[:, 0]
        return hidden.double(), scores

    def _pixels(self, images: Sequence[Tensor]) -> Tensor:
        """The model's input (n, 3, height, width)."""
        if len({image.shape for image in images}) == 1:
            pixels: Tensor = self._preprocess(torch.stack(list(images)))
            return pixels
        return torch.stack([self._preprocess(image) for image in images])

    def _rows(self, hidden: Tensor, outputs: Tensor) -> Tensor:
        assert self._scale is not None
        row = torch.cat([hidden / self._scale, hidden.new_ones(len(hidden), 1)], dim=1)
        blocks = torch.nn.functional.one_hot(outputs, self._model.head.out_features).to(row)
        return (blocks[:, :, None] * row[:, None]).flatten(1)

    def _score(self, obs: Observation) -> tuple[Array, Tensor]:
        arms = len(obs["action_mask"])
        images = list(as_pixels(obs["images"]))
        outputs = torch.zeros(arms, dtype=torch.int64)
        if is_image_context(obs):
            outputs = torch.arange(arms)
        score, phi = self._encode(images, outputs)
        return self._mean(score, phi), phi

    @with_gradients()
    def select_action(self, obs: Observation) -> Decision:
        """Choose as every feature bandit does, and remember the image until the reward comes."""
        decision = super().select_action(obs)
        output = decision.action if is_image_context(obs) else 0
        image = torch.as_tensor(np.array(chosen_image(obs, decision.action)))
        self._pending[decision.round] = _Pending(image, output, decision.phi)
        if len(self._pending) > _MAX_PENDING:
            del self._pending[next(iter(self._pending))]
        return decision

    def _learn(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        output = decision.action if is_image_context(obs) else 0
        image = torch.as_tensor(np.array(chosen_image(obs, decision.action)))
        pending = self._pending.pop(decision.round, None)
        phi = self._recalled(image, output, decision.round) if pending is None else pending.phi
        self._take_in(phi, reward)
        self._rewards.add(reward)
        self._history.add(image, output, reward)
        metrics: dict[str, float] = {}
        trains = self._optimizer is not None and self._history.seen % self._plan.every == 0
        if trains:
            metrics["train/loss"] = self._train()
        has_doubled = self._history.seen >= self._next_rebuild
        if (self._plan.rebuild == "training" and trains) or (
            self._plan.rebuild == "doubling" and has_doubled
        ):
            self._rebuild()
            self._next_rebuild = 2 * self._history.seen
        return metrics

    def _recalled(self, image: Tensor, output: int, round: int) -> Tensor:
        """The row (p,) of a choice that was not remembered so long; it is in A afterwards."""
        phi = self._encode([image], torch.tensor([output]))[1]
        if round < self._counted_from:
            self._covariance.update(phi)
        return phi[0].clone()

    def _train(self) -> float:
        """Optimizer steps on batches of the history; the last mean squared error."""
        loss = 0.0
        self._model.train()
        for _ in range(self._plan.steps):
            loss = self._step()
        return loss

    def _step(self) -> float:
        assert self._optimizer is not None
        images, outputs, rewards = self._history.sample(self._plan.batch_size)
        scores = self._model.head(self._model.features(self._pixels(images)))
        chosen = scores.gather(1, outputs.to(scores.device)[:, None])[:, 0]
        targets = ((rewards - self._rewards.mean) / self._rewards.std).to(chosen)
        loss = (chosen - targets).square().mean()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]  # torch's own
        self._optimizer.step()
        self._passes += 2 * len(images)
        return float(loss.detach())

    def _rebuild(self) -> None:
        """Compute the rows of all choices anew, rewarded or not."""
        self._begin_rebuild()
        self._scale = None
        # A history past its capacity is a uniform sample: each item stands for several rounds.
        weight = self._history.seen / len(self._history)
        self._covariance.rebuild([])
        for images, outputs, rewards in self._history.chunks(_CHUNK):
            phi = self._encode(images, outputs)[1]
            self._covariance.update(phi, weight)
            self._rebuilt(phi, rewards, weight)
        self._counted_from = min(self._pending, default=self._rounds)
        for waiting in _chunks(list(self._pending.values()), _CHUNK):
            outputs = torch.tensor([w.output for w in waiting])
            phi = self._encode([w.image for w in waiting], outputs)[1]
            self._covariance.update(phi)
            for pending, row in zip(waiting, phi, strict=True):
                pending.phi = row.clone()

    def state_dict(self) -> State:
        """That of the base, the trained weights, optimizer, history and pending choices."""
        waiting = {str(t): [w.image, w.output, w.phi] for t, w in self._pending.items()}
        return super().state_dict() | {
            "model": {name: p.detach().clone() for name, p in self._trainable.items()},
            "optimizer": copy.deepcopy(self._optimizer.state_dict()) if self._optimizer else None,
            "history": self._history.state_dict(),
            "rewards": self._rewards.state_dict(),
            "scale": self._scale,
            "passes": self._passes,
            "next_rebuild": self._next_rebuild,
            "pending": waiting,
            "counted_from": self._counted_from,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        with torch.no_grad():
            for name, parameter in self._trainable.items():
                parameter.copy_(state["model"][name])
        if self._optimizer is not None:
            self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self._history.load_state_dict(state["history"])
        self._rewards.load_state_dict(state["rewards"])
        self._scale, self._next_rebuild = state["scale"], int(state["next_rebuild"])
        # Older states tell neither.
        self._passes = int(state.get("passes", 0))
        self._counted_from = int(state.get("counted_from", 0))
        self._pending = {
            int(t): _Pending(image, int(output), phi)
            for t, (image, output, phi) in state["pending"].items()
        }


def _rms_norm(hidden: Tensor) -> float:
    return float(hidden.square().sum(dim=1).mean().sqrt().clamp_min(1e-12))


def _chunks(items: list[_Pending], size: int) -> Iterator[list[_Pending]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def build_network(
    config: AgentConfig,
    env: gym.Env[Any, Any],
    seed: int,
    device: str,
    train: Literal["adapters", "all", "none"],
) -> tuple[RewardModel, Preprocess, torch.optim.Optimizer | None]:
    """The model with what is trained of it, what feeds it, and its optimizer."""
    if config.optimizer.name != "adamw" or config.optimizer.options:
        raise ValueError(
            f"agent.optimizer {config.optimizer.name!r}: agent {config.name!r} trains with plain "
            "adamw; remove it"
        )
    backbone = create_backbone(config.backbone, weights=config.weights, img_size=config.img_size)
    preprocess = preprocess_for(backbone, device)
    width = int(backbone.num_features)  # type: ignore[arg-type]  # timm sets an int
    if train == "adapters":
        lora = config.lora.of_adapters()
        backbone = add_lora(backbone, **lora, seed=stream_seed(seed, "adapters"))
    else:
        backbone.requires_grad_(train == "all")
    outputs = {"num_outputs": k} if (k := num_label_actions(env)) else {}
    model = RewardModel(backbone, width, seed=stream_seed(seed, "head"), **outputs).to(device)
    if train == "none":
        return model, preprocess, None
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.backbone.parameters() if p.requires_grad]},
        {"params": list(model.head.parameters()), "lr": config.optimizer.head_lr},
    ]
    # No decay: pretrained weights are where they should be unless rewards say otherwise.
    return (
        model,
        preprocess,
        torch.optim.AdamW(groups, lr=config.optimizer.lr_alone, weight_decay=0.0),
    )


def last_layer_covariance(model: RewardModel, ridge: float) -> FeatureCovariance:
    """A over d + 1 features, dense, for every output."""
    return ridge_covariance(model.head.in_features + 1, model.head.out_features, ridge=ridge)
