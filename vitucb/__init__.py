"""vitucb: online contextual bandits whose arms are images.

Importing the package registers the environments with gymnasium. Everything that needs torch is
loaded when first used, so `vitucb --help`, `list` and `report` answer in about a second.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vitucb import envs as envs
from vitucb.types import Agent, Decision, Observation, Round

if TYPE_CHECKING:
    from vitucb.agents.factory import make_agent
    from vitucb.covariance import make_covariance
    from vitucb.envs.data.decoding import read_image
    from vitucb.experiment.episode import run
    from vitucb.optim import create_optimizer
    from vitucb.serving.hub import HubAgent
    from vitucb.serving.load import deploy, load_agent

__version__ = "0.1.0"

_LAZY = {
    "make_agent": "vitucb.agents.factory",
    "deploy": "vitucb.serving.load",
    "load_agent": "vitucb.serving.load",
    "HubAgent": "vitucb.serving.hub",
    "run": "vitucb.experiment.episode",
    "make_covariance": "vitucb.covariance",
    "create_optimizer": "vitucb.optim",
    "read_image": "vitucb.envs.data.decoding",
}

__all__ = [
    "Agent",
    "Decision",
    "HubAgent",
    "Observation",
    "Round",
    "create_optimizer",
    "deploy",
    "load_agent",
    "make_agent",
    "make_covariance",
    "read_image",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'vitucb' has no attribute {name!r}")
