"""Reading the words of a command: tyro, options of our own, short errors, tables."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import re
import sys
from collections.abc import Sequence
from operator import attrgetter
from typing import TypeVar, get_origin

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
)

from vitucb.cli.output import UsageError
from vitucb.cli.setting_docs import settings_of
from vitucb.config import FREE_OPTIONS, RunConfig, flatten, load_config, override_key, to_dict
from vitucb.config.options import Options, format_options, parse_option, parse_options

ArgsT = TypeVar("ArgsT")
_REGISTRY = ConstructorRegistry()
# Before what a config says of its own values, which needs no list of options.
_REFUSED_BY_CONFIG = re.compile(r"Error parsing [\w.]+: (?=\w+(\.\w+)* )")
# Python's and tyro's ways to say that a word is no number, and what to say was expected; None
# stands for the kinds in the first group.
_REASONS = (
    (re.compile(r"invalid literal for int\(\) with base (\d+): (.*)"), "a whole number"),
    (re.compile(r"could not convert string to (float): (.*)"), "a number"),
    (re.compile(r"no type matching (.*) could be instantiated from \[(.*)\]"), None),
)
_KINDS = {"INT": "a whole number", "FLOAT": "a number", "{[INT [INT ...]]}": "whole numbers"}
_TRUTHS = ("true", "false", "yes", "no", "on", "off", "0", "1")


@_REGISTRY.primitive_rule
def _free_options(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Options] | None:
    """Settings that are options free in name, the only mappings, take name and value in turn."""
    if get_origin(info.type) is not dict:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME VALUE ...]",
        instance_from_str=parse_options,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=format_options,
    )


def parse(
    kind: type[ArgsT], words: Sequence[str], command: str, default: ArgsT | None = None
) -> ArgsT:
    """Parse with tyro; its boxed error becomes one line."""
    boxed = io.StringIO()
    start = tyro.MISSING_NONPROP if default is None else default
    try:
        with contextlib.redirect_stderr(boxed), _REGISTRY:
            return tyro.cli(kind, args=list(words), prog=f"vitucb {command}", default=start)
    except SystemExit as stop:
        if not stop.code:
            raise
        listed = "run --help-all" if kind is RunConfig else f"{command} --help"
        told = _switch_with_value(kind, words) or _condense(boxed.getvalue(), listed)
        raise UsageError(told) from None


def parse_run(words: Sequence[str], command: str) -> RunConfig:
    """The settings of a run: those of `--config FILE`, and the options that override them.

    Free options (`--agent.optimizer.options ratio 16`, or `--agent.optimizer.options.ratio 16`)
    are added to those of the file. A section may be given as its name alone, as in a file.
    """
    rest, config_file = pop_option([_spelled_out(word) for word in words], "--config")
    base = RunConfig() if config_file is None else _of_file(config_file)
    rest, dotted = _pop_dotted(rest)
    config = parse(RunConfig, rest, command, base)
    for section in FREE_OPTIONS:
        given = attrgetter(section)(config)
        config = override_key(config, section, attrgetter(section)(base))
        for name, value in given.items():
            config = override_key(config, f"{section}.{name}", value)
    for key, word in dotted:
        config = override_key(config, key, parse_option(word))
    return config


def _of_file(path: str) -> RunConfig:
    try:
        return load_config(path)
    except ValueError as error:
        raise UsageError(f"--config {error}") from None


def _spelled_out(word: str) -> str:
    """`--agent.policy.name` for `--agent.policy`, and the like; other words as they are."""
    option, has_value, value = word.partition("=")
    key = f"{option.removeprefix('--')}.name"
    is_name = option.startswith("--") and key in flatten(to_dict(RunConfig()))
    return f"--{key}{has_value}{value}" if is_name else word


def _pop_dotted(words: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """`words` without every `--agent.options.NAME VALUE` and the like, and these as pairs."""
    starts = tuple(f"--{section}." for section in FREE_OPTIONS)
    rest: list[str] = []
    dotted: list[tuple[str, str]] = []
    waiting = iter(words)
    for word in waiting:
        if not word.startswith(starts):
            rest.append(word)
            continue
        option, has_value, value = word.partition("=")
        key = option.removeprefix("--").replace("-", "_")
        given = value if has_value else next(waiting, None)
        if given is None or (given.startswith("--") and not has_value):
            raise UsageError(f"{option} needs a value")
        dotted.append((key, given))
    return rest, dotted


def _switch_with_value(kind: type[object], words: Sequence[str]) -> str | None:
    """What to say of a switch that is given a value, as if a file were written; None if none is."""
    switches = {setting.option: setting for setting in settings_of(kind) if setting.hint is bool}
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        option, has_value, value = word.partition("=")
        setting = switches.get(option.replace("_", "-"))
        given = value if has_value else following
        if setting is not None and (has_value or given.lower() in _TRUTHS):
            return f"{option} {given}: it takes no value; write {setting.option} or {setting.off}"
    return None


def _in_words(reason: str) -> str:
    """Why tyro could not read a value, without the words of its code."""
    for pattern, expected in _REASONS:
        if found := pattern.search(reason):
            kinds = [_KINDS.get(kind, kind.strip("{}")) for kind in found[1].split("|")]
            expected = expected or " or ".join(kinds)
            return f"{reason[: found.start()]}expected {expected}, got {found[2]}"
    return reason


def _condense(boxed: str, listed: str) -> str:
    """The message of tyro's error box and its first suggestion, on one line."""
    rows = [line.strip("│ ") for line in boxed.strip().splitlines()]
    # The title is drawn into the border, or stands above a rule where the stream is ASCII.
    inside = rows[1:] if boxed.strip().startswith("╭") else rows[2:]
    message = " ".join(itertools.takewhile(lambda text: text.strip("─-"), inside))
    if refused := _REFUSED_BY_CONFIG.match(message):
        return message[refused.end() :]
    hint = ""
    if "Perhaps you meant:" in inside[:-1]:
        option = inside[inside.index("Perhaps you meant:") + 1].split()[0]
        hint = f"; did you mean {option}?"
    message = _in_words(message.removeprefix("Error parsing "))
    return f"{message.rstrip('.') or 'cannot read the arguments'}{hint}; see vitucb {listed}"


