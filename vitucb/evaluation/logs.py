"""Logged bandit data: from files, from our own runs, and what can be said about it beforehand.

A log supports off-policy evaluation only where the logging policy had a chance to do what the
evaluated policy does. `inspect_log` says, in plain sentences, where that is in doubt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vitucb.config import RunConfig, load_config
from vitucb.envs.data.log_files import FIELDS, read_log
from vitucb.envs.data.logged_rounds import LoggedRounds
from vitucb.evaluation.advice import SUSPICIOUS_Z
from vitucb.evaluation.cross_fitting import conditional_logit, multinomial_logit
from vitucb.experiment.reward_wrappers import wrapper_of_rewards
from vitucb.experiment.rounds_file import read_rounds
from vitucb.registry import reading_folder
from vitucb.storage.limits import limit
from vitucb.types import LARGEST_REWARD, action_names, shares_image, sound_propensities

__all__ = [
    "FIELDS",
    "LogReport",
    "LoggedRounds",
    "estimate_propensities",
    "inspect_log",
    "open_log",
    "read_log",
    "read_run_log",
]

# A sum of n terms further from its mean than this many standard errors is no accident.
_REWARD_TOLERANCE = 1e-9


def open_log(
    path: str | Path,
    *,
    image_size: int | None = None,
    skip_missing: bool = False,
    trust: Sequence[str] = (),
) -> LoggedRounds:
    """A log file, see `read_log`, or a run folder, see `read_run_log`.

    Raises:
        ValueError: If it cannot be read.
    """
    if Path(path).is_dir():
        _refuse_slates(Path(path))
        return read_run_log(path, trust)
    return read_log(path, image_size=image_size, skip_missing=skip_missing)


def _refuse_slates(folder: Path) -> None:
    """A position of a slate is no round of its own: what it would have been depends on the rest."""
    if (folder / "config.yaml").is_file() and load_config(folder / "config.yaml").env.slate.slots:
        raise ValueError(
            f"{folder}: a run of slates; evaluate it by vitucb.evaluation.evaluate_slates"
        )


def read_run_log(folder: str | Path, trust: Sequence[str] = ()) -> LoggedRounds:
    """One of our own runs as a log: `config.yaml` and `rounds.csv` are all it takes.

    What was on offer is a function of environment, seed and actions, so the environment is played
    again with the recorded actions, and every reward is compared with the recorded one.

    Args:
        folder: A run folder, finished or not.
        trust: Packages or modules that names in a folder may refer to; see `vitucb.load_agent`.

    Returns:
        The rounds, with the true mean rewards where the environment tells them.

    Raises:
        ValueError: If a file is missing or damaged, or the environment does not repeat the run.
    """
    folder = Path(folder)
    with reading_folder(folder, trust):
        return _read_run_log(folder)


def _read_run_log(folder: Path) -> LoggedRounds:
    config = load_config(folder / "config.yaml")
    choices = _read_choices(folder / "rounds.csv")
    actions = choices["action"].astype(np.int64)
    env = _environment(config, folder)
    names = action_names(env)
    images = _Distinct()
    items, masks, means = [], [], []
    for obs, expected in _replayed(env, config, actions, choices["reward"], folder):
        items.append(images.indices(obs["images"]))
        masks.append(np.array(obs["action_mask"], np.int8))
        means.append(expected)
    known = all(mean is not None and np.isfinite(mean).all() for mean in means)
    return LoggedRounds(
        name=str(folder),
        images=np.stack(images.kept),
        items=_padded(items, -1).astype(np.int64),
        mask=_padded(masks, 0).astype(np.int8),
        actions=actions,
        rewards=choices["reward"],
        propensities=choices["propensity"],
        action_names=_action_names(names, items, masks),
        expected_rewards=_padded(means, 0.0).astype(np.float64) if known else None,
    )


def _read_choices(path: Path) -> dict[str, NDArray[np.float64]]:
    """`action`, `reward` and `propensity` of a rounds.csv, checked."""
    columns = read_rounds(path, ("action", "reward", "propensity"))
    action, propensity = columns["action"], sound_propensities(columns["propensity"])
    rules = (
        ("action", (action == action.round()) & (action >= 0) & (action < limit("arms")), "no arm"),
        ("reward", np.abs(columns["reward"]) <= LARGEST_REWARD, "out of range"),
        ("propensity", ~np.isnan(propensity), "not in (0, 1]"),
    )
    for name, is_sound, problem in rules:
        for index in np.flatnonzero(~is_sound)[:1].tolist():
            raise ValueError(f"{path}: {name} {columns[name][index]} of round {index} is {problem}")
    if not len(action):
        raise ValueError(f"{path}: no rounds in it; play the run first")
    return columns | {"propensity": propensity}


def _environment(config: RunConfig, folder: Path) -> gym.Env[Any, Any]:
    """The environment of a run."""
    from vitucb.experiment.environments import make_env

    env = make_env(config.env, config.num_rounds)
    if env.has_wrapper_attr("acceptance_rate"):
        raise ValueError(
            f"{folder}: a replay of a log, whose rejected rounds have no reward; give the log "
            f"{config.env.dataset or 'digits'!r} itself"
        )
    return env


def _replayed(
    env: gym.Env[Any, Any],
    config: RunConfig,
    actions: NDArray[np.int64],
    rewards: NDArray[np.float64],
    folder: Path,
) -> Iterator[Any]:
    """Observation and mean rewards of every recorded round, from the environment itself."""
    from vitucb.experiment.distributed.ranks import rank_seed
    from vitucb.seeding import stream_seed

    is_told = not wrapper_of_rewards(env)
    obs, _ = env.reset(seed=stream_seed(rank_seed(config.seed, config.parallel), "env"))
    for index, (action, recorded) in enumerate(
        zip(actions.tolist(), rewards.tolist(), strict=True)
    ):
        expected = getattr(env.unwrapped, "expected_rewards", None) if is_told else None
        yield obs, None if expected is None else np.array(expected, np.float64)
        try:
            obs, reward, *_ = env.step(action)
        except ValueError as error:
            raise ValueError(f"{folder}: round {index} cannot be played again: {error}") from error
        if env.has_wrapper_attr("drawn_reward"):  # rewards that arrive later
            reward = env.get_wrapper_attr("drawn_reward")
        if not math.isclose(float(reward), recorded, rel_tol=_REWARD_TOLERANCE, abs_tol=1e-12):
            raise ValueError(
                f"{folder}: round {index} pays {float(reward)!r} when played again, but "
                f"{recorded!r} was recorded; restore the data set and versions of the run"
            )


class _Distinct:
    """Keeps every distinct image once: a run shows the same pictures again and again."""

    def __init__(self) -> None:
        self.kept: list[NDArray[np.uint8]] = []
        self._index: dict[bytes, int] = {}

    def indices(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Indices of the images, uint8 (slots, H, W, C)."""
        return np.array([self._index_of(image) for image in images], np.int64)

    def _index_of(self, image: NDArray[np.uint8]) -> int:
        key = image.tobytes()
        if key not in self._index:
            self._index[key] = len(self.kept)
            self.kept.append(image.copy())
        return self._index[key]


