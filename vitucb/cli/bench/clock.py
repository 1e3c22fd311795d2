"""What is read before and after something that is measured, by the device that does the work."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch

Clock: TypeAlias = Callable[[], float]
"""Seconds since some moment."""


def clock_of(device: str) -> Clock:
    """CPU time of this process for the processor; elsewhere time, once the device has caught up.

    An accelerator takes its work into a queue: without waiting for it one would time the queueing.
    """
    return time.process_time if is_cpu(device) else partial(_time_when_done, device)


def is_cpu(device: str) -> bool:
    """Whether `device` is the processor."""
    return torch.device(device).type == "cpu"


def synchronize(device: str) -> None:
    """Wait until `device` has done all that it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    elif not is_cpu(device):
        torch.zeros((), device=device).item()  # read after all that was queued before it


def _time_when_done(device: str) -> float:
    synchronize(device)
    return time.perf_counter()
