"""The folder of a run: its place, its files, whether it is finished."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vitucb.config import RunConfig
from vitucb.types import State


def run_folder(config: RunConfig) -> Path:
    """`out/experiment/agent__env__sSEED`."""
    agent = config.agent.label or config.agent.name
    name = f"{agent}__{config.env.id}__s{config.seed}".replace("/", "-").replace(":", "-")
    return Path(config.out) / config.experiment / name


def is_finished(folder: Path) -> bool:
    """Whether the run in `folder` came to its end."""
    return (folder / "summary.json").is_file()


def why_unusable(folder: Path, state: State) -> str | None:
    """Why the files of a run folder do not fit a recorder's state; None if they do."""
    for name, size in state["sizes"].items():
        held = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if held < size and name.endswith(".csv"):
            return f"{name} holds {held} bytes, {size} when the checkpoint was written"
    for name, digest in state.get("sha256", {}).items():  # older checkpoints have none
        if _sha256_of_start(folder / name, state["sizes"][name]) != digest:
            return f"{name} was changed since the checkpoint was written"
    return None


def _sha256_of_start(path: Path, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(size)).hexdigest()
