"""Options whose names only their reader knows, as in `agent.optimizer.options`.

A config file writes them as YAML does. A command line has words alone: `ratio 16 betas 0.9,0.99`,
and `[...]` or `{...}` for what that cannot say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import yaml

from vitucb.config.override import checked
from vitucb.storage.foreign_files import parse_yaml

Scalar: TypeAlias = int | float | bool | str
Option: TypeAlias = Scalar | list[Scalar] | dict[str, Scalar | list[Scalar]]
Options: TypeAlias = dict[str, Option]

_TRUTH = {"true": True, "false": False}


def normalised(options: Mapping[str, Any], path: str) -> Options:
    """`options` of plain types; words true and false are truth values in any case.

    Raises:
        ValueError: If a value is of another type; names it as in `path`.
    """
    plain: Options = _truths(checked(options, Options, path))
    return plain


def _truths(value: Any) -> Any:
    # As text, either would count as true.
    if isinstance(value, str):
        return _TRUTH.get(value.lower(), value)
    if isinstance(value, list):
        return [_truths(item) for item in value]
    if isinstance(value, dict):
        return {key: _truths(item) for key, item in value.items()}
    return value


def parse_options(words: Sequence[str]) -> Options:
    """Options from the words `name value name value ...`.

    Raises:
        ValueError: If a name has no value or two, or a value cannot be read.
    """
    if len(words) % 2:
        raise ValueError(f"{words[-1]!r} has no value; write name value name value ...")
    names = words[::2]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"option {twice[0]!r} is named twice; give it one value")
    pairs = zip(names, words[1::2], strict=True)
    return normalised({name: parse_option(word) for name, word in pairs}, "options")


def parse_option(word: str) -> Any:
    """What a word means: a number, numbers with commas between, a list, a mapping, or itself.

    Raises:
        ValueError: If it starts as a list or a mapping and is none.
    """
    if word[:1] in ("[", "{"):
        try:
            return parse_yaml(word)
        except ValueError as error:
            raise ValueError(
                f"{word!r} is no list or mapping such as [1, 2] or {{a: 1}}: {error}"
            ) from error
    numbers = [_number(part) for part in word.split(",")]
    if None in numbers:
        return word
    return numbers if len(numbers) > 1 else numbers[0]


def _number(word: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return None


def format_options(options: Mapping[str, Any]) -> list[str]:
    """The words that `parse_options` reads as `options`."""
    return [word for name, value in options.items() for word in (name, _format_option(value))]


def _format_option(value: Any) -> str:
    if isinstance(value, list | dict):
        return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
    return str(value)
