"""Ridge regression on the frozen last-layer features of a backbone: `lin-ucb`, `lin-ts`, `greedy`.

Li et al., "A contextual-bandit approach to personalized news article recommendation", 2010
(LinUCB); Abbasi-Yadkori et al., "Improved algorithms for linear stochastic bandits", 2011;
Agrawal and Goyal, "Thompson sampling for contextual bandits with linear payoffs", 2013. The mean
is theta = A^-1 b, the width sqrt(phi' A^-1 phi) times the estimated noise. Where every arm has an
image, arms share one parameter; where one image is the context of all, each has its own block
(disjoint models).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from vitucb.agents.baselines.frozen_features import FrozenFeatures, build_frozen_features
from vitucb.agents.context import is_image_context, num_label_actions, require_arms
from vitucb.agents.feature_agent import FeatureAgent
from vitucb.agents.options import refuse_options
from vitucb.agents.ridges import head_ridge
from vitucb.config import AgentConfig
from vitucb.covariance import FeatureCovariance
from vitucb.covariance.label_blocks import ridge_covariance
from vitucb.models.grad_mode import with_gradients
from vitucb.policies import Array, Policy, make_policy
from vitucb.seeding import numpy_generator
from vitucb.types import Decision, Observation, State


class LinearAgent(FeatureAgent):
    """A linear bandit on frozen features [h / |h|_rms, 1]."""

    def __init__(
        self,
        frozen: FrozenFeatures,
        covariance: FeatureCovariance,
        policy: Policy,
        rng: np.random.Generator,
        discount: float = 1.0,
    ) -> None:
        """Put the parts together.

        Args:
            frozen: Features h of images.
            covariance: A over d + 1 features, or K (d + 1) where arms share an image.
            policy: Turns means and widths into an action.
            rng: Generator of the policy.
            discount: Weight of an observation after one more round, for rewards that drift.
        """
        super().__init__(covariance, policy, rng)
        self._discount = discount
        self._frozen = frozen
        self._response = torch.zeros(covariance.dim, dtype=torch.float64)

    @property
    def image_passes(self) -> int:
        """For frozen features."""
        return self._frozen.image_passes

    def _features(self, obs: Observation) -> Tensor:
        """[h / rms, 1] of every arm, in the arm's block where arms share an image: (K, p)."""
        h = self._frozen(obs["images"])
        phi = torch.cat([h, torch.ones(len(h), 1, dtype=h.dtype)], dim=1)
        if is_image_context(obs):
            phi = torch.kron(torch.eye(len(obs["action_mask"]), dtype=h.dtype), phi)
        return phi

    @with_gradients()
    def probabilities(self, obs: Observation) -> Array:
        """Probability of choosing each arm now, float64 (K,); changes nothing.

        Raises:
            ValueError: If the policy does not tell them, the agent was made for other arms, or none
                is allowed.
        """
        if self._discount == 1:
            return super().probabilities(obs)
        require_arms(obs, self.blueprint)
        covariance, response = self._covariance.state_dict(), self._response.clone()
        self._let_pass()  # as the choice would
        try:
            return super().probabilities(obs)
        finally:
            self._covariance.load_state_dict(covariance)
            self._response = response

    def _let_pass(self) -> None:
        """Let a round pass: every observation counts `discount` times what it did."""
        if self._discount == 1:
            return
        self._covariance.discount(self._discount)
        self._response *= self._discount

    def _score(self, obs: Observation) -> tuple[Array, Tensor]:
        phi = self._features(obs)
        mean: Array = (phi @ self._covariance.solve(self._response)).numpy()
        return mean, phi

    def _learn(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        # A late reward counts as much as it would by now, had it come at once.
        weight = self._discount ** (self._rounds - 1 - decision.round)
        # A decision that was written down as JSON has lost its features: they are frozen.
        phi = self._features(obs)[decision.action] if decision.phi is None else decision.phi
        self._response += weight * reward * phi
        return {}

    def state_dict(self) -> State:
        """That of the base, the response and the scale of the features."""
        return super().state_dict() | {
            "response": self._response.clone(),
            "frozen": self._frozen.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._response = state["response"].clone()
        self._frozen.load_state_dict(state["frozen"])


def build_lin_ucb(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `lin-ucb`: dense covariance in float64, the configured policy.

    With `training.discount` below 1 it is D-LinUCB (Russac et al. 2019).

    Raises:
        ValueError: If a setting is not usable.
    """
    refuse_options(config)
    frozen = build_frozen_features(config, env, device)
    return LinearAgent(
        frozen,
        ridge_covariance(
            frozen.dim + 1,
            num_label_actions(env) or 1,
            ridge=head_ridge(config, env),
            discount=config.training.discount,
        ),
        make_policy(config.policy),
        numpy_generator(seed, "policy"),
        config.training.discount,
    )


def build_lin_ts(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `lin-ts`: `lin-ucb` with one draw of the parameters a round."""
    policy = dataclasses.replace(config.policy, name="thompson", joint=True)
    return build_lin_ucb(dataclasses.replace(config, policy=policy), env, seed, device)


def build_greedy(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `greedy`: `lin-ucb` without the bonus."""
    policy = dataclasses.replace(config.policy, name="greedy")
    return build_lin_ucb(dataclasses.replace(config, policy=policy), env, seed, device)
