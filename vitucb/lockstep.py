"""Threads whose requests are answered together: once every one of them has asked.

What is asked depends on nobody's speed, so neither does what is answered together.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeAlias

Requests: TypeAlias = dict[int, Any]
"""What is asked, by the place of who asks."""


class Lockstep:
    """Waits until all places have asked, and answers those who ask for the same kind of thing.

    The smaller group goes first, so that those who are behind catch up with the others.
    """

    def __init__(
        self, answer: Callable[[Hashable, Requests], Requests], places: Iterable[int]
    ) -> None:
        """Wait for `places`.

        Args:
            answer: Given a kind and the requests of that kind, the answer of each place; an
                exception among them is raised where it was asked.
            places: Who will ask, until they leave.
        """
        self._answer, self._present = answer, set(places)
        self._requests: dict[int, tuple[Hashable, Any]] = {}
        self._answers: Requests = {}
        self._changed = threading.Condition()

    def ask(self, place: int, kind: Hashable, request: Any) -> Any:
        """The answer to `request`, when everyone present has asked too.

        Raises:
            Exception: What went wrong with this request, or with all of its kind.
        """
        with self._changed:
            self._requests[place] = (kind, request)
            self._answer_when_complete()
            self._changed.wait_for(lambda: place in self._answers)
            answer = self._answers.pop(place)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def leave(self, place: int) -> None:
        """Be waited for no longer."""
        with self._changed:
            self._present.discard(place)
            self._answer_when_complete()

    def _answer_when_complete(self) -> None:
        if not self._requests or self._requests.keys() < self._present:
            return
        groups: dict[Hashable, Requests] = defaultdict(dict)
        for place, (kind, request) in sorted(self._requests.items(), key=lambda item: item[0]):
            groups[kind][place] = request
        kind, group = min(groups.items(), key=lambda item: (len(item[1]), next(iter(item[1]))))
        try:
            answers = self._answer(kind, group)
        except Exception as error:  # whatever it is, those who asked are the ones to hear of it
            answers = dict.fromkeys(group, error)
        for place in group:
            del self._requests[place]
        self._answers |= answers
        self._changed.notify_all()
