"""Agents that never look at an image: random, UCB1, KL-UCB and Thompson sampling on slots.

They are the sanity gates of every report: where slots are shuffled, an agent that only knows
slots has linear regret; where they are fixed, a contextual agent that loses to them has a
problem.
"""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vitucb.agents.options import refuse_options
from vitucb.agents.saving import Savable
from vitucb.config import AgentConfig, PolicyConfig
from vitucb.policies import (
    Array,
    Mask,
    argmax_probabilities,
    gaussian_win_probabilities,
    make_policy,
)
from vitucb.policies.choice import check_scores
from vitucb.seeding import numpy_generator
from vitucb.types import Decision, Observation, State, UnusableRewardError, require_usable

# Draws per decision for the propensity of beta-ts: standard error at most 0.016.
_PROPENSITY_DRAWS = 1_000
_BISECTIONS = 50


class SlotStatistics:
    """Choices, and numbers, sums and sums of squares of the rewards of every slot.

    Attributes:
        chosen: How often each slot was chosen, float64 (K,); confidence widths follow it, so that
            rewards on their way do not leave the agent as curious as before.
        pulls: Rewards seen of each slot, float64 (K,).
        sums: Their sums, float64 (K,).
        squares: Sum of the squares of all rewards less `origin`.
        origin: The first reward: a level of 1,000,000 must not cost the digits of a noise of 1.
    """

    def __init__(self, num_arms: int) -> None:
        self.chosen = np.zeros(num_arms)
        self.pulls = np.zeros(num_arms)
        self.sums = np.zeros(num_arms)
        self.squares = self.origin = 0.0

    def add(self, slot: int, reward: float) -> None:
        """Count one reward of a slot."""
        if not self.pulls.any():
            self.origin = reward
        self.pulls[slot] += 1
        self.sums[slot] += reward
        self.squares += (reward - self.origin) ** 2

    @property
    def means(self) -> Array:
        """Mean reward per slot, float64 (K,); of slots without a reward that of all, 0 at first."""
        of_all = self.sums.sum() / max(self.pulls.sum(), 1)
        means: Array = np.where(self.pulls > 0, self.sums / np.maximum(self.pulls, 1), of_all)
        return means

    @property
    def noise(self) -> float:
        """Pooled standard deviation within slots, reward units; 1 before it can be estimated."""
        freedom = self.pulls.sum() - np.count_nonzero(self.pulls)
        if freedom < 2:
            return 1.0
        sums = self.sums - self.pulls * self.origin
        within = self.squares - (sums**2 / np.maximum(self.pulls, 1)).sum()
        return float(np.sqrt(max(within, 0.0) / freedom))


