"""A realistic synthetic experiment on disk, written as the recorder writes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]
WriteRun: TypeAlias = Callable[..., Path]

HEADER = (
    "round,action,reward,expected_reward,optimal_reward,optimal_action,regret,cumulative_regret,"
    "propensity,mean,width,bonus,greedy_action"
)
# Chance that the agent misses a good arm in round t of T: a constant part and a part that decays.
MISSES: dict[str, tuple[float, float, float]] = {
    "vit-ucb": (0.03, 0.9, 40.0),
    "lin-ucb": (0.05, 0.9, 25.0),
    "greedy": (0.13, 0.9, 25.0),
    "ucb1": (0.93, 0.07, 200.0),
    "gaussian-ts": (0.91, 0.09, 200.0),
    "random": (1.0, 0.0, 1.0),
    "oracle": (0.0, 0.0, 1.0),
}
NUM_ARMS = 10


def expected_rewards(rounds: int, rng: np.random.Generator) -> FloatArray:
    """Shuffled digits: the mean reward of class c is c / 9, shape (rounds, K)."""
    classes = rng.permuted(np.tile(np.arange(NUM_ARMS), (rounds, 1)), axis=1)
    return classes / (NUM_ARMS - 1.0)


def play(name: str, rounds: int, seed: int) -> dict[str, FloatArray]:
    """Columns of `rounds.csv` for a pretended agent."""
    truth = expected_rewards(rounds, np.random.default_rng([seed, 0]))
    rng = np.random.default_rng([seed, sum(map(ord, name))])
    floor, start, scale = MISSES.get(name, (0.1, 0.9, 30.0))
    missed = rng.random(rounds) < floor + start * np.exp(-np.arange(rounds) / scale)
    best = truth.argmax(axis=1)
    action = np.where(missed, rng.integers(0, NUM_ARMS, rounds), best)
    chosen = truth[np.arange(rounds), action]
    regret = truth.max(axis=1) - chosen
    explores = 1.0 if name in ("vit-ucb", "lin-ucb", "ucb1") else 0.0
    bonus = explores * (0.5 / np.sqrt(1 + np.arange(rounds) / 20.0) + 0.02)
    greedy = np.where(rng.random(rounds) < 0.3 * explores * bonus, rng.integers(0, 10), action)
    return {
        "round": np.arange(rounds),
        "action": action,
        "reward": (rng.random(rounds) < chosen).astype(float),
        "expected_reward": chosen,
        "optimal_reward": truth.max(axis=1),
        "optimal_action": best,
        "regret": regret,
        "cumulative_regret": regret.cumsum(),
        "propensity": np.ones(rounds),
        "mean": chosen + rng.normal(0, 0.12, rounds),
        "width": bonus,
        "bonus": bonus,
        "greedy_action": greedy,
    }


def write_gallery(folder: Path, rounds: Sequence[int], seed: int) -> None:
    """Noisy glyph-like images of ten arms, with estimates that sharpen over the rounds."""
    rng = np.random.default_rng([seed, 5])
    truth = expected_rewards(len(rounds), rng)
    rows, columns = np.mgrid[0:16, 0:16] / 15.0
    waves = np.sin(6 * rows * (1 + 2 * truth[..., None, None]) + 5 * columns)
    images = np.repeat((127 + 120 * waves)[..., None], 3, axis=-1).astype(np.uint8)
    spread = np.array([0.5 / np.sqrt(1 + t / 20) + 0.03 for t in rounds])[:, None]
    mean = truth + spread * rng.normal(0, 0.7, truth.shape)
    bonus = np.broadcast_to(spread, truth.shape)
    np.savez_compressed(
        folder / "gallery.npz",
        round=np.asarray(rounds),
        images=images,
        mean=mean,
        bonus=bonus,
        width=bonus,
        expected_rewards=truth,
        action=(mean + bonus).argmax(axis=1),
        optimal_action=truth.argmax(axis=1),
        reward=np.ones(len(rounds)),
    )


def write_run(
    experiment: Path,
    agent: str,
    seed: int,
    *,
    rounds: int = 200,
    env: str = "vitucb/ImageArms-v0",
    label: str | None = None,
    finished: bool = True,
    num_rounds: int | None = None,
    settings: dict[str, Any] | None = None,
    gallery: bool = False,
) -> Path:
    """Write one run folder and return it."""
    name = label or agent
    folder = experiment / f"{name}__{env}__s{seed}".replace("/", "-")
    folder.mkdir(parents=True)
    config = {
        "experiment": experiment.name,
        "agent": {"name": agent, "label": label, **(settings or {})},
        "env": {"id": env, "dataset": "digits", "num_arms": NUM_ARMS},
        "seed": seed,
        "num_rounds": num_rounds or rounds,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    columns = play(agent, rounds, seed)
    table = zip(*(column.tolist() for column in columns.values()), strict=True)
    lines = [HEADER, *(",".join(map(str, row)) for row in table)]
    (folder / "rounds.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    losses = (f"{t},train/loss,{1 / (1 + t / 20)}" for t in range(0, rounds, 10))
    gain = (f"{t},covariance/log_det,{np.log1p(t)}" for t in range(0, rounds, 10))
    metrics = [*losses, *gain] if name in ("vit-ucb", "lin-ucb") else []
    text = "\n".join(["round,metric,value", *metrics]) + "\n"
    (folder / "metrics.csv").write_text(text, encoding="utf-8")
    environment: dict[str, Any] = {"python": "3.11.2", "packages": {"vitucb": "0.1.0"}}
    environment |= {"cpu_count": 2, "task": {"class_names": list("0123456789")}}
    classes = np.round(columns["expected_reward"] * (NUM_ARMS - 1)).astype(int).tolist()
    numbered = "".join(f"{t},{number}\n" for t, number in enumerate(classes))
    (folder / "classes.csv").write_text(f"round,class\n{numbered}", encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    if gallery:
        write_gallery(folder, [0, rounds // 50, rounds // 10, rounds // 3, rounds - 1], seed)
    if finished:
        _write_summary(folder, config, columns)
    return folder


def _write_summary(folder: Path, config: dict[str, Any], columns: dict[str, FloatArray]) -> None:
    rounds = len(columns["round"])
    summary = {
        "agent": config["agent"]["label"] or config["agent"]["name"],
        "agent_name": config["agent"]["name"],
        "env": config["env"]["id"],
        "seed": config["seed"],
        "rounds": rounds,
        "cumulative_regret": float(columns["regret"].sum()),
        "mean_reward": float(columns["reward"].mean()),
        "image_passes": 12.5,
        "parameters": {"trainable_parameters": 1234},
        "version": "0.1.0",
    }
    timing = {"seconds_per_round": 0.031, "wall_seconds": 0.031 * rounds, "peak_memory_mib": 512.0}
    (folder / "timing.json").write_text(json.dumps(timing), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


@pytest.fixture(name="write_run", scope="session")
def write_run_fixture() -> WriteRun:
    """The function that writes one run folder."""
    return write_run


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven agents, three seeds, 200 rounds, galleries of the contextual agents."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    for agent in MISSES:
        for seed in range(3):
            write_run(folder, agent, seed, gallery=agent in ("vit-ucb", "lin-ucb") and seed == 0)
    return folder
