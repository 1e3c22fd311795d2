"""The feature history: rows equal features of today's model, whatever happened in between."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitucb.covariance import make_covariance
from vitucb.learning.feature_history import MAX_PENDING, FeatureHistory
from vitucb.learning.feature_maps import FeatureScale
from vitucb.learning.links import BernoulliLink, GaussianLink, Link
from vitucb.learning.refresh import RefreshSettings
from vitucb.learning.replay import Replay
from vitucb.types import State

DIM = 5


class MovingFeatures:
    """Features W x of tiny images, with a W that a test can move."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(DIM, 12, generator=generator, dtype=torch.float64)
        self.passes = 0
        self.dims = [DIM]

    def __call__(
        self, images: Tensor, actions: Tensor, shared: object = None
    ) -> tuple[Tensor, Tensor]:
        self.passes += len(images)
        phi = images.flatten(1) @ self.weight.T
        return phi[:, 0] / 100, phi * (1.0 + actions[:, None])

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        pass


def image(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)


def inputs(images: list[NDArray[np.uint8]]) -> Tensor:
    return torch.as_tensor(np.stack(images)).double()


class Bench:
    """A history driven by hand, with arms 2 t and 2 t + 1 on offer in round t."""

    def __init__(
        self,
        link: Link | None = None,
        capacity: int = 1_000,
        keep: Literal["reservoir", "window"] = "reservoir",
        **settings: Any,
    ) -> None:
        self.features, self.rounds = MovingFeatures(), 0
        self.replay = Replay(capacity, np.random.default_rng(0), keep)
        self.link = link or GaussianLink()
        self.history = FeatureHistory(
            self.features,
            make_covariance("exact", DIM, ridge=0.5),
            FeatureScale([DIM]),
            self.replay,
            self.link,
            inputs,
            RefreshSettings(**settings),
        )

    def decide(self) -> int:
        images = [image(2 * self.rounds), image(2 * self.rounds + 1)]
        actions = np.zeros(2, np.int64)
        scores, phi = self.history.score(images, actions)
        self.history.decay()
        phi = self.history.scaled(images, actions, phi)
        self.history.covariance.width(phi)
        weight = float(self.link.weight(scores.numpy())[1])
        self.history.choose(1, weight, self.rounds, images[1], 0)
        self.rounds += 1
        return self.rounds - 1

    def reward(self, round: int) -> dict[str, float]:
        slot = self.replay.add(image(2 * round + 1), 1.0)
        self.history.rewarded(round, slot)
        return self.history.refresh(self.rounds)

    def expected(self, rounds: list[int], weights: list[float] | None = None) -> Tensor:
        scores, phi = self.features(inputs([image(2 * r + 1) for r in rounds]), torch.zeros(1))
        rows = self.history.scale(phi)
        if weights is None:
            weights = self.link.weight(scores.numpy()).tolist()
        w = torch.tensor(weights, dtype=torch.float64)
        eye = 0.5 * torch.eye(DIM, dtype=torch.float64)
        return eye + (rows.T * w) @ rows

    def matches(self, precision: Tensor) -> None:
        query = torch.eye(DIM, dtype=torch.float64)
        squares = self.history.covariance.quad_form(query)
        torch.testing.assert_close(squares, torch.linalg.inv(precision).diagonal())


def test_history_doubles_and_every_row_is_fresh() -> None:
    bench = Bench(rebuild="doubling")
    found = []
    for _ in range(40):
        metrics = bench.reward(bench.decide())
        bench.features.weight[0] *= 1.05
        if "covariance/stale_ratio" in metrics:
            found.append(bench.rounds)
    assert found == [16, 32]
    bench.reward(bench.decide())
    bench.history._rebuild(bench.rounds)
    bench.matches(bench.expected(list(range(41))))


def test_pending_decisions_stay_counted_through_a_rebuild() -> None:
    bench = Bench(rebuild="doubling")
    rounds = [bench.decide() for _ in range(24)]
    for round in reversed(rounds[3:]):
        bench.reward(round)
    bench.history._rebuild(bench.rounds)
    bench.matches(bench.expected(rounds))
    assert bench.history.covariance.count == 24


