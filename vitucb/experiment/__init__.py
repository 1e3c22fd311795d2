"""Experiments: build, play, record, resume, sweep.

`make_env`, `make_agent`, `play` and `run` are imported when first asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "make_env": "vitucb.experiment.environments",
    "make_agent": "vitucb.agents.factory",
    "play": "vitucb.experiment.playing",
    "run": "vitucb.experiment.episode",
}
__all__ = ["make_agent", "make_env", "play", "run"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
