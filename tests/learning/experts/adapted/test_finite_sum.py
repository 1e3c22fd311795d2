"""Estimators that evaluate gradients themselves, on the replay of the adapted expert."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from tests.covering import every_third
from vitucb.config import LoRAConfig
from vitucb.learning.experts.adapted import finite_sum
from vitucb.learning.experts.adapted.build import build_adapted_expert
from vitucb.learning.experts.adapted.expert import AdaptedExpert
from vitucb.learning.experts.adapted.finite_sum import FiniteSumNetwork, ReplaySum
from vitucb.learning.experts.adapted.schedule import Schedule
from vitucb.learning.experts.adapted.settings import AdaptedSettings
from vitucb.learning.experts.expert import Offer
from vitucb.models.preprocess import Preprocess

SIDE, DIM, START = 16, 12, 8
PREPROCESS = Preprocess((SIDE, SIDE), (0.5,) * 3, (0.5,) * 3)
BERNOULLI: dict[str, dict[str, Any]] = {
    **{name: {"estimator": name} for name in ("gd", "page", "mvr", "qgd", "marina", "ef21")},
    "subgradient": {"estimator": "subgradient"},
    "polyak": {"estimator": "subgradient", "step_size": "polyak"},
    "stochastic polyak": {"estimator": "sgd", "step_size": "polyak"},
}
RAC: dict[str, dict[str, Any]] = {
    "reshuffling": {"data": "reshuffling"},
    "federated": {"data": "federated", "inner": "sgd"},
}
CASES = {key: ("bernoulli-lora", options) for key, options in BERNOULLI.items()}
CASES |= {key: ("rac-lora", options) for key, options in RAC.items()}


def backbone() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        shape = {"img_size": SIDE, "patch_size": 8, "embed_dim": DIM, "num_heads": 2, "depth": 1}
        model: nn.Module = timm.create_model(
            "vit_tiny_patch16_224", num_classes=0, class_token=False, global_pool="avg", **shape
        )
    return model.eval()


FROZEN = backbone()


def expert(
    name: str, options: dict[str, Any], *, discount: float = 1.0, **more: Any
) -> AdaptedExpert:
    limits = {"full_limit": 24} | options
    return build_adapted_expert(
        backbone(),
        PREPROCESS,
        num_labels=2,
        seed=5,
        settings=AdaptedSettings(
            schedule=Schedule(start=START), batch_size=6, read_every=4, discount=discount
        ),
        lora=LoRAConfig(rank=2),
        optimizer=name,
        optimizer_options=limits,
        **{"lr": 0.05, "head_lr": 1e-2} | more,
    )


def play(learner: AdaptedExpert, rounds: int, seed: int = 0) -> list[float]:
    """Random labels of images that are brighter in red or blue; what was expected of the right."""
    rng, predicted = np.random.default_rng(seed), []
    for _ in range(rounds):
        label = int(rng.integers(2))
        image = rng.integers(0, 128, (SIDE, SIDE, 3), dtype=np.uint8)
        image[..., 2 * label] += 60
        with torch.no_grad():
            h = nn.functional.normalize(FROZEN(PREPROCESS(image[None])).double())
        offer, action = Offer(image[None], h, 2), int(rng.integers(2))
        predicted.append(float(learner.predict(offer).mean[label]))
        learner.choose(offer, action)
        learner.observe(offer, action, float(action == label), 0)
    return predicted


def network_of(learner: AdaptedExpert) -> FiniteSumNetwork:
    assert isinstance(learner.network, FiniteSumNetwork)
    return learner.network


@pytest.mark.parametrize("key", CASES)
def test_a_restored_one_goes_on_to_the_bit(key: str) -> None:
    learner, other = expert(*CASES[key]), expert(*CASES[key])
    play(learner, 12)
    assert network_of(learner).steps == 12 - START + 1
    other.load_state_dict(learner.state_dict())

    predicted = play(learner, 5, seed=1)

    assert np.isfinite(predicted).all()
    assert play(other, 5, seed=1) == predicted


@pytest.mark.parametrize("key", every_third(CASES))
def test_it_learns(key: str) -> None:
    predicted = play(expert(*CASES[key]), 40)
    assert np.mean(predicted[-12:]) > 0.6


def test_base_weights_move_and_adapters_are_read_from_their_average() -> None:
    learner = expert("bernoulli-lora", {"estimator": "page"})
    before = [pair.base.clone() for pair in network_of(learner)._pairs if pair.base is not None]
    play(learner, 12)
    after = [pair.base for pair in network_of(learner)._pairs if pair.base is not None]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("options", "images"),
    [
        ({"estimator": "gd"}, [24, 24, 24]),
        ({"estimator": "page", "q": 1.0}, [24, 24, 24]),
        ({"estimator": "mvr"}, [6, 12, 12]),  # one batch at first, then at two points
        ({"estimator": "qgd", "clients": 2}, [24, 24, 24]),
        ({"estimator": "sgd", "step_size": "polyak"}, [6, 6, 6]),
    ],
)
def test_passes_are_those_that_the_estimator_asks_for(
    options: dict[str, Any], images: list[int]
) -> None:
    learner = expert("bernoulli-lora", options)
    play(learner, START - 1)
    counts = []
    for seed in range(3):
        before = learner.passes
        play(learner, 1, seed=seed + 3)
        counts.append(learner.passes - before)
    # One pass of a round is the prediction; before the first look the frozen features serve.
    spent = [count - made for count, made in zip(counts, images, strict=True)]
    assert all(0 <= extra <= 1 for extra in spent)


def test_a_full_gradient_is_that_of_the_mean_whatever_the_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gradients = []
    for chunk in (64, 5):
        monkeypatch.setattr(finite_sum, "_CHUNK", chunk)
        learner = expert("bernoulli-lora", {"estimator": "page", "full_limit": 1_000})
        play(learner, 14)
        network = network_of(learner)
        found, loss = network.optimizer.full_gradients(  # type: ignore[attr-defined]  # BernoulliLoRA's own
            lambda n=network, e=learner: n.evaluate(np.arange(14 * 3), e._likelihood)
        )
        gradients.append([*found, torch.tensor(loss)])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


class Recorded:
    """A finite sum that notes which terms were evaluated."""

    def __init__(self, held: int, copies: int = 3) -> None:
        self.seen: list[NDArray[np.int64]] = []
        self.terms = ReplaySum(self.note, np.arange(4), held, copies, np.random.default_rng(0))

    def note(self, terms: NDArray[np.int64]) -> float:
        self.seen.append(terms)
        return 0.0


def test_clients_share_all_terms_and_keep_theirs_as_the_replay_grows() -> None:
    owned = []
    for held in (10, 11, 25):
        record = Recorded(held)
        for closure in record.terms.shards(4, 1_000):
            closure()
        assert sorted(np.concatenate(record.seen)) == list(range(3 * held))
        owned.append([set(terms.tolist()) for terms in record.seen])
    for early, late in zip(owned[0], owned[2], strict=True):
        assert early <= late


def test_a_limit_bounds_what_all_clients_evaluate_together() -> None:
    record = Recorded(500)
    for closure in record.terms.shards(4, 100):
        closure()
    assert [len(terms) for terms in record.seen] == [25] * 4
    assert len(np.unique(np.concatenate(record.seen))) == 100
    (full,) = (record.terms.full(64),)
    full()
    full()
    assert (record.seen[-1] == record.seen[-2]).all()


def test_a_pass_comes_to_every_term_once_in_batches() -> None:
    record = Recorded(7)
    (batches,) = record.terms.passes(1, 1_000)
    for closure in batches:
        closure()
    assert [len(terms) for terms in record.seen] == [4, 4, 4, 4, 4, 1]
    order = np.concatenate(record.seen)
    assert sorted(order) == list(range(21))
    assert (order != np.sort(order)).any()


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({"estimator": "page"}, {"discount": 0.99}, "discount 0.99 rewards fade; choose discount"),
        ({"estimator": "page"}, {"patch_drop_rate": 0.25}, "patch_drop_rate 0.25: this estimator"),
        ({"estimator": "ef21", "clients": 9}, {}, "clients 9 are more than the 8 rewards"),
        ({"estimator": "qgd", "clients": 0}, {}, "clients 0 must be at least 1"),
        ({"estimator": "qgd", "full_limit": 3}, {}, "full_limit 3 must be at least the 4 clients"),
        ({"estimator": "marina", "distributed": True}, {}, "distributed: the processes of a run"),
        ({"estimator": "sga"}, {}, "estimator 'sga' must be one of"),
    ],
)
def test_what_cannot_be_online_is_refused_with_the_reason(
    options: dict[str, Any], settings: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        expert("bernoulli-lora", options, **settings)


def test_plain_sgd_and_steps_take_the_usual_way() -> None:
    for name, options in (("bernoulli-lora", {"estimator": "sgd"}), ("rac-lora", {})):
        assert not isinstance(expert(name, options).network, FiniteSumNetwork)
