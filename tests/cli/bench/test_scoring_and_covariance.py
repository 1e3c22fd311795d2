from __future__ import annotations

import os

import pytest
import torch
from threadpoolctl import threadpool_info

from vitucb.cli.bench.covariance import FeatureStream, filled, round_times
from vitucb.cli.bench.scoring import (
    features_one_by_one,
    least_times,
    make_images,
    make_model,
    one_thread,
    prototype_times,
)
from vitucb.learning.gradient_features import LoRAGradientFeatures
from vitucb.models.threads import use_threads


def test_nothing_spins_beside_the_thread_that_is_timed() -> None:
    before = torch.get_num_threads()
    use_threads(2)
    try:
        with one_thread():
            inside = blas_threads(), torch.get_num_threads()
        assert inside == ({1}, 1)
        assert blas_threads() == {min(2, os.cpu_count() or 1)}
    finally:
        use_threads(before)


def blas_threads() -> set[int]:
    return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}


def test_times_are_positive_and_named() -> None:
    times = least_times({"sum": lambda: sum(range(1000)), "nothing": lambda: None}, repeats=2)
    assert times.keys() == {"sum", "nothing"}
    assert min(times.values()) >= 0


def test_the_cubic_update_is_the_dearest() -> None:
    times = prototype_times(400)
    assert times["as written"] > times["corrected"] > 0


def test_the_compared_features_are_the_same() -> None:
    model, images = make_model("vitucb-nano", None, blocks="last-half"), make_images(None)[:2]
    _, phi = LoRAGradientFeatures(model)(images)
    torch.testing.assert_close(phi, features_one_by_one(model, images), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["low-rank", "exact"])
def test_a_filled_covariance_holds_its_rounds_and_can_be_timed(name: str) -> None:
    stream = FeatureStream(6000)
    features = stream.draw(200)
    assert float(features.square().sum(1).mean()) == pytest.approx(1.0, abs=0.2)
    covariance = filled(name, stream, 120)
    assert covariance.count == 120
    assert round_times({name: covariance}, features[:10]).keys() == {
        f"{name} score",
        f"{name} round",
    }
