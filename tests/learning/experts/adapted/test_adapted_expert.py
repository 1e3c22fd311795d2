"""The adapted expert on a tiny network: it learns, sleeps, and goes on to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from vitucb.config import LoRAConfig
from vitucb.learning.experts.adapted.build import build_adapted_expert
from vitucb.learning.experts.adapted.expert import AdaptedExpert
from vitucb.learning.experts.adapted.schedule import Schedule
from vitucb.learning.experts.adapted.settings import AdaptedSettings
from vitucb.learning.experts.expert import Expert, Offer
from vitucb.models.preprocess import Preprocess
from vitucb.optim import ENTRIES

SIDE, DIM = 16, 12
QUICK = Schedule(start=8)
PREPROCESS = Preprocess((SIDE, SIDE), (0.5,) * 3, (0.5,) * 3)
CHAINS = ("rac-lora", "cola", "asymmetric-lora")


def backbone(depth: int = 1) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model: nn.Module = timm.create_model(
            "vit_tiny_patch16_224",
            img_size=SIDE,
            patch_size=8,
            embed_dim=DIM,
            num_heads=2,
            depth=depth,
            num_classes=0,
            class_token=False,
            global_pool="avg",
        )
    return model.eval()


def expert(labels: int | None = 2, schedule: Schedule = QUICK, **options: Any) -> AdaptedExpert:
    settings = {k: options.pop(k) for k in ("width", "discount", "read_every") if k in options}
    return build_adapted_expert(
        backbone(),
        PREPROCESS,
        num_labels=labels,
        num_images=1 if labels else 3,
        seed=5,
        settings=AdaptedSettings(schedule=schedule, **settings),
        lora=LoRAConfig(**{"rank": 2} | options.pop("lora", {})),
        **{"lr": 1e-2, "head_lr": 1e-2} | options,
    )


def picture(rng: np.random.Generator, label: int) -> NDArray[np.uint8]:
    """Noise, brighter in red or in blue."""
    image = rng.integers(0, 128, (SIDE, SIDE, 3), dtype=np.uint8)
    image[..., 2 * label] += 60
    return image


def frozen(images: NDArray[np.uint8]) -> torch.Tensor:
    with torch.no_grad():
        h: torch.Tensor = FROZEN(PREPROCESS(images)).double()
    return torch.nn.functional.normalize(h)


FROZEN = backbone()


def label_rounds(count: int, seed: int = 0) -> Iterator[tuple[Offer, int]]:
    """One image with two labels, and the right one."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        label = int(rng.integers(2))
        images = picture(rng, label)[None]
        yield Offer(images, frozen(images), 2), label


def play(learner: AdaptedExpert, rounds: int, seed: int = 0) -> list[float]:
    """Random labels; what was predicted of the right one."""
    rng, predicted = np.random.default_rng(seed + 100), []
    for offer, label in label_rounds(rounds, seed):
        predicted.append(float(learner.predict(offer).mean[label]))
        action = int(rng.integers(2))
        learner.choose(offer, action)
        learner.observe(offer, action, float(action == label), 0)
    return predicted


def test_it_is_an_expert() -> None:
    assert isinstance(expert(), Expert)


def test_two_classes_are_told_apart_within_a_few_dozen_steps() -> None:
    learner = expert()

    predicted = play(learner, 50)

    assert predicted[:8] == [0.5] * 8
    assert np.mean(predicted[-15:]) > 0.8


def test_every_reward_is_a_step_from_the_first_that_is_due() -> None:
    learner = expert()
    play(learner, QUICK.start - 1)
    assert learner.network.steps == 0
    play(learner, 20)
    learner.rewards = 100_000
    play(learner, 5)
    assert learner.network.steps == 25


def test_steps_see_half_of_the_patches_and_teach_it_as_well() -> None:
    learner, seen = expert(patch_drop_rate=0.5), set()
    model = learner.network.model
    norm = model.get_submodule("backbone.blocks.0.norm1")
    norm.register_forward_pre_hook(lambda _, x: seen.add((model.training, x[0].shape[1])))

    predicted = play(learner, 50)

    # Four patches of an image to act on, two in a step.
    assert seen == {(False, 4), (True, 2)}
    assert np.mean(predicted[-15:]) > 0.8


@pytest.mark.parametrize("name", ENTRIES)
def test_an_optimizer_starts_from_its_own_rate_unless_told(name: str) -> None:
    for asked, rate in ((None, ENTRIES[name].lr), (0.5, 0.5)):
        state = expert(optimizer=name, lr=asked).network.state_dict()["optimizer"]

        assert state["param_groups"][0]["lr"] == rate


