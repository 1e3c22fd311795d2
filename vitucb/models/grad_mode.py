"""Gradients and plain float32 tensors for code that needs them, whatever modes its caller is in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

_AUTOCAST = ("cpu", "cuda")


@contextlib.contextmanager
def with_gradients() -> Iterator[None]:
    """None of the caller's modes of torch inside; also a decorator.

    Neither `torch.no_grad` nor `torch.inference_mode`: an agent trains in `update` and
    differentiates in `select_action`, and what it keeps under `inference_mode` could take part in
    no later training. Neither `torch.autocast` nor another default type or device: results follow
    from the seed, and an agent has a device of its own.
    """
    with _without_defaults(), torch.inference_mode(False), torch.enable_grad():
        yield


@contextlib.contextmanager
def _without_defaults() -> Iterator[None]:
    """No autocast, and new tensors are float32 on the CPU. Only what differs is touched."""
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in _AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