class SlotAgent(Savable):
    """What UCB1 and Gaussian Thompson sampling share: statistics per slot and a generator."""

    parameters: dict[str, int] = {}  # noqa: RUF012  # read only

    def __init__(self, num_arms: int, rng: np.random.Generator) -> None:
        """Start with no pulls.

        Args:
            num_arms: Number of slots K.
            rng: Breaks ties and draws posteriors.
        """
        self.slots = SlotStatistics(num_arms)
        self.rounds = 0
        self._rng = rng

    def update(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        """Count the reward of the chosen slot.

        Raises:
            UnusableRewardError: If it is no number, not finite or above 1e30 in size.
        """
        (reward,) = require_usable(reward)
        self.slots.add(decision.action, reward)
        return {}

    def _mask_of(self, obs: Observation) -> Mask:
        """The mask of a round of as many slots as there are.

        Raises:
            ValueError: If there are more or fewer.
        """
        mask: Mask = obs["action_mask"]
        if len(mask) != (slots := len(self.slots.chosen)):
            raise ValueError(
                f"action_mask has {len(mask)} arms, and the agent knows {slots} by their number; "
                "mask those that may not be chosen, or build the agent for as many"
            )
        return mask

    def _decide(
        self,
        probabilities: Array,
        mean: Array,
        width: Array,
        bonus: Array,
    ) -> Decision:
        action = int(self._rng.choice(len(probabilities), p=probabilities))
        return self._decision(action, float(probabilities[action]), mean, width, bonus)

    def _decision(
        self, action: int, propensity: float, mean: Array, width: Array, bonus: Array
    ) -> Decision:
        self.slots.chosen[action] += 1
        self.rounds += 1
        return Decision(action, propensity, mean, width, None, self.rounds - 1, bonus)

    def _untried(self, mask: Mask) -> Mask:
        """Allowed slots never chosen, or `mask` if there are none."""
        untried: Mask = (mask.astype(bool) & (self.slots.chosen == 0)).astype(np.int8)
        return untried if untried.any() else mask

    def state_dict(self) -> State:
        """Statistics, counter and generator."""
        return {
            "chosen": self.slots.chosen.copy(),
            "pulls": self.slots.pulls.copy(),
            "sums": self.slots.sums.copy(),
            "squares": self.slots.squares,
            "origin": self.slots.origin,
            "rounds": self.rounds,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.slots.chosen = np.array(state["chosen"], np.float64)
        self.slots.pulls = np.array(state["pulls"], np.float64)
        self.slots.sums = np.array(state["sums"], np.float64)
        self.slots.squares = float(state["squares"])
        self.slots.origin = float(state.get("origin", 0.0))  # older states do not tell
        self.rounds = int(state["rounds"])
        self._rng.bit_generator.state = state["rng"]


class RandomAgent(SlotAgent):
    """A uniformly random allowed arm."""

    def select_action(self, obs: Observation) -> Decision:
        """Choose uniformly."""
        mask = self._mask_of(obs)
        zeros = np.zeros(len(mask))
        return self._decide(argmax_probabilities(zeros, mask), zeros, zeros, zeros)


class UCB1(SlotAgent):
    """UCB1: mean + sigma sqrt(2 ln t / n) with the pooled noise estimate as sigma.

    Auer, Cesa-Bianchi, Fischer, "Finite-time analysis of the multiarmed bandit problem", 2002.
    Their bound is for rewards in [0, 1], where sigma = 1; the estimate makes the rule free of
    units.
    """

    def select_action(self, obs: Observation) -> Decision:
        """Choose an untried slot if there is one, else the largest upper bound."""
        mask = self._mask_of(obs)
        width = self.slots.noise / np.sqrt(np.maximum(self.slots.chosen, 1))
        bonus = width * np.sqrt(2 * np.log(max(self.rounds, 1)))
        probabilities = argmax_probabilities(self.slots.means + bonus, self._untried(mask))
        return self._decide(probabilities, self.slots.means, width, bonus)


class GaussianThompson(SlotAgent):
    """Thompson sampling with a Gaussian posterior per slot, N(mean, sigma^2 / n).

    Agrawal and Goyal, "Further optimal regret bounds for Thompson sampling", 2013, with the pooled
    noise estimate as sigma.
    """

    _thompson = staticmethod(make_policy(PolicyConfig("thompson", alpha=1.0)))

    def select_action(self, obs: Observation) -> Decision:
        """Choose the largest posterior draw; untried slots first."""
        means, width, allowed = self._posterior(obs)
        choice = self._thompson(means, width, allowed, self.rounds, self._rng)
        return self._decision(choice.action, choice.propensity, means, width, choice.bonus)

    def probabilities(self, obs: Observation) -> Array:
        """Probability of choosing each arm now, float64 (K,); changes nothing."""
        means, width, mask = self._posterior(obs)
        probabilities, allowed = np.zeros_like(means), check_scores(means, mask)
        probabilities[allowed] = gaussian_win_probabilities(means[allowed], width[allowed])
        return probabilities

    def _posterior(self, obs: Observation) -> tuple[Array, Array, Mask]:
        """Means and deviations of the slots (K,), and which of them are drawn."""
        width = self.slots.noise / np.sqrt(np.maximum(self.slots.chosen, 1))
        return self.slots.means, width, self._untried(self._mask_of(obs))


class UnitRewardAgent(SlotAgent):
    """An agent for rewards in [0, 1] only."""

    def update(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        """Count the reward of the chosen slot.

        Raises:
            UnusableRewardError: If the reward is not in [0, 1].
        """
        (reward,) = require_usable(reward)
        if not 0 <= reward <= 1:
            raise UnusableRewardError(
                f"reward {reward} is not in [0, 1]; choose gaussian-ts or ucb1 for such rewards"
            )
        return super().update(obs, decision, reward)


class BetaThompson(UnitRewardAgent):
    """Thompson sampling with a Beta(1 + s, 1 + n - s) posterior per slot, rewards in [0, 1].

    Thompson, 1933; Chapelle and Li, "An empirical evaluation of Thompson sampling", 2011. A reward
    between 0 and 1 counts as that share of a success. The propensity is the share of 1,001 draws,
    the deciding one among them: its standard error is at most 0.016.
    """

    def select_action(self, obs: Observation) -> Decision:
        """Choose the largest posterior draw."""
        draws, wins = self._draw(obs, self._rng)
        a, b = self._counts
        mean, width = a / (a + b), np.sqrt(a * b / (a + b + 1)) / (a + b)
        propensity = float(np.mean(wins == wins[0]))
        return self._decision(int(wins[0]), propensity, mean, width, draws[0] - mean)

    def probabilities(self, obs: Observation) -> Array:
        """Estimated probability of choosing each arm now, float64 (K,); changes nothing."""
        _, wins = self._draw(obs, copy.deepcopy(self._rng))
        shares: Array = np.bincount(wins, minlength=len(obs["action_mask"])) / len(wins)
        return shares

    @property
    def _counts(self) -> tuple[Array, Array]:
        """Parameters of the posteriors, (K,) each."""
        return 1 + self.slots.sums, 1 + self.slots.pulls - self.slots.sums

    def _draw(self, obs: Observation, rng: np.random.Generator) -> tuple[Array, NDArray[np.int64]]:
        """Posterior draws (n, K), and the best allowed arm of each (n,)."""
        mask = self._mask_of(obs)
        check_scores(np.zeros(len(mask)), mask)
        draws = rng.beta(*self._counts, size=(_PROPENSITY_DRAWS + 1, len(mask)))
        return draws, np.where(mask.astype(bool), draws, -np.inf).argmax(axis=1)


class KLUCB(UnitRewardAgent):
    """KL-UCB: the largest q with n kl(mean, q) <= ln t, rewards in [0, 1].

    Garivier and Cappe, "The KL-UCB algorithm for bounded stochastic bandits and beyond", 2011, with
    c = 0 as they recommend in practice.
    """

    def select_action(self, obs: Observation) -> Decision:
        """Choose an untried slot if there is one, else the largest upper bound."""
        means, chosen = self.slots.means, np.maximum(self.slots.chosen, 1)
        bound = kl_upper_bound(means, np.log(max(self.rounds, 1)) / chosen)
        probabilities = argmax_probabilities(bound, self._untried(self._mask_of(obs)))
        return self._decide(probabilities, means, 1 / np.sqrt(chosen), bound - means)


def kl_upper_bound(mean: Array, level: Array) -> Array:
    """The largest q in [mean, 1] with kl(Bernoulli(mean), Bernoulli(q)) <= level, float64 (K,)."""
    low, high = mean.copy(), np.ones_like(mean)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        inside = _bernoulli_kl(mean, middle) <= level
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return low


def _bernoulli_kl(p: Array, q: Array) -> Array:
    """KL divergence in nats; 0 log 0 = 0."""
    p, q = np.clip(p, 1e-15, 1 - 1e-15), np.clip(q, 1e-15, 1 - 1e-15)
    divergence: Array = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    return divergence


def slot_arguments(
    config: AgentConfig, env: gym.Env[Any, Any], seed: int
) -> tuple[int, np.random.Generator]:
    """Number of slots of `env`, and the generator of the agent.

    Raises:
        ValueError: If the actions are not discrete, or the config has options for the agent.
    """
    refuse_options(config)
    space = env.action_space
    if not isinstance(space, gym.spaces.Discrete):
        raise ValueError(f"env.id: the action space {space} is not Discrete(K)")
    return int(space.n), numpy_generator(seed, "policy")


def build_random(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `random`."""
    return RandomAgent(*slot_arguments(config, env, seed))


def build_ucb1(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `ucb1`."""
    return UCB1(*slot_arguments(config, env, seed))


def build_kl_ucb(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `kl-ucb`."""
    return KLUCB(*slot_arguments(config, env, seed))


def build_gaussian_ts(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `gaussian-ts`."""
    return GaussianThompson(*slot_arguments(config, env, seed))


def build_beta_ts(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `beta-ts`."""
    return BetaThompson(*slot_arguments(config, env, seed))
