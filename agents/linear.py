"""Ridge regression on the frozen last-layer features of a backbone: `lin-ucb` and `greedy`.

Li et al., "A contextual-bandit approach to personalized news article recommendation", 2010
(LinUCB with one shared parameter), Abbasi-Yadkori et al., "Improved algorithms for linear
stochastic bandits", 2011. The mean is theta = A^-1 b, the width sqrt(phi' A^-1 phi) times the
estimated noise.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from vitucb.backbone import Preprocess, create_backbone, preprocess_for
from vitucb.config import AgentConfig
from vitucb.covariance import FeatureCovariance, make_covariance
from vitucb.noise import ResidualNoise
from vitucb.policies import Policy, make_policy
from vitucb.seeding import numpy_generator
from vitucb.types import Decision, Observation, State


class LinearAgent:
    """A linear bandit on frozen features [h / |h|_rms, 1]."""

    def __init__(
        self,
        backbone: nn.Module,
        preprocess: Preprocess,
        covariance: FeatureCovariance,
        policy: Policy,
        rng: np.random.Generator,
    ) -> None:
        """Put the parts together.

        Args:
            backbone: Frozen, maps images (K, 3, H, W) to features (K, d).
            preprocess: uint8 images to the backbone's input.
            covariance: A over d + 1 features.
            policy: Turns means and widths into an action.
            rng: Generator of the policy.
        """
        self._backbone, self._preprocess = backbone.eval(), preprocess
        self._covariance, self._policy, self._rng = covariance, policy, rng
        self._noise = ResidualNoise()
        self._response = torch.zeros(covariance.dim, dtype=torch.float64)
        self._scale: float | None = None
        self._rounds = 0
        self.parameters = {"tracked_features": covariance.dim}

    @torch.no_grad()
    def _features(self, obs: Observation) -> Tensor:
        """[h / rms, 1] of every arm, float64 (K, d + 1)."""
        h = self._backbone(self._preprocess(obs["images"])).double().cpu()
        if self._scale is None:
            self._scale = float(h.norm(dim=1).square().mean().sqrt().clamp_min(1e-12))
        return torch.cat([h / self._scale, torch.ones(len(h), 1, dtype=h.dtype)], dim=1)

    def select_action(self, obs: Observation) -> Decision:
        """Score every arm and let the policy choose."""
        phi = self._features(obs)
        mean = (phi @ self._covariance.solve(self._response)).numpy()
        width = self._noise.std * self._covariance.width(phi).numpy()
        choice = self._policy(mean, width, obs["action_mask"], self._rounds, self._rng)
        self._covariance.update(phi[choice.action])
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
        """Add the reward to the ridge regression."""
        self._noise.add(reward - float(decision.mean[decision.action]))
        self._response += reward * decision.phi
        return {"score/noise": self._noise.std, "covariance/log_det": self._covariance.log_det}

    def state_dict(self) -> State:
        """Covariance, response, noise, scale, counter and generator."""
        return {
            "covariance": self._covariance.state_dict(),
            "response": self._response.clone(),
            "noise": self._noise.state_dict(),
            "scale": self._scale,
            "rounds": self._rounds,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._covariance.load_state_dict(state["covariance"])
        self._response = state["response"].clone()
        self._noise.load_state_dict(state["noise"])
        self._scale, self._rounds = state["scale"], int(state["rounds"])
        self._rng.bit_generator.state = state["rng"]


def build_lin_ucb(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `lin-ucb`: dense covariance in float64, the configured policy."""
    backbone = create_backbone(
        config.backbone, weights=config.weights, img_size=config.img_size
    ).to(device)
    dim = int(backbone.num_features) + 1  # type: ignore[arg-type]  # timm sets an int
    return LinearAgent(
        backbone,
        preprocess_for(backbone, device),
        make_covariance("dense", dim, ridge=config.head_ridge, seed=seed),
        make_policy(config.policy),
        numpy_generator(seed, "policy"),
    )


def build_greedy(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `greedy`: `lin-ucb` without the bonus."""
    policy = dataclasses.replace(config.policy, name="greedy")
    return build_lin_ucb(dataclasses.replace(config, policy=policy), env, seed, device)