def warn_of_ignored(configs: Sequence[RunConfig], command: str) -> None:
    """Say on stderr which settings have no effect: a line for an agent, or an environment."""
    from vitucb.agents.settings import describe_ignored, ignored
    from vitucb.experiment.environments import ignored_by_env

    for line in dict.fromkeys(line for config in configs for line in ignored_by_env(config.env)):
        print(f"vitucb {command}: {line}", file=sys.stderr)
    found = ((config.agent.name, tuple(ignored(config.agent))) for config in configs)
    for agent, keys in dict.fromkeys(found):
        if keys:
            print(f"vitucb {command}: {describe_ignored(agent, keys)}", file=sys.stderr)


def asks_help(words: Sequence[str]) -> bool:
    """Whether help is asked for, among whatever else stands on the command line."""
    return "-h" in words or "--help" in words


def pop_option(words: list[str], option: str) -> tuple[list[str], str | None]:
    """`words` without `option VALUE` (or `option=VALUE`), and the value."""
    for i, word in enumerate(words):
        if word.startswith(f"{option}="):
            return words[:i] + words[i + 1 :], word.partition("=")[2]
        if word == option:
            if i + 1 == len(words):
                raise UsageError(f"{option} needs a file name")
            return words[:i] + words[i + 2 :], words[i + 1]
    return words, None


def pop_values(words: list[str], option: str) -> tuple[list[str], list[str]]:
    """`words` without every `option A B`, and what followed it up to the next option.

    Raises:
        UsageError: If nothing follows the option.
    """
    kept: list[str] = []
    values: list[str] = []
    target = kept
    for word, following in itertools.zip_longest(words, words[1:], fillvalue="--"):
        if word == option:
            if following.startswith("--"):
                raise UsageError(f"{option} names no values; write {option} KEY=A,B")
            target = values
        elif word.startswith(f"{option}="):
            values.append(word.partition("=")[2])
        else:
            target = kept if word.startswith("--") else target
            target.append(word)
    return kept, values


def split_options(words: list[str], kind: type[object]) -> tuple[list[str], list[str]]:
    """The words of the options of dataclass `kind`, and the other words."""
    names = {f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(kind)}  # type: ignore[arg-type]  # a dataclass
    names |= {f"--no-{name[2:]}" for name in names}
    ours: list[str] = []
    rest: list[str] = []
    target = rest
    for word in words:
        if word.startswith("--"):
            target = ours if word.partition("=")[0].replace("_", "-") in names else rest
        target.append(word)
    return ours, rest
