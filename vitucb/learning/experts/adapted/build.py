"""Builds the `adapted` expert: adapters on a backbone, head, optimizer, replay, widths."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from vitucb.config.lora import DATA_INITS, LoRAConfig
from vitucb.covariance import FeatureCovariance, make_covariance
from vitucb.learning.experts.adapted.augmentation import ImageCopies
from vitucb.learning.experts.adapted.expert import AdaptedExpert
from vitucb.learning.experts.adapted.finite_sum import FiniteSumNetwork, check_finite_sum
from vitucb.learning.experts.adapted.likelihoods import LIKELIHOODS
from vitucb.learning.experts.adapted.network import AdaptedNetwork
from vitucb.learning.experts.adapted.output_widths import OutputWidths
from vitucb.learning.experts.adapted.rates import online_options, online_rate
from vitucb.learning.experts.adapted.settings import AdaptedSettings
from vitucb.learning.experts.adapted.started import StartedExpert, StartedNetwork
from vitucb.learning.experts.adapted.views import find_patch_dropout
from vitucb.learning.replay import Replay
from vitucb.models.activation_cache import noise_images, steady_batch
from vitucb.models.frozen_prefix import FrozenPrefix
from vitucb.models.lora import add_lora, lora_pairs
from vitucb.models.preprocess import Preprocess
from vitucb.models.reward_model import RewardModel
from vitucb.optim import OPTIMIZERS, create_optimizer
from vitucb.optim.factory import changes_base
from vitucb.registry import lookup
from vitucb.seeding import numpy_generator, stream_seed

_RANK = 8
_HEAD_LR = 3e-3
_HEAD_DECAY = 1e-4
# AdamW's second moments forget within 100 steps, as the batches of a growing history do.
_HEAD_BETAS = (0.9, 0.99)
# Past this many features of one output a p x p matrix for each costs more than a sketch.
_DENSE_FEATURES = 1_024
_LARGEST_TOKEN = torch.finfo(torch.float16).max


def build_adapted_expert(
    backbone: nn.Module,
    preprocess: Preprocess,
    *,
    num_labels: int | None,
    num_images: int = 1,
    seed: int = 0,
    settings: AdaptedSettings | None = None,
    likelihood: str | None = None,
    optimizer: str = "adamw",
    lr: float | None = None,
    head_lr: float = _HEAD_LR,
    optimizer_options: Mapping[str, Any] | None = None,
    lora: LoRAConfig | None = None,
    augment: str = "shift",
    patch_drop_rate: float | None = None,
    ridge: float | None = None,
    covariance: str | None = None,
    replay_capacity: int = 20_000,
    cache_mib: int = 256,
    precision: torch.dtype | None = None,
) -> AdaptedExpert:
    """The expert on `backbone`, which becomes part of it.

    Args:
        backbone: A timm vision transformer on its device; nobody else may use it.
        preprocess: Makes its input of an image.
        num_labels: K where one image is shared by K labels, None where every arm has its image.
        num_images: How many images a round brings at most.
        seed: Of all chance.
        settings: How the expert learns; the defaults if None.
        likelihood: One of `LIKELIHOODS`; softmax for labels, else squared, if None.
        optimizer: As in `create_optimizer`.
        lr: Its rate; its own of `vitucb.optim.table`, less in large networks, if None.
        head_lr: Rate of the head, which AdamW steps.
        optimizer_options: Further options of the optimizer, added to its own defaults.
        lora: The adapters; of rank 8 and scale 2 on all layers if None.
        augment: As in `ImageCopies`.
        patch_drop_rate: As in `find_patch_dropout`.
        ridge: Of the covariance of the widths; 0.1 for labels, else 1, if None.
        covariance: As in `make_covariance`; if None `dense`, or past 1,024 features `low-rank`.
        replay_capacity: Chosen images kept.
        cache_mib: Memory for tokens of images, MiB.
        precision: Type of the products with frozen weights in training; None means their own.

    Raises:
        ValueError: If a name or a value is not usable.
    """
    settings = settings or AdaptedSettings()
    outputs = num_labels or 1
    name = likelihood or ("softmax" if num_labels else "squared")
    if name not in LIKELIHOODS:
        raise ValueError(f"unknown likelihood {name!r}; known: {', '.join(LIKELIHOODS)}")
    if name == "softmax" and outputs == 1:
        raise ValueError("likelihood 'softmax' is one of labels that share an image; use 'squared'")
    dim = int(backbone.num_features)  # type: ignore[arg-type]  # timm sets an int
    lora = lora or LoRAConfig()
    lora = replace(lora, rank=lora.rank or _RANK)
    start = lora.init if lora.init in DATA_INITS else None
    if start is not None:
        settings = _waiting(settings, lora, replay_capacity)
        lora = replace(lora, init="default")
    model = RewardModel(
        add_lora(backbone, **lora.of_adapters(), seed=stream_seed(seed, "adapters")),
        dim,
        num_outputs=outputs,
    ).to(preprocess.mean.device)
    model.precision = precision
    steps = _optimizer(model, optimizer, lr, head_lr, optimizer_options or {}, seed)
    replay = Replay(
        replay_capacity,
        numpy_generator(seed, "replay"),
        "reservoir" if settings.discount == 1 else "window",
    )
    copies = _copies(model, preprocess, augment, cache_mib, num_images)
    patch_dropout = find_patch_dropout(model, patch_drop_rate)
    is_base_changed = changes_base(optimizer, optimizer_options or {})
    ridge = ridge if ridge is not None else (0.1 if num_labels else 1.0)

    def empty(features: int) -> FeatureCovariance:
        small = "dense" if settings.discount == 1 else "discounted"
        default = small if features <= _DENSE_FEATURES else "low-rank"
        seeds = stream_seed(seed, "widths")
        return make_covariance(covariance or default, features, ridge=ridge, seed=seeds)

    widths = OutputWidths(empty, dim, 0 if settings.width == "none" else outputs, settings.discount)
    batches = numpy_generator(seed, "batches")
    parts = (LIKELIHOODS[name](), replay, widths, settings, batches)
    if start is not None:
        if is_base_changed:
            raise ValueError(
                f"agent.lora.init {start!r}: optimizer {optimizer} merges into base weights and "
                "starts factors anew, so that this start would be lost; use init default, or "
                "another optimizer"
            )
        started = StartedNetwork(
            model,
            copies,
            steps,
            start=start,
            seed=stream_seed(seed, "start"),
            patch_dropout=patch_dropout,
        )
        return StartedExpert(started, *parts, samples=lora.init_samples)
    if getattr(steps, "needs_closures", False):
        check_finite_sum(steps, settings, patch_drop_rate or 0.0)
        terms = numpy_generator(seed, "terms")
        network: AdaptedNetwork = FiniteSumNetwork(model, copies, steps, replay=replay, rng=terms)
    else:
        network = AdaptedNetwork(
            model, copies, steps, changes_base=is_base_changed, patch_dropout=patch_dropout
        )
    return AdaptedExpert(network, *parts)


def _waiting(settings: AdaptedSettings, lora: LoRAConfig, capacity: int) -> AdaptedSettings:
    """Settings under which training waits for the rewards that the start is taken from.

    Raises:
        ValueError: If there can never be as many, or they are fewer than the rank.
    """
    if not (lora.rank or 0) <= lora.init_samples <= capacity:
        raise ValueError(
            f"agent.lora.init_samples {lora.init_samples}: the start {lora.init} needs no less "
            f"than agent.lora.rank ({lora.rank}) and no more than agent.training.replay_capacity "
            f"({capacity})"
        )
    begin = max(settings.schedule.start, lora.init_samples)
    return replace(settings, schedule=replace(settings.schedule, start=begin))


def _optimizer(
    model: RewardModel,
    name: str,
    lr: float | None,
    head_lr: float,
    options: Mapping[str, Any],
    seed: int,
) -> Optimizer:
    """The optimizer at its own rate and with its own options, unless others are given."""
    builder = lookup("optimizer", name, OPTIMIZERS)
    if options.get("distributed") and hasattr(builder, "step_on"):
        raise ValueError(
            "agent.optimizer.options distributed: the processes of a run share one replay, of "
            "which clients are shards; leave it off"
        )
    merged = online_options(name, options)
    if "seed" in inspect.signature(builder).parameters:
        merged.setdefault("seed", stream_seed(seed, "optimizer"))
    pairs = lora_pairs(model)
    paired = {id(factor) for pair in pairs for factor in (pair.A, pair.B)}
    # What adapters train besides their two factors, e.g. the magnitudes of DoRA.
    others = [p for p in model.backbone.parameters() if p.requires_grad and id(p) not in paired]
    rate = lr
    if rate is None:
        rate = online_rate(name, len(pairs), model.head.in_features, len(pairs[0].A))
    optimizer = create_optimizer(name, model, lr=rate, other_params=others, other_lr=rate, **merged)
    head = {
        "params": list(model.head.parameters()),
        "lr": head_lr,
        "betas": _HEAD_BETAS,
        "weight_decay": _HEAD_DECAY,
    }
    optimizer.add_param_group(head)
    return optimizer


def _copies(
    model: RewardModel, preprocess: Preprocess, augment: str, cache_mib: int, num_images: int
) -> ImageCopies:
    """Tokens of images by the part of `model` before its first adapter, or inputs as they are."""
    images = noise_images(model, preprocess.size)
    try:
        prefix = FrozenPrefix(model.backbone, images[:2])
    except ValueError:
        return ImageCopies(
            lambda inputs: inputs, preprocess, preprocess.size, augment=augment, limit_bytes=0
        )
    model.prefix = prefix

    def make(inputs: torch.Tensor) -> torch.Tensor:
        # Tokens are near 1, and three digits are more than a frozen stem is worth: half the memory.
        # The few backbones with larger ones than it holds would train on infinities.
        return prefix.before(inputs).clamp(-_LARGEST_TOKEN, _LARGEST_TOKEN).half()

    return ImageCopies(
        make,
        preprocess,
        preprocess.size,
        augment=augment,
        limit_bytes=cache_mib << 20,
        batch=steady_batch(make, images, num_images),
    )
