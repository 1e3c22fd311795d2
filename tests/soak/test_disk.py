"""Disks that are full, read-only or spoilt, and clocks that jump."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.soak.children import config, contents
from tests.soak.conftest import Trials
from vitucb.cli.main import main
from vitucb.config import RunConfig
from vitucb.experiment.playing import play
from vitucb.experiment.run_folder import is_finished, run_folder
from vitucb.serving.run_agent import read_run_agent
from vitucb.types import Round

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class KilledError(BaseException):
    """Stands for kill -9: nothing may catch it."""


@contextlib.contextmanager
def disk(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A disk in memory, mounted at `folder`; gives what remounts it with other options."""

    def mount(*words: str) -> bool:
        return subprocess.run(["mount", *words, str(folder)], capture_output=True).returncode == 0

    def remount(other: str) -> None:
        assert mount("-o", f"remount,{other}"), other

    folder.mkdir()
    if shutil.which("mount") is None or not mount("-t", "tmpfs", "-o", options, "tmpfs"):
        pytest.skip("only root may mount a small disk")
    try:
        yield remount
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the undisturbed run leaves."""
    return contents(play(config(tmp_path_factory.mktemp("whole"))).folder)


def killed_after(settings: RunConfig, rounds: int) -> Path:
    """Play until `rounds` rounds are recorded, then die."""

    def kill(round: Round) -> None:
        if round.index + 1 == rounds:
            raise KilledError

    with pytest.raises(KilledError):
        play(settings, kill)
    return run_folder(settings)


@pytest.mark.soak(
    "A disk of 16 to 104 KiB that fills up during a run, then grows",
    "the run ends with the system's error; played again, every byte as on a large disk",
)
def test_full_disk_ends_a_run_that_goes_on_once_there_is_room(
    tmp_path: Path, wanted: dict[str, bytes], trials: Trials
) -> None:
    ended = 0
    for kib in range(16, 112, 8):
        with disk(tmp_path / str(kib), f"size={kib}k") as remount:
            settings, code = config(tmp_path / str(kib)), errno.ENOSPC
            try:
                play(settings)
            except OSError as error:
                text, ended = str(error), ended + 1
                passed = error.errno == code or "No space left on device" in text
            else:
                passed = is_finished(run_folder(settings))
            remount("size=50m")
            passed &= contents(play(settings).folder) == wanted
            trials.check(passed, f"{kib} KiB")
    trials.measured("number of runs that ended early", ended)


class Fault:
    """Raises `error` at the file operation number `at`, counted from 1."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.at, self.count, self.error = at, 0, error

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, counted."""

        def counted(*arguments: Any, **keywords: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                raise self.error
            return function(*arguments, **keywords)

        return counted


OPERATIONS: tuple[tuple[Any, str], ...] = (
    (Path, "write_text"),
    (Path, "replace"),
    (Path, "mkdir"),
    (Path, "unlink"),
    (Path, "open"),
    (os, "fsync"),
    (os, "truncate"),
    (os, "ftruncate"),
    (os, "pwrite"),
    (shutil, "rmtree"),
    (np, "savez_compressed"),
)


@pytest.mark.soak(
    "Every single file operation of a run fails in turn: disk full, or death of the process",
    "played again, every byte as if nothing had failed",
)
@pytest.mark.parametrize("error", [FULL, KilledError()], ids=["full", "killed"])
def test_a_fault_at_any_file_operation_is_survived(
    error: BaseException, tmp_path: Path, trials: Trials
) -> None:
    base = config(tmp_path, num_rounds=12, checkpoint_every=3)
    unharmed = contents(play(base).folder)
    at = fired = 1
    while fired:
        settings, fault = dataclasses.replace(base, experiment=str(at)), Fault(at, error)
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in OPERATIONS:
                patch.setattr(owner, name, fault.before(getattr(owner, name)))
            patch.setattr(
                "vitucb.storage.state_files.save_file", fault.before(safetensors.torch.save_file)
            )
            with contextlib.suppress(type(error)):
                play(settings)
        fired = fault.count >= at
        if fired:
            trials.check(contents(play(settings).folder) == unharmed, f"operation {at}")
        at += 1


@pytest.mark.soak(
    "A folder that may not be written: a new run, an unfinished one, a finished one, a report",
    "one line, exit code 1, and nothing changes; a finished run is still read",
)
def test_read_only_folders(
    tmp_path: Path, trials: Trials, capsys: pytest.CaptureFixture[str]
) -> None:
    common = "--agent.name gaussian-ts --env.num-arms 3 --num-rounds 60 --checkpoint-every 5"

    def attempt(words: str) -> tuple[int, str]:
        try:
            main(words.split())
        except SystemExit as stop:
            return int(stop.code or 0), capsys.readouterr().err.strip()
        return 0, capsys.readouterr().err.strip()

    with disk(tmp_path / "disk", "size=50m") as remount:
        out = tmp_path / "disk"
        killed_after(config(out, experiment="open", record_every=10), 30)
        done = play(config(out, experiment="done")).folder
        before = sorted(path.stat().st_mtime_ns for path in out.rglob("*"))
        remount("ro")
        for experiment in ("new", "open"):
            code, said = attempt(f"run {common} --experiment {experiment} --out {out}")
            passed = code == 1 and "Read-only file system" in said.splitlines()[-1]
            trials.check(passed, f"{experiment}: {code}, {said}")
        code, said = attempt(f"run {common} --record-every 1 --experiment done --out {out}")
        trials.check(code == 0 and "is finished" in said, f"done: {code}, {said}")
        code, said = attempt(f"report {out}/done --out {tmp_path}/report")
        trials.check(code == 0, f"report: {code}, {said}")
        trials.check(read_run_agent(done)[1]["agent"]["rounds"] == 60, "read_run_agent")
        after = sorted(path.stat().st_mtime_ns for path in out.rglob("*"))
        trials.check(before == after, "something was written")


def _half(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: len(data) // 2]


def _flip(data: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(len(data)))
    return data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :]


SPOIL: dict[str, Callable[[bytes, np.random.Generator], bytes | None]] = {
    "cut in half": _half,
    "empty": lambda data, rng: b"",
    "zeros": lambda data, rng: bytes(len(data)),
    "a bit flipped": _flip,
    "another bit flipped": _flip,
    "gone": lambda data, rng: None,
}


def spoil(path: Path, how: str, rng: np.random.Generator) -> None:
    data = SPOIL[how](path.read_bytes(), rng)
    path.unlink()
    if data is not None:
        path.write_bytes(data)


@pytest.mark.soak(
    "A file of the newest checkpoint, or of both, cut, emptied, zeroed, flipped or gone",
    "falls back to the one before, or to the start, and says so; every byte as if unharmed",
)
@pytest.mark.parametrize("which", ["the newest", "both"])
def test_spoilt_checkpoints_are_passed_over(
    which: str,
    tmp_path: Path,
    wanted: dict[str, bytes],
    trials: Trials,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rng = np.random.default_rng(0)
    for how in SPOIL:
        for name in ("manifest.json", "state.json", "state.safetensors"):
            caplog.clear()
            settings = config(tmp_path, experiment=f"{how} {name}")
            folders = sorted((killed_after(settings, 33) / "checkpoint").glob("round-*"))
            spoilt = folders[-1:] if which == "the newest" else folders
            for folder in spoilt:
                spoil(folder / name, how, rng)
            with caplog.at_level(logging.WARNING):
                same = contents(play(settings).folder) == wanted
            said = sum("is passed over" in record.message for record in caplog.records)
            harmless = name == "manifest.json" and "flipped" in how  # may hit what nobody reads
            trials.check(same and (said == len(spoilt) or harmless), f"{which}, {how} {name}")


@pytest.mark.soak(
    "Tables, events, lock, environment, settings of an unfinished run cut, zeroed, flipped, gone",
    "goes on from what is whole, or one line that says what to delete; bytes never differ",
)
def test_spoilt_files_of_a_run_are_noticed(
    tmp_path: Path, wanted: dict[str, bytes], trials: Trials
) -> None:
    rng = np.random.default_rng(1)
    names = ("rounds.csv", "metrics.csv", "environment.json", "config.yaml", "events", "run.lock")
    for how in SPOIL:
        for name in names:
            settings = config(tmp_path, experiment=f"{how} {name}")
            folder = killed_after(settings, 33)
            path = next(iter(folder.glob(f"{name}*")), folder / name)
            if name == "run.lock":  # as a killed process leaves it
                path.write_text(json.dumps({"pid": 1, "host": socket.gethostname()}))
            spoil(path, how, rng)
            try:
                passed = contents(play(settings).folder) == wanted
            except ValueError as error:
                remedy = {"config.yaml": "--overwrite", "run.lock": "delete"}.get(name)
                passed = remedy is not None and remedy in str(error)
            trials.check(passed, f"{how}: {name}")


@pytest.mark.soak(
    "The clock goes back by 1 s every time it is asked, by a year between kill and resume",
    "every byte the same; TensorBoard shows the rounds in order; the report is written",
)
def test_clock_that_goes_backwards_disturbs_nothing(
    tmp_path: Path,
    wanted: dict[str, bytes],
    trials: Trials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 2_000_000_000.0

    def backwards() -> float:
        nonlocal now
        now -= 1.0
        return now

    for trial, rounds in enumerate((7, 21, 38, 55)):
        settings = config(tmp_path, experiment=str(trial))
        with monkeypatch.context() as patch:
            patch.setattr("time.time", backwards)
            killed_after(settings, rounds)
            now -= 365 * 86_400.0
            folder = play(settings).folder
            main(["report", str(folder.parent), "--out", str(tmp_path / f"report {trial}")])
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        points = events.Scalars("regret/cumulative")
        in_order = [point.step for point in points] == list(range(60))
        times = [point.wall_time for point in points]
        passed = contents(folder) == wanted and in_order and times == sorted(times)
        trials.check(passed, f"killed after {rounds}: {in_order}")
