"""Requests are answered together, whoever is fast and whoever is slow."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

import pytest

from vitucb.lockstep import Lockstep, Requests

Work = Callable[[int, Lockstep], Any]


def play(work: Work, answer: Callable[[Hashable, Requests], Requests], places: int) -> list[Any]:
    """What `work` returns, or raises, at every place."""
    lockstep, results = Lockstep(answer, range(places)), [None] * places

    def run(place: int) -> None:
        try:
            results[place] = work(place, lockstep)
        except Exception as error:
            results[place] = error  # type: ignore[call-overload]  # whatever comes
        finally:
            lockstep.leave(place)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(places)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    return results


@pytest.mark.parametrize("seed", range(3))
def test_what_is_answered_together_does_not_depend_on_speed(seed: int) -> None:
    log: list[tuple[Hashable, dict[int, int]]] = []

    def answer(kind: Hashable, requests: Requests) -> Requests:
        log.append((kind, dict(requests)))
        return {place: 10 * value for place, value in requests.items()}

    def work(place: int, lockstep: Lockstep) -> list[int]:
        pace = random.Random(10 * seed + place)
        got = []
        for step in range(6):
            time.sleep(pace.random() / 200)
            # The second place asks for something else now and then, and falls behind.
            if place == 1 and step in (2, 3):
                lockstep.ask(place, "apart", step)
            got.append(lockstep.ask(place, "all", step))
        return got

    assert play(work, answer, 3) == [[0, 10, 20, 30, 40, 50]] * 3
    alike = [requests for kind, requests in log if kind == "all"]
    assert alike == [dict.fromkeys(range(3), step) for step in range(6)]
    assert [requests for kind, requests in log if kind == "apart"] == [{1: 2}, {1: 3}]


def test_who_leaves_is_waited_for_no_longer() -> None:
    sizes = []

    def answer(kind: Hashable, requests: Requests) -> Requests:
        sizes.append(len(requests))
        return requests

    def work(place: int, lockstep: Lockstep) -> None:
        for step in range(1 + place):
            lockstep.ask(place, "step", step)

    play(work, answer, 3)
    assert sizes == [3, 2, 1]


def test_an_error_is_raised_where_it_was_asked_for() -> None:
    def answer(kind: Hashable, requests: Requests) -> Requests:
        if kind == "broken":
            raise OSError("disk")
        return {p: ValueError("mine") if r == "bad" else r for p, r in requests.items()}

    def work(place: int, lockstep: Lockstep) -> Any:
        lockstep.ask(place, "first", "bad" if place == 0 else "good")
        return lockstep.ask(place, "broken" if place == 1 else "fine", place)

    first, second, third = play(work, answer, 3)
    assert isinstance(first, ValueError)
    assert isinstance(second, OSError)
    assert third == 2
