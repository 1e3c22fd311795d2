"""Which settings of `agent` a built-in agent ignores, so that nobody tunes them.

One file serves a sweep over many agents, so a setting that one of them ignores is no error; it is
said once. `tests/agents/test_settings.py` holds `AgentEntry.reads` against the agents themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from vitucb.agents.table import AGENTS, EXPERTS, POLICY_FIELDS, READ_BY_ALL
from vitucb.config import AgentConfig, flatten, to_dict
from vitucb.config.lora import DATA_INITS
from vitucb.policies import SETTINGS as POLICY_SETTINGS

_logger = logging.getLogger(__name__)

_SKETCHES = ("exact", "low-rank", "frequent-directions", "countsketch")
# Among experts that are named: those of ours that read the setting. What only `adapted` reads of
# `lora` and `optimizer` is said when experts are built.
_READ_BY_EXPERTS: Mapping[str, tuple[str, ...]] = {
    "covariance.name": ("adapted",),
    "head_ridge": ("linear",),
    "policy.alpha": ("linear",),
    "precision": ("adapted",),
    "training.augment": ("adapted",),
    "training.batch_size": ("adapted",),
    "training.patch_drop_rate": ("adapted",),
    "training.replay_capacity": ("adapted", "softmax", "kernel-softmax", "logistic"),
}
# In agents that read both settings: the first has no effect unless the second is one of these.
_ONLY_WHERE: Mapping[str, tuple[str, tuple[object, ...]]] = {
    "covariance.rank": ("covariance.name", _SKETCHES),
    "head_ridge": ("head", ("ridge",)),
    "lora.init_samples": ("lora.init", tuple(DATA_INITS)),
    "optimizer.head_lr": ("head", ("gradient",)),
    "policy.delta": ("policy.radius", ("oful",)),
    "policy.draws": ("policy.joint", (True,)),
    "policy.norm_bound": ("policy.radius", ("oful",)),
    "readout": ("features", ("lora-gradient", "both")),
    "training.drift_threshold": ("training.rebuild", ("drift",)),
}
# Of vit-ucb: only among experts, and only without them.
_AMONG_EXPERTS = frozenset({"training.augment", "training.patch_drop_rate"})
_ALONE = frozenset(
    {"head", "features", "readout", "link", "policy.radius"}
    | {"covariance.ridge", "covariance.rank", "covariance.budget_mib", "optimizer.head_lr"}
    | {"training.update_every", "training.gradient_steps", "training.replay"}
    | {"training.reset_on_drift", "training.rebuild", "training.drift_threshold"}
)


def ignored(config: AgentConfig) -> list[str]:
    """Settings that differ from their default and have no effect on this agent, dotted.

    Of an agent by import path nothing is known, and so none.
    """
    if config.name not in AGENTS:
        return []
    values, defaults = flatten(to_dict(config)), flatten(to_dict(AgentConfig()))
    changed = [key for key, value in values.items() if value != defaults.get(key)]
    return [f"agent.{key}" for key in changed if not _has_effect(key, config.name, values)]


def _has_effect(key: str, agent: str, values: Mapping[str, object]) -> bool:
    if not _is_read(key, agent):
        return False
    if key in POLICY_FIELDS and _is_read("policy.name", agent):
        policy = POLICY_SETTINGS.get(str(values["policy.name"]))
        if policy is not None and key.removeprefix("policy.") not in policy:
            return False
    if agent == "vit-ucb" and not _is_read_by_experts(key, values["experts"]):
        return False
    other, allowed = _ONLY_WHERE.get(key, ("name", ()))
    if not allowed or not _is_read(other, agent):
        return True
    return values[other] in allowed or ":" in str(values[other])


def _is_read_by_experts(key: str, experts: Any) -> bool:
    """Whether experts read a setting of `vit-ucb`; of those by import path nothing is known."""
    if experts == ["adapted"]:
        return key not in _AMONG_EXPERTS
    if key in _ALONE:
        return False
    readers = _READ_BY_EXPERTS.get(key)
    if experts is None or readers is None:
        return True
    return any(name in readers or name not in EXPERTS for name in experts)


def _is_read(key: str, agent: str) -> bool:
    parts, read = key.split("."), READ_BY_ALL | AGENTS[agent].reads
    return any(".".join(parts[:n]) in read for n in range(1, len(parts) + 1))


def describe_ignored(agent: str, keys: Sequence[str]) -> str:
    """What there is to say of settings that the agent ignores, in one line."""
    return f"agent {agent} makes no use of {', '.join(keys)}; it plays the same without"


def warn_of_ignored(config: AgentConfig) -> None:
    """Log one warning that names what of `config` the agent ignores, if anything."""
    if keys := ignored(config):
        _logger.warning(describe_ignored(config.name, keys))
