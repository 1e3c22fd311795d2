"""`vit-ucb` with `agent.experts adapted`: a LoRA ViT alone, with the covariance of its gradients.

By default, and beside other experts, `vit-ucb` is an `ExpertAgent` instead, whose expert `adapted`
trains and measures its widths in other ways (`vitucb.learning.experts.adapted`).

One round: one batched forward and one batched backward give the score and the gradient feature of
every arm; the policy adds the confidence width; the chosen arm's feature enters the covariance at
once; its image and reward enter the replay when the reward comes; a few optimizer steps follow. The
adapters move, so the features in the covariance go stale: they are computed anew when the history
has doubled or when they have moved.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vitucb.agents.context import chosen_image, is_image_context, require_arms
from vitucb.agents.saving import Savable
from vitucb.config import PolicyConfig
from vitucb.covariance import FeatureCovariance, oful_radius
from vitucb.learning.change_detection import ChangeDetector
from vitucb.learning.feature_history import Chosen, FeatureHistory
from vitucb.learning.links import GaussianLink
from vitucb.learning.trainer import OnlineTrainer
from vitucb.models.grad_mode import with_gradients
from vitucb.models.lora import lora_pairs, save_adapters
from vitucb.models.reward_model import RewardModel
from vitucb.optim.factory import has_changed_base
from vitucb.policies import Array, Choice, Policy, choose
from vitucb.policies.choice import undrawn
from vitucb.types import Decision, Observation, State, require_usable

_logger = logging.getLogger(__name__)

# These compare optimistic or sampled values, which any increasing link leaves in order; the others
# compare expected rewards.
_POLICIES_ON_THE_LINK_SCALE = ("ucb", "thompson", "greedy")


class ViTUCB(Savable):
    """Reward model, feature history, policy and trainer put together.

    Attributes:
        trainer: Holds the reward model and the replay, and trains.
        history: Features of past choices and their covariance.
        parameters: Counts of adapted, trainable and tracked parameters.
        detector: Notices that rewards have drifted, if asked to.
        rounds: Choices made so far.
        rng: Generator of the policy.
        on_choice: Told of every choice, if set.
    """

    needs_phi = False

    def __init__(
        self,
        trainer: OnlineTrainer,
        history: FeatureHistory,
        policy: Policy,
        config: PolicyConfig,
        rng: np.random.Generator,
        detector: ChangeDetector | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            trainer: Holds the reward model and the replay, and trains.
            history: Scores arms, and keeps the covariance of what was chosen.
            policy: Turns means and widths into an action.
            config: Of the policy: which radius multiplies the width.
            rng: Generator of the policy.
            detector: Notices that rewards have drifted, and makes the agent start again.
        """
        self.trainer, self.history = trainer, history
        self._policy, self._config, self.rng = policy, config, rng
        self.detector, self.rounds = detector, 0
        self.on_choice: Callable[[Chosen], None] | None = None
        self.parameters = _count_parameters(trainer.model, history.covariance.dim)

    @property
    def covariance(self) -> FeatureCovariance:
        """A over the features of past choices."""
        return self.history.covariance

    @property
    def image_passes(self) -> int:
        """In scoring, in training and for rows made anew."""
        return self.history.image_passes + self.trainer.image_passes

    def select_action(self, obs: Observation) -> Decision:
        """Score all arms at once, choose, and count the choice in the covariance."""
        return self.select_actions([obs])[0]

    @with_gradients()
    def select_actions(self, observations: Sequence[Observation]) -> list[Decision]:
        """Choose for several contexts with one pass of the model.

        Every choice counts in the covariance before the next one is made, so that a batch does not
        explore the same thing again and again.

        Raises:
            ValueError: If the agent was made for other arms than one of them has, or one allows
                none; then none counts.
        """
        for obs in observations:
            require_arms(obs, self.blueprint)
        sizes = [len(obs["action_mask"]) for obs in observations]
        images = [image for obs in observations for image in _arm_images(obs)]
        actions = np.concatenate([_outputs(obs) for obs in observations])
        self.trainer.model.eval()
        scores, phi = self.history.score(images, actions)
        decisions, start = [], 0
        for obs, size in zip(observations, sizes, strict=True):
            arms = slice(start, start + size)
            scaled = self.history.scaled(images[arms], actions[arms], phi[arms])
            decisions.append(self._decide(obs, scores[arms], scaled))
            start += size
        return decisions

    @with_gradients()
    def probabilities(self, obs: Observation) -> Array:
        """Probability of choosing each arm now, float64 (K,); changes nothing.

        Raises:
            ValueError: If the policy does not tell them, the agent was made for other arms, or none
                is allowed.
        """
        require_arms(obs, self.blueprint)
        before = self.covariance.state_dict() if self.history.is_discounted else None
        self.trainer.model.eval()
        scores, phi = self.history.score(_arm_images(obs), _outputs(obs))
        self.history.decay()
        phi = self.history.preview(phi)
        try:
            with undrawn(self.rng):
                choice = self._choose(scores, phi, obs["action_mask"])[-1]
        finally:
            if before is not None:
                self.covariance.load_state_dict(before)
        return choice.known_probabilities()

    def _decide(self, obs: Observation, scores: Tensor, phi: Tensor) -> Decision:
        self.history.decay()
        score, mean, width, choice = self._choose(scores, phi, obs["action_mask"])
        action, output = choice.action, int(_outputs(obs)[choice.action])
        weight = float(self.trainer.link.weight(score)[action])
        image = chosen_image(obs, action)
        self.history.choose(action, weight, self.rounds, image, output)
        own = phi[action].clone()  # a view would keep the features of all arms alive
        if self.on_choice is not None:
            self.on_choice(Chosen(self.rounds, own, weight, image, output))
        self.rounds += 1
        return Decision(
            action=action,
            propensity=choice.propensity,
            mean=mean,
            width=width,
            phi=own,
            round=self.rounds - 1,
            bonus=self._reward_bonus(score, mean, choice.bonus),
        )

    def _choose(
        self, scores: Tensor, phi: Tensor, mask: NDArray[np.int8]
    ) -> tuple[Array, Array, Array, Choice]:
        """Scores, means and widths in reward units (K,), and the choice."""
        unit = self._width_unit()
        width, score = self.covariance.width_array_with(phi, scores.double())
        width = unit * width
        link = self.trainer.link
        values = link.decision_scale(score)
        mean = link.reward(values, width)
        reward_width = (link.reward(values + width) - link.reward(values - width)) / 2
        compares_values = self._config.name in _POLICIES_ON_THE_LINK_SCALE
        given, given_width = (values, width) if compares_values else (mean, reward_width)

        def joint() -> Array:
            covariance: Array = unit**2 * self.covariance.cov(phi).cpu().numpy()
            return covariance

        choice = choose(self._policy, given, given_width, mask, self.rounds, self.rng, joint)
        return score, mean, reward_width, choice

    def _reward_bonus(self, score: Array, mean: Array, bonus: Array) -> Array:
        """What the policy added to `mean`, (K,), reward units: policies on the link scale do not.

        Args:
            score: Outputs of the network.
            mean: Their means, reward units.
            bonus: What was added to what the policy was given.
        """
        link = self.trainer.link
        is_scaled = self._config.name in _POLICIES_ON_THE_LINK_SCALE
        if not is_scaled or isinstance(link, GaussianLink):
            return bonus
        upper: Array = link.reward(link.decision_scale(score) + bonus)
        return upper - mean

    def _width_unit(self) -> float:
        """Confidence width per sqrt(phi' A^-1 phi), on the scale of the link."""
        noise = self.trainer.link.width_scale
        if self._config.radius == "constant":
            return 1.0
        if self._config.radius == "oful":
            return oful_radius(
                self.covariance.log_det,
                noise=noise,
                ridge=self.covariance.ridge,
                norm_bound=self._config.norm_bound,
                delta=self._config.delta,
            )
        return noise

    def update(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        """Remember the chosen image and its reward, train, and refresh the covariance when due.

        Rewards may come at any time and in any order.
        """
        return self.update_batch([(obs, decision, reward)])

    @with_gradients()
    def update_batch(
        self, feedback: Sequence[tuple[Observation, Decision, float]]
    ) -> dict[str, float]:
        """Learn from several rewards; returns the metrics of the last.

        Raises:
            UnusableRewardError: If one is no number, not finite or above 1e30 in size, or one that
                the link cannot have produced; then none is learnt.
        """
        rewards = require_usable(*(reward for _, _, reward in feedback))
        self.trainer.link.check(*rewards)
        metrics: dict[str, float] = {}
        for (obs, decision, _), reward in zip(feedback, rewards, strict=True):
            metrics |= self._learn(obs, decision, reward)
        return metrics

    def _learn(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        action = decision.action
        error = reward - float(decision.mean[action])
        self.trainer.link.add_error(error)
        output = int(_outputs(obs)[action])
        metrics, slot = self.trainer.observe(chosen_image(obs, action), reward, output)
        self.history.rewarded(decision.round, slot)
        if self.detector is not None:
            metrics["drift/reset"] = float(self.detector.add(error))
            if metrics["drift/reset"]:
                self.trainer.forget_history()
                self.history.forget(self.rounds)
        metrics |= self.history.refresh(self.rounds)
        return metrics | self.state_of_knowledge()

    def state_of_knowledge(self) -> dict[str, float]:
        """Noise and covariance, as metrics."""
        log_det, ridge = self.covariance.log_det, self.covariance.ridge
        gained = math.log1p(max(self.covariance.count, 1) / ridge)
        return {
            "score/noise": self.trainer.link.width_scale,
            "covariance/log_det": log_det,
            "covariance/effective_dimension": log_det / gained,
        }

    def save_adapter(self, folder: Path) -> None:
        """Write the adapters for `peft.PeftModel.from_pretrained`; see `save_adapters`."""
        is_changed = has_changed_base(self.trainer.optimizer)
        save_adapters(self.trainer.model.backbone, folder, is_base_changed=is_changed)

    def state_dict(self) -> State:
        """Trainer, feature history, detector, counter and generator."""
        return {
            "trainer": self.trainer.state_dict(),
            "history": self.history.state_dict(),
            "detector": None if self.detector is None else self.detector.state_dict(),
            "rounds": self.rounds,
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.trainer.load_state_dict(state["trainer"])
        self.history.load_state_dict(state["history"])
        if self.detector is not None:
            self.detector.load_state_dict(state["detector"])
        self.rounds = int(state["rounds"])
        self.rng.bit_generator.state = state["rng"]


def _arm_images(obs: Observation) -> list[NDArray[np.uint8]]:
    """An image for every arm; the context's again and again where arms share it."""
    if is_image_context(obs):
        return [obs["images"][0]] * len(obs["action_mask"])
    return list(obs["images"])


def _outputs(obs: Observation) -> NDArray[np.int64]:
    """Which output of the model scores each arm, (K,)."""
    arms = len(obs["action_mask"])
    return np.arange(arms) if is_image_context(obs) else np.zeros(arms, np.int64)


def _count_parameters(model: RewardModel, tracked: int) -> dict[str, int]:
    """Adapted tensors and layers, trainable parameters and features in the covariance."""
    pairs = lora_pairs(model)
    counts = {
        "adapted_layers": len(pairs),
        "adapted_tensors": 2 * len(pairs),
        "adapter_parameters": sum(pair.A.numel() + pair.B.numel() for pair in pairs),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "tracked_features": tracked,
    }
    _logger.info("vit-ucb: %s", counts)
    return counts
