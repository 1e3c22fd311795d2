"""Starts of adapters that are taken from data: what they are, when they are made, and resume."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitucb.config import LoRAConfig
from vitucb.config.lora import DATA_INITS
from vitucb.learning.experts.adapted.build import build_adapted_expert
from vitucb.learning.experts.adapted.likelihoods import softmax_bandit_loss
from vitucb.learning.experts.adapted.network import _HEAD_INPUT_NORM
from vitucb.learning.experts.adapted.schedule import Schedule
from vitucb.learning.experts.adapted.settings import AdaptedSettings
from vitucb.learning.experts.adapted.started import StartedExpert
from vitucb.learning.experts.adapted.starts import (
    DATA_STARTS,
    descent_factors,
    oriented_factors,
)
from vitucb.learning.experts.expert import Offer
from vitucb.models.lora import LoRAPair, lora_pairs
from vitucb.models.preprocess import Preprocess

SIDE, DIM, RANK, SAMPLES = 16, 12, 2, 12
NEAR = 0.02  # tokens are kept in half precision
PREPROCESS = Preprocess((SIDE, SIDE), (0.5,) * 3, (0.5,) * 3)
TAKEN_OUT = [name for name, start in DATA_STARTS.items() if start.is_taken_out]


def backbone() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        shape = {"img_size": SIDE, "patch_size": 8, "embed_dim": DIM, "num_heads": 2, "depth": 1}
        model: nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=0, **shape)
    return model.eval()


FROZEN = backbone()


def expert(
    init: str, labels: int | None = 2, samples: int = SAMPLES, **options: Any
) -> StartedExpert:
    lora = {"rank": RANK, "init": init, "init_samples": samples}
    learner = build_adapted_expert(
        backbone(),
        PREPROCESS,
        num_labels=labels,
        num_images=1 if labels else 3,
        seed=5,
        settings=AdaptedSettings(schedule=Schedule(start=8), read_every=4),
        lora=LoRAConfig(**lora | options.pop("lora", {})),
        **options,
    )
    assert isinstance(learner, StartedExpert)
    return learner


def offers(count: int, labels: int | None, seed: int) -> list[tuple[Offer, int]]:
    """Images that are brighter in red or blue, one or three of them, and the right choice."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(count):
        label = int(rng.integers(2))
        images = rng.integers(0, 128, (1 if labels else 3, SIDE, SIDE, 3), dtype=np.uint8)
        images[label if labels is None else 0, ..., 2 * label] += 60
        with torch.no_grad():
            h = nn.functional.normalize(FROZEN(PREPROCESS(images)).double())
        made.append((Offer(images, h, labels or 3), label))
    return made


def play(learner: StartedExpert, rounds: int, labels: int | None = 2, seed: int = 0) -> list[float]:
    """Choices by chance; what was expected of the right one."""
    rng, predicted = np.random.default_rng(seed + 50), []
    for offer, label in offers(rounds, labels, seed):
        predicted.append(float(learner.predict(offer).mean[label]))
        action = int(rng.integers(2))
        learner.choose(offer, action)
        learner.observe(offer, action, float(action == label), 0)
    return predicted


def pairs_of(learner: StartedExpert) -> list[LoRAPair]:
    return lora_pairs(learner.network.model)


def weight_of(model: nn.Module, name: str) -> Tensor:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer.weight


def weights_of(learner: StartedExpert) -> list[Tensor]:
    """W + s B A of every layer."""
    made = []
    for pair in pairs_of(learner):
        assert pair.base is not None
        made.append((pair.base + pair.scaling * pair.B @ pair.A).detach().clone())
    return made


def begun(init: str, rounds: int = SAMPLES, **options: Any) -> StartedExpert:
    """An expert with its start and without a step."""
    learner = expert(init, samples=rounds, **options)
    play(learner, rounds - 1)
    (offer, _), *_ = offers(1, 2, seed=9)
    learner.choose(offer, 0)
    learner.replay.add(offer.images[0], 1.0, 0)
    network = learner.network
    network.begin(learner._offered, learner.replay.items(slice(0, rounds)), learner._likelihood)  # type: ignore[attr-defined]  # a StartedNetwork
    return learner