@pytest.mark.parametrize("name", ["lora-rite", "lora-pro", "lora-fa", *CHAINS])
def test_every_optimizer_learns(name: str) -> None:
    learner = expert(optimizer=name, lr=None, width="none")

    predicted = play(learner, 60)

    assert np.isfinite(predicted).all()
    assert np.mean(predicted[-15:]) > 0.7


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"width": "adapted", "augment": "none"},
        {"optimizer": "lora-rite"},
        {"optimizer": "rac-lora", "optimizer_options": {"inner_steps": 7}},
        {"discount": 0.98, "likelihood": "squared"},
        {"lora": {"use_dora": True}},
        {"patch_drop_rate": 0.5},
    ],
)
def test_a_restored_expert_goes_on_to_the_bit(options: dict[str, Any]) -> None:
    learner, other = expert(**options), expert(**options)
    play(learner, 21)
    other.load_state_dict(learner.state_dict())

    assert play(other, 13, seed=1) == play(learner, 13, seed=1)
    (offer, _) = next(label_rounds(1, seed=3))
    assert (other.predict(offer).width == learner.predict(offer).width).all()


def test_a_saved_state_does_not_change_with_the_expert() -> None:
    learner, other = expert(), expert()
    play(learner, 30)
    state = learner.state_dict()
    play(learner, 10, seed=2)
    other.load_state_dict(state)
    again = expert()
    play(again, 30)

    assert play(other, 12, seed=1) == play(again, 12, seed=1)


def test_asleep_it_makes_no_pass_and_learns_nothing() -> None:
    learner = expert()
    play(learner, 20)
    learner.sleep()
    passes, steps, misses = learner.passes, learner.network.steps, learner.network.misses

    predicted = play(learner, 15, seed=1)

    assert (learner.passes, learner.network.steps) == (passes, steps)
    assert learner.network.misses == misses
    assert learner.rewards == 35
    assert len(learner.replay) == 35
    assert all(0 <= p <= 1 for p in predicted)


def test_awake_again_it_has_made_up_for_its_sleep() -> None:
    learner, slept = expert(), expert()
    play(learner, 40)
    slept.sleep()
    play(slept, 40)
    slept.wake()

    assert slept.network.steps == learner.network.steps
    assert np.mean(play(slept, 10, seed=1)) > 0.75


def test_one_that_starts_asleep_trains_in_the_unit_of_the_frozen_features() -> None:
    learner, slept = expert(), expert()
    slept.sleep()
    for offer, label in label_rounds(8):
        for each in (learner, slept):
            each.choose(offer, label)
            each.observe(offer, label, 1.0, 0)
    slept.wake()

    assert slept.network.steps == learner.network.steps == 1
    assert slept.network.state_dict()["scale"] == learner.network.state_dict()["scale"]


def test_training_before_the_unit_is_known_is_refused() -> None:
    learner = expert()
    learner.sleep()
    offer, label = next(label_rounds(1))
    for _ in range(8):
        learner.observe(offer, label, 1.0, 0)

    with pytest.raises(RuntimeError, match="call set_unit first"):
        learner.wake()


def test_sleep_is_restored() -> None:
    learner, other = expert(), expert()
    play(learner, 20)
    learner.sleep()
    play(learner, 5, seed=1)
    other.load_state_dict(learner.state_dict())
    for each in (learner, other):
        each.wake()

    assert other.network.steps == learner.network.steps
    assert play(other, 12, seed=2) == play(learner, 12, seed=2)


def test_before_the_first_step_no_pass_is_made_but_one() -> None:
    learner = expert(schedule=Schedule(start=64))
    play(learner, 30)

    assert learner.passes == 1


def test_a_round_costs_one_pass_and_one_batch() -> None:
    learner = expert()
    play(learner, 16)
    passes = learner.passes
    play(learner, 10, seed=1)

    assert learner.passes == passes + 10 * (1 + 16)


def test_an_offer_that_comes_again_after_a_stop_is_not_looked_at_again() -> None:
    learner, other = expert(read_every=50), expert(read_every=50)
    play(learner, 50)
    offer, label = next(label_rounds(1, seed=9))
    first = learner.predict(offer)
    learner.choose(offer, label)
    learner.observe(offer, label, 1.0, 0)
    other.load_state_dict(learner.state_dict())

    assert (other.predict(offer).mean == first.mean).all()
    assert other.image_passes == learner.image_passes > other.passes


