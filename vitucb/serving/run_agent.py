"""The agent of a run, as its run folder holds it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitucb.agents.saving import Blueprint
from vitucb.config import RunConfig
from vitucb.experiment.environments import make_env
from vitucb.experiment.run_folder import RunFolder
from vitucb.storage.foreign_files import check_inside, read_json
from vitucb.storage.npz import read_npz
from vitucb.types import State, shares_image


def read_run_agent(folder: Path) -> tuple[Blueprint, State]:
    """Blueprint and state of the agent of a run, at its end or at its newest whole checkpoint.

    Deletes nothing. The environment is made only where no pictures tell the number of arms.

    Raises:
        ValueError: If there is no whole checkpoint, or a file cannot be read.
    """
    from vitucb.storage.state_files import load_state

    run, names = RunFolder.open(folder), _action_names(folder)
    if (folder / "checkpoint" / "state.json").is_file():
        agent = load_state(folder / "checkpoint")
        return _blueprint(run.config, _gallery(folder), names), {"agent": agent}
    reason = "there is none"
    for rounds in reversed(run.checkpoints.rounds):
        try:
            state = run.checkpoints.load(rounds)
        except ValueError as error:
            reason = str(error)
            continue
        try:
            pictures = state["recorder"]["gallery"]
            shown = (pictures[0]["images"], len(pictures[0]["mean"])) if pictures else None
            agent = state["agent"]
        except (KeyError, IndexError, TypeError) as error:
            reason = f"the checkpoint after {rounds} rounds lacks {error!r}"
            continue
        return _blueprint(run.config, shown, names), {"agent": agent}
    raise ValueError(f"run {folder} has no whole checkpoint: {reason}; let it finish")


def _gallery(folder: Path) -> tuple[NDArray[np.uint8], int] | None:
    """Images of one round of a finished run, and its number of arms, if they were kept."""
    try:
        check_inside(folder, folder / "gallery.npz")
        arrays = read_npz(folder / "gallery.npz", ("images", "mean"))
        return arrays["images"][0], arrays["mean"].shape[1]
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _action_names(folder: Path) -> tuple[str, ...]:
    """What the run calls its actions; empty if it does not say."""
    try:
        check_inside(folder, folder / "environment.json")
        described = read_json(folder / "environment.json")
        return tuple(map(str, described.get("action_names", ())))
    except (OSError, ValueError, AttributeError, TypeError):
        return ()


def _blueprint(
    config: RunConfig, shown: tuple[NDArray[np.uint8], int] | None, names: tuple[str, ...]
) -> Blueprint:
    """What a run's agent was built from: as its pictures tell, else its environment."""
    if shown is None:
        return Blueprint.of(config.agent, make_env(config.env, config.num_rounds), config.seed)
    images, arms = shown
    shares = shares_image(len(images), arms)
    return Blueprint(config.agent, config.seed, arms, shares, images.shape[1:], names)
