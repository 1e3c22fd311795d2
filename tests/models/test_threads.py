"""One setting bounds every library that computes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from threadpoolctl import threadpool_info

from vitucb.models.threads import use_threads


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    use_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [1, 2])
def test_torch_and_every_blas_use_as_many_as_asked_for(count: int) -> None:
    use_threads(count)
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    blas = [library["num_threads"] for library in libraries]
    assert torch.get_num_threads() == count
    assert blas
    # OpenBLAS has no more threads than there are cores.
    assert set(blas) == {min(count, os.cpu_count() or 1)}
