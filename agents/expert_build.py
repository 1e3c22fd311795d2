"""Building the experts of an agent by name, and the agent that mixes them."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import gymnasium as gym

from vitucb.agents.baselines.frozen_features import build_frozen_features
from vitucb.agents.context import (
    images_per_round,
    num_context_items,
    num_label_actions,
    require_image_arms,
)
from vitucb.agents.expert_agent import ExpertAgent
from vitucb.agents.options import check_optimizer_options, read_options
from vitucb.agents.ridges import head_ridge
from vitucb.agents.table import EXPERTS
from vitucb.config import AgentConfig, LoRAConfig, OptimizerConfig
from vitucb.covariance import COVARIANCES
from vitucb.learning.experts.adapted.build import build_adapted_expert
from vitucb.learning.experts.adapted.expert import AdaptedExpert
from vitucb.learning.experts.adapted.settings import AdaptedSettings
from vitucb.learning.experts.expert import Expert
from vitucb.learning.experts.kernel.context import ContextKernelExpert
from vitucb.learning.experts.kernel.expert import KernelExpert
from vitucb.learning.experts.kernel.label_kernel import KernelInputs
from vitucb.learning.experts.label_inputs import LabelInputs
from vitucb.learning.experts.linear import LinearExpert
from vitucb.learning.experts.softmax import LabelExpert
from vitucb.learning.experts.weights import WeightRule
from vitucb.models.backbone import create_backbone
from vitucb.models.preprocess import preprocess_for
from vitucb.models.processor import frozen_dtype
from vitucb.optim import OPTIMIZERS
from vitucb.policies import make_policy
from vitucb.registry import lookup

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExpertContext:
    """What an expert is built from.

    Attributes:
        config: Settings of the agent.
        env: The environment, for its spaces.
        seed: Seed of its every source of chance.
        device: Torch device.
        num_features: Number of frozen features d.
        is_alone: Whether it is the only expert.
    """

    config: AgentConfig
    env: gym.Env[Any, Any]
    seed: int
    device: str
    num_features: int
    is_alone: bool = True


@dataclass(frozen=True, slots=True)
class KernelOptions:
    """Settings of `kernel-ucb` alone.

    Attributes:
        coarse_alpha: Multiplier of the deviation of constant and coarse part.
        fine_alpha: Multiplier of the deviation of the fine part.
    """

    coarse_alpha: float = 2.0
    fine_alpha: float = 0.5


ExpertFactory: TypeAlias = Callable[[ExpertContext], Expert]

# Mixed with softmax, alpha 0.6 on the width of linear; from 0.3 to 1 regret hardly differs (MNIST
# training images, T = 5,000: 238, 239, 237).
_MIXED_ALPHA = 2.0

# L2 penalties of heads, in observations. On kernel features of tuning images 10 had less regret
# than 30 and 3 (digits, T = 600: 83, 88, 94; MNIST, T = 700: 86, 98, 97).
_DECAY, _KERNEL_DECAY = 30.0, 10.0

_OF_LABELS = ("linear", "softmax", "kernel-softmax", "adapted")
# With an image per arm `adapted` costs a multiple of a round, and regret was no lower
# (docs/results/experts.md).
_OF_IMAGE_ARMS = ("kernel", "linear")


# From fewer rewards a ridge on some 200 features expects what the last ones happened to be. Regret
# at T = 1,000 when it is asked from the first reward on and from the 20th on, tuning seeds: digits,
# 15 seeds, 38.3 and 36.9; N(class, 9), 12 seeds, 510 and 352.
_LINEAR_STARTS_AFTER = 20


def experts_for(config: AgentConfig, env: gym.Env[Any, Any]) -> tuple[str, ...]:
    """`agent.experts`, or what stands for it: by whether the arms of `env` share one image."""
    if config.experts is not None:
        return config.experts
    return _OF_IMAGE_ARMS if num_label_actions(env) is None else _OF_LABELS


def build_experts(
    config: AgentConfig,
    env: gym.Env[Any, Any],
    seed: int,
    device: str,
    experts: Sequence[str],
    rule: WeightRule | None = None,
) -> ExpertAgent:
    """The agent that mixes `experts`, names of `EXPERTS` or import paths `module:factory`.

    Raises:
        ValueError: If a name is unknown or given twice, or a setting is not usable.
    """
    if not experts or len(set(experts)) < len(experts):
        raise ValueError(
            f"agent.experts {', '.join(experts) or 'none'}: name at least one, each once"
        )
    if config.name == "vit-ucb" and "adapted" not in experts:
        _check_unused(config, experts)
    frozen = build_frozen_features(config, env, device)
    context = ExpertContext(config, env, seed, device, frozen.dim, is_alone=len(experts) == 1)
    paths = {name: path for name, (path, _) in EXPERTS.items()}
    made: dict[str, Expert] = {name: lookup("expert", name, paths)(context) for name in experts}
    for name, expert in made.items():
        if not isinstance(expert, Expert):
            raise ValueError(
                f"agent.experts {name!r} made a {type(expert).__name__}, no expert: give it the "
                "methods of vitucb.learning.experts.expert.Expert"
            )
    agent = ExpertAgent(
        frozen,
        made,
        # Every expert multiplies its own width.
        make_policy(dataclasses.replace(config.policy, alpha=1.0)),
        seed=seed,
        rule=rule,
        is_discounted=config.training.discount < 1,
    )
    if any(isinstance(expert, ContextKernelExpert) for expert in made.values()):
        agent.tied_to = (
            "the ids of items and creatives (play with env.options context_ids false to save it)"
        )
    return agent


def _check_unused(config: AgentConfig, experts: Sequence[str]) -> None:
    """Say that settings of training have no effect, and refuse those that nobody could use."""
    check_optimizer_options(config.optimizer)
    lookup("optimizer", config.optimizer.name, OPTIMIZERS)
    lookup("covariance", config.covariance.name, COVARIANCES)
    sections = {"lora": LoRAConfig(), "optimizer": OptimizerConfig()}
    unused = [f"agent.{name}" for name, own in sections.items() if getattr(config, name) != own]
    if unused:
        _logger.warning(
            "the experts %s train no network, so setting %s has no effect; add adapted to "
            "agent.experts",
            ", ".join(experts),
            " and ".join(unused),
        )


def build_linear(context: ExpertContext) -> LinearExpert:
    """Factory of `linear`: the model of `lin-ucb`, with twice its multiplier in company."""
    config, num_labels = context.config, num_label_actions(context.env)
    return LinearExpert(
        context.num_features,
        num_blocks=num_labels or 1,
        ridge=head_ridge(config, context.env),
        alpha=config.policy.alpha * (1.0 if context.is_alone else _MIXED_ALPHA),
        discount=config.training.discount,
        starts_after=0 if num_labels else _LINEAR_STARTS_AFTER,
    )


def build_softmax(context: ExpertContext) -> LabelExpert:
    """Factory of `softmax`: exactly one label is right.

    Raises:
        ValueError: If every arm has an image of its own.
    """
    return _label_expert(context, "softmax", "softmax")


def build_kernel_softmax(context: ExpertContext) -> LabelExpert:
    """Factory of `kernel-softmax`: `softmax` on features of the kernel of images offered.

    Raises:
        ValueError: If every arm has an image of its own.
    """
    kernel = KernelInputs(context.seed)
    return _label_expert(context, "kernel-softmax", "softmax", kernel, _KERNEL_DECAY)


def build_logistic(context: ExpertContext) -> LabelExpert:
    """Factory of `logistic`: every label by itself.

    Raises:
        ValueError: If every arm has an image of its own.
    """
    return _label_expert(context, "logistic", "logistic")


def build_kernel(context: ExpertContext) -> KernelExpert:
    """Factory of `kernel`: a Gaussian process on frozen features, and on ids where there are any.

    Raises:
        ValueError: If the arms share one image.
    """
    require_image_arms(context.env, "kernel")
    options = KernelOptions()
    if context.config.name == "kernel-ucb":
        options = read_options(options, context.config)
    num_items = num_context_items(context.env)
    make: Callable[..., KernelExpert] = KernelExpert
    if num_items is not None:
        make = functools.partial(ContextKernelExpert, num_items=num_items)
    return make(
        context.seed,
        coarse_alpha=options.coarse_alpha,
        fine_alpha=options.fine_alpha,
        discount=context.config.training.discount,
    )


def build_adapted(context: ExpertContext) -> AdaptedExpert:
    """Factory of `adapted`: the LoRA network trained online, at the optimizer's own rate."""
    config, optimizer = context.config, context.config.optimizer
    check_optimizer_options(optimizer)
    backbone = create_backbone(config.backbone, weights=config.weights, img_size=config.img_size)
    return build_adapted_expert(
        backbone.to(context.device),
        preprocess_for(backbone, context.device),
        num_labels=num_label_actions(context.env),
        num_images=images_per_round(context.env),
        seed=context.seed,
        settings=AdaptedSettings(
            discount=config.training.discount, batch_size=config.training.batch_size
        ),
        optimizer=optimizer.name,
        lr=optimizer.lr,
        optimizer_options=optimizer.options,
        lora=config.lora,
        augment=config.training.augment,
        patch_drop_rate=config.training.patch_drop_rate,
        # `exact` in few dimensions is dense, and in many its place is a sketch's.
        covariance=None if config.covariance.name == "exact" else config.covariance.name,
        replay_capacity=config.training.replay_capacity,
        cache_mib=config.prefix_cache_mib,
        precision=frozen_dtype(config.precision, context.device),
    )


def build_kernel_ucb(
    config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str
) -> ExpertAgent:
    """Factory of `kernel-ucb`: the expert `kernel` alone.

    Raises:
        ValueError: If a setting is not usable, or the arms of `env` share one image.
    """
    require_image_arms(env, config.name)
    return build_experts(config, env, seed, device, ("kernel",))


def _label_expert(
    context: ExpertContext,
    name: str,
    likelihood: Literal["softmax", "logistic"],
    inputs: LabelInputs | None = None,
    decay: float = _DECAY,
) -> LabelExpert:
    num_labels = num_label_actions(context.env)
    if num_labels is None:
        raise ValueError(
            f"expert {name!r} is for one image with K labels; every arm of this environment "
            "has an image of its own: leave it out"
        )
    return LabelExpert(
        context.num_features,
        num_labels,
        likelihood=likelihood,
        inputs=inputs,
        decay=decay,
        discount=context.config.training.discount,
        capacity=context.config.training.replay_capacity,
        seed=context.seed,
    )
