"""Builds `vit-ucb` from its settings: backbone, adapters, head, features, covariance, trainer."""

from __future__ import annotations

import inspect
from typing import Any

import gymnasium as gym

from vitucb.agents.context import images_per_round, num_label_actions
from vitucb.agents.expert_build import build_experts, experts_for
from vitucb.agents.options import check_optimizer_options, refuse_options
from vitucb.agents.ridges import covariance_ridge, head_ridge
from vitucb.agents.vit_ucb import ViTUCB
from vitucb.config import AgentConfig, OptimizerConfig
from vitucb.covariance import FeatureCovariance
from vitucb.covariance.factory import configured_covariance
from vitucb.covariance.grouped import GroupedCovariance
from vitucb.covariance.projected import ProjectedCovariance
from vitucb.learning.change_detection import ChangeDetector
from vitucb.learning.feature_history import FeatureHistory
from vitucb.learning.feature_maps import FeatureMap, FeatureScale, GradientMap, LastLayerMap
from vitucb.learning.links import LINKS
from vitucb.learning.logistic_head import LogisticHead
from vitucb.learning.refresh import RefreshSettings
from vitucb.learning.replay import Replay
from vitucb.learning.ridge_head import RidgeHead
from vitucb.learning.trainer import OnlineTrainer
from vitucb.models.backbone import create_backbone
from vitucb.models.frozen_prefix import PrefixCache, make_prefix_cache
from vitucb.models.lora import add_lora, lora_pairs
from vitucb.models.preprocess import Preprocess, preprocess_for
from vitucb.models.processor import frozen_dtype
from vitucb.models.reward_model import RewardModel
from vitucb.optim import OPTIMIZERS, create_optimizer
from vitucb.policies import make_policy
from vitucb.registry import lookup
from vitucb.seeding import numpy_generator, stream_seed
from vitucb.types import Agent


def build(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Agent:
    """Factory of `vit-ucb`: the experts of its family or those named; `adapted` alone is ViTUCB.

    Raises:
        ValueError: If a name or a setting of `config` is not usable.
    """
    if config.experts == ("adapted",):
        return build_alone(config, env, seed, device)
    refuse_options(config)
    return build_experts(config, env, seed, device, experts_for(config, env))


def build_alone(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> ViTUCB:
    """The adapted network alone, with the covariance of its own features.

    Raises:
        ValueError: If a name or a setting of `config` is not usable.
    """
    refuse_options(config)
    backbone = create_backbone(config.backbone, weights=config.weights, img_size=config.img_size)
    preprocess = preprocess_for(backbone, device)
    num_features = int(backbone.num_features)  # type: ignore[arg-type]  # timm sets an int
    lora = config.lora.of_adapters()
    adapted = add_lora(backbone, **lora, seed=stream_seed(seed, "adapters"))
    outputs = num_label_actions(env) or 1
    model = RewardModel(
        adapted, num_features, num_outputs=outputs, seed=stream_seed(seed, "head")
    ).to(device)
    model.precision = frozen_dtype(config.precision, device)
    prefix = make_prefix_cache(
        model.backbone,
        preprocess,
        preprocess.size,
        limit_mib=config.prefix_cache_mib,
        arms=images_per_round(env),
    )
    features, covariance = _features(config, model, covariance_ridge(config, env), seed)
    trainer = _trainer(config, model, preprocess, prefix, head_ridge(config, env), seed)
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


def _features(
    config: AgentConfig, model: RewardModel, ridge: float, seed: int
) -> tuple[FeatureMap, FeatureCovariance]:
    """The feature map and the covariance it feeds, one group or two."""

    def covariance(dim: int) -> FeatureCovariance:
        return configured_covariance(
            config.covariance, dim, ridge=ridge, seed=stream_seed(seed, "covariance")
        )

    last_layer = LastLayerMap(model)
    if config.features == "last-layer":
        return last_layer, covariance(last_layer.dims[0])
    tracked = sum(pair.A.numel() + pair.B.numel() for pair in lora_pairs(model))
    of_gradients = covariance(tracked)
    projection = None
    # Of two groups the covariance takes the features as they are, and projects by itself.
    if config.features == "lora-gradient" and isinstance(of_gradients, ProjectedCovariance):
        projection = of_gradients.projection
    features = GradientMap(
        model,
        fixed_readout=config.readout == "prior",
        projection=projection,
        with_last_layer=config.features == "both",
    )
    if features.gradients.dim != tracked:
        raise RuntimeError(f"{features.gradients.dim} features of {tracked} adapter parameters")
    if config.features == "lora-gradient":
        return features, of_gradients
    groups = {"adapters": of_gradients, "head": covariance(last_layer.dims[0])}
    return features, GroupedCovariance(groups)


def _optimizer_options(config: OptimizerConfig, seed: int) -> dict[str, Any]:
    """The options asked for; an optimizer that draws and was given no seed follows the run's."""
    check_optimizer_options(config)
    builder = lookup("optimizer", config.name, OPTIMIZERS)
    if "seed" not in inspect.signature(builder).parameters:
        return config.options
    return {"seed": stream_seed(seed, "optimizer"), **config.options}


def _trainer(
    config: AgentConfig,
    model: RewardModel,
    preprocess: Preprocess,
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
        lr=config.optimizer.lr_alone,
        other_params=[*others, *(model.head.parameters() if by_gradient else ())],
        other_lr=config.optimizer.head_lr if by_gradient else config.optimizer.lr_alone,
        **_optimizer_options(config.optimizer, seed),
    )
    if getattr(optimizer, "needs_closures", False):
        raise ValueError(
            f"agent.optimizer.options {config.optimizer.options}: these ask for gradients of the "
            "whole replay, and agent.experts adapted alone trains on one batch, for which it "
            "solves the head; name another expert too, e.g. agent.experts [linear, adapted], or "
            "choose estimator sgd of bernoulli-lora, data steps of rac-lora"
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
        prefix=prefix,
    )
