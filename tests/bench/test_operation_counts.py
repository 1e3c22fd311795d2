"""A scoring pass and a training step stay as small as they are, in operations and in bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from vitucb.adapted_layers import FastAdapters
from vitucb.adapters import lora_pairs
from vitucb.bench.optimizers import CountOperations
from vitucb.bench.scoring import make_images, make_model
from vitucb.frozen_prefix import FrozenPrefix
from vitucb.gradient_features import LoRAGradientFeatures
from vitucb.reward_model import RewardModel

MIB = 2**20


@pytest.fixture(scope="module")
def model() -> RewardModel:
    model = make_model("vitucb-nano", None)
    model.prefix = FrozenPrefix(model.backbone, make_images(None)[:2])
    return model


def counted(call: Callable[[], object]) -> CountOperations:
    call()  # compares with autograd the first time
    counter = CountOperations()
    with counter:
        call()
    return counter


def tokens(model: RewardModel) -> torch.Tensor:
    assert model.prefix is not None
    return model.prefix.before(make_images(None))


def test_scoring_pass(model: RewardModel) -> None:
    features, inputs = LoRAGradientFeatures(model), tokens(model)
    phi = torch.empty(len(inputs), features.dim)
    counter = counted(lambda: features(inputs, out=phi))
    # 13 for each of the 16 layers; norms, attention, GELU and residuals of 4 blocks; pooling.
    assert counter.count <= 300
    assert counter.bytes <= 37 * MIB


def test_training_step(model: RewardModel) -> None:
    fast, inputs = FastAdapters(model, lora_pairs(model)), tokens(model)
    counter = counted(lambda: torch.autograd.backward(fast(model.features, inputs).square().sum()))
    assert counter.count <= 300
    assert counter.bytes <= 37 * MIB


def test_own_layers_take_less_than_those_of_peft(model: RewardModel) -> None:
    fast, inputs = FastAdapters(model, lora_pairs(model)), tokens(model)
    ours = counted(lambda: torch.autograd.backward(fast(model.features, inputs).square().sum()))
    pefts = counted(lambda: torch.autograd.backward(model.features(inputs).square().sum()))
    assert ours.count < 0.9 * pefts.count
    assert ours.bytes < 0.7 * pefts.bytes


def test_tokens_spare_the_stem(model: RewardModel) -> None:
    inputs, images = tokens(model), make_images(None)
    with torch.no_grad():
        from_tokens = counted(lambda: model.features(inputs))
        from_images = counted(lambda: model.features(images))
    assert from_tokens.count < from_images.count - 8
