"""Parts of agents do on an accelerator what they do on the processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.covering import slow_but
from tests.simulated.accelerator import DEVICE
from tests.simulated.parts import learn, query, train
from vitucb.config.lora import DATA_INITS
from vitucb.covariance import COVARIANCES
from vitucb.optim.table import ENTRIES

OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in ENTRIES} | {
    "sgd, momentum": ("sgd", {"momentum": 0.9}),
    "lora-pro, full": ("lora-pro", {"moments": "full"}),
    "lora-pro, symmetric": ("lora-pro", {"x_mode": "symmetric"}),
    "torch's NAdam": ("torch.optim:NAdam", {}),
}
# One of each way to step: torch's own, batched, with a merge into the base weights.
LEARNING = ("sgd", "adamw", "lora-pro", "lora-rite", "lora-fa", "cola", "bernoulli-lora")
COVARIANCE_CASES: dict[str, tuple[str, dict[str, Any]]] = {n: (n, {}) for n in COVARIANCES} | {
    "exact, out of memory": ("exact", {"budget_bytes": 1 << 10}),
    "frequent-directions, full": ("frequent-directions", {"rank": 4}),
    "low-rank, full": ("low-rank", {"rank": 4}),
}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_optimizers_step_as_on_the_processor(case: str, aside: Callable[..., Any]) -> None:
    name, options = OPTIMIZERS[case]
    here, there = (aside(train, name, options, device) for device in ("cpu", DEVICE))
    for mine, theirs in zip(here.parameters, there.parameters, strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-6)


@pytest.mark.parametrize("case", COVARIANCE_CASES)
def test_covariances_answer_as_on_the_processor(case: str, aside: Callable[..., Any]) -> None:
    name, options = COVARIANCE_CASES[case]
    here, there = (aside(query, name, options, device) for device in ("cpu", DEVICE))
    for question, answer in here.items():
        np.testing.assert_allclose(there[question], answer, atol=1e-8, err_msg=question)


@pytest.mark.parametrize("optimizer", slow_but(["adamw", "lora-rite"], LEARNING))
def test_the_trained_expert_expects_what_it_does_on_the_processor(
    optimizer: str, aside: Callable[..., Any]
) -> None:
    here, there = (aside(learn, optimizer, device) for device in ("cpu", DEVICE))
    np.testing.assert_allclose(there.means, here.means, atol=1e-5)
    np.testing.assert_allclose(there.widths, here.widths, atol=1e-5)


def test_steps_on_some_patches_are_those_of_the_processor(aside: Callable[..., Any]) -> None:
    here, there = (aside(learn, "adamw", device, "default", 0.5) for device in ("cpu", DEVICE))
    np.testing.assert_allclose(there.means, here.means, atol=1e-5)


@pytest.mark.parametrize("init", slow_but(["lora_ga"], DATA_INITS))
def test_starts_from_data_are_those_of_the_processor(init: str, aside: Callable[..., Any]) -> None:
    here, there = (aside(learn, "adamw", device, init) for device in ("cpu", DEVICE))
    np.testing.assert_allclose(there.means, here.means, atol=1e-5)
