"""The studies of exploration and adaptation run in short, and their data are what they say."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.scripts import studies

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def adaptation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("study_adaptation")


@pytest.fixture
def exploration(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("study_exploration")


def run(study: ModuleType, *arguments: str, to: Path) -> list[dict[str, str]]:
    """Run a study in short, in this process; the rows of the one table it wrote."""
    folders = ["--quick", "--workers", "1", "--out", str(to), "--runs", str(to / "runs")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [study.__name__, *arguments, *folders])
        study.main()
    (path,) = to.glob("*.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_exploration_tells_regret_and_calibration(exploration: ModuleType, tmp_path: Path) -> None:
    cells = ["last-layer/exact/auto-0.3", "last-layer/exact/oful"]
    narrow, wide = run(exploration, "cells", "--agents", *cells, to=tmp_path)
    assert [narrow["agent"], wide["agent"]] == cells
    assert float(narrow["coverage"]) < float(wide["coverage"]) == 1
    assert float(narrow["bonus / error"]) < float(wide["bonus / error"])
    assert (tmp_path / "exploration.png").stat().st_size > 10_000


@pytest.mark.slow
def test_adaptation_compares_with_the_frozen_agent(adaptation: ModuleType, tmp_path: Path) -> None:
    chosen = ["--shifts", "pixels", "--agents", "vit-ucb", "frozen", "lin-ucb"]
    ours, frozen, linear = run(adaptation, *chosen, to=tmp_path)
    assert [ours["agent"], frozen["agent"], linear["agent"]] == ["vit-ucb", "frozen", "lin-ucb"]
    # The trained network sleeps for 84 rewards: until then it makes no difference.
    assert ours["T"] == "30"
    assert ours["regret"] == frozen["regret"] != linear["regret"]
    assert 70 < float(frozen["probe, %"]) < 95
    assert (tmp_path / "adaptation.png").stat().st_size > 10_000


def test_shifts_keep_digits_and_order(adaptation: ModuleType, tmp_path: Path) -> None:
    pixels, labels = adaptation.digits()
    for shift in adaptation.SHIFTS:
        with np.load(adaptation.write_set(shift, tmp_path)) as file:
            assert file["images"].shape == (1797, 32, 32, 3)
            assert np.array_equal(file["labels"], labels), shift
    moved = adaptation.SHIFTS["pixels"](pixels, np.random.default_rng(0))[..., 0]
    assert np.array_equal(np.sort(moved.reshape(1797, -1)), np.sort(pixels.reshape(1797, -1)))
    assert not np.array_equal(moved, pixels)


def test_patches_move_whole(adaptation: ModuleType) -> None:
    """One permutation for all images takes every patch of 8 x 8 pixels somewhere else."""
    numbered = np.arange(16, dtype=np.uint8).reshape(4, 4).repeat(8, 0).repeat(8, 1)
    moved = adaptation.SHIFTS["patches"](np.stack([numbered] * 2), np.random.default_rng(0))[..., 0]
    assert np.array_equal(moved[0], moved[1])
    corners = moved[0, ::8, ::8]
    assert np.array_equal(np.sort(corners.ravel()), np.arange(16))
    assert np.array_equal(moved[0], corners.repeat(8, 0).repeat(8, 1))


def test_it_runs_as_a_script() -> None:
    studies.run("study_adaptation.py", "--help")
