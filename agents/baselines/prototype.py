"""`prototype`: the algorithm of the ViT-UCB research prototype, quirks included.

LoRA adapters in every block are trained, but only those of the last block and the reward head are
tracked: phi = gradient / sqrt(p) of these, one backward per arm. The bonus is
alpha sqrt(phi' S phi) with S, meant as A^-1, started at ridge I where A = ridge I + ... asks for
I / ridge, and updated by Sherman and Morrison's formula. The mean is the network's own, trained by
one Adam step a round on the last 50 rewards; rows in S are never refreshed. Every quirk has an
option, and its default is the prototype's.

Differs: the head sits on the last layer rather than on 1,000 frozen ImageNet logits; query, key
and value are one fused layer; S is kept in float64, its update costs p^2 and not p^3, and the
gradient of the chosen arm is not computed a second time. None of these changes a decision rule.
But alpha and the learning rate are not free of units: they were tuned for logits of a ViT-Tiny and
mean something else on the last layer of another backbone. Tune them before drawing conclusions.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitucb.agents.context import chosen_image, require_image_arms
from vitucb.agents.feature_agent import FeatureAgent
from vitucb.agents.options import read_options, require_positive
from vitucb.config import AgentConfig
from vitucb.covariance import FeatureCovariance, make_covariance
from vitucb.covariance.diagonal import DiagonalCovariance
from vitucb.covariance.scored import Scored
from vitucb.learning.gradient_features import LoRAGradientFeatures
from vitucb.models.backbone import create_backbone
from vitucb.models.lora import LoRAPair, add_lora, lora_pairs
from vitucb.models.preprocess import Preprocess, preprocess_for
from vitucb.models.reward_model import RewardModel
from vitucb.policies import Array, Policy, make_policy
from vitucb.seeding import numpy_generator, stream_seed
from vitucb.types import Decision, Observation, State


@dataclass(frozen=True)
class PrototypeOptions:
    """`agent.options` of prototype; `agent.lora`, `.covariance`, `.training` are not used."""

    rank: int = 20
    """Rank of the adapters."""
    lora_alpha: float = 24.0
    """Scaling of B @ A is lora_alpha / rank."""
    alpha: float = 85.0
    """Multiplier of the width."""
    ridge: float = 4.0
    """The prototype's lambda."""
    lr: float = 1e-4
    """Learning rate of Adam, adapters and head."""
    replay: int = 50
    """Newest rewards trained on, all of them in every step."""
    steps: int = 1
    """Adam steps per reward."""
    start: Literal["ridge", "inverse"] = "ridge"
    """S starts at ridge I, as in the prototype, or at I / ridge, as A = ridge I asks for."""
    tracked: Literal["last-block", "all"] = "last-block"
    """Adapters in phi, beside the head."""
    scale: Literal["sqrt-p", "none"] = "sqrt-p"
    """Whether gradients are divided by sqrt(p)."""
    gradients: Literal["per-arm", "batched"] = "per-arm"
    """One backward per arm, or one for all: the same numbers in less time."""
    covariance: Literal["dense", "exact", "diagonal"] = "dense"
    """S as a p x p matrix; by rows, the same numbers in less memory; or the prototype's diagonal
    recursion."""


