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
from typing import Any

from vitucb.experiment.provenance import describe_environment
from vitucb.experiment.run_folder import RunFolder
from vitucb.types import State

_logger = logging.getLogger(__name__)
# Without checkpoint_every: never sooner than this, and never above a twentieth of the time.
_MIN_SECONDS = 10.0
_COST_FACTOR = 20.0


class StoppedError(Exception):
    """The run was asked to stop, wrote a checkpoint and can be taken up again."""


def earlier_state(folder: RunFolder) -> State | None:
    """The state that an unfinished run left in its folder; None where there is none.

    What cannot be used is dropped, with a warning that says why.
    """
    begins_anew = folder.config.overwrite or folder.is_finished
    state = None if begins_anew else folder.checkpoints.load_newest(folder.why_unusable)
    if state is None:
        folder.checkpoints.begin_anew()
        return None
    _warn_of_versions(folder.path)
    _logger.info("%s: going on after round %d", folder.path, state["rounds"])
    return state


def explain(folder: RunFolder) -> str:
    """What a run folder holds and what playing will do, one fact a line."""
    path, checkpoints = folder.path, folder.checkpoints
    if not (path / "config.yaml").is_file():
        return f"{path}: nothing there to resume; starts with the first round"
    if folder.is_finished:
        return f"{path}: finished"
    played, horizon = _count_rounds(path / "rounds.csv"), folder.config.num_rounds
    lines = [f"{path}: unfinished, {played:,} of {horizon:,} rounds"]
    usable = 0
    for rounds in checkpoints.rounds:
        try:
            reason = folder.why_unusable(checkpoints.load(rounds))
        except ValueError as error:
            reason = str(error)
        usable = rounds if reason is None else usable
        lines.append(f"checkpoint after {rounds:,} rounds: {reason or 'whole'}")
    start = f"goes on after {usable:,} rounds" if usable else "starts with the first round"
    return "\n".join([*lines, start])


def _count_rounds(path: Path) -> int:
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
