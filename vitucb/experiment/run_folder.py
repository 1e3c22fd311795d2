"""The folder of a run: its place, its files, what it holds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitucb.config import RunConfig, differences, load_config
from vitucb.experiment.episode import Recorded
from vitucb.experiment.rounds_file import read_rounds
from vitucb.storage.foreign_files import open_regular, path_inside
from vitucb.types import State

if TYPE_CHECKING:
    from vitucb.experiment.checkpoints import Checkpoints


def run_folder(config: RunConfig) -> Path:
    """`out/experiment/agent__env__sSEED`."""
    agent = config.agent.label or config.agent.name
    name = f"{agent}__{config.env.id}__s{config.seed}".replace("/", "-").replace(":", "-")
    return Path(config.out) / config.experiment / name


def is_finished(folder: Path) -> bool:
    """Whether the run in `folder` came to its end."""
    return (folder / "summary.json").is_file()


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run, whether there is anything in it or not.

    Attributes:
        path: Where it is.
        config: The settings of the run.
    """

    path: Path
    config: RunConfig

    @classmethod
    def of(cls, config: RunConfig) -> RunFolder:
        """The folder that the run of `config` has."""
        return cls(run_folder(config), config)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of a run that was begun, wherever it is now.

        Raises:
            ValueError: If its settings cannot be read.
        """
        return cls(path, load_config(path / "config.yaml"))

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end."""
        return is_finished(self.path)

    @property
    def needs_playing(self) -> bool:
        """Whether the run is not finished, or is to be played again."""
        return self.config.overwrite or not self.is_finished

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of the run in progress."""
        from vitucb.experiment.checkpoints import Checkpoints

        return Checkpoints(self.path / "checkpoint")

    def check_same_config(self) -> None:
        """Refuse to go on with, or to pass off as done, a run that had other settings.

        Raises:
            ValueError: If there is a run with other settings.
        """
        file = self.path / "config.yaml"
        if self.config.overwrite or not file.is_file():
            return
        try:
            changed = differences(load_config(file), self.config)
        except ValueError as error:
            raise ValueError(f"{error}; --overwrite starts anew") from error
        if changed:
            text = ", ".join(f"{key} {old!r} -> {new!r}" for key, (old, new) in changed.items())
            raise ValueError(
                f"{self.path} holds a run with other settings ({text}); give another --experiment "
                "or --agent.label, or --overwrite to start anew"
            )

    def recorded_rounds(self, count: int) -> list[Recorded]:
        """The first `count` rounds in `rounds.csv`."""
        columns = read_rounds(self.path / "rounds.csv", ("action", "reward", "regret"), most=count)
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [Recorded(int(action), reward, regret) for action, reward, regret in rows]

    def why_unusable(self, state: State) -> str | None:
        """Why a checkpoint's state does not fit the files recorded; None if it does."""
        recorder = state["recorder"]
        for name, size in recorder["sizes"].items():
            file = path_inside(self.path, name)
            held = file.stat().st_size if file.is_file() else 0
            if held < size and name.endswith(".csv"):
                return f"{name} holds {held} bytes, {size} when the checkpoint was written"
        for name, digest in recorder.get("sha256", {}).items():  # older checkpoints have none
            if sha256_of_start(path_inside(self.path, name), recorder["sizes"][name]) != digest:
                return f"{name} was changed since the checkpoint was written"
        return None


def sha256_of_start(path: Path, size: int) -> str:
    """SHA-256 sum of the first `size` bytes of a regular file."""
    with open_regular(path) as file:
        return hashlib.sha256(file.read(size)).hexdigest()
