"""Jobs in whatever process they run: play them, and say in one line what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vitucb.config import RunConfig
from vitucb.experiment.run_folder import RunFolder

if TYPE_CHECKING:
    from vitucb.types import Round


def play_job(job: RunConfig, on_rounds: Callable[[int], None] | None = None) -> str | None:
    """Play `job` into its run folder; the error in one line, or None.

    A run that has been finished since the job was listed, by another sweep of the same runs, say,
    or by a process that died after it, is left as it is.

    Args:
        job: The run.
        on_rounds: Told how many rounds were played since it was last called.
    """
    from vitucb.experiment.playing import play

    last = 0

    def count(round: Round) -> None:
        nonlocal last
        if on_rounds is not None:
            on_rounds(round.index + 1 - last)
        last = round.index + 1

    folder = RunFolder.of(job)
    try:
        folder.check_same_config()
        if folder.needs_playing:
            play(job, count)
    except Exception as error:  # whatever it is, the other jobs go on and the user is told
        return one_line(error)
    return None


def one_line(error: BaseException) -> str:
    """The message of `error`, with its type where the message alone would not tell."""
    text = " ".join(str(error).split())
    known = isinstance(error, ValueError | TypeError) or type(error).__name__ == "StoppedError"
    return text if known and text else f"{type(error).__name__}: {text}".rstrip(": ")
