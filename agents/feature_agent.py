"""What every bandit on features shares: score, choose, count the choice, learn from its reward."""

from __future__ import annotations

import abc

import numpy as np
from torch import Tensor

from vitucb.agents.context import require_arms
from vitucb.agents.saving import Savable
from vitucb.covariance import FeatureCovariance
from vitucb.learning.reward_scale import ResidualNoise
from vitucb.models.grad_mode import with_gradients
from vitucb.policies import Array, Choice, Policy, choose
from vitucb.policies.choice import undrawn
from vitucb.types import Decision, Observation, State, require_usable


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

    def _let_pass(self) -> None:
        """Let a round pass, before its arms are scored."""

    def _width_unit(self) -> float:
        """What sqrt(phi' A^-1 phi) is multiplied by, reward units: the estimated noise."""
        return self._noise.std

    @with_gradients()
    def select_action(self, obs: Observation) -> Decision:
        """Score every arm, let the policy choose, and count the choice in the covariance.

        Raises:
            ValueError: If the agent was made for other arms, or none is allowed.
        """
        require_arms(obs, self.blueprint)
        self._let_pass()
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
            ValueError: If the policy does not tell them, the agent was made for other arms, or none
                is allowed.
        """
        require_arms(obs, self.blueprint)
        # The first images that are scored set the scale of the features.
        start = self.state_dict() if self._rounds == 0 else None
        try:
            with undrawn(self._rng):
                choice = self._choose(obs)[-1]
        finally:
            if start is not None:
                self.load_state_dict(start)
        return choice.known_probabilities()

    def _choose(self, obs: Observation) -> tuple[Array, Array, Tensor, Choice]:
        """Means and widths (K,), features (K, p) and the choice; draws from the generator."""
        mean, phi = self._score(obs)
        unit = self._width_unit()
        width = unit * self._covariance.width_array(phi)

        def covariance() -> Array:
            joint: Array = unit**2 * self._covariance.cov(phi).cpu().numpy()
            return joint

        choice = choose(
            self._policy, mean, width, obs["action_mask"], self._rounds, self._rng, covariance
        )
        return mean, width, phi, choice

    @with_gradients()
    def update(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        """Learn from the reward of an earlier decision.

        Raises:
            UnusableRewardError: If it is no number, not finite or above 1e30 in size.
        """
        (reward,) = require_usable(reward)
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
