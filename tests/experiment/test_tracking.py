"""Trackers, as modules of the same calls: no network, no account."""

from __future__ import annotations

import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vitucb.config import RunConfig, override
from vitucb.experiment.playing import play
from vitucb.experiment.preflight import check_places
from vitucb.experiment.tracking import Tracker

CALLS = {
    "wandb": ("init", "log", "finish"),
    "trackio": ("init", "log", "finish"),
    "mlflow": ("set_experiment", "start_run", "log_params", "log_metrics", "end_run"),
}


class Recording(ModuleType):
    """A tracker that keeps what it is told, and fails where it is told to."""

    def __init__(self, name: str, failing: str = "") -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.told: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        for call in CALLS[name]:
            setattr(self, call, self._recorded(call, failing))

    def _recorded(self, call: str, failing: str) -> Any:
        def record(*words: Any, **options: Any) -> None:
            if call == failing:
                raise RuntimeError("no\nroute to host")
            self.told.append((call, words, options))

        return record

    def of(self, call: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(words, options) for name, words, options in self.told if name == call]


def settings(tmp_path: Path, name: str) -> RunConfig:
    values = {
        "agent": "random",
        "num_rounds": 21,
        "track": name,
        "out": str(tmp_path),
        "experiment": "tracked",
        "tensorboard": False,
    }
    return override(RunConfig(), values)


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recording]:
    made = {name: Recording(name) for name in CALLS}
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    return made


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_settings_points_and_the_end_are_told(
    tmp_path: Path, modules: dict[str, Recording], name: str
) -> None:
    folder = play(settings(tmp_path, name)).folder
    told = modules[name]
    ((_, opened),) = told.of("init")
    assert (opened["project"], opened["name"]) == ("tracked", folder.name)
    assert opened["config"]["agent.name"] == "random"
    assert None not in opened["config"].values()
    points = {options["step"]: words[0] for words, options in told.of("log")}
    assert sorted(points) == [0, 10, 20]
    assert points[20]["regret/cumulative"] > points[0]["regret/cumulative"]
    assert {"reward/mean", "score/bonus"} <= set(points[0])
    assert [call for call, _, _ in told.told][-1] == "finish"


def test_mlflow_has_calls_of_its_own(tmp_path: Path, modules: dict[str, Recording]) -> None:
    folder = play(settings(tmp_path, "mlflow")).folder
    told = modules["mlflow"]
    assert [call for call, _, _ in told.told][:3] == ["set_experiment", "start_run", "log_params"]
    assert told.of("start_run") == [((), {"run_name": folder.name})]
    assert told.of("log_params")[0][0][0]["seed"] == "0"
    assert [options["step"] for _, options in told.of("log_metrics")] == [0, 10, 20]
    assert told.of("end_run") == [((), {})]


def test_rounds_are_the_same_with_and_without(
    tmp_path: Path, modules: dict[str, Recording]
) -> None:
    folders = [play(settings(tmp_path / name, name)).folder for name in ("none", "wandb")]
    one, two = ((folder / "rounds.csv").read_bytes() for folder in folders)
    assert one == two
    assert modules["trackio"].told == []


def test_a_tracker_that_fails_on_the_way_is_left_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Recording("wandb", failing="log")
    monkeypatch.setitem(sys.modules, "wandb", failing)
    folder = play(settings(tmp_path, "wandb")).folder
    assert (folder / "summary.json").is_file()
    warned = [r.getMessage() for r in caplog.records if "wandb" in r.getMessage()]
    assert warned == ["wandb gets nothing more of this run: no route to host"]
    assert failing.of("finish") == []


def test_what_a_tracker_prints_is_no_result(
    modules: dict[str, Recording], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(modules["trackio"], "init", lambda **_: print("* Created new run"))  # noqa: T201  as trackio does
    Tracker("trackio", "project", "run", {}).close()
    assert capsys.readouterr() == ("", "* Created new run\n")


def test_one_that_does_not_begin_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", Recording("trackio", failing="init"))
    with pytest.raises(ValueError, match="track 'trackio' does not begin: no route to host; mend"):
        Tracker("trackio", "project", "run", {})


def test_one_that_is_not_installed_is_refused_before_torch_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"track 'mlflow' is not installed; pip install 'vitucb\[mlflow\]'"
    ):
        check_places([settings(tmp_path, "mlflow")])


def test_values_that_are_not_finite_are_not_sent(modules: dict[str, Recording]) -> None:
    tracker = Tracker("wandb", "project", "run", {"a": 1, "b": None})
    tracker.add_scalars({"x": float("nan"), "y": 2.0}, 3)
    tracker.add_scalars({"x": float("inf")}, 4)
    assert modules["wandb"].of("log") == [(({"y": 2.0},), {"step": 3})]
    tracker.close()
    tracker.close()
    assert len(modules["wandb"].of("finish")) == 1
