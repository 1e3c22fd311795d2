"""The run folder: config, environment, rounds, TensorBoard events, gallery, checkpoint, summary.

`rounds.csv` holds no times, so one seed gives the same bytes twice. `summary.json` is written
last and atomically: its presence means the run is finished.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np

from vitucb.config import RunConfig, save_config
from vitucb.types import Round

COLUMNS = (
    "round",
    "action",
    "reward",
    "expected_reward",
    "optimal_reward",
    "optimal_action",
    "regret",
    "cumulative_regret",
    "propensity",
    "mean",
    "width",
    "bonus",
    "greedy_action",
)
_GALLERY_FRACTIONS = (0.0, 0.02, 0.1, 0.3, 1.0)
_TENSORBOARD_EVERY_ROUNDS = 10


def run_folder(config: RunConfig) -> Path:
    """`out/experiment/agent__env__sSEED`."""
    agent = config.agent.label or config.agent.name
    name = f"{agent}__{config.env.id}__s{config.seed}".replace("/", "-").replace(":", "-")
    return Path(config.out) / config.experiment / name


def is_finished(folder: Path) -> bool:
    """Whether the run in `folder` came to its end."""
    return (folder / "summary.json").is_file()


class Recorder:
    """Writes one run folder; use as a context manager and call `write` for every round."""

    def __init__(self, config: RunConfig, parameters: Mapping[str, int]) -> None:
        """Open the run folder of `config`, dropping what an unfinished run left there.

        Args:
            config: The fully resolved config of the run.
            parameters: Counts to report in the summary, e.g. `adapted_tensors`.
        """
        self.folder = run_folder(config)
        self._config = config
        self.parameters = dict(parameters)
        self._gallery_rounds = {round(f * (config.num_rounds - 1)) for f in _GALLERY_FRACTIONS}
        self._gallery: list[Round] = []
        self._rewards = self._seconds = 0.0
        self._last: Round | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        for stale in [*self.folder.glob("events.out.tfevents.*"), self.folder / "summary.json"]:
            stale.unlink(missing_ok=True)
        save_config(config, self.folder / "config.yaml")
        _write_json(self.folder / "environment.json", describe_environment())
        # Line buffered: what was played is on disk even if the process dies in the next round.
        self._file: TextIO = (self.folder / "rounds.csv").open("w", newline="", buffering=1)
        self._csv = csv.writer(self._file, lineterminator="\n")
        self._csv.writerow(COLUMNS)
        self._events = _event_writer(self.folder) if config.tensorboard else None

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()

    def write(self, round: Round) -> None:
        """Record one finished round."""
        decision, chosen = round.decision, round.decision.action
        self._csv.writerow(
            (
                round.index,
                chosen,
                round.reward,
                round.expected_reward,
                round.optimal_reward,
                round.optimal_action,
                round.regret,
                round.cumulative_regret,
                decision.propensity,
                float(decision.mean[chosen]),
                float(decision.width[chosen]),
                float(decision.bonus[chosen]),
                _greedy_action(round),
            )
        )
        self._rewards += round.reward
        self._seconds += round.seconds
        self._last = round
        if round.index in self._gallery_rounds:
            self._gallery.append(round)
        if self._events is not None and round.index % _TENSORBOARD_EVERY_ROUNDS == 0:
            for tag, value in self._scalars(round).items():
                self._events.add_scalar(tag, value, step=round.index)

    def _scalars(self, round: Round) -> dict[str, float]:
        chosen = round.decision.action
        return {
            "regret/cumulative": round.cumulative_regret,
            "regret/instantaneous": round.regret,
            "reward/mean": self._rewards / (round.index + 1),
            "score/mean": float(round.decision.mean[chosen]),
            "score/bonus": float(round.decision.bonus[chosen]),
            "time/rounds_per_second": (round.index + 1) / max(self._seconds, 1e-9),
            **round.metrics,
        }

    def finish(self, wall_seconds: float) -> None:
        """Write the gallery and, last, the summary that marks the run as finished.

        Raises:
            ValueError: If no round was recorded.
        """
        if self._last is None:
            raise ValueError("num_rounds: the run has no rounds; ask for at least one")
        self._save_gallery()
        rounds = self._last.index + 1
        agent = self._config.agent
        summary = {
            "agent": agent.label or agent.name,
            "agent_name": agent.name,
            "env": self._config.env.id,
            "seed": self._config.seed,
            "rounds": rounds,
            "cumulative_regret": self._last.cumulative_regret,
            "mean_reward": self._rewards / rounds,
            "seconds_per_round": self._seconds / rounds,
            "wall_seconds": wall_seconds,
            "parameters": self.parameters,
            "version": metadata.version("vitucb"),
        }
        _write_json(self.folder / "summary.json", summary)

    def _save_gallery(self) -> None:
        shapes = {np.shape(r.observation["images"]) for r in self._gallery}
        if len(shapes) != 1 or any(r.expected_rewards is None for r in self._gallery):
            return
        columns: dict[str, list[Any]] = {
            "round": [r.index for r in self._gallery],
            "images": [r.observation["images"] for r in self._gallery],
            "mean": [r.decision.mean for r in self._gallery],
            "width": [r.decision.width for r in self._gallery],
            "bonus": [r.decision.bonus for r in self._gallery],
            "expected_rewards": [r.expected_rewards for r in self._gallery],
            "action": [r.decision.action for r in self._gallery],
            "optimal_action": [r.optimal_action for r in self._gallery],
            "reward": [r.reward for r in self._gallery],
        }
        arrays = {name: np.stack([np.asarray(v) for v in vs]) for name, vs in columns.items()}
        np.savez_compressed(self.folder / "gallery.npz", **arrays)  # type: ignore[arg-type]  # keywords are arrays


def describe_environment() -> dict[str, Any]:
    """Versions, hardware and git commit of this process, for `environment.json`."""
    packages = ("vitucb", "torch", "timm", "peft", "gymnasium", "numpy")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count(),
        "packages": {name: metadata.version(name) for name in packages},
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _greedy_action(round: Round) -> int:
    allowed = np.asarray(round.observation["action_mask"]).astype(bool)
    return int(np.argmax(np.where(allowed, round.decision.mean, -np.inf)))


def _event_writer(folder: Path) -> Any:
    # tensorboard's own writer: torch's would import torch here.
    from tensorboard.summary import Writer

    return Writer(str(folder))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
