"""A run that was killed ends with the bytes of one that was not."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.covering import slow_but
from vitucb.cli.main import main
from vitucb.config import RunConfig, load_config, override
from vitucb.config.lora import DATA_INITS
from vitucb.experiment import recorder
from vitucb.experiment.checkpoints import Checkpoints
from vitucb.experiment.episode import Episode
from vitucb.experiment.playing import play
from vitucb.experiment.recorder import Recorder
from vitucb.experiment.resume import StoppedError, Timetable, explain
from vitucb.experiment.run_folder import RunFolder, is_finished, run_folder
from vitucb.experiment.tensorboard import event_files
from vitucb.learning.experts.adapted.schedule import Schedule
from vitucb.learning.experts.adapted.settings import AdaptedSettings
from vitucb.types import Round

SAME_BYTES = (
    "rounds.csv",
    "metrics.csv",
    "summary.json",
    "config.yaml",
    "gallery.npz",
    "classes.csv",
)
TINY: dict[str, Any] = {"training": {"batch_size": 4}, "lora": {"rank": 1, "blocks": [-1]}}
DELAY = {"law": "geometric", "rounds": 4, "loss_probability": 0.1}


class Killed(BaseException):
    """Stands for kill -9: nothing in the engine may catch it."""


def config(tmp_path: Path, **changes: Any) -> RunConfig:
    base = {
        "out": str(tmp_path / "runs"),
        "agent": {"name": "gaussian-ts"},
        "env": {"num_arms": 3},
        "num_rounds": 30,
        "checkpoint_every": 7,
        "tensorboard": False,
    }
    return override(RunConfig(), base | changes)


def killed_after(settings: RunConfig, rounds: int) -> Path:
    """Play until `rounds` rounds are recorded, then die."""

    def kill(round: Round) -> None:
        if round.index + 1 == rounds:
            raise Killed

    with pytest.raises(Killed):
        play(settings, kill)
    return run_folder(settings)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in SAME_BYTES}


def uninterrupted(settings: RunConfig, tmp_path: Path) -> dict[str, bytes]:
    folder = play(dataclasses.replace(settings, experiment="whole")).folder
    return contents(folder) | {"config.yaml": b""}


def resumed(settings: RunConfig) -> dict[str, bytes]:
    return contents(play(settings).folder) | {"config.yaml": b""}


@pytest.mark.parametrize("rounds", [1, 6, 7, 8, 21, 30])
def test_killed_run_ends_with_the_bytes_of_the_uninterrupted_one(
    rounds: int, tmp_path: Path
) -> None:
    settings = config(tmp_path)
    folder = killed_after(settings, rounds)
    assert not is_finished(folder)
    assert resumed(settings) == uninterrupted(settings, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"agent": {"name": "lin-ucb"}, "env": {"num_arms": 3, "delay": DELAY}},
        {"env": {"num_arms": 3, "drift": {"kind": "abrupt", "at": 12}}},
        {"env": {"num_arms": 4, "arm_subset": {"min_arms": 2}}},
        {
            "agent": {"name": "vit-ucb", "covariance": {"name": "countsketch", "rank": 64}, **TINY},
            "env": {"num_arms": 3, "delay": DELAY},
            "num_rounds": 20,
        },
        {"agent": {"name": "vit-ucb", **TINY}, "num_rounds": 20},
    ],
    ids=["delay", "drift", "subset", "sketch", "exact"],
)
def test_resume_is_exact_with_delay_drift_and_sketches(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    settings = config(tmp_path, **changes)
    killed_after(settings, 17)
    assert resumed(settings) == uninterrupted(settings, tmp_path)


@pytest.mark.parametrize("init", slow_but(["lora_ga"], DATA_INITS))
@pytest.mark.parametrize("rounds", [12, 20])  # before the start, and after it
def test_resume_is_exact_around_a_start_from_data(
    init: str, rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = functools.partial(AdaptedSettings, schedule=Schedule(start=8, warm_up=4))
    monkeypatch.setattr("vitucb.agents.expert_build.AdaptedSettings", soon)
    lora = {"rank": 1, "blocks": [-1], "init": init, "init_samples": 12}
    settings = config(
        tmp_path,
        agent={"name": "vit-ucb", "experts": ["linear", "adapted"], "lora": lora},
        env={"id": "vitucb/ImageContext-v0", "num_arms": 3},
        num_rounds=26,
        checkpoint_every=5,
    )
    killed_after(settings, rounds)
    parts = play(settings).folder
    whole = play(dataclasses.replace(settings, experiment="whole")).folder
    for name in ("rounds.csv", "metrics.csv", "summary.json", "gallery.npz"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert "adapted/loss" in (parts / "metrics.csv").read_text()


@pytest.mark.parametrize("what", ["torch", "processor"])
def test_what_was_begun_with_others_says_so(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(tmp_path)
    file = killed_after(settings, 17) / "environment.json"
    environment = json.loads(file.read_text())
    part = environment["packages"] if what == "torch" else environment
    part[what], now = "of old", part[what]
    file.write_text(json.dumps(environment))
    with caplog.at_level(logging.WARNING):
        play(settings)
    assert f"({what} of old -> {now})" in caplog.text


def test_run_killed_twice_while_it_finishes_still_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path)
    for place, name in ((recorder, "save_gallery"), (Recorder, "finish")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, _raise(Killed()))
            with pytest.raises(Killed):
                play(settings)
    assert resumed(settings) == uninterrupted(settings, tmp_path)


def _raise(error: BaseException) -> Callable[..., None]:
    def stop(*_: object) -> None:
        raise error

    return stop


def test_checkpoint_torn_by_the_kill_is_never_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("vitucb.experiment.checkpoints.write_durably", _raise(Killed()))
        with pytest.raises(Killed):
            play(settings)
    assert Checkpoints(run_folder(settings) / "checkpoint").rounds == []
    assert resumed(settings) == uninterrupted(settings, tmp_path)


def test_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(tmp_path)
    folder = killed_after(settings, 25)
    state = folder / "checkpoint" / "round-000000021" / "state.json"
    state.write_bytes(state.read_bytes()[:-40])
    text = explain(RunFolder.of(settings))
    assert "checkpoint after 14 rounds: whole" in text
    assert "checkpoint after 21 rounds: state.json is missing or damaged" in text
    assert text.endswith("goes on after 14 rounds")
    with caplog.at_level(logging.WARNING):
        ours = resumed(settings)
    assert "round-000000021 is passed over: state.json is missing or damaged" in caplog.text
    assert ours == uninterrupted(settings, tmp_path)


def test_edited_rounds_are_not_built_upon(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = config(tmp_path)
    folder = killed_after(settings, 25)
    table = folder / "rounds.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join([*lines[:3], lines[3].replace(",", ",0", 1), *lines[4:]]))
    assert resumed(settings) == uninterrupted(settings, tmp_path)
    assert "rounds.csv was changed since the checkpoint was written" in caplog.text


def test_environment_that_does_not_repeat_itself_is_refused(tmp_path: Path) -> None:
    from vitucb.agents.factory import make_agent
    from vitucb.experiment.environments import make_env

    settings = config(tmp_path)
    killed_after(settings, 10)
    env = make_env(settings.env, 30)
    episode = Episode(env, make_agent("random", env), seed=1)
    with pytest.raises(ValueError, match="does not repeat round 0"):
        episode.resume(
            {"index": 5, "cumulative_regret": 0.0, "pending": {}},
            RunFolder.of(settings).recorded_rounds(5),
        )


def test_other_settings_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(tmp_path, tensorboard=True)
    killed_after(settings, 10)
    with pytest.raises(ValueError, match=r"other settings \(env.num_arms 3 -> 4\)"):
        play(dataclasses.replace(settings, env=dataclasses.replace(settings.env, num_arms=4)))
    words = f"run --agent.name gaussian-ts --env.num-arms 3 --num-rounds 31 --out {settings.out}"
    with pytest.raises(SystemExit):
        main(words.split())
    assert "(num_rounds 30 -> 31)" in capsys.readouterr().err


def test_overwrite_starts_anew(tmp_path: Path) -> None:
    settings = config(tmp_path)
    killed_after(settings, 20)
    changed = dataclasses.replace(settings, num_rounds=12, overwrite=True)
    assert json.loads((play(changed).folder / "summary.json").read_text())["rounds"] == 12


def test_the_settings_of_a_run_that_was_begun_anew_go_on_with_it(tmp_path: Path) -> None:
    folder = killed_after(config(tmp_path, overwrite=True), 20)
    seen: list[int] = []
    play(load_config(folder / "config.yaml"), lambda round: seen.append(round.index))
    assert seen == list(range(14, 30))


def test_sigterm_ends_the_round_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    settings = config(tmp_path, checkpoint_every=None)

    def terminate(round: Round) -> None:
        if round.index == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError, match="stopped after 11 of 30 rounds, which are kept"):
        play(settings, terminate)
    assert explain(RunFolder.of(settings)).endswith("goes on after 11 rounds")
    assert resumed(settings) == uninterrupted(settings, tmp_path)


def test_sigterm_is_exit_code_zero_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "vitucb.experiment.playing.play", _raise(StoppedError("stopped after 3 rounds"))
    )
    with pytest.raises(SystemExit) as stop:
        main(["run", "--agent.name", "random", "--num-rounds", "9", "--out", str(tmp_path)])
    assert stop.value.code == 0
    assert "stopped after 3 rounds" in capsys.readouterr().err


def test_resume_flag_explains_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"run --agent.name random --num-rounds 5 --out {tmp_path} --resume".split()
    main(words)
    assert "nothing there to resume" in capsys.readouterr().err
    main(words)
    assert "finished" in capsys.readouterr().err


def test_the_last_round_is_on_the_curve_of_a_run_killed_while_it_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path, tensorboard=True, num_rounds=28)  # a checkpoint after the last
    with monkeypatch.context() as patch:
        patch.setattr("vitucb.experiment.playing._save_checkpoint", _raise(Killed()))
        with pytest.raises(Killed):
            play(settings)
    points = EventAccumulator(str(play(settings).folder)).Reload().Scalars("regret/cumulative")
    assert [point.step for point in points] == [0, 10, 20, 27]


def test_events_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = config(tmp_path, tensorboard=True, record_every=2)
    killed_after(settings, 20)
    events = EventAccumulator(str(play(settings).folder), size_guidance={"scalars": 0}).Reload()
    steps = [point.step for point in events.Scalars("regret/cumulative")]
    assert steps == [*range(0, 30, 2), 29]


def test_curves_outlive_a_part_of_the_run_without_them(tmp_path: Path) -> None:
    settings = config(tmp_path, tensorboard=True)
    killed_after(settings, 12)
    killed_after(dataclasses.replace(settings, tensorboard=False), 22)
    events = EventAccumulator(str(play(settings).folder)).Reload()
    assert [point.step for point in events.Scalars("regret/cumulative")] == [0, 29]


def test_settings_are_in_curves_that_begin_on_the_way(tmp_path: Path) -> None:
    settings = config(tmp_path)
    killed_after(settings, 12)
    folder = play(dataclasses.replace(settings, tensorboard=True)).folder
    events = EventAccumulator(str(folder)).Reload()
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_finished_run_is_not_played_over_with_other_settings(tmp_path: Path) -> None:
    settings = config(tmp_path, num_rounds=3)
    before = contents(play(settings).folder)
    with pytest.raises(ValueError, match=r"holds a run with other settings \(num_rounds 3 -> 4\)"):
        play(dataclasses.replace(settings, num_rounds=4))
    assert contents(run_folder(settings)) == before


def test_finished_folder_holds_no_checkpoint_of_the_way(tmp_path: Path) -> None:
    folder = play(config(tmp_path)).folder
    assert {p.name for p in (folder / "checkpoint").iterdir()} == {
        "state.json",
        "state.safetensors",
    }


def test_timetable_spends_a_twentieth_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    table = Timetable(None)
    now = 9.0
    assert not table.is_due(5)
    now = 10.0
    assert table.is_due(5)

    def slow() -> None:
        nonlocal now
        now += 3.0

    table.run(slow)
    now += 59.0
    assert not table.is_due(6)
    now += 1.0
    assert table.is_due(6)
    assert [Timetable(4).is_due(n) for n in (3, 4, 8)] == [False, True, True]


def test_timing_counts_the_time_before_the_kill(tmp_path: Path) -> None:
    settings = config(tmp_path)
    folder = killed_after(settings, 15)
    state = Checkpoints(folder / "checkpoint").load(14)
    timing = json.loads((play(settings).folder / "timing.json").read_text())
    assert timing["wall_seconds"] > state["recorder"]["wall_seconds"] > 0
    assert np.isfinite(timing["seconds_per_round"])


def test_event_file_shorter_than_at_the_checkpoint_is_not_filled_with_zeros(tmp_path: Path) -> None:
    settings = config(tmp_path, tensorboard=True, record_every=2)
    folder = killed_after(settings, 20)
    (events,) = event_files(folder)
    events.write_bytes(events.read_bytes()[:100])
    play(settings)
    assert events.stat().st_size == 100


def test_foreign_folder_among_the_checkpoints_is_left_alone(tmp_path: Path) -> None:
    settings = config(tmp_path)
    folder = killed_after(settings, 10)
    (folder / "checkpoint" / "round-copy").mkdir()
    assert explain(RunFolder.of(settings)).endswith("goes on after 7 rounds")
    assert resumed(settings) == uninterrupted(settings, tmp_path)


@pytest.mark.parametrize(
    "what", ["vitucb.experiment.checkpoints.write_durably", "vitucb.experiment.recorder.sync"]
)
def test_full_disk_is_one_line_and_the_same_command_goes_on(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"run --agent.name random --num-rounds 30 --checkpoint-every 7 --out {tmp_path}".split()
    settings = override(RunConfig(), {"agent": "random", "num_rounds": 30, "checkpoint_every": 7})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(what, _raise(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        with pytest.raises(SystemExit) as stop:
            main(words)
    assert stop.value.code == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("vitucb run: No space left on device; mend that")
    main(words)
    whole = play(dataclasses.replace(settings, out=str(tmp_path / "whole"))).folder
    folder = Path(capsys.readouterr().out.strip())
    assert contents(folder) | {"config.yaml": b""} == contents(whole) | {"config.yaml": b""}


def test_a_run_begun_anew_has_nothing_of_the_one_before(tmp_path: Path) -> None:
    settings = config(tmp_path, num_rounds=12)
    folder = play(settings).folder
    assert (folder / "gallery.npz").is_file()
    again = dataclasses.replace(settings, overwrite=True)
    killed_after(again, 3)
    left = {path.name for path in (*folder.iterdir(), *(folder / "checkpoint").iterdir())}
    assert not left & {"gallery.npz", "timing.json", "summary.json", "state.json"}
