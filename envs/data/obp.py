"""Logs of the Open Bandit Pipeline: its dictionary of bandit feedback, or an NPZ file of it.

Keys, as `obtain_batch_bandit_feedback` of OBP 0.5 names them (https://github.com/st-tech/zr-obp):
`action` (n,), `reward` (n,), `pscore` (n,) or `pi_b` (n, K[, positions]), `n_actions`, `context`
(n, d), `expected_reward` (n, K). `position` and `action_context` are not used.

Pictures, which OBP has none of, may come beside: `images` uint8 (n, H, W[, 3]), what was seen in
each round, or (n, K, H, W[, 3]), an image per arm. Without them the contexts are what a policy may
look at. An NPZ file must hold no pickled objects; of these keys none is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitucb.envs.data.logged_rounds import LoggedRounds, rounds_without_images
from vitucb.envs.data.npz import array_images
from vitucb.storage.limits import check_limit
from vitucb.storage.npz import read_npz
from vitucb.types import LARGEST_REWARD, PROBABILITY_TOLERANCE

_KEYS = (
    *("n_rounds", "n_actions", "context", "action", "reward"),
    *("pscore", "pi_b", "expected_reward", "images"),
)


def read_bandit_feedback(
    source: Path | Mapping[str, Any], *, image_size: int | None = None
) -> LoggedRounds:
    """The rounds of a dictionary of bandit feedback, or of an NPZ file of one.

    Args:
        source: The dictionary, or the file.
        image_size: Side in pixels to resize images to; None keeps them.

    Raises:
        ValueError: If a key is missing, or an array is not as the module says; names it.
    """
    name = str(source) if isinstance(source, Path) else "bandit feedback"
    try:
        given = dict(read_npz(source, _KEYS) if isinstance(source, Path) else source)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise _error(name, f"cannot be read: {reason}; save it without object arrays") from error
    arrays = {key: np.asarray(given[key]) for key in _KEYS if given.get(key) is not None}
    for key in ("action", "reward"):
        if key not in arrays:
            known = ", ".join(map(str, given)) or "nothing"
            raise _error(name, f"has no {key!r}, it holds {known[:200]}; give bandit feedback")
    return _rounds(name, arrays, image_size)


def _rounds(name: str, arrays: dict[str, NDArray[Any]], image_size: int | None) -> LoggedRounds:
    actions = _whole_numbers(name, "action", arrays["action"])
    count = len(actions)
    if "n_rounds" in arrays and arrays["n_rounds"] != count:
        raise _error(name, f"n_rounds is {arrays['n_rounds']}, but there are {count} actions")
    rewards = _numbers(name, "reward", arrays["reward"], (count,))
    arms = _num_actions(name, arrays, int(actions.max()))
    check_limit("log_cells", count * arms, f"{name}: rounds times actions,")
    propensities = _propensities(name, arrays, actions, arms)
    means = arrays.get("expected_reward")
    known: dict[str, Any] = {
        "mask": np.ones((count, arms), np.int8),
        "actions": actions,
        "rewards": rewards,
        "propensities": propensities,
        "expected_rewards": None
        if means is None
        else _numbers(name, "expected_reward", means, (count, arms)),
    }
    numbers = tuple(map(str, range(arms)))
    pixels = arrays.get("images")
    if pixels is None:
        contexts = arrays.get("context", np.zeros((count, 1)))
        contexts = _numbers(name, "context", contexts.reshape(count, -1), (count, -1))
        return rounds_without_images(name, contexts, action_names=numbers, **known)
    is_per_arm = pixels.ndim == 5 or (pixels.ndim == 4 and pixels.shape[3] not in (1, 3))
    lead = (count, arms) if is_per_arm else (count,)
    if pixels.shape[: len(lead)] != lead or pixels.ndim < len(lead) + 2:
        raise _error(
            name, f"images have shape {pixels.shape}; give (n, H, W[, 3]) or (n, K, H, W[, 3])"
        )
    flat = pixels.reshape(-1, *pixels.shape[len(lead) :])
    items = np.arange(len(flat), dtype=np.int64).reshape(count, -1)
    images = array_images(name, flat, image_size)
    return LoggedRounds(name, images, items, **known, action_names=() if is_per_arm else numbers)


def _num_actions(name: str, arrays: dict[str, NDArray[Any]], largest: int) -> int:
    """K: as said, or as the width of an array that has it, or as the actions show."""
    if "n_actions" in arrays:
        arms = int(_whole_numbers(name, "n_actions", arrays["n_actions"].reshape(-1))[0])
    else:
        tables = (arrays[k] for k in ("pi_b", "expected_reward") if k in arrays)
        wide = [table.shape[1] for table in tables if table.ndim > 1]
        arms = wide[0] if wide else largest + 1
    if not largest < arms or arms < 2:
        raise _error(name, f"action {largest} of {arms} actions; give n_actions, at least 2")
    check_limit("arms", arms, f"{name}: its actions,")
    return arms


def _propensities(
    name: str, arrays: dict[str, NDArray[Any]], actions: NDArray[np.int64], arms: int
) -> NDArray[np.float64] | None:
    """Probability of every action taken, (n,): `pscore`, else that of `pi_b`; None if neither."""
    key = "pscore" if "pscore" in arrays else "pi_b"
    if key not in arrays:
        return None
    given = arrays[key]
    if key == "pi_b":
        if given.ndim == 3 and given.shape[2] > 1:
            raise _error(name, f"pi_b is of {given.shape[2]} positions; give pscore")
        table = _numbers(name, key, given.reshape(len(given), -1), (len(actions), arms))
        given = table[np.arange(len(actions)), actions]
    p = _numbers(name, key, given, (len(actions),))
    bad = np.flatnonzero((p <= 0) | (p > 1 + PROBABILITY_TOLERANCE))
    if len(bad):
        raise _error(name, f"{key} of round {bad[0]} is {p[bad[0]]:g}; give values in (0, 1]")
    return np.minimum(p, 1.0)


def _whole_numbers(name: str, key: str, values: NDArray[Any]) -> NDArray[np.int64]:
    is_whole = values.dtype.kind in "iu"
    if not is_whole and values.dtype.kind == "f" and np.isfinite(values).all():
        is_whole = bool((values == values.round()).all())
    if values.ndim != 1 or not len(values) or not is_whole or values.min() < 0:
        raise _error(name, f"{key} is {values.dtype} {values.shape}; give whole numbers >= 0, (n,)")
    check_limit("arms", float(values.max()), f"{name}: {key},")
    whole: NDArray[np.int64] = values.astype(np.int64)
    return whole


def _numbers(
    name: str, key: str, values: NDArray[Any], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """`values` as float64 of that shape (-1: any), finite."""
    fits = values.ndim == len(shape) and all(
        s in (-1, v) for s, v in zip(shape, values.shape, strict=True)
    )
    if not fits or values.dtype.kind not in "iufb":
        raise _error(name, f"{key} is {values.dtype} {values.shape}; give numbers {shape}")
    numbers: NDArray[np.float64] = values.astype(np.float64)
    if not (np.abs(numbers) <= LARGEST_REWARD).all():
        raise _error(name, f"{key} holds NaN, or more than {LARGEST_REWARD:g}; give finite numbers")
    return numbers


def _error(name: str, problem: str) -> ValueError:
    return ValueError(f"log {name}: {problem}")