class DiagonalRecursion(DiagonalCovariance):
    """The prototype's diagonal variant, d <- d - d^2 phi^2 / (1 + sum d phi^2).

    That is the diagonal of one Sherman-Morrison step from a diagonal matrix, and neither the
    diagonal of A^-1 nor the inverse of that of A: it shrinks too slowly.
    """

    def _append(self, scored: Scored, weights: Tensor) -> None:
        for row, weight in zip(scored.phi.double().square(), weights, strict=True):
            d = 1 / self._diagonal
            self._diagonal = 1 / (d - weight * d * d * row / (1 + weight * (d * row).sum()))

    def interval(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """What holds for any A: the recursion knows no more. float64 (...), float64 (...)."""
        norms = phi.double().square().sum(-1)
        return torch.zeros_like(norms), norms / self.ridge


class Prototype(FeatureAgent):
    """Gradient features of a slice of the network, a frozen covariance, a short replay."""

    def __init__(
        self,
        model: RewardModel,
        preprocess: Preprocess,
        covariance: FeatureCovariance,
        policy: Policy,
        rng: np.random.Generator,
        options: PrototypeOptions,
    ) -> None:
        """Put the parts together.

        Args:
            model: ViT with adapters, and a reward head.
            preprocess: uint8 images to the model's input.
            covariance: Over the tracked parameters; see `tracked_pairs`.
            policy: Turns means and widths into an action.
            rng: Generator of the policy.
            options: The quirks.
        """
        super().__init__(covariance, policy, rng)
        self._model, self._preprocess, self._options = model, preprocess, options
        self._pairs = tracked_pairs(model, options)
        self._gradients = LoRAGradientFeatures(model, self._pairs)
        self._trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.Adam(self._trainable.values(), lr=options.lr)
        self._replay: deque[tuple[NDArray[np.uint8], float]] = deque(maxlen=options.replay)
        trainable = sum(p.numel() for p in self._trainable.values())
        self.parameters["trainable_parameters"] = trainable
        self._passes = 0

    @property
    def image_passes(self) -> int:
        """In scoring and in training."""
        return self._passes

    def _width_unit(self) -> float:
        return 1.0

    def _score(self, obs: Observation) -> tuple[Array, Tensor]:
        self._model.eval()
        inputs = self._preprocess(obs["images"])
        one_by_one = self._options.gradients == "per-arm"
        score, phi = self._per_arm(inputs) if one_by_one else self._batched(inputs)
        if self._options.scale == "sqrt-p":
            phi = phi / math.sqrt(phi.shape[1])
        return score.double().cpu().numpy(), phi

    def _per_arm(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (K,) and gradients (K, p), one forward and one backward for each arm."""
        head = self._model.head
        factors = [factor for pair in self._pairs for factor in (pair.A, pair.B)]
        tracked: list[Tensor] = [*factors, head.weight, head.bias]
        scores, rows = [], []
        for image in inputs:
            score = self._model(image[None])[0]
            gradients = torch.autograd.grad(score, tracked)
            rows.append(torch.cat([g.flatten() for g in gradients]))
            scores.append(score.detach())
        self._passes += 2 * len(inputs)
        return torch.stack(scores), torch.stack(rows)

    def _batched(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The same from one forward and one backward, and a forward for the head's input."""
        scores, phi = self._gradients(inputs)
        with torch.no_grad():
            hidden = self._model.features(inputs)
        self._passes += 3 * len(inputs)
        return scores, torch.cat([phi, hidden, hidden.new_ones(len(hidden), 1)], dim=1)

    def _learn(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        self._replay.append((np.array(chosen_image(obs, decision.action)), reward))
        inputs = torch.stack([self._preprocess(image) for image, _ in self._replay])
        rewards = torch.tensor([r for _, r in self._replay], device=inputs.device)
        loss = torch.zeros(())
        self._model.train()
        for _ in range(self._options.steps):
            loss = (self._model(inputs) - rewards).square().mean()
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call,unused-ignore]  # torch's own
            self._optimizer.step()
            self._passes += 2 * len(inputs)
        return {"train/loss": float(loss.detach())}

    def state_dict(self) -> State:
        """That of the base, trained parameters, optimizer and replay."""
        return super().state_dict() | {
            "model": {name: p.detach().clone() for name, p in self._trainable.items()},
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
            "images": [image for image, _ in self._replay],
            "rewards": [reward for _, reward in self._replay],
            "passes": self._passes,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        with torch.no_grad():
            for name, parameter in self._trainable.items():
                parameter.copy_(state["model"][name])
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        images = [np.asarray(image, np.uint8) for image in state["images"]]
        self._replay.clear()
        self._replay.extend(zip(images, state["rewards"], strict=True))
        self._passes = int(state.get("passes", 0))  # older states do not tell


def tracked_pairs(model: RewardModel, options: PrototypeOptions) -> list[LoRAPair]:
    """The adapters in phi: those of the last block, or all."""
    pairs = lora_pairs(model)
    if options.tracked == "all":
        return pairs
    last = pairs[-1].name.rpartition("blocks.")[2].split(".")[0]
    return [pair for pair in pairs if f"blocks.{last}." in pair.name]


def build(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `prototype`: its own settings, the configured backbone and policy.

    Raises:
        ValueError: If an option is not usable, or arms have no images of their own.
    """
    require_image_arms(env, config.name)
    options = read_options(PrototypeOptions(), config)
    require_positive(
        **{name: getattr(options, name) for name in ("rank", "ridge", "lr", "replay", "steps")}
    )
    backbone = create_backbone(config.backbone, weights=config.weights, img_size=config.img_size)
    preprocess = preprocess_for(backbone, device)
    width = int(backbone.num_features)  # type: ignore[arg-type]  # timm sets an int
    adapted = add_lora(
        backbone,
        rank=options.rank,
        alpha=options.lora_alpha,
        targets=("qkv",),
        seed=stream_seed(seed, "adapters"),
    )
    model = RewardModel(adapted, width, seed=stream_seed(seed, "head")).to(device)
    return Prototype(
        model,
        preprocess,
        _covariance(model, options),
        make_policy(dataclasses.replace(config.policy, alpha=options.alpha)),
        numpy_generator(seed, "policy"),
        options,
    )


def _covariance(model: RewardModel, options: PrototypeOptions) -> FeatureCovariance:
    # S = ridge I is the inverse of A = I / ridge.
    ridge = 1 / options.ridge if options.start == "ridge" else options.ridge
    pairs = tracked_pairs(model, options)
    dim = sum(pair.A.numel() + pair.B.numel() for pair in pairs) + model.head.in_features + 1
    if options.covariance == "diagonal":
        return DiagonalRecursion(dim, ridge=ridge)
    return make_covariance(options.covariance, dim, ridge=ridge)
