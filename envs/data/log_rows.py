"""One row of a log, checked: which images, what was chosen, what came back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from vitucb.envs.data.tables import label_text
from vitucb.types import LARGEST_REWARD, sound_propensities


def row_error(path: Path, line: int, problem: str) -> ValueError:
    """The one-line error about a line of a log."""
    return ValueError(f"{path}:{line}: {problem}")


@dataclass(frozen=True, slots=True)
class LogRow:
    """One round of a log file.

    Attributes:
        line: Its 1-based line.
        images: Paths of the images as they stand in the file.
        is_context: Whether there is one image, which all actions share.
        offered: Labels of the actions that could be chosen, or positions of the images; empty
            for all of the log, or of the round.
        action: Position of the chosen image, or label of the action.
        reward: A finite number.
        propensity: In (0, 1], above it by rounding alone is 1; None if it was not kept.
    """

    line: int
    images: tuple[str, ...]
    is_context: bool
    offered: tuple[str | int, ...]
    action: str | int
    reward: float
    propensity: float | None

    @classmethod
    def of(
        cls, path: Path, line: int, fields: Mapping[str, object], names: Mapping[str, str]
    ) -> LogRow:
        """Check the fields of one row.

        Raises:
            ValueError: Names file, line and field.
        """

        def fail(field: str, problem: str) -> ValueError:
            return row_error(path, line, f"field {names[field]!r}: {problem}")

        given = {field: fields[name] for field, name in names.items() if name in fields}
        for field in ("action", "reward"):
            if field not in given:
                raise fail(field, "is missing; every row needs it")
        if ("context_image" in given) == ("arm_images" in given):
            raise fail(
                "arm_images",
                f"give either it or {names['context_image']!r}, the images of the round",
            )
        is_context = "context_image" in given
        field = "context_image" if is_context else "arm_images"
        images = _paths(given[field], is_context)
        if not images:
            raise fail(
                field, f"{_short(given[field])} is no {'path' if is_context else 'list of paths'}"
            )
        reward = _reward(given["reward"])
        if reward is None:
            limit = f"finite number of at most {LARGEST_REWARD:g}"
            raise fail("reward", f"{_short(given['reward'])} is no {limit}")
        propensity = None
        if "propensity" in given:
            propensity = float(sound_propensities(finite_number(given["propensity"]) or 0.0))
            if math.isnan(propensity):
                raise fail("propensity", f"{_short(given['propensity'])} is not in (0, 1]")
        action = _action(given["action"], None if is_context else len(images))
        if action is None:
            allowed = "a label" if is_context else f"a position 0 to {len(images) - 1}"
            raise fail("action", f"{_short(given['action'])} is not {allowed}")
        offered: tuple[str | int, ...] = ()
        if "offered" in given:
            offered = _actions(given["offered"], None if is_context else len(images))
            if action not in offered:
                kind = "labels" if is_context else f"positions 0 to {len(images) - 1}"
                wanted = f"list of {kind} with the action, {action!r}"
                raise fail("offered", f"{_short(given['offered'])} is no {wanted}")
        return cls(line, images, is_context, offered, action, reward, propensity)


_HUGE = "a huge integer"


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 1e18 else _HUGE
    return text if len(text) <= 60 else text[:57] + "..."


def _paths(value: object, is_context: bool) -> tuple[str, ...]:
    """The paths of an image field; empty if it holds none."""
    if is_context:
        return (value,) if isinstance(value, str) and value else ()
    paths = _list(value)
    named = tuple(path for path in paths if isinstance(path, str) and path)
    return named if len(named) == len(paths) else ()


def _actions(value: object, arms: int | None) -> tuple[str | int, ...]:
    """The actions of a list, as `_action` reads each; empty if one of them is none."""
    actions = [_action(action, arms) for action in _list(value)]
    known = tuple(action for action in actions if action is not None)
    return known if len(known) == len(actions) else ()


def _list(value: object) -> list[object]:
    """A list, of JSON or with `|` between; empty if it is none."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    if isinstance(value, str):
        value = value.split("|")
    return value if isinstance(value, list) else []


def finite_number(value: object) -> float | None:
    """A number that is finite, of a number or its text; None of anything else."""
    if not isinstance(value, str | int | float | Decimal):  # Parquet has decimals
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _reward(value: object) -> float | None:
    number = finite_number(value)
    return number if number is not None and abs(number) <= LARGEST_REWARD else None


def _action(value: object, arms: int | None) -> str | int | None:
    """A position below `arms`, or the label of an action where `arms` is None."""
    if arms is None:
        is_label = isinstance(value, str | int | float) and not isinstance(value, bool)
        return (label_text(value) or None) if is_label and _is_writable(value) else None
    number = finite_number(value)
    if isinstance(value, bool) or number is None or not number.is_integer():
        return None
    return int(number) if 0 <= number < arms else None


def _is_writable(value: object) -> bool:
    """Whether a label is text, or a number that can be told apart from others once written."""
    return isinstance(value, str) or (finite_number(value) is not None and _short(value) != _HUGE)


def natural_order(name: str) -> tuple[float, str]:
    """Numbers first, by value; then labels."""
    number = finite_number(name)
    return (math.inf if number is None else number, name)
