"""Environments of a run, built from its settings."""

from __future__ import annotations

import inspect
from typing import Any

import gymnasium as gym

from vitucb.agents.context import require_image_bandit
from vitucb.config import DataConfig, DelayConfig, DriftConfig, EnvConfig, to_dict
from vitucb.envs import (
    ENVS,
    DelayedReward,
    DriftingRewards,
    ImageDataset,
    RandomArmSubset,
    SlateArms,
    SlotBySlot,
    load_dataset,
)
from vitucb.envs.data.sources import TIMM_PREFIXES
from vitucb.registry import HUB, check_trusted, import_path, unknown_name


def make_env(config: EnvConfig, num_rounds: int | None = None) -> gym.Env[Any, Any]:
    """Build the environment of `config` with its wrappers, one episode of `num_rounds` rounds.

    Raises:
        ValueError: If the id is unknown or an argument is not usable.
    """
    if ":" in config.id:
        check_trusted(config.id.partition(":")[0], config.id)
    if config.dataset is not None and config.dataset.partition("/")[0] in TIMM_PREFIXES:
        check_trusted(HUB, config.dataset)
    named = {
        "dataset": _dataset(config),
        "num_arms": config.num_arms,
        "reward": config.reward,
        "noise_std": config.noise_std,
    }
    for name in (*named, "max_episode_steps"):
        if name in config.options:
            setting = f"env.{name}" if name in named else "num_rounds"
            raise ValueError(f"env.options {name}: this is a setting by itself; give {setting}")
    arguments: dict[str, Any] = {k: v for k, v in named.items() if v is not None} | config.options
    if num_rounds is not None:
        if num_rounds < 1:
            raise ValueError(f"num_rounds {num_rounds} must be at least 1")
        arguments["max_episode_steps"] = _num_contexts(num_rounds, config.slate.slots)
    try:
        env = gym.make(config.id, disable_env_checker=True, **arguments)
    except gym.error.Error as error:
        known = [name for name in gym.registry if name.startswith("vitucb/")]
        raise unknown_name("env.id", config.id, known, or_path=True) from error
    except ImportError as error:
        raise ValueError(
            f"env.id {config.id!r} cannot be imported: {error}; install its module, or name it as "
            "module:id"
        ) from error
    except TypeError as error:
        raise ValueError(f"env: {config.id} does not take these settings: {error}") from error
    require_image_bandit(env, f"env.id {config.id!r}")
    return _wrapped(env, config)


def ignored_by_env(config: EnvConfig) -> list[str]:
    """What there is to say, in a line each, of settings that change nothing about `config`."""
    found = []
    if config.noise_std is not None and _reward_law(config) == "bernoulli":
        found.append(
            f"env.noise_std {config.noise_std} is of no use: rewards of env.reward bernoulli are 0 "
            "or 1; choose gaussian or score, or leave it out"
        )
    delay = config.delay
    if delay.tail != DelayConfig().tail and delay.law not in ("none", "heavy-tailed"):
        found.append(
            f"env.delay.tail {delay.tail} is of no use with env.delay.law {delay.law}; choose "
            "heavy-tailed, or leave it out"
        )
    return found


def _reward_law(config: EnvConfig) -> str | None:
    """`env.reward`, or the default of an environment of ours; None if it has none."""
    if config.reward is not None or config.id not in ENVS:
        return config.reward
    entry: Any = gym.registry[config.id].entry_point
    law = inspect.signature(import_path(entry)).parameters.get("reward")
    return None if law is None else law.default


