"""Frozen dataclasses and nested mappings: partial override with strict types, and back."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

ConfigT = TypeVar("ConfigT")


def override(config: ConfigT, values: Mapping[str, Any], where: str = "") -> ConfigT:
    """`config` with the fields named in `values` replaced, recursively.

    Args:
        config: A config dataclass instance.
        values: Nested mapping; a section may be given as its name alone (`optimizer: lora-rite`).
        where: Dotted path of `config`, for messages.

    Raises:
        ValueError: If a key is unknown or a value has the wrong type.
    """
    hints = typing.get_type_hints(type(config))
    changes = {}
    for key, value in values.items():
        path = f"{where}{_word(key)}"
        if key not in hints:
            raise ValueError(_unknown_key(_word(key), path, config, value))
        current = getattr(config, key)
        if not dataclasses.is_dataclass(current):
            changes[key] = checked(value, hints[key], path)
            continue
        if dataclasses.is_dataclass(value) and type(value) is type(current):
            changes[key] = value
            continue
        if isinstance(value, str) and "name" in typing.get_type_hints(type(current)):
            value = {"name": value}
        if not isinstance(value, Mapping):
            raise ValueError(f"{path}: expected a section of settings, got {shown(value)}")
        changes[key] = override(current, value, f"{path}.")
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]  # always a dataclass


def override_key(config: ConfigT, key: str, value: Any) -> ConfigT:
    """`config` with the one setting `key` (dotted) replaced.

    A key inside free options, such as `agent.optimizer.options.ratio`, leaves the other options
    as they are.

    Raises:
        ValueError: If the key is unknown or the value has the wrong type.
    """
    node: Any = config
    parts = key.split(".")
    for depth, part in enumerate(parts, start=1):
        node = getattr(node, part, None)
        if isinstance(node, Mapping):
            value, parts = _merged(node, parts[depth:], value), parts[:depth]
            break
    return override(config, _merged({}, parts, value))


def override_keys(config: ConfigT, values: Mapping[str, Any]) -> ConfigT:
    """`config` with every setting of `values` (dotted key -> value) replaced, in order."""
    for key, value in values.items():
        config = override_key(config, key, value)
    return config


def _merged(mapping: Mapping[str, Any], parts: Sequence[str], value: Any) -> Any:
    """`mapping` with the value at the path `parts` replaced, or `value` where there is no path."""
    if not parts:
        return value
    inner = mapping.get(parts[0])
    inner = inner if isinstance(inner, Mapping) else {}
    return {**mapping, parts[0]: _merged(inner, parts[1:], value)}


def types_of(config_class: type, key: str) -> tuple[type, ...]:
    """The types that the setting `key` (dotted) may have; none if there is no such setting.

    That of a key inside free options is dict.
    """
    hint: Any = config_class
    for part in key.split("."):
        if not dataclasses.is_dataclass(hint):
            break
        hint = typing.get_type_hints(hint).get(part)
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    members = typing.get_args(hint) if is_union else (hint,)
    return tuple(typing.get_origin(member) or member for member in members if member is not None)


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain dicts, lists and scalars, ready for YAML or JSON."""
    plain: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
        plain[f.name] = list(value) if isinstance(value, tuple) else value
    return plain


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _unknown_key(key: str, path: str, config: Any, value: object) -> str:
    """What to say of a key that `config` has not, but perhaps one of its sections."""
    known = [field.name for field in dataclasses.fields(config)]
    meant = [f for f in flatten(to_dict(config)) if f".{f}".endswith(f".{key}")]
    if meant:
        where = path.removesuffix(key)
        ways = [f"{where}{f}, written {_nested(f.split('.'), value)}" for f in meant]
        return f"unknown config key {path!r}; did you mean {', or '.join(ways)}?"
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown config key {path!r}; {hint}known here: {', '.join(known)}"


def _nested(parts: Sequence[str], value: object) -> str:
    """How to give the setting at the path `parts` from Python: `policy={'alpha': 3}`."""
    inner = shown(value)
    for part in reversed(parts[1:]):
        inner = f"{{{part!r}: {inner}}}"
    return f"{parts[0]}={inner}"


def checked(value: Any, hint: Any, path: str) -> Any:
    """`value` as type `hint`; ints count as floats, lists as tuples, numpy's numbers, paths.

    Raises:
        ValueError: If it has another type; names it as `path`.
    """
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, os.PathLike):
        value = os.fspath(value)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _checked_union(value, args, path)
    if origin is Literal:
        if value in args:
            return value
        raise ValueError(f"{path}: expected one of {', '.join(map(str, args))}, got {shown(value)}")
    if origin in (tuple, list) and isinstance(value, list | tuple):
        is_any_length = origin is list or args[-1] is ...
        members = args[:1] * len(value) if is_any_length else args
        if len(members) != len(value):
            raise ValueError(f"{path}: expected {len(members)} values, got {shown(value)}")
        pairs = enumerate(zip(value, members, strict=True))
        return origin(checked(v, member, f"{path}[{i}]") for i, (v, member) in pairs)
    if origin is dict and isinstance(value, Mapping):
        return {str(k): checked(v, args[1], f"{path}.{_word(k)}") for k, v in value.items()}
    if hint is float and isinstance(value, str):
        value = _yaml_float(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return _float(value, path)
    kind = origin or hint
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ValueError(_refusal(path, (kind,), value))


def _refusal(path: str, hints: Sequence[Any], value: object) -> str:
    """What to say of a value of another type than `hints`."""
    names = " or ".join(map(_name, hints))
    return f"{path}: expected {names}, got {shown(value)}{_remedy(hints, value)}"


def _remedy(hints: Sequence[Any], value: object) -> str:
    """How the value is meant to be written, where that can be told."""
    kinds = [typing.get_origin(hint) or hint for hint in hints]
    if tuple in kinds and isinstance(value, str | int | float):
        return f"; write a list: [{_word(value)}]"
    if str in kinds and isinstance(value, bool | int | float | datetime.date):
        return "; put it in quotes"
    if type(None) in kinds and value == "None":
        return "; write null"
    if int in kinds and isinstance(value, str) and value.isdecimal():
        return f"; write {value} without quotes"
    if int in kinds and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    return ""


def shown(value: object) -> str:
    """A value for a message of one line that is not too long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


_LONGEST = 200


def _word(key: object) -> str:
    text = str(key)
    return text if len(text) <= _LONGEST and text.isprintable() else shown(text)


def _float(value: int, path: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{path}: an integer of {len(str(value))} digits is too large") from None


def _checked_union(value: Any, members: tuple[Any, ...], path: str) -> Any:
    if isinstance(value, str) and str in members and not _EXPONENT.fullmatch(value):
        return value  # a text that happens to be a number stays one
    for member in members:
        if member is type(None):
            if value is None:
                return None
            continue
        try:
            return checked(value, member, path)
        except ValueError as error:
            if not str(error).startswith(f"{path}:"):
                raise  # the list or mapping is right, but not what is in it
    raise ValueError(_refusal(path, members, value))


def _name(hint: Any) -> str:
    """A type as a person calls it who writes YAML."""
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    kind = typing.get_origin(hint) or hint
    own = {type(None): "nothing", tuple: "list", dict: "mapping"}
    return own[kind] if kind in own else str(getattr(kind, "__name__", hint))


# What YAML 1.1 reads as text, for want of a dot or a sign, and a person means as a number.
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def _yaml_float(value: str) -> float | str:
    # YAML 1.1 reads 1e-3 (no dot) as a string; a person means a number.
    try:
        return float(value)
    except ValueError:
        return value
