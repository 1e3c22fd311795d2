"""Read run folders: what the recorder wrote, checked, as `Run`s."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import yaml
from numpy.typing import NDArray

from vitucb.experiment.rounds_file import read_rounds
from vitucb.statistics import FloatArray

Json: TypeAlias = Mapping[str, Any]

# libyaml's loader is as safe and several times faster, where PyYAML was built with it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

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

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Run:
    """One run folder.

    Attributes:
        folder: Where it is.
        experiment: Name of the folder that holds it, with those between it and a reported one.
        agent: Label of the agent.
        agent_name: Registered name of the agent.
        env: Environment id.
        seed: Seed.
        num_rounds: Rounds asked for.
        is_finished: Whether `summary.json` is there.
        columns: `rounds.csv` by column, float64 (rounds,) each.
        config: Fully resolved config.
        summary: `summary.json` and `timing.json`, empty if unfinished.
        environment: `environment.json`, empty if missing.
    """

    folder: Path
    experiment: str
    agent: str
    agent_name: str
    env: str
    seed: int
    num_rounds: int
    is_finished: bool
    columns: Mapping[str, FloatArray] = field(repr=False)
    config: Json = field(repr=False)
    summary: Json = field(repr=False)
    environment: Json = field(repr=False)

    @property
    def rounds(self) -> int:
        """Rounds recorded so far."""
        return len(self.columns["regret"])


class UnknownRegretError(ValueError):
    """The environment of a run knew no mean rewards."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """What was on offer in n chosen rounds with K arms.

    Attributes:
        round: 0-based round numbers, (n,).
        images: uint8 (n, K, H, W, C).
        mean: Estimated mean rewards (n, K), reward units, NaN where the agent has none.
        bonus: Exploration bonuses (n, K), reward units.
        expected_rewards: True mean rewards (n, K).
        action: Chosen arms (n,).
        optimal_action: Best arms (n,).
        reward: Observed rewards (n,).
    """

    round: NDArray[np.int64]
    images: NDArray[np.uint8]
    mean: FloatArray
    bonus: FloatArray
    expected_rewards: FloatArray
    action: NDArray[np.int64]
    optimal_action: NDArray[np.int64]
    reward: FloatArray


def load_runs(folder: str | Path) -> list[Run]:
    """Read every run folder in `folder`: itself, or up to three levels down.

    Args:
        folder: A run folder, an experiment (a folder of run folders, or of parts that hold them)
            or a folder of experiments.

    Returns:
        Finished and unfinished runs, sorted by experiment, agent, environment, seed and rounds.

    Raises:
        ValueError: If there is no run of known regret, a file is damaged or a column is missing.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(
            f"{root} is not a folder; give the folder of an experiment, e.g. runs/demo"
        )
    configs = [
        path for depth in ("", "*/", "*/*/", "*/*/*/") for path in root.glob(f"{depth}config.yaml")
    ]
    if not configs:
        raise ValueError(f"{root} holds no run folder (no config.yaml); run an experiment first")
    runs = []
    for path in configs:
        try:
            runs.append(_named_below(root, load_run(path.parent)))
        except UnknownRegretError as error:
            _logger.warning("%s; the run is left out", error)
    if not runs:
        raise ValueError(f"{root}: no run in it knows its regret; see vitucb evaluate")
    # To the last tie, so that sections do not follow the order of the file system.
    return sorted(
        runs,
        key=lambda run: (
            run.experiment, run.agent, run.env, run.seed, run.num_rounds, run.folder.as_posix(),
        ),
    )  # fmt: skip


def _named_below(root: Path, run: Run) -> Run:
    """`run` with the whole way from `root` as its experiment: parts of two may have one name."""
    if run.folder == root or run.folder.parent == root:
        return run
    return replace(run, experiment=run.folder.parent.relative_to(root).as_posix())


def load_run(folder: Path) -> Run:
    """Read one run folder.

    Raises:
        ValueError: If a file is damaged or a column is missing.
    """
    config = _read_yaml(folder / "config.yaml")
    summary = _read_json(folder / "summary.json")
    if summary:
        summary = {**summary, **_read_json(folder / "timing.json")}
    agent, env = _section(config, "agent", folder), _section(config, "env", folder)
    name = str(agent.get("name") or "agent")
    columns = _read_columns(folder / "rounds.csv")
    rounds = len(columns["regret"])
    if summary and rounds != int(summary.get("rounds", rounds)):
        raise ValueError(
            f"{folder / 'rounds.csv'} has {rounds} rounds but summary.json says "
            f"{summary['rounds']}; delete summary.json and run it again"
        )
    return Run(
        folder=folder,
        experiment=folder.resolve().parent.name,
        agent=str(agent.get("label") or name),
        agent_name=name,
        env=str(env.get("id") or "environment"),
        seed=int(config.get("seed") or 0),
        num_rounds=int(config.get("num_rounds") or rounds),
        is_finished=bool(summary),
        columns=columns,
        config=config,
        summary=summary,
        environment=_read_json(folder / "environment.json"),
    )


def load_metrics(run: Run) -> dict[str, tuple[FloatArray, FloatArray]]:
    """What the agent measured of itself: name -> (rounds ascending, values), float64 (n,) each.

    Raises:
        ValueError: If `metrics.csv` is damaged.
    """
    path = run.folder / "metrics.csv"
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    # Read as written: an agent may put a comma into the name of a metric.
    rows = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    points: dict[str, list[tuple[float, float]]] = {}
    try:
        next(rows, None)
        for index, name, value in rows:
            points.setdefault(name, []).append((float(index), float(value)))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: {error}; record the run again") from error
    tables = {name: np.array(pairs) for name, pairs in points.items()}
    return {name: (table[:, 0], table[:, 1]) for name, table in tables.items()}


def load_gallery(run: Run) -> Gallery | None:
    """The recorded arm images of `run`, None if it has none.

    Raises:
        ValueError: If `gallery.npz` is damaged or an array is missing.
    """
    path = run.folder / "gallery.npz"
    if not path.is_file():
        return None
    names = Gallery.__dataclass_fields__
    try:
        with np.load(path, allow_pickle=False) as arrays:
            gallery = Gallery(**{name: arrays[name] for name in names})
    except (KeyError, OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it or run again") from error
    return gallery if len(gallery.round) else None


def _section(config: Json, name: str, folder: Path) -> Json:
    """A section of the config; a bare name stands for `{name: ...}` or `{id: ...}`."""
    value = config.get(name, {})
    if isinstance(value, str):
        return {"name": value, "id": value}
    if not isinstance(value, Mapping):
        raise ValueError(f"{folder / 'config.yaml'}: {name} is {value!r}; expected a section")
    return value


def _read_yaml(path: Path) -> Json:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read: {reason}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} is not a mapping of settings; run it again")
    return content


def _read_json(path: Path) -> Json:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it or run again") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} is not a JSON object; delete it or run again")
    return content


def _read_columns(path: Path) -> Mapping[str, FloatArray]:
    """The columns of `rounds.csv` that a report uses; empty before the first round."""
    if not path.is_file():
        return {name: np.empty(0) for name in COLUMNS}
    columns = read_rounds(path, COLUMNS)
    if len(columns["regret"]) and np.isnan(columns["regret"]).all():
        raise UnknownRegretError(
            f"{path}: the environment knew no mean rewards, as a log of real rewards does not, so "
            "there is no regret to report"
        )
    for name in ("regret", "reward"):
        for first in np.flatnonzero(~np.isfinite(columns[name]))[:1].tolist():
            raise ValueError(f"{path}: {name} of round {first} is not finite; record the run again")
    return columns
