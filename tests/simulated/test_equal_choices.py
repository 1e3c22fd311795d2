"""On an accelerator agents choose as on the processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.covering import slow_but
from tests.simulated.accelerator import DEVICE
from tests.simulated.parts import SMALL_LORA
from tests.simulated.plays import Game, Played, play
from vitucb.agents import AGENTS
from vitucb.agents.table import EXPERTS
from vitucb.covariance import COVARIANCES
from vitucb.policies import POLICIES

Aside = Callable[..., Played]

OF_IMAGE_ARMS, OF_LABELS = ("kernel",), ("softmax", "kernel-softmax", "logistic")


def alone(*, is_shared: bool = False, **settings: Any) -> Game:
    """The network that is trained without other experts, on small adapters."""
    return Game(
        settings={"experts": ("adapted",), "lora": SMALL_LORA, **settings}, is_shared=is_shared
    )


def expert(name: str, *, is_shared: bool) -> Game:
    """One expert beside `linear`, which makes it one of a mixture."""
    experts = tuple({name: 0, "linear": 0})
    settings: dict[str, Any] = {"experts": experts}
    if name == "adapted":
        settings["lora"] = SMALL_LORA
    return Game(settings=settings, is_shared=is_shared)


# Matrices of p x p need few features to be quick.
FEATURES = {"dense": "last-layer", "discounted": "last-layer"}
OWN_OPTIONS: dict[str, dict[str, Any]] = {"prototype": {"options": {"rank": 1}}}
GAMES = (
    {name: Game(name, OWN_OPTIONS.get(name, {})) for name in AGENTS}
    | {"neural-ucb-cnn": Game("neural-ucb", {"options": {"network": "cnn"}})}
    | {"labels": Game(is_shared=True), "lin-ucb-labels": Game("lin-ucb", is_shared=True)}
    | {f"{n}-images": expert(n, is_shared=False) for n in EXPERTS if n not in OF_LABELS}
    | {f"{n}-labels": expert(n, is_shared=True) for n in EXPERTS if n not in OF_IMAGE_ARMS}
    | {
        f"{name}-covariance": alone(covariance=name, features=FEATURES.get(name, "lora-gradient"))
        for name in COVARIANCES
    }
    | {f"{name}-policy": Game("lin-ucb", {"policy": name}) for name in POLICIES}
    | {"joint-thompson": alone(policy={"name": "thompson", "joint": True, "draws": 20})}
    | {f"{name}-features": alone(features=name) for name in ("last-layer", "both")}
    | {
        "alone": Game(settings={"experts": ("adapted",)}),
        "alone-labels": alone(is_shared=True),
        "live-readout": alone(readout="head", head="gradient"),
        "bernoulli": alone(link="bernoulli"),
        "dora": alone(lora={**SMALL_LORA, "use_dora": True}),
        "bfloat16": alone(precision="bfloat16"),
        "no-cache": alone(prefix_cache_mib=0),
        "drift": alone(training={"reset_on_drift": True}),
        "discount": alone(
            covariance="discounted", features="last-layer", training={"discount": 0.9}
        ),
    }
)
QUICK = ("lin-ucb", "vit-ucb", "labels", "adapted-images", "low-rank-covariance", "both-features")


@pytest.mark.parametrize("name", slow_but(QUICK, GAMES))
def test_agents_choose_as_on_the_processor(name: str, aside: Aside) -> None:
    here, there = (aside(play, GAMES[name], device) for device in ("cpu", DEVICE))
    assert there.actions == here.actions
    np.testing.assert_allclose(there.means, here.means, atol=1e-6)
    np.testing.assert_allclose(there.widths, here.widths, atol=1e-6)
