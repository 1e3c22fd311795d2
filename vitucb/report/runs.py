"""Read run folders: what the recorder wrote, checked, as `Run`s."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitucb.inert_text import visible
from vitucb.report.run_files import (
    Json,
    is_number,
    read_classes,
    read_columns,
    read_gallery,
    read_metrics,
    read_record,
    read_settings,
)
from vitucb.statistics import FloatArray

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
    def task(self) -> Json:
        """`dataset`, `num_arms`, `slots`, `reward` of what was played, each where it is known."""
        env = self.config.get("env")
        told = {**(env if isinstance(env, Mapping) else {}), **self.environment.get("task", {})}
        kinds = {"dataset": str, "num_arms": int, "slots": int, "reward": str}
        return {key: told[key] for key, kind in kinds.items() if isinstance(told.get(key), kind)}

    @property
    def arm_names(self) -> Sequence[str]:
        """What arms are called: classes of their images, or labels; empty where nobody says."""
        task = self.environment.get("task", {})
        names = task.get("class_names") or self.environment.get("action_names") or ()
        return [visible(str(name)) for name in names] if isinstance(names, list) else []

    @property
    def rounds(self) -> int:
        """Rounds recorded so far."""
        return len(self.columns["regret"])

    @property
    def knows_regret(self) -> bool:
        """Whether the environment knew the mean rewards of every round so far."""
        return not np.isnan(self.columns["regret"]).any()


@dataclass(frozen=True, slots=True)
class Gallery:
    """What was on offer in n chosen rounds with K arms.

    Attributes:
        round: 0-based round numbers, (n,).
        images: uint8 (n, K, H, W, C).
        mean: Estimated mean rewards (n, K), reward units, NaN where the agent has none.
        bonus: Exploration bonuses (n, K), reward units.
        expected_rewards: True mean rewards (n, K), NaN where nobody knows them.
        action: Chosen arms (n,).
        optimal_action: Best arms (n,), -1 where nobody knows them.
        reward: Observed rewards (n,).
        regret: Of the rounds (n,), None in runs of older versions.
        classes: Classes of the images (n, K), None where nobody told.
        action_mask: 1 where an arm was on offer (n, K), None in runs of older versions.
    """

    round: NDArray[np.int64]
    images: NDArray[np.uint8]
    mean: FloatArray
    bonus: FloatArray
    expected_rewards: FloatArray
    action: NDArray[np.int64]
    optimal_action: NDArray[np.int64]
    reward: FloatArray
    regret: FloatArray | None = None
    classes: NDArray[np.int64] | None = None
    action_mask: NDArray[np.int64] | None = None

    def on_offer(self, row: int) -> NDArray[np.bool_]:
        """Which arms could be chosen in a recorded round, (K,)."""
        if self.action_mask is None:
            return np.ones(self.mean.shape[1], bool)
        mask: NDArray[np.bool_] = self.action_mask[row] != 0
        return mask


def load_runs(folder: str | Path) -> list[Run]:
    """Read every run folder in `folder`: itself, or up to three levels down.

    A run that is damaged is named in a warning and left out.

    Args:
        folder: A run folder, an experiment (a folder of run folders, or of parts that hold them)
            or a folder of experiments.

    Returns:
        Finished and unfinished runs, sorted by experiment, agent, environment, seed and rounds.

    Raises:
        ValueError: If there is no run that is whole.
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
    runs = _whole_runs(root, [path.parent for path in configs])
    # To the last tie, so that sections do not follow the order of the file system.
    return sorted(
        runs,
        key=lambda run: (
            run.experiment, run.agent, run.env, run.seed, run.num_rounds, run.folder.as_posix(),
        ),
    )  # fmt: skip


def _whole_runs(root: Path, folders: Sequence[Path]) -> list[Run]:
    runs, damaged = [], []
    for folder in folders:
        try:
            runs.append(_named_below(root, load_run(folder)))
        except ValueError as error:
            damaged.append(error)
    if not runs:
        raise damaged[0]
    for problem in damaged:
        _logger.warning("%s; the run is left out", problem)
    return runs


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
    config = read_settings(folder)
    summary = read_record(folder, "summary.json", numbers=_COUNTS, mappings=("parameters",))
    if summary:
        for name, count in summary.get("parameters", {}).items():
            if not is_number(count):
                raise ValueError(f"{folder / 'summary.json'}: {name[:80]!r} is no count")
        summary = {**summary, **read_record(folder, "timing.json", numbers=_TIMES)}
    agent, env = _section(config, "agent", folder), _section(config, "env", folder)
    name = str(agent.get("name") or "agent")
    columns = read_columns(folder)
    rounds = len(columns["regret"])
    if summary and rounds != summary.get("rounds", rounds):
        raise ValueError(
            f"{folder / 'rounds.csv'} has {rounds} rounds but summary.json says "
            f"{summary['rounds']}; delete summary.json and run it again"
        )
    return Run(
        folder=folder,
        experiment=visible(folder.resolve().parent.name),
        agent=visible(str(agent.get("label") or name)),
        agent_name=name,
        env=visible(str(env.get("id") or "environment")),
        seed=_integer(config, "seed", folder) or 0,
        num_rounds=_integer(config, "num_rounds", folder) or rounds,
        is_finished=bool(summary),
        columns=columns,
        config=config,
        summary=summary,
        environment=read_record(folder, "environment.json", mappings=("packages", "task")),
    )


_COUNTS = ("rounds", "distinct_images", "offers_per_image", "image_passes")
_TIMES = ("seconds_per_round", "wall_seconds", "peak_memory_mib")


def load_metrics(run: Run) -> dict[str, tuple[FloatArray, FloatArray]]:
    """What the agent measured of itself: name -> (rounds ascending, values), float64 (n,) each.

    Raises:
        ValueError: If `metrics.csv` is damaged.
    """
    return read_metrics(run.folder)


def load_classes(run: Run) -> NDArray[np.int64] | None:
    """Class of the arm chosen in every round (rounds,), None where it is not known of each.

    Raises:
        ValueError: If `classes.csv` is damaged.
    """
    return read_classes(run.folder, run.rounds, len(run.arm_names))


def load_gallery(run: Run) -> Gallery | None:
    """The recorded arm images of `run`, None if it has none.

    Raises:
        ValueError: If `gallery.npz` is damaged, an array is missing, or they do not fit each other.
    """
    names = [f.name for f in fields(Gallery)]
    optional = {f.name for f in fields(Gallery) if f.default is None}
    arrays = read_gallery(run.folder, set(names) - optional, optional=optional)
    return Gallery(**arrays) if arrays is not None and len(arrays["round"]) else None


def _section(config: Json, name: str, folder: Path) -> Json:
    """A section of the config; a bare name stands for `{name: ...}` or `{id: ...}`."""
    value = config.get(name, {})
    if isinstance(value, str):
        return {"name": value, "id": value}
    if not isinstance(value, Mapping):
        raise ValueError(f"{folder / 'config.yaml'}: {name} is {value!r}; expected a section")
    return value


def _integer(config: Json, name: str, folder: Path) -> int:
    """A setting that is an integer, 0 if it is not there."""
    value = config.get(name) or 0
    if not isinstance(value, int):
        raise ValueError(f"{folder / 'config.yaml'}: {name} {str(value)[:80]!r} is no integer")
    return value
