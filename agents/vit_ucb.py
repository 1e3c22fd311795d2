"""ViT-UCB: a LoRA ViT that learns online, with a bonus from the covariance of its LoRA gradients.

One round: one batched forward and one batched backward give the score and the gradient feature of
every arm; the policy adds the confidence width; the chosen arm's feature enters the covariance at
once; its image and reward enter the replay when the reward comes; a few optimizer steps follow. The
adapters move, so the features in the covariance go stale: they are computed anew when the history
has doubled or when they have moved.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitucb.adapters import add_lora, lora_pairs
from vitucb.agents.feature_agent import (
    chosen_image,
    covariance_ridge,
    head_ridge,
    is_image_context,
    num_label_actions,
)
from vitucb.agents.options import refuse_options
from vitucb.backbone import Preprocess, create_backbone, preprocess_for
from vitucb.change_detection import ChangeDetector
from vitucb.config import AgentConfig, PolicyConfig
from vitucb.covariance import FeatureCovariance, make_covariance, oful_radius
from vitucb.covariance.grouped import GroupedCovariance
from vitucb.covariance.projected import ProjectedCovariance
from vitucb.feature_history import Chosen, FeatureHistory, RefreshSettings
from vitucb.feature_maps import FeatureMap, FeatureScale, GradientMap, LastLayerMap
from vitucb.frozen_prefix import PrefixCache, make_prefix_cache
from vitucb.links import LINKS
from vitucb.logistic_head import LogisticHead
from vitucb.optim import create_optimizer
from vitucb.policies import Array, Choice, Policy, choose, make_policy
from vitucb.replay import Replay
from vitucb.reward_model import RewardModel
from vitucb.ridge_head import RidgeHead
from vitucb.saved_agent import Savable
from vitucb.seeding import numpy_generator, stream_seed
from vitucb.trainer import OnlineTrainer
from vitucb.types import Decision, Observation, State

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

    def select_action(self, obs: Observation) -> Decision:
        """Score all arms at once, choose, and count the choice in the covariance."""
        return self.select_actions([obs])[0]

    def select_actions(self, observations: Sequence[Observation]) -> list[Decision]:
        """Choose for several contexts with one pass of the model.

        Every choice counts in the covariance before the next one is made, so that a batch does not
        explore the same thing again and again.
        """
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

    def probabilities(self, obs: Observation) -> Array:
        """Probability of choosing each arm now, float64 (K,); changes nothing.

        Raises:
            ValueError: If the policy does not tell them.
        """
        generator = self.rng.bit_generator.state
        before = self.covariance.state_dict() if self.history.is_discounted else None
        self.trainer.model.eval()
        scores, phi = self.history.score(_arm_images(obs), _outputs(obs))
        self.history.decay()
        score, phi = scores.double().cpu().numpy(), self.history.preview(phi)
        choice = self._choose(score, phi, obs["action_mask"])[-1]
        if before is not None:
            self.covariance.load_state_dict(before)
        self.rng.bit_generator.state = generator
        if choice.probabilities is None:
            raise ValueError(
                "the policy tells no probabilities; give its Choice `probabilities`, float64 (K,)"
            )
        return choice.probabilities

    def _decide(self, obs: Observation, scores: Tensor, phi: Tensor) -> Decision:
        self.history.decay()
        score = scores.double().cpu().numpy()
        mean, width, choice = self._choose(score, phi, obs["action_mask"])
        action, output = choice.action, int(_outputs(obs)[choice.action])
        weight = float(self.trainer.link.weight(score)[action])
        image = chosen_image(obs, action)
        self.history.choose(action, weight, self.rounds, image, output)
        if self.on_choice is not None:
            self.on_choice(Chosen(self.rounds, phi[action], weight, image, output))
        self.rounds += 1
        return Decision(
            action=action,
            propensity=choice.propensity,
            mean=mean,
            width=width,
            phi=phi[action],
            round=self.rounds - 1,
            bonus=choice.bonus,
        )

    def _choose(
        self, score: Array, phi: Tensor, mask: NDArray[np.int8]
    ) -> tuple[Array, Array, Choice]:
        """Means and widths in reward units (K,), and the choice."""
        unit = self._width_unit()
        width = unit * self.covariance.width(phi).cpu().numpy()
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
        return mean, reward_width, choice

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

    def update_batch(
        self, feedback: Sequence[tuple[Observation, Decision, float]]
    ) -> dict[str, float]:
        """Learn from several rewards; returns the metrics of the last."""
        metrics: dict[str, float] = {}
        for obs, decision, reward in feedback:
            metrics |= self._learn(obs, decision, reward)
        return metrics

    def _learn(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        action = decision.action
        error = reward - float(decision.mean[action])
        self.trainer.link.add_error(error)
        output = int(_outputs(obs)[action])
        metrics, slot = self.trainer.observe(chosen_image(obs, action), reward, output)
        self.history.rewarded(decision.round, slot)
        if self.trainer.fresh_rows is not None:
            self.history.replace(*self.trainer.fresh_rows)
            self.trainer.fresh_rows = None
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
        """Write the adapters so that `peft.PeftModel.from_pretrained` reads them."""
        self.trainer.model.backbone.save_pretrained(str(folder))  # type: ignore[operator]  # a PeftModel

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


def build(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> ViTUCB:
    """Factory of `vit-ucb`.

    Raises:
        ValueError: If a name or a setting of `config` is not usable.
    """
    refuse_options(config)
    _check(config)
    backbone = create_backbone(config.backbone, weights=config.weights, img_size=config.img_size)
    preprocess = preprocess_for(backbone, device)
    num_features = int(backbone.num_features)  # type: ignore[arg-type]  # timm sets an int
    lora = dataclasses.asdict(config.lora)
    adapted = add_lora(backbone, **lora, seed=stream_seed(seed, "adapters"))
    outputs = num_label_actions(env) or 1
    model = RewardModel(
        adapted, num_features, num_outputs=outputs, seed=stream_seed(seed, "head")
    ).to(device)
    model.precision = torch.bfloat16 if config.precision == "bfloat16" else None
    prefix = make_prefix_cache(
        model.backbone,
        preprocess,
        preprocess.size,
        limit_mib=config.prefix_cache_mib,
        arms=1 if num_label_actions(env) else int(env.action_space.n),  # type: ignore[attr-defined]
    )
    features, covariance = _features(config, model, covariance_ridge(config, env), seed)
    trainer = _trainer(config, model, preprocess, features, prefix, head_ridge(config, env), seed)
    history = FeatureHistory(
        features,
        covariance,
        FeatureScale(features.dims, is_centring=outputs == 1),
        trainer.replay,
        trainer.link,
        trainer.inputs,
        RefreshSettings(
            config.training.rebuild, config.training.drift_threshold, config.training.discount
        ),
    )
    return ViTUCB(
        trainer,
        history,
        make_policy(config.policy),
        config.policy,
        numpy_generator(seed, "policy"),
        ChangeDetector() if config.training.reset_on_drift else None,
    )


def _check(config: AgentConfig) -> None:
    if config.training.rebuild == "replay" and config.readout != "head":
        raise ValueError(
            "agent.training.rebuild replay takes rows from the pass that trains, which "
            "differentiates the live score; set agent.readout to head"
        )
    if config.training.rebuild == "replay" and config.features != "lora-gradient":
        raise ValueError(
            f"agent.training.rebuild replay needs agent.features lora-gradient, "
            f"not {config.features}"
        )


def _features(
    config: AgentConfig, model: RewardModel, ridge: float, seed: int
) -> tuple[FeatureMap, FeatureCovariance]:
    """The feature map and the covariance it feeds, one group or two."""

    def covariance(dim: int) -> FeatureCovariance:
        return make_covariance(
            config.covariance.name,
            dim,
            ridge=ridge,
            rank=config.covariance.rank,
            seed=stream_seed(seed, "covariance"),
        )

    last_layer = LastLayerMap(model)
    if config.features == "last-layer":
        return last_layer, covariance(last_layer.dims[0])
    tracked = sum(pair.A.numel() + pair.B.numel() for pair in lora_pairs(model))
    of_gradients = covariance(tracked)
    features = GradientMap(
        model,
        fixed_readout=config.readout == "prior",
        projection=(
            of_gradients.projection if isinstance(of_gradients, ProjectedCovariance) else None
        ),
        with_last_layer=config.features == "both",
    )
    if features.gradients.dim != tracked:
        raise RuntimeError(f"{features.gradients.dim} features of {tracked} adapter parameters")
    if config.features == "lora-gradient":
        return features, of_gradients
    groups = {"adapters": of_gradients, "head": covariance(last_layer.dims[0])}
    return features, GroupedCovariance(groups)


def _trainer(
    config: AgentConfig,
    model: RewardModel,
    preprocess: Preprocess,
    features: FeatureMap,
    prefix: PrefixCache | None,
    ridge: float,
    seed: int,
) -> OnlineTrainer:
    by_gradient = config.head == "gradient"
    paired = {id(factor) for pair in lora_pairs(model) for factor in (pair.A, pair.B)}
    # What adapters train besides their two factors, e.g. the magnitudes of DoRA.
    others = [p for p in model.backbone.parameters() if p.requires_grad and id(p) not in paired]
    optimizer = create_optimizer(
        config.optimizer.name,
        model,
        lr=config.optimizer.lr,
        other_params=[*others, *(model.head.parameters() if by_gradient else ())],
        other_lr=config.optimizer.head_lr if by_gradient else config.optimizer.lr,
        **config.optimizer.options,
    )
    solver = LogisticHead if config.link == "bernoulli" else RidgeHead
    training = config.training
    return OnlineTrainer(
        model=model,
        preprocess=preprocess,
        optimizer=optimizer,
        replay=Replay(training.replay_capacity, numpy_generator(seed, "replay"), training.replay),
        training=training,
        link=LINKS[config.link](),
        closed_form=None if by_gradient else solver(model.head, ridge),
        gradients=(
            features if training.rebuild == "replay" and isinstance(features, GradientMap) else None
        ),
        prefix=prefix,
    )
