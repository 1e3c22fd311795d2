"""The files of a run folder that a report reads, each checked before anything is made of it.

A run folder may come from anybody, and damage happens. Numbers are finite and of a size that can be
drawn, records have the types that the recorder writes, and nothing lies outside the folder.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitucb.experiment.rounds_file import read_rounds
from vitucb.statistics import FloatArray
from vitucb.storage.foreign_files import check_inside, read_json, read_text, read_yaml
from vitucb.storage.limits import check_limit, limit
from vitucb.storage.npz import read_npz
from vitucb.types import LARGEST_REWARD

Json: TypeAlias = Mapping[str, Any]

COLUMNS = (
    "action",
    "reward",
    "expected_reward",
    "optimal_action",
    "regret",
    "mean",
    "width",
    "bonus",
    "greedy_action",
)
"""Columns of `rounds.csv` that a report uses."""

# Regrets are differences of rewards.
_LARGEST = 2 * LARGEST_REWARD
_LONGEST_NAME = 200


def read_settings(folder: Path) -> Json:
    """`config.yaml`, of plain values alone.

    Raises:
        ValueError: If it is missing, damaged or no mapping.
    """
    path = folder / "config.yaml"
    try:
        check_inside(folder, path)
        content = _plain(read_yaml(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {_reason(error)}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} is not a mapping of settings; run it again")
    return content


def read_record(
    folder: Path,
    name: str,
    *,
    numbers: Collection[str] = (),
    mappings: Collection[str] = (),
) -> Json:
    """A JSON object; empty if there is no such file.

    Args:
        folder: The run folder.
        name: The file.
        numbers: Fields that are finite numbers, not negative, where they are there.
        mappings: Fields that are objects, where they are there.

    Raises:
        ValueError: If it is damaged, or a field is of another kind.
    """
    path = folder / name
    if not os.path.lexists(path):
        return {}
    try:
        check_inside(folder, path)
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({_reason(error)}); delete it or run again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object; delete it or run again")
    kinds: dict[str, tuple[Any, str]] = {
        **dict.fromkeys(numbers, (is_number, "a number")),
        **dict.fromkeys(mappings, (lambda value: isinstance(value, dict), "an object")),
    }
    for field, (is_right, kind) in kinds.items():
        value = content.get(field)
        if value is not None and not is_right(value):
            raise ValueError(
                f"{path}: {field} {str(value)[:80]!r} is not {kind}; delete it or run again"
            )
    return {field: value for field, value in content.items() if value is not None}


def is_number(value: object) -> bool:
    """Whether this is a finite number that is not negative."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 <= value <= _LARGEST and not math.isnan(value)


