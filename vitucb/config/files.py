"""Config files: read, write, compare."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import yaml

from vitucb.config.lora import LoRAConfig
from vitucb.config.override import flatten, override, to_dict
from vitucb.config.run import RunConfig
from vitucb.storage.atomic_files import write_durably
from vitucb.storage.foreign_files import read_yaml

_logger = logging.getLogger(__name__)


def differences(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that change what a run records: dotted key -> (old, new) where they differ."""
    olds, news = (_played(config) for config in (old, new))
    keys = [key for key in dict.fromkeys([*olds, *news]) if key not in _HARMLESS]
    return {k: (olds.get(k), news.get(k)) for k in keys if olds.get(k) != news.get(k)}


def _played(config: RunConfig) -> dict[str, Any]:
    """The settings, flat; a learning rate that is left to the agent as the number it stands for."""
    values = flatten(to_dict(config))
    if config.agent.name != "vit-ucb" or config.agent.experts == ("adapted",):
        values["agent.optimizer.lr"] = config.agent.optimizer.lr_alone
    return values


# Settings that may change between the parts of a run: its rounds stay the same.
_HARMLESS = (
    "out",
    "overwrite",
    "tensorboard",
    "track",
    "checkpoint_every",
    "images_every",
    "parallel.timeout_s",
)


# Settings that are no more: the value that older files hold, which says nothing now, and what
# else to do instead.
_RETIRED: dict[str, tuple[Any, str]] = {
    "parallel.seeds": (1, "play seeds in processes: vitucb sweep --seeds N --workers N"),
}


_OLD_RANK = {"rank": 4, "alpha": 8.0}


# Values that are no more, by setting: the nearest that is.
_NEAREST = {"agent.training.rebuild": {"replay": "doubling"}}


def load_config(path: str | Path) -> RunConfig:
    """Read a YAML file as a partial override of the defaults.

    Raises:
        ValueError: If the file is missing, no YAML mapping, or has unknown keys or wrong types;
            names the file.
    """
    path = Path(path)
    try:
        values = read_yaml(path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; check the path") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict | None):
        raise ValueError(f"{path}: expected key: value settings at the top level")
    try:
        return override(RunConfig(), _without_retired(values or {}, path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _without_retired(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """`values` without settings of older versions that change nothing."""
    for key, (harmless, remedy) in _RETIRED.items():
        section, _, name = key.partition(".")
        settings = values.get(section)
        if not isinstance(settings, dict) or name not in settings:
            continue
        if settings[name] != harmless:
            raise ValueError(f"{key} {settings[name]} is no more; {remedy}")
        kept = {field: value for field, value in settings.items() if field != name}
        values = {**values, section: kept}
    values = _without_old_rank(values)
    for key, nearest in _NEAREST.items():
        *sections, name = key.split(".")
        found: Any = values
        for section in sections:
            found = found.get(section) if isinstance(found, dict) else None
        old = found.get(name) if isinstance(found, dict) else None
        if isinstance(old, str) and old in nearest:
            found[name] = nearest[old]
            _logger.warning("%s: %s %s is no more, read as %s", path, key, old, nearest[old])
    return values


def _without_old_rank(values: dict[str, Any]) -> dict[str, Any]:
    """`values` without the rank and alpha that older versions wrote where none was given."""
    agent: Any = values.get("agent")
    lora: Any = agent.get("lora") if isinstance(agent, dict) else None
    if not isinstance(lora, dict) or "targets" not in lora:
        return values  # not the settings of a run, which are all written down
    left_to_agent = to_dict(LoRAConfig())
    if {**left_to_agent, **lora} != left_to_agent | _OLD_RANK:
        return values
    return {**values, "agent": {**agent, "lora": {**lora, "rank": None, "alpha": None}}}


def save_config(config: RunConfig, path: Path) -> None:
    """Write the fully resolved config as YAML."""
    write_durably(path, yaml.safe_dump(to_dict(config), sort_keys=False))
