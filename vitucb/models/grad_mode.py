"""Gradients for code that needs them, whatever mode its caller is in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def with_gradients() -> Iterator[None]:
    """Neither `torch.no_grad` nor `torch.inference_mode` inside; also a decorator.

    An agent trains in `update` and differentiates in `select_action`. What it keeps under
    `inference_mode` could take part in no later training.
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield
