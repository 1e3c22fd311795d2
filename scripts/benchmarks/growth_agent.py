"""`vit-ucb` with a stopwatch in its parts, as an agent of `vitucb run`, for `bench_growth.py`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from vitucb.agents.expert_agent import ExpertAgent
from vitucb.agents.vit_ucb_build import build
from vitucb.cli.bench.phases import Phases
from vitucb.config import AgentConfig
from vitucb.types import Agent

PARTS = Phases()
"""CPU time of the parts of the agent that was built last."""


def timed(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Agent:
    """`vit-ucb`, whose features and experts are timed in `PARTS`."""
    agent = build(config, env, seed, device)
    assert isinstance(agent, ExpertAgent)
    PARTS.seconds.clear()
    PARTS.watch(agent, {"offer": "features"})
    for name, expert in agent.experts.items():
        PARTS.watch(expert, dict.fromkeys(("predict", "choose", "observe"), name))
    return agent
