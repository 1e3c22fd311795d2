"""Whole runs, 100,000 rounds long: memory does not grow, and numbers do not drift."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.soak.conftest import Trials
from vitucb.config import RunConfig, override
from vitucb.experiment.playing import play
from vitucb.experiment.run_folder import is_finished, run_folder
from vitucb.types import Round

LINUX = pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads /proc/self/statm")
# What the allocator keeps, and what Python's garbage takes before it is collected.
_MIB_OF_NOISE = 24.0


def resident_mib() -> float:
    """Memory of this process in RAM, MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def config(tmp_path: Path, agent: dict[str, Any], rounds: int) -> RunConfig:
    return override(
        RunConfig(),
        {"out": str(tmp_path), "agent": agent, "env": {"num_arms": 3}, "num_rounds": rounds},
    )


def check_memory(settings: RunConfig, trials: Trials) -> None:
    """Memory at nine tenths of a run must be what it was at a fifth."""
    tenth, held = settings.num_rounds // 10, []

    def weigh(round: Round) -> None:
        if round.index % tenth == 0:
            held.append(resident_mib())

    play(settings, weigh)
    grown = max(held[2:]) - held[2]
    trials.measured("growth in MiB", grown)
    trials.check(is_finished(run_folder(settings)), "not finished")
    trials.check(grown < _MIB_OF_NOISE, f"{held} MiB")


@LINUX
@pytest.mark.soak(
    "100,000 rounds of ucb1 and of gaussian-ts with checkpoints, tables and TensorBoard",
    "finishes; resident memory flat from the 20,000th round on",
)
@pytest.mark.parametrize("name", ["ucb1", "gaussian-ts"])
def test_memory_of_a_long_run_is_flat(name: str, tmp_path: Path, trials: Trials) -> None:
    check_memory(config(tmp_path, {"name": name}, 100_000), trials)


@LINUX
@pytest.mark.soak(
    "3,000 rounds of vit-ucb, adapted alone (low-rank covariance, replay of 300 images)",
    "finishes; resident memory flat from the 600th round on",
)
def test_memory_of_vit_ucb_is_flat(tmp_path: Path, trials: Trials) -> None:
    agent = {
        "experts": ["adapted"],
        "covariance": {"name": "low-rank", "rank": 32},
        "lora": {"rank": 1, "blocks": [-1]},
        "training": {"batch_size": 4, "replay_capacity": 300},
    }
    check_memory(config(tmp_path, agent, 3_000), trials)


@LINUX
@pytest.mark.soak(
    "100,000 rounds of lin-ucb, its means against float64 ridge regression at every 10,000",
    "within 1e-8; resident memory flat from the 20,000th round on",
)
def test_means_of_a_long_run_do_not_drift(tmp_path: Path, trials: Trials) -> None:
    ridge, rounds, held = 0.7, 100_000, []
    agent = {"name": "lin-ucb", "head_ridge": ridge}
    settings, tenth = config(tmp_path, agent, rounds), rounds // 10
    gram, response = torch.zeros(1), torch.zeros(1)

    def follow(round: Round) -> None:
        nonlocal gram, response
        phi = round.decision.phi
        if not round.index:
            gram = ridge * torch.eye(len(phi), dtype=torch.float64)
            response = torch.zeros_like(phi)
        if round.index % tenth == tenth - 1:
            wanted = float(phi @ torch.linalg.solve(gram, response))
            error = abs(float(round.decision.mean[round.decision.action]) - wanted) / abs(wanted)
            held.append(resident_mib())
            trials.measured("relative error", error)
            trials.check(error < 1e-8, f"round {round.index}: {error:.1e}")
        gram += torch.outer(phi, phi)
        response += round.reward * phi

    play(settings, follow)
    trials.measured("growth in MiB", max(held[2:]) - held[1])
    trials.check(max(held[2:]) - held[1] < _MIB_OF_NOISE, f"{held} MiB")
