"""A process of its own has the simulated accelerator: named once, it stays in a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from tests.simulated.accelerator import CAN_SIMULATE, WHY_NOT
from tests.simulated.plays import start


@pytest.fixture(scope="session")
def aside() -> Iterator[Callable[..., Any]]:
    """Calls a function of a module in that process: `aside(function, *arguments)`."""
    if not CAN_SIMULATE:
        pytest.skip(WHY_NOT)
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=start) as process:
        yield lambda function, *arguments: process.submit(function, *arguments).result()
