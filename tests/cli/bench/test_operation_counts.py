"""A scoring pass and a training step stay as small as they are, in operations and in bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import vitucb
from vitucb.cli.bench.optimizers import CountOperations
from vitucb.cli.bench.scoring import make_images, make_model
from vitucb.config import EnvConfig
from vitucb.experiment.environments import make_env
from vitucb.learning.gradient_features import LoRAGradientFeatures
from vitucb.models.frozen_prefix import FrozenPrefix
from vitucb.models.lora import lora_pairs
from vitucb.models.lora_layers import FastAdapters
from vitucb.models.reward_model import RewardModel

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


class CountReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts values that Python reads off tensors; on an accelerator each waits for the device."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


# Not lora-plus: the step counters of torch's Adam are read too, but always live on the CPU.
@pytest.mark.parametrize("optimizer", ["sgd", "lora-rite"])
def test_a_round_waits_for_the_device_a_dozen_times(optimizer: str) -> None:
    env = make_env(EnvConfig(), 40)
    made = vitucb.make_agent("vit-ucb", env, experts=["adapted"], optimizer=optimizer, seed=0)
    rounds = vitucb.run(env, made, seed=0)
    for _ in range(20):
        next(rounds)
    counter = CountReads()  # type: ignore[no-untyped-call]
    with counter:
        for _ in range(10):
            next(rounds)
    assert counter.count <= 10 * 12
