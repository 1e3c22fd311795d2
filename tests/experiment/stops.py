"""Runs that are left on the way, and what their folders say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitucb.config import RunConfig, override
from vitucb.experiment.resume import StoppedError
from vitucb.types import Round


def short_run(tmp_path: Path, **changes: Any) -> RunConfig:
    """20 rounds of `ucb1` among three arms, with a checkpoint every 5."""
    base = {
        "out": str(tmp_path),
        "agent": {"name": "ucb1"},
        "env": {"num_arms": 3},
        "num_rounds": 20,
        "checkpoint_every": 5,
        "tensorboard": False,
    }
    return override(RunConfig(), base | changes)


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return found


def left_after(rounds: int) -> Callable[[Round], None]:
    def stop(round: Round) -> None:
        if round.index + 1 == rounds:
            raise StoppedError

    return stop