def read_columns(folder: Path) -> Mapping[str, FloatArray]:
    """The columns of `rounds.csv` that a report uses; empty before the first round.

    Raises:
        ValueError: If the file is damaged, or a number is none or out of range.
    """
    path = folder / "rounds.csv"
    if not os.path.lexists(path):
        return {name: np.empty(0) for name in COLUMNS}
    try:
        check_inside(folder, path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    columns = read_rounds(path, COLUMNS)
    for name, column in columns.items():
        is_wrong, problem = _wrong(name, column)
        for first in np.flatnonzero(is_wrong)[:1].tolist():
            raise ValueError(
                f"{path}: {name} of round {first} is {problem} ({column[first]:g}); record the run "
                "again"
            )
    return columns


def _wrong(name: str, column: FloatArray) -> tuple[NDArray[np.bool_], str]:
    """Where a column of `rounds.csv` cannot be right, and why."""
    if name in ("regret", "reward"):
        # An environment that cannot know its mean rewards says so by NaN.
        is_infinite = np.isinf(column) if name == "regret" else ~np.isfinite(column)
        if is_infinite.any():
            return is_infinite, "not finite"
        return np.abs(column) > _LARGEST, "out of range"
    if name.endswith("action"):
        # What is not known is -1 or NaN; the chosen one is.
        known = column[:] if name == "action" else np.where(np.isnan(column), -1, column)
        least = 0 if name == "action" else -1
        is_arm = (known >= least) & (known < limit("arms")) & (known == np.round(known))
        return ~is_arm, "no arm"
    return np.isfinite(column) & (np.abs(column) > _LARGEST), "out of range"


def read_classes(folder: Path, rounds: int, count: int) -> NDArray[np.int64] | None:
    """Class of the arm chosen in every round (rounds,); None where it is not known of each.

    Args:
        folder: The run folder.
        rounds: Rounds played.
        count: Number of classes.

    Raises:
        ValueError: If `classes.csv` is damaged.
    """
    path = folder / "classes.csv"
    if not os.path.lexists(path):
        return None
    check_inside(folder, path)
    table = read_rounds(path, ("round", "class"))
    # A run that an earlier version began has none of its first rounds.
    if not np.array_equal(table["round"][:rounds], np.arange(rounds)):
        return None
    classes = table["class"][:rounds]
    if not ((classes >= 0) & (classes < count) & (classes == np.round(classes))).all():
        raise ValueError(f"{path} names a class that is none of {count}; record the run again")
    return classes.astype(np.int64)


def read_metrics(folder: Path) -> dict[str, tuple[FloatArray, FloatArray]]:
    """`metrics.csv`: name -> (rounds ascending, values), float64 (n,) each; empty without it.

    Raises:
        ValueError: If it is damaged.
    """
    path = folder / "metrics.csv"
    if not os.path.lexists(path):
        return {}
    points: dict[str, list[tuple[float, float]]] = {}
    try:
        check_inside(folder, path)
        text = read_text(path, "table_mib")
        # Read as written: an agent may put a comma into the name of a metric.
        rows = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
        next(rows, None)
        for index, name, value in rows:
            points.setdefault(name, []).append((float(index), float(value)))
        tables = {name: np.array(pairs) for name, pairs in points.items()}
        for table in tables.values():  # what grew past all bounds is a gap, like what is unknown
            table[np.isinf(table[:, 1]), 1] = np.nan
        for name, table in tables.items():
            _check_metric(name, table)
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: {_reason(error)}; record the run again") from error
    return {name: (table[:, 0], table[:, 1]) for name, table in tables.items()}


def _check_metric(name: str, table: FloatArray) -> None:
    is_sound = np.isfinite(table[:, 0]) & ~(np.abs(table) > _LARGEST).any(axis=1)
    if len(name) > _LONGEST_NAME or not is_sound.all():
        raise ValueError(f"metric {name[:_LONGEST_NAME]!r} has rounds or values out of range")


def read_gallery(
    folder: Path, names: Collection[str], optional: Collection[str] = ()
) -> dict[str, NDArray[Any]] | None:
    """The arrays of `gallery.npz`; None without it.

    Raises:
        ValueError: If it is damaged, an array is missing, or they do not fit each other.
    """
    path = folder / "gallery.npz"
    if not os.path.lexists(path):
        return None
    try:
        check_inside(folder, path)
        arrays = read_npz(path, {*names, *optional})
        missing = sorted(set(names) - set(arrays))
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        _check_gallery(arrays)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({_reason(error)}); delete it or run again"
        ) from error
    return arrays


def _check_gallery(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Images and what was thought of them, n rounds of K arms."""
    images, means = arrays["images"], arrays["expected_rewards"]
    if means.ndim != 2 or not means.shape[1]:
        raise ValueError(f"expected_rewards have shape {means.shape}")
    count, arms = means.shape
    check_limit("arms", arms, "its arms,")
    is_picture = images.ndim == 5 and images.dtype == np.uint8 and images.shape[4] in (1, 3, 4)
    if not is_picture or len(images) != count or images.shape[1] not in (1, arms):
        raise ValueError(f"images are {images.dtype} {images.shape} of {count} rounds, {arms} arms")
    if 0 in images.shape[2:4]:
        raise ValueError(f"images have shape {images.shape}")
    optional = (
        ("classes", (count, arms), "iu"),
        ("regret", (count,), "f"),
        ("action_mask", (count, arms), "iu"),
    )
    for name, shape, kind in (
        *(column for column in optional if column[0] in arrays),
        ("mean", (count, arms), "f"),
        ("bonus", (count, arms), "f"),
        ("expected_rewards", (count, arms), "f"),
        ("reward", (count,), "fiu"),
        ("round", (count,), "iu"),
        ("action", (count,), "iu"),
        ("optimal_action", (count,), "iu"),
    ):
        array = arrays[name]
        if array.shape != shape or array.dtype.kind not in kind:
            raise ValueError(f"{name} is {array.dtype} {array.shape} of {count} rounds")
        known = array[np.isfinite(array)]
        if (np.abs(known) > _LARGEST).any():
            raise ValueError(f"{name} is out of range")
        least = -1 if name == "optimal_action" else 0  # the best one may not be known
        if name.endswith("action") and ((array < least) | (array >= arms)).any():
            raise ValueError(f"{name} is no arm of {arms}")
        if name == "reward" and len(known) != array.size:
            raise ValueError(f"{name} is not finite")
        if name == "expected_rewards" and np.isinf(array).any():
            raise ValueError(f"{name} is not finite")


def _plain(value: Any) -> Any:
    """YAML's dates, sets and bytes as text, and all keys."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())
