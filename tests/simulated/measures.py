"""What is measured on a device, for the process that has the simulated accelerator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import on_a_gpu

from tests.simulated import accelerator
from tests.simulated.accelerator import DEVICE
from tests.simulated.plays import start
from vitucb.cli.bench import optimizers, scale, scoring
from vitucb.cli.bench.command import bench
from vitucb.cli.bench.contestant import Contestant, model_settings
from vitucb.cli.bench.covariance import FeatureStream, filled, round_times
from vitucb.cli.bench.scoring import Row


def measure(words: list[str], out: Path) -> dict[str, Any]:
    """Run the script for accelerators on the simulated one; what it wrote, by section."""
    code = on_a_gpu.main(
        ["--device", DEVICE, "--quick", "--out", str(out), *words],
        prepare=start,
        take_waits=lambda: accelerator.take_waits().total(),
    )
    assert code == 0
    assert "# On sim" in out.with_suffix(".md").read_text(encoding="utf-8")
    sections = json.loads(out.read_text(encoding="utf-8"))["sections"]
    return {section["name"]: section["rows"] for section in sections}


def bench_scale(out: Path) -> dict[str, Any]:
    """`vitucb bench` of one suite with two small points."""
    scale.POINTS, scale.FEATURES = {"arms": [2, 4], "threads": [1, 2]}, 5_000
    scale.REPEATS = 1
    bench(["--suite", "scale", "--device", DEVICE, "--out", str(out)])
    written: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return written


def covariance_ms() -> dict[str, float]:
    """Milliseconds of two covariances."""
    stream = FeatureStream(5_000, DEVICE)
    made = {name: filled(name, stream, 60) for name in ("exact", "low-rank")}
    return round_times(made, stream.draw(3))


def scoring_rows() -> list[Row]:
    """The table of one model."""
    return scoring.model_rows("vitucb-nano (32 px)", DEVICE, repeats=1)


def optimizer_rows() -> list[Row]:
    """The table of one model."""
    return optimizers.model_rows("vitucb-nano", "vitucb-nano", DEVICE, repeats=1)


def contestant_seconds(folder: Path) -> tuple[list[float], set[str]]:
    """Two rounds of the network alone, and the phases that they were split into."""
    contestant = Contestant(
        "vit-ucb",
        {"experts": ["adapted"], "lora": {"rank": 1}},
        model_settings("vitucb-nano", None, folder),
        device=DEVICE,
    )
    contestant.play()
    contestant.play()
    return contestant.seconds, set(contestant.phases.seconds)