def _padded(rows: list[Any], value: float) -> NDArray[Any]:
    """Rows of different lengths as one matrix."""
    width = max(map(len, rows))
    return np.stack([np.pad(row, (0, width - len(row)), constant_values=value) for row in rows])


def _action_names(
    names: tuple[str, ...], items: list[NDArray[np.int64]], masks: list[NDArray[np.int8]]
) -> tuple[str, ...]:
    """Names of the actions where one image is the context of all; their numbers if not known."""
    is_context = shares_image(len(items[0]), len(masks[0]))
    return (names or tuple(map(str, range(len(masks[0]))))) if is_context else ()


def estimate_propensities(
    log: LoggedRounds, features: NDArray[np.floating], *, ridge: float = 1.0
) -> NDArray[np.float64]:
    """Estimated probability of every arm under the policy that wrote the log.

    Arms with images: a conditional logit model of their features. Actions on a shared context: a
    multinomial logit model of the context's features.

    Args:
        log: The log.
        features: Features of its distinct images, (N, d).
        ridge: Regularisation, see `conditional_logit` and `multinomial_logit`.

    Returns:
        Probabilities, float64 (n, K), rows sum to 1, 0 for masked arms.
    """
    centred = features - features.mean(axis=0)
    scaled = centred / np.maximum(centred.std(axis=0), 1e-12)
    if not log.action_names:
        return conditional_logit(scaled[log.items], log.actions, log.mask, ridge=ridge)
    return multinomial_logit(scaled[log.items[:, 0]], log.actions, log.mask, ridge=ridge)


