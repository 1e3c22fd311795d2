"""Memory and CPU time of processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from process_tools import forget_peak, resident_mib, tree_cpu_seconds

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_cpu_time_is_that_of_a_process_of_its_children_and_of_theirs(tmp_path: Path) -> None:
    def process(number: int, parent: int, *ticks: int, name: str = "python") -> None:
        (tmp_path / str(number)).mkdir()
        fields = ["S", str(parent), *["0"] * 9, *map(str, ticks), "20"]
        (tmp_path / str(number) / "stat").write_text(f"{number} ({name}) {' '.join(fields)}\n")

    process(7, 1, 100, 10, 1_000, 5)
    process(8, 7, 200, 0, 0, 0, name="ray: a) b (c")
    process(9, 8, 400, 0, 0, 0)
    process(5, 1, 10_000, 0, 0, 0)
    (tmp_path / "6").mkdir()  # it has just ended
    ticks = tree_cpu_seconds(7, tmp_path) * os.sysconf("SC_CLK_TCK")
    assert ticks == pytest.approx(100 + 10 + 1_000 + 5 + 200 + 400)


def test_own_cpu_time_is_found() -> None:
    assert tree_cpu_seconds(os.getpid()) > 0


def test_a_peak_can_be_forgotten() -> None:
    large = np.ones(32 << 20)
    del large
    peak = resident_mib("VmHWM")
    assert peak - resident_mib() > 200
    forget_peak()
    assert resident_mib("VmHWM") < peak - 200
