"""The run folder: config, environment, rounds, metrics, TensorBoard events, gallery, summary.

`rounds.csv`, `metrics.csv` and `summary.json` hold no times, so one seed gives the same bytes
twice; times are in `timing.json`. `summary.json` is written last and atomically: its presence
means the run is finished.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np

from vitucb.config import flatten, save_config, to_dict
from vitucb.experiment.gallery import gallery_entry, save_gallery
from vitucb.experiment.offered_images import OfferedImages
from vitucb.experiment.provenance import describe_environment, peak_memory_mib
from vitucb.experiment.rounds_file import ROUND_COLUMNS
from vitucb.experiment.run_folder import RunFolder, sha256_of_start
from vitucb.experiment.tensorboard import EventLog, event_files
from vitucb.experiment.tracking import Tracker
from vitucb.storage.atomic_files import (
    check_own,
    drop_leftovers,
    open_table,
    sync,
    write_durably,
)
from vitucb.types import Round, State

METRIC_COLUMNS = ("round", "metric", "value")
CLASS_COLUMNS = ("round", "class")
_TABLES = ("rounds.csv", "metrics.csv", "classes.csv")
_GALLERY_FRACTIONS = (0.0, 0.02, 0.1, 0.3, 1.0)


class Recorder:
    """Writes one run folder; use as a context manager and call `write` for every round.

    Attributes:
        run: The folder and the settings of the run.
        folder: Its path.
        parameters: Counts to report in the summary.
    """

    def __init__(
        self,
        run: RunFolder,
        parameters: Mapping[str, int],
        state: State | None = None,
        *,
        action_names: Sequence[str] = (),
        task: Mapping[str, Any] | None = None,
        started: float | None = None,
    ) -> None:
        """Open a run folder.

        Args:
            run: It, and the fully resolved config of the run.
            parameters: Counts to report in the summary, e.g. `adapted_tensors`.
            state: What `state_dict` returned: the files are cut back to where they were then.
                Without it, what an unfinished run left is dropped.
            action_names: Names of the actions, where they have any.
            task: What is played, as `describe_task` tells it. Where it tells classes, those of the
                chosen arms are recorded.
            started: When this process began with the run, by `time.perf_counter`; now if None.
        """
        self.run, self.folder = run, run.path
        self._config = config = run.config
        self._started = time.perf_counter() if started is None else started
        self.parameters = dict(parameters)
        self._gallery_rounds = {round(f * (config.num_rounds - 1)) for f in _GALLERY_FRACTIONS}
        self._images_every = config.images_every or max(1, config.num_rounds // 10)
        self._gallery: list[dict[str, Any]] = []
        self._rewards = self._seconds = self._earlier_seconds = 0.0
        self._rounds, self._regret = 0, 0.0
        self._metrics: dict[str, tuple[int, float]] = {}
        self._unwritten: dict[str, float] = {}  # scalars of the last round, unless written
        self._offered, self._counts_passes = OfferedImages(), True
        self.folder.mkdir(parents=True, exist_ok=True)
        drop_leftovers(self.folder)
        (self.folder / "summary.json").unlink(missing_ok=True)
        if state is None:
            for name in ("gallery.npz", "timing.json"):
                (self.folder / name).unlink(missing_ok=True)
        else:
            self._restore(state)
        self._cut_files({} if state is None else state["sizes"])
        # Who goes on from the file, or repeats it, does not ask for a run to be deleted.
        save_config(dataclasses.replace(config, overwrite=False), self.folder / "config.yaml")
        named: dict[str, Any] = {"action_names": list(action_names)} if action_names else {}
        named |= {"task": dict(task)} if task else {}
        _write_json(self.folder / "environment.json", describe_environment() | named)
        self._tells_classes = bool(task and task.get("class_names"))
        self._open_files()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.close()

    def _open_files(self) -> None:
        with contextlib.ExitStack() as stack:  # All are closed, also where one cannot be written.
            self._file, self._csv = self._open_table(stack, "rounds.csv", ROUND_COLUMNS)
            self._metrics_file, self._metrics_csv = self._open_table(
                stack, "metrics.csv", METRIC_COLUMNS
            )
            self._classes_file: TextIO | None = None
            self._classes_csv: Any = None
            if self._tells_classes:
                self._classes_file, self._classes_csv = self._open_table(
                    stack, "classes.csv", CLASS_COLUMNS
                )
            is_described = bool(event_files(self.folder))
            self._events = EventLog(self.folder) if self._config.tensorboard else None
            if self._events is not None:
                stack.callback(self._events.close)
            settings = flatten(to_dict(self._config))
            if self._events is not None and not is_described:
                self._events.describe(settings)
            self._sinks: list[EventLog | Tracker] = [] if self._events is None else [self._events]
            if self._config.track != "none":
                name = self.folder.name
                tracker = Tracker(self._config.track, self._config.experiment, name, settings)
                stack.callback(tracker.close)
                self._sinks.append(tracker)
            self._closing = stack.pop_all()

    def _open_table(
        self, stack: contextlib.ExitStack, name: str, columns: Sequence[str]
    ) -> tuple[TextIO, Any]:
        # Line buffered: what was played is on disk even if the process dies in the next round.
        path = self.folder / name
        file = stack.enter_context(open_table(path))
        writer = csv.writer(file, lineterminator="\n")
        if not file.tell():
            writer.writerow(columns)
        return file, writer

    def _cut_files(self, sizes: Mapping[str, int]) -> None:
        """Cut every file that grows back to `sizes` bytes; those not named are deleted."""
        for path in [*map(self.folder.joinpath, _TABLES), *event_files(self.folder)]:
            if path.name not in sizes:
                path.unlink(missing_ok=True)
                continue
            check_own(path)
            if path.is_file() and path.stat().st_size > sizes[path.name]:
                os.truncate(path, sizes[path.name])

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
        if self._classes_csv is not None and round.arm_classes is not None:
            self._classes_csv.writerow((round.index, int(round.arm_classes[chosen])))
        # The pictures of a slate stand for all of its positions.
        if round.index % (self._config.env.slate.slots or 1) == 0:
            self._offered.add(round.observation)
        self._rewards += round.reward
        self._seconds += round.seconds
        self._rounds, self._regret = round.index + 1, round.cumulative_regret
        if round.index in self._gallery_rounds:
            self._gallery.append(gallery_entry(round))
        # Kept until they are due: a rebuild, say, reports in few rounds.
        self._metrics |= {name: (round.index, float(v)) for name, v in round.metrics.items()}
        self._unwritten = self._scalars(round)
        if round.index % self._config.record_every == 0:
            self._write_metrics(round.index, self._unwritten)
            self._unwritten = {}
        if self._events is not None and round.index % self._images_every == 0:
            self._events.add_arms(round)

    def _write_metrics(self, round: int, scalars: Mapping[str, float]) -> None:
        points = {round: dict(scalars)} if scalars else {}
        for name, (index, value) in self._metrics.items():
            self._metrics_csv.writerow((index, name, value))
            points.setdefault(index, {})[name] = value
        for sink in self._sinks:
            for index in sorted(points):  # trackers take no step twice, and none back
                sink.add_scalars(points[index], index)
        self._metrics.clear()

    def _scalars(self, round: Round) -> dict[str, float]:
        chosen = round.decision.action
        regret = {
            "regret/cumulative": round.cumulative_regret,
            "regret/instantaneous": round.regret,
        }
        return {
            # NaN where the environment does not know its mean rewards.
            **{name: value for name, value in regret.items() if math.isfinite(value)},
            "reward/cumulative": self._rewards,
            "reward/mean": self._rewards / (round.index + 1),
            "score/mean": float(round.decision.mean[chosen]),
            "score/bonus": float(round.decision.bonus[chosen]),
            "time/rounds_per_second": (round.index + 1) / max(self._seconds, 1e-9),
        }

    def state_dict(self) -> State:
        """Where the files stand, and what the summary needs of the rounds so far."""
        self._flush()
        tables = [self.folder / name for name in _TABLES if (self.folder / name).exists()]
        sizes = {path.name: path.stat().st_size for path in tables}
        # Those of earlier parts of the run are kept where this one writes none.
        events = {path.name: path.stat().st_size for path in event_files(self.folder)}
        return {
            "sizes": sizes | (events if self._events is None else self._events.sizes()),
            "sha256": {path.name: sha256_of_start(path, sizes[path.name]) for path in tables},
            "gallery": self._gallery,
            "rewards": self._rewards,
            "seconds": self._seconds,
            "wall_seconds": self._wall_seconds(),
            "rounds": self._rounds,
            "regret": self._regret,
            "metrics": {name: list(pair) for name, pair in self._metrics.items()},
            "unwritten": self._unwritten,
            "recurrence": self._offered.state_dict(),
            "counts_passes": self._counts_passes,
        }

    def _flush(self) -> None:
        for file in (self._file, self._metrics_file, self._classes_file):
            if file is not None:
                file.flush()
                os.fsync(file.fileno())

    def _wall_seconds(self) -> float:
        return self._earlier_seconds + time.perf_counter() - self._started

    def _restore(self, state: State) -> None:
        self._gallery = list(state["gallery"])
        self._rewards, self._seconds = float(state["rewards"]), float(state["seconds"])
        self._earlier_seconds = float(state["wall_seconds"])
        self._rounds, self._regret = int(state["rounds"]), float(state["regret"])
        pairs = state["metrics"].items()
        self._metrics = {name: (int(index), float(value)) for name, (index, value) in pairs}
        self._unwritten = dict(state.get("unwritten", {}))  # older checkpoints have none
        # Nor these: counting from here on would pass for the whole run.
        self._offered.load_state_dict(state.get("recurrence") or {})
        self._counts_passes = bool(state.get("counts_passes", False))

    def finish(
        self, image_passes: int | None = None, more: Mapping[str, float] | None = None
    ) -> None:
        """Write gallery, times and, last, the summary that marks the run as finished.

        Args:
            image_passes: Images that the agent sent through a backbone, see `Savable`; None where
                it does not tell.
            more: Further entries of the summary.

        Raises:
            ValueError: If no round was recorded.
        """
        if not self._rounds:
            raise ValueError("num_rounds: the run has no rounds; ask for at least one")
        save_gallery(self._gallery, self.folder)
        self._write_metrics(self._rounds - 1, self._unwritten)
        timing = {
            "seconds_per_round": self._seconds / self._rounds,
            "wall_seconds": self._wall_seconds(),
            "peak_memory_mib": peak_memory_mib(),
        }
        _write_json(self.folder / "timing.json", timing)
        self._flush()
        sync(self.folder)
        agent = self._config.agent
        summary = {
            "agent": agent.label or agent.name,
            "agent_name": agent.name,
            "env": self._config.env.id,
            "seed": self._config.seed,
            "rounds": self._rounds,
            # JSON has no NaN.
            "cumulative_regret": self._regret if math.isfinite(self._regret) else None,
            "mean_reward": self._rewards / self._rounds,
            **self._offered.summary(),
            **self._mean_passes(image_passes),
            **(more or {}),
            "parameters": self.parameters,
            "version": metadata.version("vitucb"),
        }
        _write_json(self.folder / "summary.json", summary)

    def _mean_passes(self, image_passes: int | None) -> dict[str, float]:
        """`image_passes`, a round; empty where they are not known of every round."""
        if image_passes is None or not self._counts_passes:
            return {}
        return {"image_passes": image_passes / self._rounds}


def _greedy_action(round: Round) -> int:
    """The arm thought best; the chosen one where several are, which is no exploration."""
    allowed = np.asarray(round.observation["action_mask"]).astype(bool)
    means = np.where(allowed, round.decision.mean, -np.inf)
    chosen = round.decision.action
    return chosen if means[chosen] == means.max() else int(means.argmax())


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_durably(path, json.dumps(content, indent=2) + "\n")
