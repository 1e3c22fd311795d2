"""What every bandit on features shares: score, choose, count the choice, learn from its reward."""

from __future__ import annotations

import abc
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitucb.backbone import Preprocess, create_backbone, preprocess_for
from vitucb.config import AgentConfig
from vitucb.covariance import FeatureCovariance
from vitucb.grad_mode import with_gradients
from vitucb.image_cache import ImageCache, check_limit, noise_images, steady_batch
from vitucb.noise import ResidualNoise
from vitucb.policies import Array, Choice, Policy, choose
from vitucb.saved_agent import Savable
from vitucb.types import Decision, Observation, State


class FeatureAgent(Savable, abc.ABC):
    """A bandit with features phi, their covariance A, and a policy.

    The choice enters A when it is made; its reward may come at any time and in any order, with
    the same `Decision`. A subclass says how arms are scored and how a reward is learnt.
    """

    def __init__(
        self, covariance: FeatureCovariance, policy: Policy, rng: np.random.Generator
    ) -> None:
        """Put the parts together.

        Args:
            covariance: A over the features.
            policy: Turns means and widths into an action.
            rng: Generator of the policy.
        """
        self._covariance, self._policy, self._rng = covariance, policy, rng
        self._noise = ResidualNoise()
        self._rounds = 0
        self.parameters = {"tracked_features": covariance.dim}

    @abc.abstractmethod
    def _score(self, obs: Observation) -> tuple[Array, Tensor]:
        """Means in reward units, float64 (K,), and features (K, p) of the arms."""

    @abc.abstractmethod
    def _learn(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        """Learn from a reward; returns metrics."""

    def _width_unit(self) -> float:
        """What sqrt(phi' A^-1 phi) is multiplied by, reward units: the estimated noise."""
        return self._noise.std

    @with_gradients()
    def select_action(self, obs: Observation) -> Decision:
        """Score every arm, let the policy choose, and count the choice in the covariance."""
        mean, width, phi, choice = self._choose(obs)
        self._covariance.update(index=choice.action)
        self._rounds += 1
        return Decision(
            action=choice.action,
            propensity=choice.propensity,
            mean=mean,
            width=width,
            phi=phi[choice.action].detach().clone(),
            round=self._rounds - 1,
            bonus=choice.bonus,
        )

    @with_gradients()
    def probabilities(self, obs: Observation) -> Array:
        """Probability of choosing each arm now, float64 (K,); changes nothing.

        Raises:
            ValueError: If the policy does not tell them.
        """
        generator = self._rng.bit_generator.state
        # The first images that are scored set the scale of the features.
        start = self.state_dict() if self._rounds == 0 else None
        try:
            choice = self._choose(obs)[-1]
        finally:
            self._rng.bit_generator.state = generator
            if start is not None:
                self.load_state_dict(start)
        if choice.probabilities is None:
            raise ValueError(
                "the policy tells no probabilities; give its Choice `probabilities`, float64 (K,)"
            )
        return choice.probabilities

    def _choose(self, obs: Observation) -> tuple[Array, Array, Tensor, Choice]:
        """Means and widths (K,), features (K, p) and the choice; draws from the generator."""
        mean, phi = self._score(obs)
        unit = self._width_unit()
        width = unit * self._covariance.width(phi).cpu().numpy()

        def covariance() -> Array:
            joint: Array = unit**2 * self._covariance.cov(phi).cpu().numpy()
            return joint

        choice = choose(
            self._policy, mean, width, obs["action_mask"], self._rounds, self._rng, covariance
        )
        return mean, width, phi, choice

    @with_gradients()
    def update(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        """Learn from the reward of an earlier decision."""
        self._noise.add(reward - float(decision.mean[decision.action]))
        self._noise.see(reward)
        metrics = self._learn(obs, decision, reward)
        return metrics | {
            "score/noise": self._noise.std,
            "covariance/log_det": self._covariance.log_det,
        }

    def state_dict(self) -> State:
        """Covariance, noise, counter and generator; subclasses add theirs."""
        return {
            "covariance": self._covariance.state_dict(),
            "noise": self._noise.state_dict(),
            "rounds": self._rounds,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._covariance.load_state_dict(state["covariance"])
        self._noise.load_state_dict(state["noise"])
        self._rounds = int(state["rounds"])
        self._rng.bit_generator.state = state["rng"]


def is_image_context(obs: Observation) -> bool:
    """Whether one image is the context of all arms, rather than an image per arm."""
    return len(obs["images"]) == 1 < len(obs["action_mask"])


def chosen_image(obs: Observation, action: int) -> NDArray[np.uint8]:
    """The image of the chosen arm, or the context's, uint8 (H, W, C)."""
    image: NDArray[np.uint8] = obs["images"][0 if is_image_context(obs) else action]
    return image


def num_label_actions(env: gym.Env[Any, Any]) -> int | None:
    """K if one context image is shared by K actions in `env`, None if every arm has its image."""
    space = env.observation_space
    images = space["images"] if isinstance(space, gym.spaces.Dict) else None
    actions = getattr(env.action_space, "n", 1)
    is_shared = images is not None and images.shape is not None and images.shape[0] == 1
    return int(actions) if is_shared and actions > 1 else None


def images_per_round(env: gym.Env[Any, Any]) -> int:
    """How many images a round of `env` brings at most."""
    return 1 if num_label_actions(env) else int(env.action_space.n)  # type: ignore[attr-defined]


def covariance_ridge(config: AgentConfig, env: gym.Env[Any, Any]) -> float:
    """Ridge of the covariance of `config`, or its default for `env`.

    Where actions share an image, nothing learnt of one action helps another: each needs bonuses of
    its own, and larger ones.
    """
    default = 2.0 if num_label_actions(env) is None else 0.1
    return default if config.covariance.ridge is None else config.covariance.ridge


def head_ridge(config: AgentConfig, env: gym.Env[Any, Any]) -> float:
    """Ridge of the head of `config`, or its default for `env`."""
    default = 1.0 if num_label_actions(env) is None else 0.1
    return default if config.head_ridge is None else config.head_ridge


def require_image_arms(env: gym.Env[Any, Any], agent: str) -> None:
    """Refuse environments whose arms share one context image.

    Raises:
        ValueError: If they do.
    """
    if num_label_actions(env) is not None:
        raise ValueError(
            f"agent {agent!r} needs an image per arm; this environment shows one image to all of "
            "them: choose lin-ucb, lin-ts or neural-ucb"
        )


class FrozenFeatures:
    """Last-layer features h / rms of a frozen backbone, float64, with rms that of the first arms.

    Attributes:
        dim: Number of features d.
    """

    def __init__(
        self, backbone: nn.Module, preprocess: Preprocess, *, limit_mib: int, arms: int
    ) -> None:
        """Start with nothing held.

        Args:
            backbone: Maps inputs (n, 3, H, W) to features (n, d).
            preprocess: Makes its input of an image.
            limit_mib: Memory for features of images seen before, MiB.
            arms: How many images a round brings at most.

        Raises:
            ValueError: If `limit_mib` is negative.
        """
        check_limit(limit_mib)
        self._backbone, self._preprocess = backbone.eval(), preprocess
        self.dim = int(backbone.num_features)  # type: ignore[arg-type]  # timm sets an int
        batch = steady_batch(self._embed, noise_images(backbone, preprocess.size), arms)
        self._cache = ImageCache(self._embed, preprocess, limit_bytes=limit_mib << 20, batch=batch)
        self._scale: float | None = None

    def __call__(self, images: NDArray[np.uint8]) -> Tensor:
        """Features of images uint8 (n, H, W, C): float64 (n, d) on the CPU."""
        h = self._cache(list(images)).double().cpu()
        if self._scale is None:
            self._scale = float(h.norm(dim=1).square().mean().sqrt().clamp_min(1e-12))
        scaled: Tensor = h / self._scale
        return scaled

    @torch.no_grad()
    def _embed(self, inputs: Tensor) -> Tensor:
        h: Tensor = self._backbone(inputs)
        return h

    def state_dict(self) -> State:
        """The scale."""
        return {"scale": self._scale}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._scale = state["scale"]


def build_frozen_features(
    config: AgentConfig, env: gym.Env[Any, Any], device: str
) -> FrozenFeatures:
    """The configured backbone, frozen, on `device`, for the images of `env`.

    Raises:
        ValueError: If a setting is not usable.
    """
    backbone = create_backbone(config.backbone, weights=config.weights, img_size=config.img_size)
    return FrozenFeatures(
        backbone.to(device),
        preprocess_for(backbone, device),
        limit_mib=config.prefix_cache_mib,
        arms=images_per_round(env),
    )