@dataclass(frozen=True, slots=True)
class LogReport:
    """What a log looks like before anything is evaluated on it.

    Attributes:
        facts: Name -> value, e.g. `rounds`, `arms`, `mean inverse propensity`.
        warnings: What may make an evaluation wrong, a sentence each; empty if nothing was found.
    """

    facts: dict[str, float | int | str]
    warnings: tuple[str, ...]


def inspect_log(log: LoggedRounds, propensities: NDArray[np.float64] | None = None) -> LogReport:
    """Check a log: propensities, exploration, duplicates, actions never taken, rows left out.

    Args:
        log: The log.
        propensities: Probabilities of the chosen arms (n,) to check, where `log` has none.

    Returns:
        Facts and warnings.
    """
    p = log.propensities if log.propensities is not None else propensities
    arms = log.mask.sum(axis=1)
    facts: dict[str, float | int | str] = {
        "rounds": len(log),
        "arms": f"{arms.min()} to {arms.max()}" if np.ptp(arms) else int(arms[0]),
        **({"actions": ", ".join(log.action_names[:20])} if log.action_names else {}),
        ("distinct images" if log.contexts is None else "distinct contexts"): log.images.shape[0],
        "mean reward": float(log.rewards.mean()),
        "duplicate rounds": _duplicates(log),
        "rows left out": log.dropped,
        "propensities": "logged" if log.propensities is not None else "estimated",
    }
    warnings = _general_warnings(log, facts)
    if p is not None:
        facts["smallest propensity"] = float(p.min())
        facts["mean inverse propensity"] = float((1 / p).mean())
        warnings += _propensity_warnings(p, arms, are_logged=log.propensities is not None)
    return LogReport(facts, tuple(warnings))


def _duplicates(log: LoggedRounds) -> int:
    keys = np.column_stack([log.items, log.mask, log.actions, log.rewards])
    return len(keys) - len(np.unique(keys, axis=0))


def _general_warnings(log: LoggedRounds, facts: dict[str, float | int | str]) -> list[str]:
    warnings = []
    if log.propensities is None:
        warnings.append(
            "the log has no propensities: they are estimated from the choices, and every estimate "
            "but dm is only as good as that model"
        )
    if int(facts["duplicate rounds"]) > len(log) // 20:
        warnings.append(
            f"{facts['duplicate rounds']} of {len(log)} rounds repeat another one exactly; if the "
            "same round was logged twice, the intervals are too short"
        )
    if log.dropped:
        warnings.append(f"{log.dropped} rows were left out: no images, or no reward")
    never = [name for i, name in enumerate(log.action_names) if not (log.actions == i).any()]
    if never:
        warnings.append(f"never chosen: {', '.join(never[:5])}; nothing is known of their rewards")
    if np.ptp(log.rewards) == 0:
        warnings.append(f"every reward is {log.rewards[0]:g}")
    return warnings


def _propensity_warnings(
    p: NDArray[np.float64], arms: NDArray[np.int64], *, are_logged: bool
) -> list[str]:
    """E[1/p] is the mean number of arms that could be chosen, whatever the policy."""
    warnings = []
    certain = float((p[arms > 1] == 1).mean()) if (arms > 1).any() else 0.0
    if certain > 0:
        warnings.append(
            f"in {100 * certain:.0f} % of the rounds the logging policy could choose one arm only "
            "(propensity 1): there the log says nothing about other arms, and weighting cannot "
            "repair that"
        )
    excess = 1 / p - arms
    error = float(excess.std()) / math.sqrt(len(p))
    # With a few rare arms a sample mean of 1/p is mostly too small, so only excess is suspicious.
    if certain == 0 and float(excess.mean()) > max(SUSPICIOUS_Z * error, 1e-6 * float(arms.max())):
        warnings.append(
            f"the mean of 1/propensity is {float((1 / p).mean()):.3g}, but with true propensities "
            f"it would be about the number of arms, {float(arms.mean()):.3g}: "
            + (
                "check that 'propensity' is the probability of the logged action at the time"
                if are_logged
                else "the model of the choices does not fit them; log propensities"
            )
        )
    return warnings
