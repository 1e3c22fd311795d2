"""The settings of one run: one agent, one environment, one seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Literal

from vitucb.config.agent import AgentConfig
from vitucb.config.checks import (
    NOT_NEGATIVE,
    ONE_OR_MORE,
    POSITIVE,
    THREADS,
    check_ranges,
    check_text,
)
from vitucb.config.env import EnvConfig


@dataclass(frozen=True)
class ParallelConfig:
    """Several processes that train one agent."""

    sync_every: int = 1
    """Rounds that every process plays between two syncs."""
    timeout_s: float = 60.0
    """Seconds after which a process that does not answer counts as lost."""
    ranks: int = 1
    """Number of processes; torchrun sets it."""
    rank: int = 0
    """Number of this process; torchrun sets it."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        least = dict.fromkeys(("sync_every", "ranks"), ONE_OR_MORE)
        check_ranges(self, "parallel.", {**least, "rank": NOT_NEGATIVE, "timeout_s": POSITIVE})


@dataclass(frozen=True)
class RunConfig:
    """One run: one agent, one environment, one seed, one folder of results."""

    experiment: str = "default"
    """Folder under --out that groups runs for one report."""
    env: EnvConfig = EnvConfig()
    agent: AgentConfig = AgentConfig()
    seed: int = 0
    """Seed of every source of chance; agents with one seed face the same contexts and noise."""
    num_rounds: int = 1_000
    """Horizon T."""
    out: str = "runs"
    """Folder of experiments."""
    device: str = "cpu"
    """Torch device, e.g. cpu, cuda."""
    threads: int = 1
    """Threads of torch and of BLAS; one seed reproduces a run bit for bit at the same number."""
    tensorboard: bool = True
    """Write TensorBoard events."""
    track: Literal["none", "wandb", "trackio", "mlflow"] = "none"
    """Tracker that gets settings and points, too; to be installed beside."""
    record_every: int = 10
    """Rounds between rows of metrics.csv and points in TensorBoard."""
    images_every: int | None = None
    """Rounds between pictures of the arms in TensorBoard; a tenth of the horizon if not given."""
    checkpoint_every: int | None = None
    """Rounds between checkpoints; as often as 5 % of the time allows if not given."""
    overwrite: bool = False
    """Start anew although the run folder is finished or could be resumed."""
    parallel: ParallelConfig = ParallelConfig()

    def __post_init__(self) -> None:
        """Refuse no round, no thread, negative seeds, and texts that are no name or no folder."""
        names = ("num_rounds", "record_every", "images_every", "checkpoint_every")
        ranges = {**dict.fromkeys(names, ONE_OR_MORE), "seed": NOT_NEGATIVE, "threads": THREADS}
        check_ranges(self, "", ranges)
        check_text(self)
        _check_place(self.experiment)


def _check_place(experiment: str) -> None:
    """Refuse what would lead out of --out, or cannot be read in a terminal."""
    pure = PureWindowsPath(experiment)  # which knows slashes of both kinds, and drives
    if pure.is_absolute() or pure.drive or pure.root or ".." in pure.parts:
        raise ValueError(
            f"experiment {experiment!r} leads out of the folder of experiments; give a name, and "
            "that folder as --out"
        )
    if not experiment.strip():
        raise ValueError("experiment is empty; give a name")
    if not experiment.isprintable():
        raise ValueError(f"experiment {experiment!r} holds control characters; give a plain name")
