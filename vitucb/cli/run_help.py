"""`vitucb run --help`: the settings that most runs need, by section; `--help-all` has them all."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from vitucb.cli.setting_docs import Setting, settings_of
from vitucb.config import RunConfig

# Section -> settings, as a person thinks of them; what is rarely changed is in --help-all.
_SECTIONS: dict[str, tuple[str, ...]] = {
    "Run": ("experiment", "seed", "num_rounds", "out", "device", "threads", "overwrite"),
    "Environment": (
        *("env.id", "env.dataset", "env.num_arms", "env.reward", "env.noise_std"),
        *("env.data.classes", "env.data.image_size", "env.data.split"),
        *("env.delay.law", "env.drift.kind", "env.options"),
    ),
    "Agent": (
        *("agent.name", "agent.label", "agent.experts", "agent.backbone", "agent.weights"),
        *("agent.img_size", "agent.options"),
    ),
    "Exploration": ("agent.policy.name", "agent.policy.alpha", "agent.policy.epsilon"),
    "Adapters and their training": (
        *("agent.lora.rank", "agent.lora.targets", "agent.optimizer.name", "agent.optimizer.lr"),
        *("agent.training.batch_size", "agent.training.discount"),
    ),
    "Covariance": ("agent.covariance.name", "agent.covariance.ridge"),
}
_WIDTH, _INDENT = 100, 32


def short_help() -> str:
    """The text of `vitucb run --help`."""
    known = {setting.key: setting for setting in settings_of(RunConfig)}
    shown = sum(map(len, _SECTIONS.values()))
    lines = [
        "usage: vitucb run [--config FILE.yaml] [OPTIONS]",
        "",
        "Play one agent in one environment and record it.",
        "",
        *_entry("--config FILE.yaml", "Settings to start from; options override them."),
        *_entry("--resume", "Say what the run folder holds before going on with it."),
    ]
    for title, keys in _SECTIONS.items():
        lines += ["", f"{title}:"]
        for key in keys:
            lines += _entry(*_words(known[key]))
    return "\n".join(
        [
            *lines,
            "",
            f"These are {shown} of {len(known)} settings: vitucb run --help-all lists the others.",
            "vitucb list names agents, policies, optimizers, covariances, environments, data sets.",
        ]
    )


def _words(setting: Setting) -> tuple[str, str]:
    """An option with what it takes, and its first sentence with the default."""
    takes = "|".join(setting.choices) if setting.choices else _placeholder(setting)
    option = setting.option if setting.hint is bool else f"{setting.option} {takes}"
    first = re.split(r"(?<!e\.g)[.;] ", setting.doc)[0].rstrip(".")
    is_told = isinstance(setting.default, str | int | float | tuple) and setting.hint is not bool
    told = f" ({_shown(setting.default)})" if is_told and setting.default != () else ""
    return option, f"{first}{told}"


def _placeholder(setting: Setting) -> str:
    text = str(setting.hint)
    if "dict" in text or "Options" in text:
        return "NAME VALUE ..."
    many = " ..." if "tuple" in text else ""
    kinds = (("int", "N"), ("float", "X"))
    return next((word for kind, word in kinds if kind in text), "TEXT") + many


def _shown(default: object) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _entry(option: str, text: str) -> Iterator[str]:
    """An option and its text beside it, or below where there is no room."""
    wrapped = textwrap.wrap(text, _WIDTH - _INDENT, break_on_hyphens=False)
    if len(option) + 4 > _INDENT:
        yield f"  {option}"
    else:
        yield f"  {option:{_INDENT - 2}}{wrapped.pop(0) if wrapped else ''}"
    yield from (f"{'':{_INDENT}}{line}" for line in wrapped)