def _num_contexts(num_rounds: int, slots: int | None) -> int:
    """How often images are drawn: once a round, or once for the m rounds of a slate."""
    if slots is None:
        return num_rounds
    if num_rounds % slots:
        fits = [n for n in (num_rounds // slots * slots, (num_rounds // slots + 1) * slots) if n]
        raise ValueError(
            f"num_rounds {num_rounds} is no multiple of env.slate.slots {slots}, and every "
            f"position of a slate is a round; give {' or '.join(map(str, fits))}"
        )
    return num_rounds // slots


def _dataset(config: EnvConfig) -> str | ImageDataset | None:
    """The dataset's name, or the set itself where more than its name is configured."""
    data = config.data
    if data == DataConfig():
        return config.dataset
    if config.dataset is None:
        changed = [
            f"env.data.{key} {value!r}"
            for key, value in to_dict(data).items()
            if value != to_dict(DataConfig())[key]
        ]
        raise ValueError(
            f"{', '.join(changed)}: of which images is not said; set env.dataset too, digits, say"
        )
    return load_dataset(
        config.dataset,
        image_size=data.image_size,
        split=None if data.split == "all" else data.split,
        classes=data.classes or None,
        skip_bad=data.skip_bad,
        disk_cache=data.disk_cache,
        cache_folder=data.cache_folder,
    )


def _wrapped(env: gym.Env[Any, Any], config: EnvConfig) -> gym.Env[Any, Any]:
    """`env` with the masks, the drift, the slates and the delay of `config`."""
    drift, delay, subset, slate = config.drift, config.delay, config.arm_subset, config.slate
    for name, section, is_off in (
        ("drift.kind", drift, drift.kind == "none"),
        ("delay.law", delay, delay.law == "none"),
        ("arm_subset.min_arms", subset, subset.min_arms is None),
        ("slate.slots", slate, slate.slots is None),
    ):
        if is_off and section != type(section)():
            raise ValueError(f"env.{name} is not set, and {section} has no use without it; set it")
    if subset.min_arms is not None:
        env = RandomArmSubset(env, subset.min_arms, subset.max_arms)
    if drift.kind != "none":
        unit = "round" if slate.slots is None else "slate"
        env = DriftingRewards(env, drift.kind, *_drift_rounds(drift, env, unit))
    if slate.slots is not None:
        if delay.law != "none":
            raise ValueError(
                f"env.delay.law {delay.law!r}: rewards of slates cannot be delayed; leave it "
                "out, or env.slate"
            )
        if slate.slots > (subset.min_arms or slate.slots):
            raise ValueError(
                f"env.slate.slots {slate.slots} is more than env.arm_subset.min_arms "
                f"{subset.min_arms}; offer as many arms as a slate has slots"
            )
        env = SlotBySlot(SlateArms(env, slate.slots, slate.examination or None))
    if delay.law != "none":
        env = DelayedReward(env, delay.law, delay.rounds, delay.loss_probability, delay.tail)
    return env


def _drift_rounds(drift: DriftConfig, env: gym.Env[Any, Any], unit: str) -> tuple[int, int | None]:
    """First round and period of the drift, in proportion to the horizon where not given.

    Args:
        drift: What is given.
        env: Tells the horizon.
        unit: What is counted, for messages.
    """
    horizon = env.spec.max_episode_steps if env.spec else None
    if horizon is None and (drift.at is None or drift.period is None):
        raise ValueError("env.drift: the environment has no horizon; give at and period")
    at = (horizon or 0) // 2 if drift.at is None else drift.at
    if horizon is not None and at >= horizon:
        raise ValueError(
            f"env.drift.at {at} is past the last {unit} {horizon - 1}, and counts {unit}s; give a "
            "smaller number"
        )
    if drift.period is None and drift.kind != "abrupt":
        return at, max(1, (horizon or 0) // 10)
    return at, drift.period


def describe_task(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """What is played, for `environment.json`: `dataset`, `num_arms`, `reward`, `class_names`.

    Where slates are shown, `slots` too. What an environment does not tell is left out. Names of
    classes are given where arms are images of classes; those of labels are the names of the
    actions.

    Args:
        env: An environment that was reset.
    """
    bare = env.unwrapped
    dataset = getattr(bare, "dataset", None)
    classes = getattr(dataset, "class_names", ()) if len(getattr(bare, "arm_classes", ())) else ()
    told: dict[str, Any] = {}
    for key, value in (
        ("dataset", getattr(dataset, "name", None)),
        ("reward", getattr(bare, "reward", None)),
    ):
        if isinstance(value, str):
            told[key] = value
    if isinstance(env.action_space, gym.spaces.Discrete):
        told["num_arms"] = int(env.action_space.n)
    if env.has_wrapper_attr("slots"):
        told["slots"] = int(env.get_wrapper_attr("slots"))
    if classes:
        told["class_names"] = list(map(str, classes))
    return told
