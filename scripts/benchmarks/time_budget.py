"""Seconds that a command has, what of them is left, and parts of it that keep to their share."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

Row: TypeAlias = dict[str, str | float]
CaseT = TypeVar("CaseT")
LEFT_OUT = "left out"
"""Column that says why a row has no figures."""


class Budget:
    """So many seconds from now on."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start.

        Args:
            seconds: From now on.
            clock: Seconds since some moment.
        """
        self._clock, self._end = clock, clock() + seconds

    def left(self) -> float:
        """Seconds left, 0 at least."""
        return max(0.0, self._end - self._clock())

    def part(self, share: float) -> Budget:
        """A budget of `share` in (0, 1] of what is left."""
        return Budget(share * self.left(), self._clock)


def in_turn(cases: Sequence[CaseT], budget: Budget) -> Iterator[tuple[CaseT, Budget | None]]:
    """Give each case an equal part of what is left, or None where the quickest would not fit.

    What a case leaves over goes to those after it.
    """
    quickest = 0.0
    for i, case in enumerate(cases):
        before = budget.left()
        if before <= quickest:
            yield case, None
            continue
        yield case, budget.part(1 / (len(cases) - i))
        spent = before - budget.left()
        quickest = min(quickest, spent) if quickest else spent


def out_of_time(budget: Budget) -> Row:
    """Why a row has no figures: such a row takes longer than what is left."""
    return {LEFT_OUT: f"{budget.left():.0f} s left, too few"}


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a command, which makes rows of a table within its time.

    Attributes:
        name: Title of the table.
        weight: Its share of the seconds, relative to the others'.
        rows: Makes the rows, one after the other.
    """

    name: str
    weight: float
    rows: Callable[[Budget], Iterator[Row]]


@dataclass(slots=True)
class Outcome:
    """What came of a section.

    Attributes:
        name: Of the section.
        planned_s: Seconds it was given.
        spent_s: Seconds it took.
        rows: Of its table.
        error: What ended it early, in a line; empty if nothing did.
    """

    name: str
    planned_s: float
    spent_s: float = 0.0
    rows: list[Row] = field(default_factory=list)
    error: str = ""


def play_sections(sections: Sequence[Section], budget: Budget) -> Iterator[Outcome]:
    """Play one section after the other; time that one leaves over goes to those after it.

    One that fails is told of on stderr, and takes nothing from the others.
    """
    for i, section in enumerate(sections):
        part = budget.part(section.weight / sum(s.weight for s in sections[i:]))
        before = budget.left()
        outcome = Outcome(section.name, part.left())
        try:
            outcome.rows.extend(section.rows(part))
        except Exception as error:  # a table that cannot be made must not cost the others
            traceback.print_exc()
            outcome.error = f"{type(error).__name__}: {error}".splitlines()[0]
        outcome.spent_s = before - budget.left()
        yield outcome
