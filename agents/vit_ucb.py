"""ViT-UCB: a LoRA ViT that learns online, with a bonus from the covariance of its LoRA gradients.

One round: one batched forward and one batched backward give the mean reward and the gradient
feature of every arm; the policy adds the confidence width; the chosen arm's feature enters the
covariance at once; its image and reward enter the replay; a few optimizer steps follow. The
adapters move, so the features in the covariance go stale: they are recomputed whenever the
history has doubled.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vitucb.adapters import LoRAPair, add_lora, lora_pairs
from vitucb.backbone import Preprocess, create_backbone, preprocess_for
from vitucb.config import AgentConfig
from vitucb.covariance import FeatureCovariance, make_covariance
from vitucb.gradient_features import LastLayerFeatures, LoRAGradientFeatures
from vitucb.noise import ResidualNoise
from vitucb.optim import create_optimizer
from vitucb.policies import Policy, make_policy
from vitucb.replay import Replay
from vitucb.reward_model import RewardModel
from vitucb.ridge_head import RidgeHead
from vitucb.seeding import numpy_generator, stream_seed
from vitucb.trainer import OnlineTrainer
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
    """Reward model, feature map, covariance, policy and trainer put together."""

    def __init__(
        self,
        trainer: OnlineTrainer,
        features: FeatureMap,
        covariance: FeatureCovariance,
        policy: Policy,
        rng: np.random.Generator,
        *,
        rebuild: bool = True,
    ) -> None:
        """Put the parts together.

        Args:
            trainer: Holds the reward model and the replay, and trains.
            features: Scores and features of a batch of images under that model.
            covariance: A over `features.dim` features.
            policy: Turns means and widths into an action.
            rng: Generator of the policy.
            rebuild: Recompute the features in the covariance whenever the history has doubled.
        """
        self.trainer, self.covariance = trainer, covariance
        self._features, self._policy, self._rng = features, policy, rng
        self._noise = ResidualNoise()
        self._rounds = self._rewarded = 0
        self._next_rebuild: float = _FIRST_REBUILD if rebuild else math.inf
        self.parameters = _count_parameters(trainer.model, features.dim)

    def select_action(self, obs: Observation) -> Decision:
        """Score all arms at once, choose, and count the choice in the covariance."""
        score, phi = self._score(obs["images"])
        phi = phi * _inverse_rms_norm(phi)
        mean = self.trainer.predictions(score)
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
        metrics = self.trainer.observe(obs["images"][decision.action], reward)
        metrics["score/noise"] = self._noise.std
        metrics["covariance/log_det"] = self.covariance.log_det
        self._rewarded += 1
        if self._rewarded >= self._next_rebuild:
            metrics["covariance/stale_ratio"] = self._rebuild()
            self._next_rebuild *= 2
        return metrics

    def _score(self, images: NDArray[np.uint8] | list[NDArray[np.uint8]]) -> tuple[Tensor, Tensor]:
        self.trainer.model.eval()
        return self._features(self.trainer.inputs(images))

    def _rebuild(self) -> float:
        """Recompute the features of the history; how much the stale ones overstated the width."""
        replay = self.trainer.replay
        probe = self._history_features(slice(-_REBUILD_BATCH, None))
        scale = _inverse_rms_norm(probe)
        stale = self.covariance.width(probe * scale).mean()
        starts = range(0, len(replay), _REBUILD_BATCH)
        chunks = (self._history_features(slice(i, i + _REBUILD_BATCH)) * scale for i in starts)
        # A replay past its capacity is a uniform sample: each item stands for several rounds.
        self.covariance.rebuild(chunks, weight=replay.seen / len(replay))
        fresh = self.covariance.width(probe * scale).mean()
        return float(stale / fresh.clamp_min(1e-12))

    def _history_features(self, slots: slice) -> Tensor:
        return self._score(self.trainer.replay.items(slots)[0])[1]

    def save_adapter(self, folder: Path) -> None:
        """Write the adapters so that `peft.PeftModel.from_pretrained` reads them."""
        self.trainer.model.backbone.save_pretrained(str(folder))  # type: ignore[operator]  # a PeftModel

    def state_dict(self) -> State:
        """Trainer, covariance, noise, counters and generator."""
        return {
            "trainer": self.trainer.state_dict(),
            "covariance": self.covariance.state_dict(),
            "noise": self._noise.state_dict(),
            "rounds": self._rounds,
            "rewarded": self._rewarded,
            "next_rebuild": self._next_rebuild,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.trainer.load_state_dict(state["trainer"])
        self.covariance.load_state_dict(state["covariance"])
        self._noise.load_state_dict(state["noise"])
        self._rounds, self._rewarded = int(state["rounds"]), int(state["rewarded"])
        self._next_rebuild = float(state["next_rebuild"])
        self._rng.bit_generator.state = state["rng"]


def _inverse_rms_norm(phi: Tensor) -> float:
    """1 / sqrt(mean |phi|^2) of today's arms, the factor that makes the ridge free of units.

    Today's and not the first round's: LoRA gradients grow with the head, which starts near zero.

    Raises:
        ValueError: If a feature is not finite.
    """
    rms = float(phi.double().square().sum(dim=1).mean().sqrt())
    if not math.isfinite(rms):
        raise ValueError("the features of the arms are not finite; lower agent.optimizer.lr")
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
        trainer=_trainer(config, model, preprocess, seed),
        features=features,
        covariance=make_covariance(
            config.covariance.name,
            features.dim,
            ridge=config.covariance.ridge,
            rank=config.covariance.rank,
            seed=stream_seed(seed, "covariance"),
        ),
        policy=make_policy(config.policy),
        rng=numpy_generator(seed, "policy"),
        rebuild=config.training.rebuild == "doubling",
    )


def _trainer(
    config: AgentConfig, model: RewardModel, preprocess: Preprocess, seed: int
) -> OnlineTrainer:
    by_gradient = config.head == "gradient"
    optimizer = create_optimizer(
        config.optimizer.name,
        model,
        lr=config.optimizer.lr,
        other_params=model.head.parameters() if by_gradient else (),
        other_lr=config.optimizer.head_lr,
        **config.optimizer.options,
    )
    return OnlineTrainer(
        model=model,
        preprocess=preprocess,
        optimizer=optimizer,
        replay=Replay(config.training.replay_capacity, numpy_generator(seed, "replay")),
        training=config.training,
        ridge_head=None if by_gradient else RidgeHead(model.head, config.head_ridge),
    )


def _feature_map(config: AgentConfig, model: RewardModel) -> FeatureMap:
    if config.features == "last-layer":
        return LastLayerFeatures(model)
    features = LoRAGradientFeatures(model)
    expected = _adapter_parameters(lora_pairs(model))
    if features.dim != expected:
        raise RuntimeError(f"{features.dim} features tracked of {expected} adapter parameters")
    return features