def projector(rows: Tensor) -> Tensor:
    """Of the space that rows (r, n) span, (n, n)."""
    q = torch.linalg.qr(rows.double().mT)[0]
    product: Tensor = q @ q.mT
    return product


def shown(learner: StartedExpert) -> NDArray[np.uint8]:
    return np.stack(learner.replay.items(slice(None)).images)


def inputs_of(images: NDArray[np.uint8], names: list[str]) -> list[Tensor]:
    """What every layer of the frozen network gets for images, (n, in)."""
    seen: dict[str, Tensor] = {}
    for name in names:
        layer = FROZEN.get_submodule(name)

        def note(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
            seen[name] = args[0].flatten(0, -2).double()

        layer.register_forward_pre_hook(note)
    with torch.no_grad():
        FROZEN(PREPROCESS(images))
    for name in names:
        FROZEN.get_submodule(name)._forward_pre_hooks.clear()
    return [seen[name] for name in names]


def plain_names(learner: StartedExpert) -> list[str]:
    return [pair.name.split(".model.")[-1] for pair in pairs_of(learner)]


@pytest.mark.parametrize("rounds", [SAMPLES, 70])  # the latter in two chunks
def test_eva_spans_the_principal_directions_of_the_inputs(rounds: int) -> None:
    learner = begun("eva", rounds)
    for pair, x in zip(
        pairs_of(learner), inputs_of(shown(learner), plain_names(learner)), strict=True
    ):
        leading = torch.linalg.svd(x - x.mean(0))[2][:RANK]
        torch.testing.assert_close(
            projector(pair.A.detach()), projector(leading), rtol=0.0, atol=NEAR
        )
        assert not pair.B.any()


def test_corda_is_the_part_of_the_weight_that_matters_for_the_inputs() -> None:
    learner = begun("corda")
    for name, pair, x in zip(
        plain_names(learner),
        pairs_of(learner),
        inputs_of(shown(learner), plain_names(learner)),
        strict=True,
    ):
        weight = weight_of(FROZEN, name).detach()
        a, b = oriented_factors(weight, x.mT @ x, RANK, pair.scaling)
        torch.testing.assert_close((pair.B @ pair.A).double().detach(), b @ a, rtol=0.0, atol=NEAR)


def test_oriented_factors_are_the_best_of_their_rank_behind_the_moments() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 5, generator=generator)
    x = torch.randn(40, 5, generator=generator).double() * torch.tensor([9.0, 3, 1, 1, 1])
    moments = x.mT @ x
    c = moments / moments.diagonal().mean() + 0.01 * torch.eye(5)
    u, s, vh = torch.linalg.svd(weight.double() @ c)

    a, b = oriented_factors(weight, moments, 2, scaling=2.0)

    torch.testing.assert_close(2.0 * b @ a @ c, (u[:, :2] * s[:2]) @ vh[:2])
    other = oriented_factors(weight, 100 * moments, 2, scaling=2.0)
    torch.testing.assert_close(other, (a, b))


def gradients_of(learner: StartedExpert) -> list[Tensor]:
    """Of the frozen network's weights, behind the first step of a head of zeros, by autograd."""
    network, batch = learner.network, learner.replay.items(slice(None))
    scale = network.state_dict()["scale"] * _HEAD_INPUT_NORM
    model = backbone()
    actions, rewards = torch.as_tensor(batch.actions), torch.as_tensor(batch.rewards)

    def loss(head: Tensor, bias: Tensor) -> Tensor:
        h = model(PREPROCESS(np.stack(batch.images))) * scale
        return softmax_bandit_loss(h @ head.mT + bias, actions, rewards.to(h))

    zeros = [torch.zeros(2, DIM, requires_grad=True), torch.zeros(2, requires_grad=True)]
    first = torch.autograd.grad(loss(*zeros), zeros)
    head = [-network._rates[-1] * g.sign() for g in first]
    weights = [weight_of(model, name) for name in plain_names(learner)]
    return list(torch.autograd.grad(loss(*head), weights))


