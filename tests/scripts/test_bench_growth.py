"""The script that times how rounds grow: its arithmetic, and a short run that is taken up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bench_growth
import numpy as np
import pytest
from bench_growth import COLUMNS, PARTS, Stopwatch, growth_rows, read_rounds, write_images

from tests.scripts.studies import run


def test_rounds_are_compared_with_round_100_and_fits_count_in_the_mean() -> None:
    rounds = [[t, 2.0 + t // 500, 1.0, 0.5, 0.25, 0, 0, 0, 100.0 + t] for t in range(1, 1_000)]
    rounds[300][1] = 1_000.0
    first, second = growth_rows("a", rounds)
    assert (first["round"], first["ms"], first["x round 100"], first["MiB"]) == (100, 2, 1, 199)
    assert (second["ms"], second["x round 100"], second["MiB"]) == (3, 1.5, 1_099)
    assert second["x, features aside"] == 2
    parts = [second[f"{part}, ms"] for part in PARTS]
    assert parts == [1, 0.5, 0.25, 0, 0, 0]
    assert second["longest, ms"] == 1_000
    assert second["mean since the row above, ms"] == pytest.approx(
        (399 * 2 + 500 * 3 + 1_000) / 900
    )
    assert growth_rows("a", rounds[:90]) == []


def test_a_stopwatch_goes_on_behind_the_last_round_that_was_written(tmp_path: Path) -> None:
    file, now, parts = tmp_path / "a.csv", iter(np.arange(100.0)), {"kernel": 0.0}

    def lap(stopwatch: Stopwatch, *indices: int) -> None:
        with stopwatch.file:
            for index in indices:
                parts["kernel"] += 0.25
                round: Any = SimpleNamespace(index=index)
                stopwatch.lap(round)

    lap(Stopwatch(file, parts, lambda: next(now)), 0, 1, 2)
    with file.open("a") as cut_off:
        cut_off.write("3,1000")
    lap(Stopwatch(file, parts, lambda: next(now)), 1, 2, 3, 4)
    rows = read_rounds(file)
    assert [row[0] for row in rows] == [1, 2, 4]
    assert [row[1:5] for row in rows] == [[1_000, 0, 250, 0]] * 3
    assert rows[0][-1] > 0
    assert len(rows[0]) == len(COLUMNS)


def test_shifted_digits_are_other_images_of_the_same_rating(tmp_path: Path) -> None:
    made = np.load(write_images(9, tmp_path))
    images, scores = made["images"], made["scores"]
    assert images.shape == (9 * 1_797, 8, 8, 3)
    assert (scores.reshape(9, -1) == scores[:1_797]).all()
    assert (images[:1_797] != images[4 * 1_797 : 5 * 1_797]).any()


@pytest.mark.slow
def test_with_labels_every_expert_is_timed(tmp_path: Path) -> None:
    run("bench_growth.py", "--cases", "10 labels", "--rounds", "12", "--out", str(tmp_path))
    (last, *_) = reversed(read_rounds(tmp_path / "10 labels.csv"))
    times = dict(zip(COLUMNS, last, strict=True))
    assert times["kernel, ms"] == 0
    assert all(times[f"{part}, ms"] > 0 for part in PARTS if part != "kernel")


@pytest.mark.slow
def test_a_short_run(tmp_path: Path) -> None:
    for rounds in ("110", "110"):
        run("bench_growth.py", "--cases", "10 arms", "--rounds", rounds, "--out", str(tmp_path))
    rows = read_rounds(tmp_path / "10 arms.csv")
    assert [row[0] for row in rows] == list(range(1, 110))
    assert all(0 < sum(row[2:-1]) <= row[1] + 0.01 for row in rows)
    assert bench_growth.growth_rows("10 arms", rows)[0]["round"] == 100
    assert "10 arms,100," in (tmp_path / "growth.csv").read_text()
