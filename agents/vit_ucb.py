"""ViT-UCB: a LoRA ViT that learns online, with a bonus from the covariance of its LoRA gradients.

One round: one batched forward and one batched backward give the mean reward and the gradient
feature of every arm; the policy adds the confidence width; the chosen arm's feature enters the
covariance at once; its image and reward enter the replay; a few optimizer steps follow. The
adapters move, so the features in the covariance go stale: they are recomputed whenever the
history has doubled.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitucb.adapters import LoRAPair, add_lora, lora_pairs
from vitucb.backbone import Preprocess, create_backbone, preprocess_for
from vitucb.config import AgentConfig, TrainingConfig
from vitucb.covariance import FeatureCovariance, make_covariance
from vitucb.gradient_features import LastLayerFeatures, LoRAGradientFeatures
from vitucb.noise import ResidualNoise, RewardScale
from vitucb.optim import create_optimizer
from vitucb.policies import Policy, make_policy
from vitucb.replay import Replay
from vitucb.reward_model import RewardModel
from vitucb.seeding import numpy_generator, stream_seed
from vitucb.types import Decision, Observation, State

_logger = logging.getLogger(__name__)
_FIRST_REBUILD = 16
_REBUILD_BATCH = 64


class FeatureMap(Protocol):
    """Scores and features of a batch of images."""

    @property
    def dim(self) -> int:
        """Number of features p."""
        ...

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (K,) and unscaled features (K, dim) of images (K, 3, H, W)."""
        ...


