"""What is said of settings that an agent ignores is true: it reads the others, and only them."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any, TypeVar

import numpy as np
import pytest

import vitucb
from tests.agents.two_digits import two_digits
from vitucb.agents import AGENTS
from vitucb.agents.settings import ignored
from vitucb.config import AgentConfig, PolicyConfig, flatten, override, override_key, to_dict
from vitucb.policies import POLICIES, SETTINGS
from vitucb.registry import lookup

ConfigT = TypeVar("ConfigT")
ROUNDS = 4
SMALL: dict[str, dict[str, Any]] = {
    "vit-ucb": {
        "experts": ["adapted"],
        "lora": {"rank": 1, "blocks": [-1]},
        "training": {"batch_size": 2},
    },
    "neural-ucb": {"options": {"hidden": 4, "steps": 1}},
    "neural-ts": {"options": {"hidden": 4, "steps": 1}},
    "neural-linear": {"options": {"steps": 1, "refresh_every": 3}, "lora": {"rank": 1}},
    "full-finetune": {"training": {"batch_size": 2}},
    "prototype": {"options": {"rank": 1, "replay": 2}},
}
# What is read in these settings alone.
MORE: dict[str, tuple[dict[str, Any], ...]] = {
    "vit-ucb": (
        {"head": "gradient", "policy": {"radius": "oful"}},
        {"experts": ["kernel", "adapted"]},
    ),
    "neural-ts": ({"policy": {"joint": True, "draws": 3}},),
}
# Another value of every setting, far from the default.
OTHER: dict[str, Any] = {
    "experts": ["kernel"],
    "backbone": "nowhere",
    "weights": "nowhere.safetensors",
    "img_size": 48,
    "precision": "bfloat16",
    "prefix_cache_mib": 0,
    "head": "gradient",
    "head_ridge": 30.0,
    "features": "last-layer",
    "readout": "head",
    "link": "bernoulli",
    "lora.rank": 2,
    "lora.alpha": 1.0,
    "lora.targets": ["fc1"],
    "lora.blocks": [0],
    "lora.init": "orthogonal",
    "lora.init_samples": 7,
    "lora.use_rslora": True,
    "lora.use_dora": True,
    "optimizer.name": "sgd",
    "optimizer.lr": 0.1,
    "optimizer.head_lr": 0.5,
    "optimizer.options": {"betas": [0.1, 0.2]},
    "covariance.name": "diagonal",
    "covariance.ridge": 50.0,
    "covariance.rank": 1,
    "covariance.budget_mib": 100,
    "policy.name": "thompson",
    "policy.alpha": 9.0,
    "policy.radius": "constant",
    "policy.delta": 0.5,
    "policy.norm_bound": 7.0,
    "policy.epsilon": 1.0,
    "policy.temperature": 10.0,
    "policy.decay": 0.5,
    "policy.joint": True,
    "policy.optimistic": True,
    "policy.draws": 3,
    "policy.variant": "falcon",
    "policy.gamma": 1.0,
    "policy.growth": 0.1,
    "training.update_every": 2,
    "training.gradient_steps": 3,
    "training.batch_size": 1,
    "training.replay_capacity": 2,
    "training.replay": "window",
    "training.discount": 0.5,
    "training.reset_on_drift": True,
    "training.rebuild": "none",
    "training.drift_threshold": 1e-6,
    "training.augment": "none",
    "training.patch_drop_rate": 0.5,
}
OWN = {"name", "label", "options"}


def observed(config: ConfigT, log: set[str], prefix: str = "", hidden: Any = ()) -> ConfigT:
    """`config`, which notes in `log` what is read of it; `hidden` are not the user's settings."""
    kind = type(config)
    names = {f.name for f in dataclasses.fields(kind)} - set(hidden)  # type: ignore[arg-type]  # a config

    class Observed(kind):  # type: ignore[misc,valid-type]  # a class made for its values
        def __getattribute__(self, name: str) -> Any:
            value = object.__getattribute__(self, name)
            # The check of all settings of a policy is no use of them.
            if name in names and sys._getframe(1).f_code.co_name not in ("make_policy", "copied"):
                log.add(f"{prefix}{name}")
            return value

    made = object.__new__(Observed)
    for f in dataclasses.fields(kind):  # type: ignore[arg-type]  # a config
        value = getattr(config, f.name)
        is_section = dataclasses.is_dataclass(value) and not hasattr(value, "_copy")
        value = observed(value, log, f"{prefix}{f.name}.") if is_section else value
        object.__setattr__(made, f.name, value)

    def copied(changes: dict[str, Any]) -> Any:
        twin = observed(config, log, prefix, changes)
        for name, value in changes.items():
            object.__setattr__(twin, name, value)
        return twin

    object.__setattr__(made, "_copy", copied)
    return made