def test_lora_ga_spans_the_singular_vectors_of_the_gradient() -> None:
    learner = begun("lora_ga")
    for pair, gradient in zip(pairs_of(learner), gradients_of(learner), strict=True):
        u, _, vh = torch.linalg.svd(gradient.double())
        torch.testing.assert_close(
            projector(pair.A.detach()), projector(vh[:RANK]), rtol=0.0, atol=NEAR
        )
        left = u[:, RANK : 2 * RANK].mT
        torch.testing.assert_close(
            projector(pair.B.detach().mT), projector(left), rtol=0.0, atol=0.1
        )


@pytest.mark.parametrize("rounds", [SAMPLES, 70])
def test_lora_one_steps_along_the_negative_gradient(rounds: int) -> None:
    learner = begun("lora_one", rounds)
    for pair, gradient in zip(pairs_of(learner), gradients_of(learner), strict=True):
        u, s, vh = torch.linalg.svd(-gradient.double())
        step = (u[:, :RANK] * s[:RANK]) @ vh[:RANK] / (128 * s[0])
        torch.testing.assert_close(
            (pair.B @ pair.A).double().detach(), step, rtol=0.0, atol=0.02 / 128
        )


def test_directions_without_a_gradient_can_still_be_learnt() -> None:
    a, b = descent_factors(torch.zeros(4, 3), 2)
    assert not b.any()
    torch.testing.assert_close(a @ a.mT, torch.eye(2) / 128)
    gradient = torch.outer(torch.arange(1.0, 5.0), torch.tensor([1.0, 0.0, 0.0]))
    a, b = descent_factors(gradient, 2)
    torch.testing.assert_close(b @ a, -gradient / torch.linalg.matrix_norm(gradient, 2) / 128)
    assert (a.norm(dim=1) > 0.05).all()


@pytest.mark.parametrize("lora", [{}, {"use_rslora": True}, {"use_dora": True}], ids=str)
@pytest.mark.parametrize("init", DATA_INITS)
def test_the_function_at_the_start_is_that_of_the_backbone(init: str, lora: dict[str, Any]) -> None:
    learner = begun(init, lora=lora)
    images = PREPROCESS(shown(learner))
    with torch.no_grad():
        before, after = FROZEN(images), learner.network.model.features(images)
    if init == "lora_one":  # means to take a step
        for pair, weight in zip(pairs_of(learner), weights_of(learner), strict=True):
            assert pair.base is not None
            size = torch.linalg.matrix_norm(weight - pair.base, 2)
            assert float(size) == pytest.approx(pair.scaling / 128, rel=1e-3)
    else:
        torch.testing.assert_close(after, before, rtol=0.0, atol=1e-4)
    for name, pair, weight in zip(
        plain_names(learner), pairs_of(learner), weights_of(learner), strict=True
    ):
        frozen = weight_of(FROZEN, name)
        assert pair.base is not None
        assert torch.equal(pair.base, frozen) == (init not in TAKEN_OUT)
        if init in TAKEN_OUT:
            torch.testing.assert_close(weight, frozen, rtol=0.0, atol=1e-6)
    trained = {n for n, p in learner.network.model.named_parameters() if p.requires_grad}
    assert {n for n in trained if "lora_" not in n} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("init", DATA_INITS)
def test_nothing_is_trained_before_the_start_and_all_is_after(init: str) -> None:
    learner = expert(init)

    predicted = play(learner, SAMPLES - 1)

    assert predicted == [0.5] * (SAMPLES - 1)
    assert learner.network.steps == 0
    assert not any(pair.B.any() for pair in pairs_of(learner))
    play(learner, 1, seed=1)
    assert learner.network.steps == 1
    assert np.mean(play(learner, 40, seed=2)[-10:]) > 0.7