class ViTUCB:
    """Reward model, feature map, covariance, policy and optimizer put together."""

    def __init__(
        self,
        model: RewardModel,
        preprocess: Preprocess,
        features: FeatureMap,
        covariance: FeatureCovariance,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        replay: Replay,
        training: TrainingConfig,
        rng: np.random.Generator,
    ) -> None:
        """Put the parts together.

        Args:
            model: Scores images; its trainable parameters are adapters and head.
            preprocess: uint8 images to the model's input.
            features: Scores and features of a batch of images under `model`.
            covariance: A over `features.dim` features.
            policy: Turns means and widths into an action.
            optimizer: Steps the trainable parameters of `model`.
            replay: Memory of chosen images and rewards.
            training: When and how much to train.
            rng: Generator of the policy.
        """
        self.model, self.covariance, self.optimizer = model, covariance, optimizer
        self._preprocess, self._features, self._policy = preprocess, features, policy
        self._replay, self._training, self._rng = replay, training, rng
        self._noise, self._rewards = ResidualNoise(), RewardScale()
        self._scale: float | None = None
        self._rounds = self._updates = 0
        self._next_rebuild = _FIRST_REBUILD
        self.parameters = _count_parameters(model, features.dim)

    def select_action(self, obs: Observation) -> Decision:
        """Score all arms at once, choose, and count the choice in the covariance."""
        score, phi = self._score(obs["images"])
        if self._scale is None:
            self._scale = _inverse_rms_norm(phi)
        phi = phi * self._scale
        mean = self._rewards.mean + self._rewards.std * score.double().cpu().numpy()
        width = self._noise.std * self.covariance.width(phi).cpu().numpy()
        choice = self._policy(mean, width, obs["action_mask"], self._rounds, self._rng)
        self.covariance.update(index=choice.action)
        self._rounds += 1
        return Decision(
            action=choice.action,
            propensity=choice.propensity,
            mean=mean,
            width=width,
            phi=phi[choice.action],
            round=self._rounds - 1,
            bonus=choice.bonus,
        )

    def update(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        """Remember the chosen image and its reward, train, and refresh the covariance when due."""
        self._noise.add(reward - float(decision.mean[decision.action]))
        self._rewards.add(reward)
        self._replay.add(obs["images"][decision.action % len(obs["images"])], reward)
        self._updates += 1
        metrics = {"score/noise": self._noise.std, "covariance/log_det": self.covariance.log_det}
        if self._updates % self._training.update_every == 0:
            for _ in range(self._training.gradient_steps):
                metrics["train/loss"] = self._train_step()
        if self._training.rebuild == "doubling" and self._updates >= self._next_rebuild:
            metrics["covariance/stale_ratio"] = self._rebuild()
            self._next_rebuild *= 2
        return metrics

    def _score(self, images: NDArray[np.uint8] | list[NDArray[np.uint8]]) -> tuple[Tensor, Tensor]:
        self.model.eval()
        return self._features(self._inputs(images))

    def _inputs(self, images: NDArray[np.uint8] | list[NDArray[np.uint8]]) -> Tensor:
        """Images, of one shape or of many, as the model's input (b, 3, H, W)."""
        if len({image.shape for image in images}) == 1:
            inputs: Tensor = self._preprocess(np.stack(list(images)))
            return inputs
        return torch.stack([self._preprocess(image) for image in images])

    def _train_step(self) -> float:
        """One optimizer step on the newest reward and a sample of the history; the loss."""
        images, rewards = self._replay.sample(self._training.batch_size)
        inputs = self._inputs(images)
        target = torch.as_tensor((rewards - self._rewards.mean) / self._rewards.std)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = (self.model(inputs) - target.to(inputs)).square().mean()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def _rebuild(self) -> float:
        """Recompute the features of the history; how much the stale ones overstated the width."""
        chunks = range(0, len(self._replay), _REBUILD_BATCH)
        parts = [
            self._score(self._replay.items(slice(i, i + _REBUILD_BATCH))[0])[1] for i in chunks
        ]
        phi = torch.cat(parts)
        newest = slice(-min(len(phi), _REBUILD_BATCH), None)
        stale = self.covariance.width(phi[newest] * (self._scale or 1.0)).mean()
        self._scale = _inverse_rms_norm(phi)
        self.covariance.rebuild(phi * self._scale)
        fresh = self.covariance.width(phi[newest] * self._scale).mean()
        return float(stale / fresh.clamp_min(1e-12))

    def state_dict(self) -> State:
        """Adapters, head, optimizer, covariance, replay, running estimates and generators."""
        trainable = {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad}
        return {
            "model": {name: tensor.clone() for name, tensor in trainable.items()},
            "optimizer": self.optimizer.state_dict(),
            "covariance": self.covariance.state_dict(),
            "replay": self._replay.state_dict(),
            "noise": self._noise.state_dict(),
            "rewards": self._rewards.state_dict(),
            "scale": self._scale,
            "rounds": self._rounds,
            "updates": self._updates,
            "next_rebuild": self._next_rebuild,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in state["model"].items():
                parameters[name].copy_(tensor)
        self.optimizer.load_state_dict(state["optimizer"])
        self.covariance.load_state_dict(state["covariance"])
        self._replay.load_state_dict(state["replay"])
        self._noise.load_state_dict(state["noise"])
        self._rewards.load_state_dict(state["rewards"])
        self._scale = state["scale"]
        self._rounds, self._updates = int(state["rounds"]), int(state["updates"])
        self._next_rebuild = int(state["next_rebuild"])
        self._rng.bit_generator.state = state["rng"]


def _inverse_rms_norm(phi: Tensor) -> float:
    """1 / sqrt(mean |phi|^2), the factor that makes the ridge free of units."""
    rms = float(phi.double().square().sum(dim=1).mean().sqrt())
    if not np.isfinite(rms):
        raise ValueError("the features of the arms are not finite; lower the learning rate")
    return 1 / rms if rms > 0 else 1.0


def _count_parameters(model: RewardModel, tracked: int) -> dict[str, int]:
    """Adapted tensors and layers, trainable parameters and features in the covariance."""
    pairs = lora_pairs(model)
    counts = {
        "adapted_layers": len(pairs),
        "adapted_tensors": 2 * len(pairs),
        "adapter_parameters": _adapter_parameters(pairs),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "tracked_features": tracked,
    }
    _logger.info("vit-ucb: %s", counts)
    return counts


def _adapter_parameters(pairs: list[LoRAPair]) -> int:
    return sum(pair.A.numel() + pair.B.numel() for pair in pairs)


def build(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> ViTUCB:
    """Factory of `vit-ucb`.

    Raises:
        ValueError: If a name or a setting of `config` is not usable.
    """
    backbone = create_backbone(config.backbone, weights=config.weights, img_size=config.img_size)
    preprocess = preprocess_for(backbone, device)
    num_features = int(backbone.num_features)  # type: ignore[arg-type]  # timm sets an int
    adapted = add_lora(
        backbone,
        rank=config.lora.rank,
        alpha=config.lora.alpha,
        targets=config.lora.targets,
        blocks=config.lora.blocks,
        seed=stream_seed(seed, "adapters"),
    )
    model = RewardModel(adapted, num_features, seed=stream_seed(seed, "head")).to(device)
    features = _feature_map(config, model)
    return ViTUCB(
        model=model,
        preprocess=preprocess,
        features=features,
        covariance=make_covariance(
            config.covariance.name,
            features.dim,
            ridge=config.covariance.ridge,
            rank=config.covariance.rank,
            seed=stream_seed(seed, "covariance"),
        ),
        policy=make_policy(config.policy),
        optimizer=create_optimizer(
            config.optimizer.name,
            model,
            lr=config.optimizer.lr,
            other_params=model.head.parameters(),
            other_lr=config.optimizer.head_lr,
            **config.optimizer.options,
        ),
        replay=Replay(config.training.replay_capacity, numpy_generator(seed, "replay")),
        training=config.training,
        rng=numpy_generator(seed, "policy"),
    )


def _feature_map(config: AgentConfig, model: RewardModel) -> FeatureMap:
    if config.features == "last-layer":
        return LastLayerFeatures(model)
    features = LoRAGradientFeatures(model)
    expected = _adapter_parameters(lora_pairs(model))
    if features.dim != expected:
        raise RuntimeError(f"{features.dim} features tracked of {expected} adapter parameters")
    return features
