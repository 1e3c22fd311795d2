"""Networks that are trained, with the covariance of their last layer: `neural-linear` and more.

`full-finetune` trains every weight of the ViT and takes its own head for the mean.
`neural-linear` (Riquelme, Tucker and Snoek, "Deep Bayesian bandits showdown", 2018 -
https://arxiv.org/abs/1802.09127) takes Bayesian linear regression on the last layer instead, with
the noise variance in the posterior: with A = ridge I + sum phi phi' and mu = A^-1 sum r phi,

    sigma^2 ~ IG(a0 + n / 2, b0 + (sum r^2 - mu' A mu) / 2),    beta ~ N(mu, sigma^2 A^-1),

and plays the best arm under one draw a round. Propensities are those given the drawn sigma^2, which
no reward depends on, so importance weights with them stay unbiased.

The last layer moves with training, so the rows in the covariance (and in sum r phi) are computed
anew from the images: when the history has doubled, or every `refresh_every` rewards. Choices whose
reward is on its way are computed anew as well.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from vitucb.adapters import add_lora
from vitucb.agents.feature_agent import (
    FeatureAgent,
    chosen_image,
    is_image_context,
    num_label_actions,
)
from vitucb.agents.networks import History
from vitucb.agents.options import read_options, refuse_options, require_positive
from vitucb.backbone import Preprocess, create_backbone, preprocess_for
from vitucb.config import AgentConfig
from vitucb.covariance import FeatureCovariance, make_covariance
from vitucb.noise import RewardScale
from vitucb.policies import Array, Policy, make_policy
from vitucb.reward_model import RewardModel
from vitucb.seeding import numpy_generator, stream_seed, torch_generator
from vitucb.types import Decision, Observation, State

_FIRST_REBUILD = 16
_CHUNK = 64
# Choices whose reward may never come stay in the covariance only as long as they are remembered.
_MAX_PENDING = 1_000


@dataclass(frozen=True)
class NeuralLinearOptions:
    """`agent.options` of neural-linear; the learning rates are those of `agent.optimizer`."""

    train: Literal["adapters", "all", "none"] = "adapters"
    """What is trained below the last layer: LoRA adapters, every weight, or nothing."""
    refresh_every: int = 50
    """Train and compute all features anew after so many rewards."""
    steps: int = 50
    """Optimizer steps per training."""
    a0: float = 6.0
    """Prior shape of the noise variance."""
    b0: float = 6.0
    """Prior scale of the noise variance, squared reward units."""
    ridge: float = 0.25
    """Prior precision of the parameters, in units of the noise variance."""


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
        history: History,
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
        self._next_rebuild = _FIRST_REBUILD
        self._pending: dict[int, _Pending] = {}
        self._trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        trainable = sum(p.numel() for p in self._trainable.values())
        self.parameters["trainable_parameters"] = trainable if optimizer else 0

    @abc.abstractmethod
    def _mean(self, score: Tensor, phi: Tensor) -> Array:
        """Means in reward units (K,) from scores of the network (K,) and features (K, p)."""

    def _take_in(self, phi: Tensor, reward: float) -> None:
        """A reward (without training); `phi` (p,) is the row of its choice in A."""

    def _rebuilt(self, phi: Tensor, rewards: Tensor, weight: float) -> None:
        """Rows (n, p) of rewarded choices were computed anew; called for every chunk."""

    def _begin_rebuild(self) -> None:
        """All rows are about to be computed anew."""

    def _encode(self, images: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (n,) and features float64 (n, p) of images uint8 (n, H, W, C)."""
        hidden, scores = self._hidden(images, outputs)
        if self._scale is None:
            self._scale = _rms_norm(hidden)
        return scores, self._rows(hidden, outputs)

    @torch.no_grad()
    def _hidden(self, images: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Last layer float64 (n, d) and scores (n,)."""
        self._model.eval()
        hidden = self._model.features(self._preprocess(images))
        scores = self._model.head(hidden).gather(1, outputs.to(hidden.device)[:, None])[:, 0]
        return hidden.double(), scores

    def _rows(self, hidden: Tensor, outputs: Tensor) -> Tensor:
        assert self._scale is not None
        row = torch.cat([hidden / self._scale, hidden.new_ones(len(hidden), 1)], dim=1)
        blocks = torch.nn.functional.one_hot(outputs, self._model.head.out_features).to(row)
        return (blocks[:, :, None] * row[:, None]).flatten(1)

    def _score(self, obs: Observation) -> tuple[Array, Tensor]:
        arms = len(obs["action_mask"])
        images = torch.as_tensor(obs["images"])
        outputs = torch.zeros(arms, dtype=torch.int64)
        if is_image_context(obs):
            images, outputs = images.expand(arms, *images.shape[1:]), torch.arange(arms)
        score, phi = self._encode(images, outputs)
        return self._mean(score, phi), phi

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
        self._take_in(decision.phi if pending is None else pending.phi, reward)
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
        scores = self._model.head(self._model.features(self._preprocess(images)))
        chosen = scores.gather(1, outputs.to(scores.device)[:, None])[:, 0]
        targets = ((rewards - self._rewards.mean) / self._rewards.std).to(chosen)
        loss = (chosen - targets).square().mean()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]  # torch's own
        self._optimizer.step()
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
        for waiting in _chunks(list(self._pending.values()), _CHUNK):
            outputs = torch.tensor([w.output for w in waiting])
            phi = self._encode(torch.stack([w.image for w in waiting]), outputs)[1]
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
            "next_rebuild": self._next_rebuild,
            "pending": waiting,
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
        self._pending = {
            int(t): _Pending(image, int(output), phi)
            for t, (image, output, phi) in state["pending"].items()
        }


class FullFinetune(LastLayerAgent):
    """Every weight of the ViT is trained; the mean is the network's, the width its last layer's."""

    def _mean(self, score: Tensor, phi: Tensor) -> Array:
        mean: Array = score.double().cpu().numpy()
        return self._rewards.mean + self._rewards.std * mean


class NeuralLinear(LastLayerAgent):
    """Bayesian linear regression on the last layer, noise variance included."""

    def __init__(self, *parts: Any, a0: float, b0: float, **named: Any) -> None:
        """As `LastLayerAgent`, and the prior of the noise variance, IG(a0, b0)."""
        super().__init__(*parts, **named)
        self._a0, self._b0 = a0, b0
        self._response = torch.zeros(self._covariance.dim, dtype=torch.float64)
        self._squares = self._count = 0.0

    @property
    def noise_posterior(self) -> tuple[float, float]:
        """Shape and scale of the inverse gamma posterior of the noise variance."""
        mu = self._covariance.solve(self._response)
        unexplained = self._squares - float(self._response @ mu.cpu())
        return self._a0 + self._count / 2, self._b0 + max(unexplained, 0.0) / 2

    def _width_unit(self) -> float:
        """The noise deviation of this round's draw."""
        shape, scale = self.noise_posterior
        return float(np.sqrt(scale / self._rng.gamma(shape)))

    def _mean(self, score: Tensor, phi: Tensor) -> Array:
        mean: Array = (phi.cpu() @ self._covariance.solve(self._response).cpu()).numpy()
        return mean

    def _take_in(self, phi: Tensor, reward: float) -> None:
        self._add(phi[None], torch.tensor([reward], dtype=torch.float64), 1.0)

    def _begin_rebuild(self) -> None:
        self._response = torch.zeros_like(self._response)
        self._squares = self._count = 0.0

    def _rebuilt(self, phi: Tensor, rewards: Tensor, weight: float) -> None:
        self._add(phi, rewards, weight)

    def _add(self, phi: Tensor, rewards: Tensor, weight: float) -> None:
        self._response += weight * (rewards @ phi.double().cpu())
        self._squares += weight * float(rewards @ rewards)
        self._count += weight * len(rewards)

    def state_dict(self) -> State:
        """That of the base, and the sums of the regression."""
        return super().state_dict() | {
            "response": self._response.clone(),
            "squares": self._squares,
            "count": self._count,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._response = state["response"].clone()
        self._squares, self._count = float(state["squares"]), float(state["count"])


def _rms_norm(hidden: Tensor) -> float:
    return float(hidden.square().sum(dim=1).mean().sqrt().clamp_min(1e-12))


def _chunks(items: list[_Pending], size: int) -> Iterator[list[_Pending]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _network(
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
        lora = config.lora
        backbone = add_lora(
            backbone,
            rank=lora.rank,
            alpha=lora.alpha,
            targets=lora.targets,
            blocks=lora.blocks,
            seed=stream_seed(seed, "adapters"),
        )
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
    return model, preprocess, torch.optim.AdamW(groups, lr=config.optimizer.lr, weight_decay=0.0)


def build_full_finetune(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `full-finetune`: `agent.training` says how often, the policy is the configured.

    Raises:
        ValueError: If a setting is not usable.
    """
    refuse_options(config)
    training = config.training
    model, preprocess, optimizer = _network(config, env, seed, device, "all")
    plan = TrainingPlan(
        training.update_every,
        training.gradient_steps,
        training.batch_size,
        "never" if training.rebuild == "none" else "doubling",
    )
    return FullFinetune(
        model,
        preprocess,
        optimizer,
        plan,
        _covariance(model, config.covariance.ridge),
        make_policy(config.policy),
        History(training.replay_capacity, torch_generator(seed, "replay")),
        numpy_generator(seed, "policy"),
    )


def build_neural_linear(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `neural-linear`: joint Thompson sampling from the posterior.

    Raises:
        ValueError: If an option is not usable.
    """
    options = read_options(NeuralLinearOptions(), config)
    require_positive(
        refresh_every=options.refresh_every,
        steps=options.steps,
        a0=options.a0,
        b0=options.b0,
        ridge=options.ridge,
    )
    model, preprocess, optimizer = _network(config, env, seed, device, options.train)
    training = config.training
    return NeuralLinear(
        model,
        preprocess,
        optimizer,
        TrainingPlan(options.refresh_every, options.steps, training.batch_size, "training"),
        _covariance(model, options.ridge),
        make_policy(dataclasses.replace(config.policy, name="thompson", joint=True)),
        History(training.replay_capacity, torch_generator(seed, "replay")),
        numpy_generator(seed, "policy"),
        a0=options.a0,
        b0=options.b0,
    )


def _covariance(model: RewardModel, ridge: float) -> FeatureCovariance:
    dim = model.head.out_features * (model.head.in_features + 1)
    return make_covariance("dense", dim, ridge=ridge)
