from __future__ import annotations

import ctypes
import sys
from typing import Any

import pytest
import torch

from vitucb import devices
from vitucb.devices import check_device


@pytest.mark.parametrize("name", ["cpu", "cpu:0", "mps", "xpu:1", "hpu", "privateuseone:0"])
def test_devices_of_which_only_torch_knows_are_let_through(name: str) -> None:
    check_device(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cudaa", "'cudaa' is no name of a device; did you mean cuda"),
        ("CUDA:0", "did you mean cuda"),
        ("cuda:x", "is no name of a device; use cpu, cuda or cuda:0"),
        ("cuda0", "did you mean cuda"),
        ("", "is no name of a device"),
        ("0", "is no name of a device"),
    ],
)
def test_names_of_no_device_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_device(name)
    with pytest.raises(RuntimeError):
        torch.device(name)


def test_the_build_of_torch_is_read_from_its_files() -> None:
    assert devices._torch_build() == {
        "cuda": torch.version.cuda or "",
        "hip": torch.version.hip or "",
    }


@pytest.mark.parametrize(
    ("build", "has_driver", "is_refused"),
    [
        ({"cuda": "13.2", "hip": ""}, True, False),
        ({"cuda": "13.2", "hip": ""}, False, True),
        ({"cuda": "", "hip": ""}, True, True),
        ({"cuda": "", "hip": "7.0"}, False, False),
        ({}, True, False),
    ],
)
def test_cuda_needs_a_build_and_a_driver(
    build: dict[str, str], has_driver: bool, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> Any:
        if not has_driver:
            raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(devices, "_torch_build", lambda: build)
    if is_refused:
        with pytest.raises(ValueError, match="device 'cuda' cannot be used: no driver"):
            check_device("cuda")
    else:
        check_device("cuda")
