"""Leaving a run and taking it up again: what is found in its folder, when to save, when to stop."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitucb.config import RunConfig, differences, load_config
from vitucb.experiment.episode import Recorded
from vitucb.experiment.provenance import describe_environment
from vitucb.experiment.rounds_file import read_rounds
from vitucb.experiment.run_folder import is_finished, run_folder, why_unusable
from vitucb.types import State

if TYPE_CHECKING:
    from vitucb.experiment.checkpoints import Snapshots

_logger = logging.getLogger(__name__)
# Without checkpoint_every: never sooner than this, and never above a twentieth of the time.
_MIN_SECONDS = 10.0
_COST_FACTOR = 20.0


class StoppedError(Exception):
    """The run was asked to stop, wrote a checkpoint and can be taken up again."""


def open_snapshots(folder: Path) -> Snapshots:
    """The checkpoints of a run folder."""
    from vitucb.experiment.checkpoints import Snapshots

    return Snapshots(folder / "checkpoint")


def check_same_config(config: RunConfig) -> None:
    """Refuse to go on with, or to pass off as done, a run that had other settings.

    Raises:
        ValueError: If the run folder of `config` holds a run with other settings.
    """
    path = run_folder(config) / "config.yaml"
    if config.overwrite or not path.is_file():
        return
    try:
        changed = differences(load_config(path), config)
    except ValueError as error:
        raise ValueError(f"{error}; --overwrite starts anew") from error
    if changed:
        text = ", ".join(f"{key} {old!r} -> {new!r}" for key, (old, new) in changed.items())
        raise ValueError(
            f"{path.parent} holds a run with other settings ({text}); give another --experiment "
            "or --agent.label, or --overwrite to start anew"
        )


def earlier_state(config: RunConfig) -> State | None:
    """The state that an unfinished run left in the run folder; None where there is none.

    What cannot be used is dropped, with a warning that says why.

    Raises:
        ValueError: If the run there has other settings.
    """
    folder = run_folder(config)
    snapshots = open_snapshots(folder)
    if config.overwrite or is_finished(folder):
        snapshots.clear()
        return None
    check_same_config(config)
    state = snapshots.load_newest(lambda s: why_unusable(folder, s["recorder"]))
    if state is None:
        snapshots.clear()
        return None
    _warn_of_versions(folder)
    _logger.info("%s: going on after round %d", folder, state["rounds"])
    return state


def recorded_rounds(folder: Path, count: int) -> list[Recorded]:
    """The first `count` rounds in `rounds.csv`."""
    columns = read_rounds(folder / "rounds.csv", ("action", "reward", "regret"), most=count)
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [Recorded(int(action), reward, regret) for action, reward, regret in rows]


def explain(config: RunConfig) -> str:
    """What the run folder of `config` holds and what playing will do, one fact a line."""
    folder = run_folder(config)
    if not (folder / "config.yaml").is_file():
        return f"{folder}: nothing there to resume; starts with the first round"
    if is_finished(folder):
        return f"{folder}: finished"
    lines = [f"{folder}: unfinished, {_count_rounds(folder):,} of {config.num_rounds:,} rounds"]
    snapshots = open_snapshots(folder)
    usable = 0
    for rounds in snapshots.rounds:
        try:
            reason = why_unusable(folder, snapshots.load(rounds)["recorder"])
        except ValueError as error:
            reason = str(error)
        usable = rounds if reason is None else usable
        lines.append(f"checkpoint after {rounds:,} rounds: {reason or 'whole'}")
    start = f"goes on after {usable:,} rounds" if usable else "starts with the first round"
    return "\n".join([*lines, start])


def _count_rounds(folder: Path) -> int:
    path = folder / "rounds.csv"
    return max(0, path.read_bytes().count(b"\n") - 1) if path.is_file() else 0


def _warn_of_versions(folder: Path) -> None:
    try:
        before = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        old = before["packages"] | {"processor": before["processor"]}
    except (OSError, ValueError, KeyError):
        return
    now = describe_environment()
    new: dict[str, Any] = now["packages"] | {"processor": now["processor"]}
    changed = [
        f"{name} {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]
    ]
    if changed:
        _logger.warning(
            "%s was begun with others (%s): what follows may differ from an uninterrupted "
            "run in the last digits",
            folder,
            ", ".join(changed),
        )


class Timetable:
    """When a checkpoint is due."""

    def __init__(self, every: int | None) -> None:
        """Start the clock; `every` rounds, or by what a checkpoint costs if None."""
        self._every = every
        self._last, self._cost = time.monotonic(), 0.0

    def is_due(self, rounds: int) -> bool:
        """Whether to save after `rounds` rounds."""
        if self._every is not None:
            return rounds % self._every == 0
        return time.monotonic() - self._last >= max(_MIN_SECONDS, _COST_FACTOR * self._cost)

    def run(self, save: Callable[[], None]) -> None:
        """Save, and note what it cost."""
        started = time.monotonic()
        save()
        self._last = time.monotonic()
        self._cost = self._last - started


@contextlib.contextmanager
def stop_flag(*signals: signal.Signals) -> Iterator[threading.Event]:
    """An event that `signals` (SIGTERM if none) set while the context lasts.

    So a round is never cut in two.
    """
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # only the main thread may handle signals
        return
    caught = signals or (signal.SIGTERM,)
    before = {number: signal.signal(number, lambda *_: flag.set()) for number in caught}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
