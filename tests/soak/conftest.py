"""Soak tests play only where asked for with `-m soak`, and count what they tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the soak tests out of an ordinary run."""
    if "soak" in config.option.markexpr:
        return
    soak = [item for item in items if item.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=soak)
    items[:] = [item for item in items if not item.get_closest_marker("soak")]


class Trials:
    """Counts trials, so that one that fails does not hide the next.

    Attributes:
        tried: Trials so far.
        failures: What went wrong, one entry a failed trial.
        largest: Name -> largest number measured.
    """

    def __init__(self) -> None:
        self.tried = 0
        self.failures: list[str] = []
        self.largest: dict[str, float] = {}

    def check(self, passed: bool, what: str) -> None:
        """Count one trial; `what` says which, should it have failed."""
        self.tried += 1
        if not passed:
            self.failures.append(what)

    def measured(self, name: str, value: float) -> None:
        """Remember the largest `value`."""
        self.largest[name] = max(value, self.largest.get(name, value))


@pytest.fixture
def trials(record_property: Callable[[str, object], None]) -> Iterator[Trials]:
    """The trials of one test, which fails at its end if one of them did."""
    counted = Trials()
    yield counted
    record_property("tried", counted.tried)
    record_property("failed", len(counted.failures))
    record_property("largest", counted.largest)
    assert not counted.failures, "; ".join(counted.failures)
