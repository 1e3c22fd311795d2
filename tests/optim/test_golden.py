"""Every recorded trajectory is replayed; those of published bugs must not match."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.golden.replay import replay

FOLDER = Path(__file__).parents[1] / "golden"
FILES = sorted(FOLDER.glob("*.npz"))
BUGS = ("REPO_BUG", "DEEPSPEED_AS_IS")


def tolerance(path: Path) -> float:
    with np.load(path) as archive:
        return float(json.loads(str(archive["meta"])).get("tolerance", 1e-9))


def test_there_are_71_recordings() -> None:
    assert len(FILES) == 71


@pytest.mark.parametrize(
    "path", [f for f in FILES if not any(b in f.name for b in BUGS)], ids=lambda p: p.stem
)
def test_the_recorded_trajectory_is_reproduced(path: Path) -> None:
    assert replay(path) <= tolerance(path)


@pytest.mark.parametrize(
    "path", [f for f in FILES if any(b in f.name for b in BUGS)], ids=lambda p: p.stem
)
def test_published_bugs_are_not_reproduced(path: Path) -> None:
    assert replay(path) > 1e-3