@pytest.fixture
def reads_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Copies of an observed config are observed, too, and copying is no reading."""
    replace = dataclasses.replace

    def quiet(instance: Any, **changes: Any) -> Any:
        copy = getattr(instance, "_copy", None)
        return replace(instance, **changes) if copy is None else copy(changes)

    monkeypatch.setattr(dataclasses, "replace", quiet)

    def reads(config: AgentConfig) -> set[str]:
        log: set[str] = set()
        played(observed(config, log))
        return {key for key in log if key in flatten(to_dict(AgentConfig())) or key in OTHER}

    return reads


def played(config: AgentConfig) -> list[Any]:
    env = two_digits(ROUNDS)
    factories = {name: entry.factory for name, entry in AGENTS.items()}
    agent = lookup("agent", config.name, factories)(config, env, 0, "cpu")
    return [
        (r.decision.action, r.decision.propensity, *r.decision.mean, *r.decision.width)
        for r in vitucb.run(env, agent, seed=0)
    ]


def small(name: str, more: dict[str, Any] | None = None) -> AgentConfig:
    config = override(AgentConfig(), {"name": name, **SMALL.get(name, {})})
    return override(config, more or {})


def test_every_agent_and_policy_and_setting_is_told_of() -> None:
    assert set(SETTINGS) == set(POLICIES)
    assert OTHER.keys() - {"optimizer.options"} == flatten(to_dict(AgentConfig())).keys() - OWN


@pytest.mark.parametrize("name", AGENTS)
def test_agent_reads_what_is_told_and_nothing_else(name: str, reads_of: Any) -> None:
    log = reads_of(small(name)) - OWN
    for more in MORE.get(name, ()):
        log |= reads_of(small(name, more)) - OWN
    told = {
        key for key in OTHER if key in AGENTS[name].reads or key.split(".")[0] in AGENTS[name].reads
    }
    if {"policy", "policy.name"} & AGENTS[name].reads:  # what else it reads depends on the policy
        policies = {f"policy.{field}" for fields in SETTINGS.values() for field in fields}
        told -= policies - log | {"policy.name"}
    assert log - {"policy.name"} == told


@pytest.mark.parametrize("name", SETTINGS)
def test_policy_reads_what_is_told_and_nothing_else(name: str) -> None:
    log: set[str] = set()
    policy: Any = POLICIES[name](observed(PolicyConfig(joint=True), log))
    given: dict[str, Any] = {"covariance": lambda: np.eye(2)} if name == "thompson" else {}
    policy(np.zeros(2), np.ones(2), np.ones(2, np.int8), 0, np.random.default_rng(0), **given)
    independent: Any = POLICIES[name](observed(PolicyConfig(), log))
    independent(np.zeros(2), np.ones(2), np.ones(2, np.int8), 0, np.random.default_rng(0))
    assert log == set(SETTINGS[name])


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *[(name, {}) for name in AGENTS],
        ("lin-ucb", {"policy": "epsilon-greedy"}),
        ("lin-ucb", {"policy": "thompson"}),
        ("vit-ucb", {"experts": ["adapted"], "features": "last-layer", "head": "gradient"}),
        ("vit-ucb", {"experts": ["kernel", "adapted"]}),
        ("vit-ucb", {"experts": ["kernel"]}),
        (
            "vit-ucb",
            {"experts": ["adapted"], "covariance": "dense", "training": {"rebuild": "doubling"}},
        ),
    ],
)
def test_run_is_the_same_whatever_is_ignored(name: str, more: dict[str, Any]) -> None:
    config = changed = small(name, more)
    without_effect = []
    for key, value in OTHER.items():
        other = override_key(config, key, value)
        if any(found.startswith(f"agent.{key}") for found in ignored(other)):
            changed = override_key(changed, key, value)
            without_effect.append(key)
    assert without_effect
    assert played(changed) == played(config)


@pytest.mark.parametrize(
    ("name", "experts", "is_told"),
    [
        ("kernel-ucb", None, True),
        ("vit-ucb", ["kernel"], True),
        ("vit-ucb", ["kernel", "adapted"], True),
        ("vit-ucb", ["kernel", "linear"], False),
        ("vit-ucb", ["kernel", "my_experts:build"], False),
        ("vit-ucb", ["adapted"], False),
        ("vit-ucb", None, False),
    ],
)
def test_a_multiplier_that_no_expert_reads_is_told_of(
    name: str, experts: list[str] | None, is_told: bool
) -> None:
    given = {"name": name, "experts": experts, "policy": {"alpha": 3.0}}
    config = override(AgentConfig(), given)
    assert ("agent.policy.alpha" in ignored(config)) is is_told


def test_agent_by_import_path_is_left_alone() -> None:
    config = override(AgentConfig(), {"name": "my_agents:build", "policy": {"epsilon": 0.5}})
    assert ignored(config) == []


def test_policy_and_covariance_by_import_path_may_read_anything() -> None:
    policy = {"name": "my:fading", "epsilon": 0.5}
    alone = {"experts": ["adapted"], "covariance": {"name": "my:A", "rank": 3}}
    config = override(AgentConfig(), {"policy": policy, **alone})
    assert ignored(config) == []
    assert ignored(override(config, {"name": "lin-ucb"})) == [
        "agent.experts",
        "agent.covariance.name",
        "agent.covariance.rank",
    ]


def test_agent_made_in_python_says_what_it_ignores(caplog: pytest.LogCaptureFixture) -> None:
    vitucb.make_agent("ucb1", two_digits(5), covariance="low-rank", optimizer={"lr": 1.0})
    vitucb.deploy("ucb1", num_arms=2, features="both")
    vitucb.make_agent("lin-ucb", two_digits(5), policy="greedy")
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "agent ucb1 makes no use of agent.optimizer.lr, agent.covariance.name",
        "agent ucb1 makes no use of agent.features",
    ]
