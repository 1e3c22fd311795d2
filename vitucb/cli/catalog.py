"""What can be named in a config, with a line on each; nothing here imports torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from vitucb.agents.table import EXPERTS
from vitucb.config import RunConfig
from vitucb.registry import unknown_name


def _envs() -> Mapping[str, str]:
    from vitucb.envs import ENVS

    return ENVS


def _wrappers() -> Mapping[str, str]:
    from vitucb.envs import WRAPPERS

    return WRAPPERS


def _datasets() -> Mapping[str, str]:
    from vitucb.envs import DATASETS

    return DATASETS


def _agents() -> Mapping[str, str]:
    from vitucb.agents import AGENTS

    return {name: entry.summary for name, entry in AGENTS.items()}


def _experts() -> Mapping[str, str]:
    return {name: line for name, (_, line) in EXPERTS.items()}


def _policies() -> Mapping[str, str]:
    from vitucb.policies import POLICIES

    return {name: (inspect.getdoc(f) or "").split("\n")[0] for name, f in POLICIES.items()}


def _optimizers() -> Mapping[str, str]:
    from vitucb.optim import ENTRIES

    return {
        name: f"{entry.summary}; paper {entry.paper}; state {entry.state}; "
        f"extra cost {entry.cost}; rate online {entry.lr:g}"
        for name, entry in ENTRIES.items()
    }


def _covariances() -> Mapping[str, str]:
    from vitucb.covariance.table import DESCRIPTIONS

    return DESCRIPTIONS


def _backbones() -> Mapping[str, str]:
    from vitucb.assets import EMBEDDED_BACKBONES

    embedded = {name: f"{line} ({timm})" for name, (timm, line) in EMBEDDED_BACKBONES.items()}
    return embedded | {
        "vit_small_patch14_dinov2.lvd142m": "any timm ViT name, downloaded from its hub",
        "local-dir:PATH": "a folder saved by timm, with config.json and weights",
    }


def _engines() -> Mapping[str, str]:
    from vitucb.experiment.engines import ENGINES

    return {name: line for name, (_, line) in ENGINES.items()}


CATALOG: dict[str, Callable[[], Mapping[str, str]]] = {
    "envs": _envs,
    "wrappers": _wrappers,
    "agents": _agents,
    "experts": _experts,
    "optimizers": _optimizers,
    "covariances": _covariances,
    "policies": _policies,
    "backbones": _backbones,
    "datasets": _datasets,
    "engines": _engines,
}


def check_names(config: RunConfig) -> None:
    """Refuse unknown names before anything heavy is imported.

    Raises:
        ValueError: If an agent, expert, optimizer, covariance or policy is unknown; says the
            nearest one.
    """
    agent = config.agent
    named = (
        ("agent.name", agent.name, "agents"),
        ("agent.optimizer.name", agent.optimizer.name, "optimizers"),
        ("agent.covariance.name", agent.covariance.name, "covariances"),
        ("agent.policy.name", agent.policy.name, "policies"),
        *(("agent.experts", name, "experts") for name in agent.experts or ()),
    )
    for field, name, kind in named:
        known = CATALOG[kind]()
        if name not in known and ":" not in name:
            raise unknown_name(field, name, known, or_path=True)


def list_names(words: list[str]) -> None:
    """List envs, wrappers, agents, experts, optimizers, covariances, policies and so on."""
    if "-h" in words or "--help" in words:
        print(f"usage: vitucb list [{'|'.join(CATALOG)}] ...")
        return
    for kind in words:
        if kind not in CATALOG:
            raise unknown_name("kind", kind, list(CATALOG))
    for kind in dict.fromkeys(words) or CATALOG:
        entries = CATALOG[kind]()
        width = max(map(len, entries), default=0) + 2
        print(f"{kind}:")
        for name, line in entries.items():
            print(f"  {name:{width}s}{line}")
