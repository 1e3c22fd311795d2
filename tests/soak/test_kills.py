"""Processes killed, stopped, doubled or forked: a run ends with the bytes it would have."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prove_resume import CONFIGS, kill_after, start

from tests.soak.children import command, config, contents, wait, wait_for_rounds
from tests.soak.conftest import Trials
from vitucb.config import RunConfig, override
from vitucb.experiment.engines.job import play_job
from vitucb.experiment.playing import play
from vitucb.experiment.resume import explain
from vitucb.experiment.run_folder import RunFolder, is_finished, run_folder

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 60
SHORT = ["--agent.name", "gaussian-ts", "--env.num-arms", "3", "--num-rounds", "60"]
WORDS = ["run", *SHORT, "--checkpoint-every", "1", "--record-every", "1", "--out"]


@pytest.mark.soak(
    "kill -9 at a random moment, of some twice (vit-ucb with delay, with a sketch; drift)",
    "the same command goes on; every byte as if never killed",
)
@pytest.mark.parametrize("name", CONFIGS)
def test_killed_run_ends_with_the_same_bytes(name: str, tmp_path: Path, trials: Trials) -> None:
    rng = np.random.default_rng(len(name))
    base = override(RunConfig(), CONFIGS[name])
    base = dataclasses.replace(base, out=str(tmp_path), num_rounds=30, checkpoint_every=4)
    wanted = contents(play(base).folder)
    for trial in range(4):
        settings = dataclasses.replace(base, experiment=f"trial-{trial}")
        for _ in range(1 + trial % 2):
            target, delay = int(rng.integers(30)), rng.uniform(0, 0.03)
            kill_after(start(settings), run_folder(settings) / "rounds.csv", target, delay)
        play(settings)
        trials.check(contents(run_folder(settings)) == wanted, f"{name}, trial {trial}")


@pytest.mark.soak(
    "kill -9 while a checkpoint is written (one after every round)",
    "the half-written one is never seen; every byte as if never killed",
)
def test_kill_in_a_checkpoint_costs_that_checkpoint_only(tmp_path: Path, trials: Trials) -> None:
    rng = np.random.default_rng(0)
    base = config(tmp_path, agent={"name": "lin-ucb"}, num_rounds=30, checkpoint_every=1)
    wanted = contents(play(base).folder)
    tried = torn = 0
    while torn < 12 and tried < 150:
        settings = dataclasses.replace(base, experiment=f"trial-{tried}")
        child, target = start(settings), int(rng.integers(1, 25))
        checkpoints = run_folder(settings) / "checkpoint"
        wait_for_rounds(child, run_folder(settings) / "rounds.csv", target)
        patience = time.monotonic() + 1.0
        while not list(checkpoints.glob("*.tmp")) and time.monotonic() < patience:
            time.sleep(0.0002)
        os.kill(child, signal.SIGKILL)
        wait(child)
        tried += 1
        if is_finished(run_folder(settings)) or not list(checkpoints.glob("*.tmp")):
            continue
        torn += 1
        play(settings)
        trials.check(contents(run_folder(settings)) == wanted, f"trial {tried}")
    assert torn == 12


@pytest.mark.soak(
    "SIGTERM at a random round of `vitucb run`",
    "the round ends, a checkpoint is written, exit code 0; every byte as if never stopped",
)
def test_sigterm_is_a_checkpoint_and_exit_code_zero(tmp_path: Path, trials: Trials) -> None:
    rng = np.random.default_rng(1)
    wanted = contents(play(config(tmp_path / "whole", checkpoint_every=1)).folder)
    for trial in range(8):
        out = tmp_path / str(trial)
        settings = config(out, checkpoint_every=1)
        child = command([*WORDS, str(out)], tmp_path / "stderr")
        table = run_folder(settings) / "rounds.csv"
        wait_for_rounds(child, table, int(rng.integers(1, ROUNDS - 20)))
        os.kill(child, signal.SIGTERM)
        code, said = wait(child), (tmp_path / "stderr").read_text()
        done = table.read_bytes().count(b"\n") - 1
        kept = explain(RunFolder.of(settings)).endswith(f"goes on after {done} rounds")
        passed = code == 0 and f"stopped after {done} of 60 rounds" in said and kept
        play(settings)
        passed &= contents(run_folder(settings)) == wanted
        trials.check(passed, f"trial {trial}: code {code}, {done} rounds, {said[-200:]!r}")


@pytest.mark.soak(
    "SIGTERM of a `vitucb run` that is still loading its libraries",
    "plays one round, writes a checkpoint, exit code 0",
)
def test_sigterm_before_the_first_round_waits_for_it(tmp_path: Path, trials: Trials) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "vitucb", *WORDS, str(tmp_path)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    maps = Path(f"/proc/{process.pid}/maps")
    while "libtorch" not in maps.read_text():  # play() has begun; seconds of imports follow
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    passed = process.returncode == 0 and "stopped after 1 of 60 rounds" in said
    trials.check(passed, f"code {process.returncode}: {said[-300:]}")


@pytest.mark.soak(
    "Ctrl-C at a random round of `vitucb run`",
    "one line, exit code 130; the same command goes on, every byte as if never stopped",
)
def test_ctrl_c_is_one_line(tmp_path: Path, trials: Trials) -> None:
    rng = np.random.default_rng(2)
    wanted = contents(play(config(tmp_path / "whole", checkpoint_every=1)).folder)
    for trial in range(8):
        out = tmp_path / str(trial)
        settings = config(out, checkpoint_every=1)
        child = command([*WORDS, str(out)], tmp_path / "stderr")
        table = run_folder(settings) / "rounds.csv"
        wait_for_rounds(child, table, int(rng.integers(1, ROUNDS - 20)))
        time.sleep(rng.uniform(0, 0.01))
        os.kill(child, signal.SIGINT)
        code, said = wait(child), (tmp_path / "stderr").read_text()
        passed = code == 130 and said.strip().endswith("goes on from the last checkpoint")
        play(settings)
        passed &= contents(run_folder(settings)) == wanted
        trials.check(passed, f"trial {trial}: code {code}, {said[-200:]!r}")


@pytest.mark.soak(
    "Two `vitucb run` on one folder at once",
    "one plays, the other is refused in one line, exit code 2; every byte as if alone",
)
def test_second_process_on_a_folder_is_refused(tmp_path: Path, trials: Trials) -> None:
    wanted = contents(play(config(tmp_path / "whole", checkpoint_every=1)).folder)
    for trial in range(6):
        out = tmp_path / str(trial)
        files = [tmp_path / "first", tmp_path / "second"]
        children = [command([*WORDS, str(out)], file) for file in files]
        codes = [wait(child) for child in children]
        said = "".join(file.read_text() for file in files)
        passed = sorted(codes) == [0, 2] and "is being played by process" in said
        passed &= contents(run_folder(config(out))) == wanted
        trials.check(passed, f"trial {trial}: codes {codes}, {said[-300:]!r}")


def _play_quietly(settings: RunConfig) -> None:
    """`play_job` in a process of its own; exit code 1 with an error."""
    sys.exit(play_job(settings) is not None)


@pytest.mark.soak(
    "The same run in the main process, a thread, and processes by fork, spawn and forkserver",
    "the same bytes",
)
def test_how_the_process_began_changes_nothing(tmp_path: Path, trials: Trials) -> None:
    agent = {"experts": ["adapted"], "training": {"batch_size": 4}, "lora": {"rank": 1}}
    settings = config(tmp_path / "main", agent=agent, num_rounds=20)
    wanted = contents(play(settings).folder)

    def elsewhere(name: str) -> RunConfig:
        return dataclasses.replace(settings, out=str(tmp_path / name))

    pair = [elsewhere("thread one"), elsewhere("thread two")]
    threads = [threading.Thread(target=play_job, args=(job,)) for job in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for job in pair:
        trials.check(same(job, wanted), job.out)
    for method in ("fork", "spawn", "forkserver"):
        context: Any = multiprocessing.get_context(method)
        process = context.Process(target=_play_quietly, args=(elsewhere(method),))
        process.start()
        process.join()
        trials.check(process.exitcode == 0 and same(elsewhere(method), wanted), method)


def same(job: RunConfig, wanted: dict[str, bytes]) -> bool:
    folder = run_folder(job)
    return is_finished(folder) and contents(folder) == wanted
