"""An agent that mixes experts by how well each predicted rewards before it saw them.

One round: the frozen features of the images are made once, every expert that is awake says what it
expects of every arm, the weights mix that, and the policy chooses. Every expert learns from every
reward, whoever would have chosen the arm, so mixing needs no exploration of its own: this is
aggregation of forecasters, not a bandit over bandits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from vitucb.agents.baselines.frozen_features import FrozenFeatures
from vitucb.agents.context import require_arms
from vitucb.agents.saving import Savable
from vitucb.learning.experts.adapted.expert import AdaptedExpert
from vitucb.learning.experts.expert import Expert, Offer, Prediction, Sleeper
from vitucb.learning.experts.weights import ExpertWeights, WeightRule, mix
from vitucb.models.grad_mode import with_gradients
from vitucb.policies import Array, Choice, Policy, choose
from vitucb.policies.choice import undrawn
from vitucb.seeding import numpy_generator
from vitucb.types import Decision, Observation, State, require_usable


class ExpertAgent(Savable):
    """Experts, their weights and a policy put together.

    The choice counts when it is made; its reward may come at any time and in any order, with the
    same `Decision`, or never.

    Attributes:
        experts: Name -> expert.
        weights: By what each predicted.
        rounds: Choices made so far.
        parameters: Counts that the experts tell.
    """

    needs_phi = True
    """Rewards that come late judge the experts by what `Decision.phi` keeps of their means."""

    def __init__(
        self,
        frozen: FrozenFeatures,
        experts: Mapping[str, Expert],
        policy: Policy,
        *,
        seed: int = 0,
        rule: WeightRule | None = None,
        is_discounted: bool = False,
    ) -> None:
        """Put the parts together.

        Args:
            frozen: Features h / rms of images.
            experts: Name -> expert. Those that are a `Sleeper` may be put to sleep.
            policy: Turns mixed means and bonuses into an action; its multiplier of the width must
                be 1, since every expert has its own.
            seed: Of the policy's generator.
            rule: How losses become weights.
            is_discounted: Whether a prediction lets a round pass.
        """
        self.frozen, self.experts, self._policy = frozen, dict(experts), policy
        self._sleepers = {n: e for n, e in experts.items() if isinstance(e, Sleeper)}
        starts_after = {n: getattr(e, "starts_after", 0) for n, e in experts.items()}
        self.weights = ExpertWeights(
            tuple(experts), trained=self._sleepers, starts_after=starts_after, rule=rule
        )
        self._tell_sleepers(self.weights.asleep)
        self.rng, self._is_discounted = numpy_generator(seed, "policy"), is_discounted
        self.rounds = 0
        self.parameters: dict[str, int] = {}
        for expert in experts.values():
            self.parameters |= getattr(expert, "parameters", {})
        # The latest choice, its offer, and the array of images that the offer was made of: most
        # rewards are of the round just played.
        self._latest: tuple[int, Offer, object] | None = None

    @property
    def image_passes(self) -> int:
        """For frozen features, and those that the experts tell."""
        told = (getattr(expert, "image_passes", 0) for expert in self.experts.values())
        return self.frozen.image_passes + sum(told)

    def select_action(self, obs: Observation) -> Decision:
        """Ask every expert, let the policy choose, and tell every expert of the choice."""
        return self.select_actions([obs])[0]

    @with_gradients()
    def select_actions(self, observations: Sequence[Observation]) -> list[Decision]:
        """Choose for several contexts; every choice counts before the next one is made.

        Raises:
            ValueError: If the agent was made for other arms than one of them has, or one allows
                none; then none counts.
        """
        for obs in observations:
            require_arms(obs, self.blueprint)
        return [self._decide(obs) for obs in observations]

    def _decide(self, obs: Observation) -> Decision:
        decision, offer = self.propose(obs)
        self.count(offer, decision.action)
        self._latest = (decision.round, offer, obs["images"])
        return decision

    @with_gradients()
    def propose(self, obs: Observation) -> tuple[Decision, Offer]:
        """Choose, and leave it to the caller to `count` the choice."""
        offer = self.offer(obs)
        predictions = self._predict(offer)
        mixed, choice = self._choose(offer, predictions, obs)
        means = [
            predictions[name].mean[choice.action] if name in predictions else np.nan
            for name in self.experts
        ]
        decision = Decision(
            action=choice.action,
            propensity=choice.propensity,
            mean=mixed.mean,
            width=mixed.width,
            phi=torch.tensor(means, dtype=torch.float64),
            round=self.rounds,
            bonus=choice.bonus,
        )
        return decision, offer

    @with_gradients()
    def count(self, offer: Offer, action: int) -> None:
        """Tell every expert of a choice, which is number `rounds`."""
        for expert in self.experts.values():
            expert.choose(offer, action)
        self.rounds += 1

    @with_gradients()
    def probabilities(self, obs: Observation) -> Array:
        """Probability of choosing each arm now, float64 (K,); changes nothing.

        Raises:
            ValueError: If the policy does not tell them, the agent was made for other arms, or none
                is allowed.
        """
        require_arms(obs, self.blueprint)
        # The first images set the scale of the features, and a discount lets a round pass.
        before = self.state_dict() if self.rounds == 0 or self._is_discounted else None
        try:
            offer = self.offer(obs)
            with undrawn(self.rng):
                choice = self._choose(offer, self._predict(offer), obs)[-1]
        finally:
            if before is not None:
                self.load_state_dict(before)
        return choice.known_probabilities()

    def offer(self, obs: Observation) -> Offer:
        """Images with their frozen features, and the ids that stand beside them."""
        # A copy: callers may fill one buffer with round after round.
        images = np.array(obs["images"])
        return Offer(images, self.frozen(images), len(obs["action_mask"]), obs.get("context"))

    def _predict(self, offer: Offer) -> dict[str, Prediction]:
        """Name -> prediction, of the experts that are awake."""
        asleep = self.weights.asleep
        found = {n: expert.predict(offer) for n, expert in self.experts.items() if n not in asleep}
        for name, prediction in found.items():
            if not isinstance(prediction, Prediction):
                raise ValueError(
                    f"the expert {name} predicted a {type(prediction).__name__}; give a "
                    "vitucb.learning.experts.expert.Prediction"
                )
        return found

    def _choose(
        self, offer: Offer, predictions: Mapping[str, Prediction], obs: Observation
    ) -> tuple[Prediction, Choice]:
        """The mixture and the choice; draws from the generator."""
        weights = self.weights.weights
        shares = [weights[name] for name in predictions]
        mixed = mix(list(predictions.values()), shares)

        def covariance() -> Array:
            correlation = self._correlation(offer, predictions)
            joint: Array = mixed.bonus[:, None] * correlation * mixed.bonus
            return joint

        mask, rng = obs["action_mask"], self.rng
        choice = choose(self._policy, mixed.mean, mixed.bonus, mask, self.rounds, rng, covariance)
        return mixed, choice

    def _correlation(self, offer: Offer, predictions: Mapping[str, Prediction]) -> Array:
        """Of the arms, (K, K): mixed from the experts that tell one, or none at all."""
        weights, known = self.weights.weights, {}
        for name in predictions:
            if (tell := getattr(self.experts[name], "correlation", None)) is not None:
                known[name] = tell(offer)
        total = sum(weights[name] for name in known)
        mixed = sum(weights[name] / total * matrix for name, matrix in known.items())
        return np.asarray(mixed) if known else np.eye(offer.num_arms)

    def update(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        """Judge the experts by the reward of an earlier decision, and let them learn from it."""
        return self.update_batch([(obs, decision, reward)])

    @with_gradients()
    def update_batch(
        self, feedback: Sequence[tuple[Observation, Decision, float]]
    ) -> dict[str, float]:
        """Learn from several rewards; returns the metrics of the last.

        Raises:
            UnusableRewardError: If one is no number, not finite or above 1e30 in size; then none
                is learnt.
        """
        rewards = require_usable(*(reward for _, _, reward in feedback))
        metrics: dict[str, float] = {}
        for (obs, decision, _), reward in zip(feedback, rewards, strict=True):
            metrics |= self._learn(obs, decision, reward)
        return metrics

    def _learn(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        offer = None
        if self._latest is not None and self._latest[0] == decision.round:
            # By identity: a buffer filled anew has the images of the round in the offer alone. Who
            # gives others, as an agent does that kept one of them, is not to depend on a restart.
            offer = self._latest[1] if self._latest[2] is obs["images"] else None
        offer = offer or self.offer(obs)
        means = [np.nan] * len(self.experts) if decision.phi is None else decision.phi.tolist()
        return self.learn(offer, decision.action, reward, decision.round, means)

    @with_gradients()
    def learn(
        self, offer: Offer, action: int, reward: float, round: int, means: Sequence[float]
    ) -> dict[str, float]:
        """Judge the experts by the reward of a choice, and let them learn from it.

        Args:
            offer: What the choice was made from.
            action: The choice.
            reward: Its reward.
            round: Number of the choice.
            means: What each expert expected of it then, NaN where it slept.
        """
        metrics: dict[str, float] = {}
        for expert in self.experts.values():
            metrics |= expert.observe(offer, action, reward, self.rounds - 1 - round)
        told = zip(self.experts, means, strict=True)
        expected = {name: None if np.isnan(mean) else mean for name, mean in told}
        changed = self.weights.observe(expected, reward)
        self._tell_sleepers(changed)
        return metrics | self.weights.metrics()

    def _tell_sleepers(self, changed: Collection[str]) -> None:
        """Put to sleep, or wake, those of `changed` that can, as the weights have it."""
        asleep = self.weights.asleep
        for name in changed:
            if name not in self._sleepers:
                continue
            if name in asleep:
                self._sleepers[name].sleep()
            else:
                self._sleepers[name].wake()

    def save_adapter(self, folder: Path) -> None:
        """Write the adapters acted on, for `peft.PeftModel.from_pretrained`, if there are any."""
        for expert in self.experts.values():
            if isinstance(expert, AdaptedExpert):
                expert.network.save_adapter(folder)

    def state_dict(self) -> State:
        """Experts, weights, scale of the features, counter and generator."""
        return {
            "experts": {name: expert.state_dict() for name, expert in self.experts.items()},
            "weights": self.weights.state_dict(),
            "frozen": self.frozen.state_dict(),
            "rounds": self.rounds,
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: If it is of other experts, or of these in another order.
        """
        if "experts" not in state:
            raise ValueError(
                "the state is of an agent without experts, as vit-ucb was in earlier versions: set "
                "agent.experts adapted"
            )
        if set(state["experts"]) != set(self.experts):
            raise ValueError(
                f"the state is of the experts {', '.join(state['experts'])}; this agent has "
                f"{', '.join(self.experts)}: build it with the former"
            )
        self.weights.load_state_dict(state["weights"])
        for name, expert in self.experts.items():
            expert.load_state_dict(state["experts"][name])
        self.frozen.load_state_dict(state["frozen"])
        self.rounds = int(state["rounds"])
        self.rng.bit_generator.state = state["rng"]
        self._latest = None
