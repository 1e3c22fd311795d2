"""What measures an accelerator runs on the simulated one, and compares it with the processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.simulated import measures
from tests.simulated.accelerator import DEVICE

Aside = Callable[..., Any]


def test_the_script_finds_equal_choices(aside: Aside, tmp_path: Path) -> None:
    rows = aside(measures.measure, ["--only", "choices"], tmp_path / "gpu.json")["choices"]
    assert {row["agent"] for row in rows} >= {"vit-ucb, labels", "kernel-ucb", "lin-ucb"}
    for row in rows:
        assert row["differs in round"] == "none", row
        assert row["difference of scores"] < 1e-5, row


def test_the_script_times_rounds_and_counts_waits(aside: Aside, tmp_path: Path) -> None:
    asked = ["--only", "rounds", "10,000 rounds"]
    tables = aside(measures.measure, asked, tmp_path / "gpu.json")
    rows = {row["agent"]: row for row in tables["rounds"]}
    assert rows["lin-ucb"]["waits"] == 1
    assert rows["adapted alone, an image per arm"]["waits"] > 1
    assert all(row["ms"] > 0 and row["x bare forward"] > 0 for row in rows.values())
    for row in tables["10,000 rounds"]:
        assert row["s for 10,000 rounds"] > row["s"] > 0


@pytest.mark.slow
def test_the_script_plays_in_other_processes(aside: Aside, tmp_path: Path) -> None:
    tables = aside(measures.measure, ["--only", "processes", "passes"], tmp_path / "gpu.json")
    (row,) = tables["processes"]
    assert row["rounds/s"] > 0
    assert row["of ideal"] == 1
    left_out = [row.get("left out") for row in tables["passes"]]
    assert left_out == [None, *["not for sim"] * 2, None, "not for sim"]


def test_the_command_measures_a_device_and_leaves_out_threads(aside: Aside, tmp_path: Path) -> None:
    written = aside(measures.bench_scale, tmp_path / "bench.json")
    assert written["environment"]["device"] == DEVICE
    assert [row["quantity"] for row in written["suites"]["scale"]] == ["arms", "arms"]


def test_rounds_on_a_device_are_timed_whole(aside: Aside, tmp_path: Path) -> None:
    seconds, phases = aside(measures.contestant_seconds, tmp_path)
    assert min(seconds) > 0
    assert not phases


def test_covariances_are_timed_on_a_device(aside: Aside) -> None:
    assert min(aside(measures.covariance_ms).values()) > 0


@pytest.mark.slow
def test_passes_and_optimizers_are_timed_on_a_device(aside: Aside) -> None:
    scored = aside(measures.scoring_rows)
    assert [row["what"] for row in scored if "prototype" in str(row["what"])] == []
    assert min(float(row["ms"]) for row in [*scored, *aside(measures.optimizer_rows)]) > 0
