"""Jobs in whatever process they run: play them, and say in one line what went wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vitucb.config import RunConfig
from vitucb.experiment.resume import stop_flag

if TYPE_CHECKING:
    from vitucb.parallel_seeds import Seat
    from vitucb.types import Round


def play_together(
    jobs: Sequence[RunConfig], on_rounds: Callable[[int], None] | None = None
) -> list[str | None]:
    """Play jobs that share passes of the model, each in a thread; the error of each, or None.

    SIGTERM lets all of them finish their round and write a checkpoint.

    Args:
        jobs: One group of `vitucb.parallel_seeds.together`.
        on_rounds: Told by each thread how many rounds it played since it last did so.
    """
    if len(jobs) < 2:
        return [play_job(job, on_rounds) for job in jobs]
    from vitucb.parallel_seeds import Table

    errors: list[str | None] = ["it did not come to its end"] * len(jobs)

    def work(number: int, seat: Seat) -> None:
        try:
            errors[number] = play_job(jobs[number], on_rounds, seat)
        finally:
            seat.leave()

    with stop_flag() as stop:
        threads = [
            threading.Thread(target=work, args=place)
            for place in enumerate(Table(jobs).seats(stop))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return errors


def play_job(
    job: RunConfig, on_rounds: Callable[[int], None] | None = None, seat: Seat | None = None
) -> str | None:
    """Play `job` into its run folder; the error in one line, or None.

    Args:
        job: The run.
        on_rounds: Told how many rounds were played since it was last called.
        seat: Where it shares passes of the model with other jobs.
    """
    from vitucb.experiment.playing import play
    from vitucb.experiment.resume import check_same_config

    last = 0

    def count(round: Round) -> None:
        nonlocal last
        if on_rounds is not None:
            on_rounds(round.index + 1 - last)
        last = round.index + 1

    try:
        check_same_config(job)
        play(job, count, seat)
    except Exception as error:  # whatever it is, the other jobs go on and the user is told
        return one_line(error)
    return None


def one_line(error: BaseException) -> str:
    """The message of `error`, with its type where the message alone would not tell."""
    text = " ".join(str(error).split())
    known = isinstance(error, ValueError | TypeError) or type(error).__name__ == "StoppedError"
    return text if known and text else f"{type(error).__name__}: {text}".rstrip(": ")
