"""The alarm: raised by a shift, silent without one."""

from __future__ import annotations

import numpy as np
import pytest

from vitucb.learning.change_detection import ChangeDetector


def test_no_alarm_while_nothing_changes() -> None:
    rng, detector = np.random.default_rng(0), ChangeDetector()
    errors = (rng.random(20_000) < 0.4) - 0.4
    assert sum(detector.add(float(e)) for e in errors) == 0


def test_alarm_soon_after_a_shift_and_only_once() -> None:
    rng, detector = np.random.default_rng(0), ChangeDetector()
    errors = rng.normal(0.0, 0.4, 600)
    errors[300:] -= 0.5
    alarms = [i for i, e in enumerate(errors) if detector.add(float(e))]
    assert len(alarms) == 1
    assert 300 < alarms[0] < 350


@pytest.mark.parametrize("error", [0.25, 0.1, 1000.1])
def test_constant_errors_raise_no_alarm(error: float) -> None:
    detector = ChangeDetector()
    assert not any(detector.add(error) for _ in range(500))


def test_restored_detector_continues_identically() -> None:
    rng, detector, other = np.random.default_rng(1), ChangeDetector(), ChangeDetector()
    for e in rng.normal(0, 1, 200):
        detector.add(float(e))
    other.load_state_dict(detector.state_dict())
    tail = rng.normal(1.5, 1, 100)
    assert [detector.add(float(e)) for e in tail] == [other.add(float(e)) for e in tail]