def test_features_are_the_frozen_ones_until_the_adapters_have_moved() -> None:
    learner = expert()
    offer, _ = next(label_rounds(1))
    assert learner.features(offer) == pytest.approx(offer.features, abs=1e-3)
    play(learner, 40)

    assert float((learner.features(offer) - offer.features).norm()) > 0.05


def test_predictions_stay_between_two_looks_at_the_weights() -> None:
    learner = expert(read_every=50)
    play(learner, 50)
    offer, label = next(label_rounds(1, seed=9))
    first = learner.predict(offer)
    learner.choose(offer, label)
    learner.observe(offer, label, 1.0, 0)

    assert learner.network.steps == 44
    assert (learner.predict(offer).mean == first.mean).all()


def test_predicting_draws_nothing() -> None:
    learner, other = expert(), expert()
    play(learner, 12)
    play(other, 12)
    for offer, _ in label_rounds(10, seed=4):
        learner.predict(offer)

    assert play(learner, 14, seed=1) == play(other, 14, seed=1)


@pytest.mark.parametrize(("level", "unit"), [(1_000.0, 1.0), (0.0, 1e-3)])
def test_rewards_of_other_levels_and_units_are_learnt(level: float, unit: float) -> None:
    learner, rng, errors = expert(labels=None), np.random.default_rng(0), []
    for _ in range(80):
        labels = rng.integers(2, size=3)
        images = np.stack([picture(rng, int(label)) for label in labels])
        offer, action = Offer(images, frozen(images), 3), int(rng.integers(3))
        means = level + unit * labels
        errors.append(np.abs(learner.predict(offer).mean - means).mean() / unit)
        learner.choose(offer, action)
        learner.observe(offer, action, float(means[action] + unit * 0.1 * rng.normal()), 0)

    assert np.mean(errors[-15:]) < 0.25


def test_a_reward_that_is_no_probability_turns_to_the_squared_loss() -> None:
    learner, rng, predicted = expert(), np.random.default_rng(1), []
    for offer, label in label_rounds(60):
        prediction = learner.predict(offer)
        predicted.append(prediction.mean[label] - prediction.mean[1 - label])
        action = int(rng.integers(2))
        learner.choose(offer, action)
        learner.observe(offer, action, 20.0 + 5.0 * (action == label), 0)

    assert np.mean(predicted[-15:]) > 2.5


@pytest.mark.parametrize("width", ["frozen", "adapted"])
def test_the_width_of_a_label_falls_as_it_is_chosen(width: str) -> None:
    learner = expert(width=width)
    offer, _ = next(label_rounds(1))
    before = learner.predict(offer).width
    for _ in range(5):
        learner.choose(offer, 1)
    after = learner.predict(offer).width

    assert after[1] < 0.6 * before[1]
    assert after[0] == before[0]


def test_without_a_width_there_is_no_bonus() -> None:
    learner = expert(width="none")
    offer, _ = next(label_rounds(1))
    learner.choose(offer, 1)

    assert not learner.predict(offer).bonus.any()


def test_more_labels_than_outputs_are_refused() -> None:
    images = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    with pytest.raises(ValueError, match="5 arms share an image, and the network has 2 outputs"):
        expert().predict(Offer(images, frozen(images), 5))


def test_tokens_too_large_for_half_precision_leave_the_network_finite() -> None:
    learner = expert()
    embed = next(m for n, m in learner.network.model.named_modules() if n.endswith("patch_embed"))
    with torch.no_grad():
        embed.proj.bias[0] = 1e5
    assert np.isfinite(play(learner, 12)).all()
    image = picture(np.random.default_rng(0), 0)
    assert bool(torch.isfinite(learner.network.tokens([image])).all())
    assert all(bool(torch.isfinite(p).all()) for p in learner.network.model.parameters())


def test_softmax_needs_labels() -> None:
    with pytest.raises(ValueError, match="labels that share an image"):
        expert(labels=None, likelihood="softmax")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"width": "wide"}, "unknown width 'wide'"),
        ({"discount": 0.0}, "discount 0.0 must be in"),
        ({"alpha": -1.0}, "alpha -1.0 must not be negative"),
        ({"batch_size": 0}, "batch_size 0 must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptedSettings(**setting)


@pytest.mark.parametrize(("depth", "kept"), [(4, 2), (5, 4)])
def test_unless_told_larger_networks_leave_out_less(depth: int, kept: int) -> None:
    learner = build_adapted_expert(backbone(depth), PREPROCESS, num_labels=2)

    views = learner.network.draw_views(3, np.random.default_rng(0))

    assert views.kept is not None
    assert views.kept.shape[1] == kept