def test_drift_of_the_features_triggers_a_rebuild() -> None:
    bench = Bench(rebuild="drift")
    for _ in range(70):
        bench.reward(bench.decide())
    still = [bench.reward(bench.decide()) for _ in range(40)]
    assert all(m.get("covariance/drift", 0.0) < 0.05 for m in still)
    assert not any("covariance/stale_ratio" in m for m in still)
    bench.features.weight = bench.features.weight.flip(0)
    moved = [bench.reward(bench.decide()) for _ in range(40)]
    assert any("covariance/stale_ratio" in m for m in moved)


@pytest.mark.parametrize("keep", ["reservoir", "window"])
def test_features_that_stay_do_not_drift_when_the_replay_takes_other_images(keep: Any) -> None:
    bench = Bench(capacity=20, keep=keep, rebuild="drift")
    found = [bench.reward(bench.decide()) for _ in range(300)]
    drifts = [m["covariance/drift"] for m in found if "covariance/drift" in m]
    assert len(drifts) > 4
    assert max(drifts) < 1e-12
    assert bench.replay.seen > bench.replay.capacity


def test_a_probe_without_its_images_is_none_until_the_next_rebuild() -> None:
    bench, other = Bench(rebuild="drift"), Bench(rebuild="drift")
    for _ in range(40):
        bench.reward(bench.decide())
    state = bench.history.state_dict()
    del state["probed"]
    other.history.load_state_dict(state)
    other.replay.load_state_dict(bench.replay.state_dict())
    other.features.weight *= -1
    assert other.history._probe_drift() == 0.0
    other.history._rebuild(bench.rounds)
    other.features.weight *= -1
    assert other.history._probe_drift() > 1.0


def test_without_rebuild_nothing_is_recomputed() -> None:
    bench = Bench(rebuild="none")
    for _ in range(40):
        bench.reward(bench.decide())
    assert bench.features.passes == 80


def test_bernoulli_rows_are_weighted_by_curvature() -> None:
    bench = Bench(BernoulliLink(), rebuild="doubling")
    for _ in range(20):
        bench.reward(bench.decide())
    bench.history._rebuild(bench.rounds)
    bench.matches(bench.expected(list(range(20))))


def test_discount_weighs_by_age_and_survives_a_rebuild() -> None:
    bench = Bench(rebuild="doubling", discount=0.8)
    for _ in range(30):
        bench.reward(bench.decide())
    weights = [0.8**age for age in range(29, -1, -1)]
    bench.history._rebuild(bench.rounds)
    kept = [w if w >= 1e-3 else 0.0 for w in weights]
    bench.matches(bench.expected(list(range(30)), kept))


def test_full_replay_stands_for_the_whole_history() -> None:
    bench = Bench(capacity=10, rebuild="none")
    for _ in range(30):
        bench.reward(bench.decide())
    bench.history._rebuild(bench.rounds)
    assert bench.history.covariance.count == 10
    rounds = bench.history._round_of_slot
    bench.matches(bench.expected(list(rounds), [3.0] * 10))


def test_unanswered_decisions_take_bounded_memory() -> None:
    bench = Bench(rebuild="none")
    for _ in range(MAX_PENDING + 50):
        bench.decide()
    state = bench.history.state_dict()
    assert len(state["pending"]) == MAX_PENDING


def test_forgotten_history_is_empty_and_late_rewards_do_no_harm() -> None:
    bench = Bench(rebuild="drift")
    rounds = [bench.decide() for _ in range(20)]
    for round in rounds[:18]:
        bench.reward(round)
    bench.replay.clear()
    bench.history.forget(bench.rounds)
    assert bench.history.covariance.count == 0
    for round in rounds[18:]:
        bench.reward(round)
    for _ in range(20):
        bench.reward(bench.decide())
    bench.history._rebuild(bench.rounds)
    bench.matches(bench.expected([*rounds[18:], *range(20, 40)]))


def test_restored_history_continues_identically() -> None:
    bench, other = Bench(rebuild="drift"), Bench(rebuild="drift")
    for _ in range(30):
        bench.reward(bench.decide())
    bench.decide()
    other.history.load_state_dict(bench.history.state_dict())
    other.replay.load_state_dict(bench.replay.state_dict())
    other.rounds = bench.rounds
    for one in (bench, other):
        for _ in range(40):
            one.reward(one.decide())
    query = torch.eye(DIM, dtype=torch.float64)
    squares = [b.history.covariance.quad_form(query) for b in (bench, other)]
    torch.testing.assert_close(squares[0], squares[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"discount": 0.0}, "discount 0.0"), ({"drift_threshold": 0.0}, "drift_threshold 0.0")],
)
def test_bad_setting_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bench(**settings)