@pytest.mark.parametrize("init", DATA_INITS)
@pytest.mark.parametrize("played", [SAMPLES - 2, SAMPLES + 7])
def test_a_restored_one_goes_on_to_the_bit(init: str, played: int) -> None:
    learner, other = expert(init), expert(init)
    play(learner, played)
    other.load_state_dict(learner.state_dict())

    predicted = play(learner, 15, seed=1)

    assert play(other, 15, seed=1) == predicted
    for ours, theirs in zip(weights_of(learner), weights_of(other), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("init", TAKEN_OUT)
def test_an_earlier_state_takes_the_start_back(init: str) -> None:
    learner, fresh = expert(init), expert(init)
    play(learner, SAMPLES - 2)
    early = learner.state_dict()
    play(learner, 10, seed=1)
    learner.load_state_dict(early)
    for ours, frozen in zip(weights_of(learner), weights_of(fresh), strict=True):
        assert torch.equal(ours, frozen)
    fresh.load_state_dict(early)

    assert play(learner, 12, seed=2) == play(fresh, 12, seed=2)


@pytest.mark.parametrize("init", DATA_INITS)
def test_one_that_slept_starts_from_the_same(init: str) -> None:
    learner, slept = expert(init), expert(init)
    slept.sleep()
    for each in (learner, slept):
        play(each, SAMPLES)
    slept.wake()
    assert slept.network.steps == learner.network.steps == 1
    for ours, theirs in zip(weights_of(learner), weights_of(slept), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-6)


def test_images_offered_count_whether_they_were_chosen_or_not() -> None:
    learner = expert("eva", labels=None)
    play(learner, 5, labels=None)
    wanted = np.concatenate([offer.images for offer, _ in offers(5, None, seed=0)])[:SAMPLES]
    assert np.array_equal(np.stack(learner.state_dict()["offered"]), wanted)
    play(learner, SAMPLES - 5, labels=None, seed=1)
    assert learner.network.steps == 1
    assert learner.state_dict()["offered"] == []


@pytest.mark.parametrize("init", DATA_INITS)
def test_equal_rewards_leave_a_network_that_can_learn(init: str) -> None:
    learner = expert(init, labels=None)
    for offer, _ in offers(SAMPLES, None, seed=0):
        learner.choose(offer, 0)
        learner.observe(offer, 0, 0.0, 0)
    assert all(torch.isfinite(weight).all() for weight in weights_of(learner))
    assert np.isfinite(play(learner, 10, labels=None, seed=1)).all()
    assert all(torch.isfinite(pair.B).all() and pair.A.any() for pair in pairs_of(learner))


@pytest.mark.parametrize("init", DATA_INITS)
def test_adapters_are_written_where_they_fit_the_backbone(
    init: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from peft import PeftModel

    learner = expert(init)
    play(learner, SAMPLES + 8)
    with caplog.at_level(logging.WARNING):
        learner.network.save_adapter(tmp_path / "adapter")
    if init in TAKEN_OUT:
        assert f"no adapter/ for PEFT: the start {init} changes the base weights" in caplog.text
        return
    loaded = PeftModel.from_pretrained(backbone(), str(tmp_path / "adapter"))
    images = PREPROCESS(shown(learner))
    with torch.no_grad(), learner.network._average.in_use():
        torch.testing.assert_close(loaded(images), learner.network.model.features(images))


@pytest.mark.parametrize(
    ("init", "options", "message"),
    [
        ("eva", {"samples": 1}, r"init_samples 1: .* no less than agent.lora.rank \(2\)"),
        ("eva", {"replay_capacity": 5}, r"init_samples 12: .*replay_capacity \(5\)"),
        ("lora_ga", {"lora": {"rank": 7}}, r"rank 7: .* 14 singular vectors .* at most 6"),
        ("corda", {"optimizer": "cola"}, "init 'corda': optimizer cola merges into base weights"),
    ],
)
def test_what_cannot_be_is_refused(init: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expert(init, **options)
