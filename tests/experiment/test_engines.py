"""Jobs of a sweep end, whatever becomes of those who play them."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vitucb.config import RunConfig, override
from vitucb.experiment.engines.job import play_job
from vitucb.experiment.engines.processes import play_jobs, workers_that_fit
from vitucb.experiment.playing import play
from vitucb.experiment.run_folder import RunFolder, is_finished, run_folder
from vitucb.experiment.sweep import run_jobs


def config(tmp_path: Path, **changes: Any) -> RunConfig:
    base = {
        "out": str(tmp_path),
        "agent": {"name": "random"},
        "num_rounds": 20,
        "tensorboard": False,
    }
    return override(RunConfig(), base | changes)


def test_failing_job_and_killed_worker_do_not_stop_the_rest(tmp_path: Path) -> None:
    good = config(tmp_path)
    bad = config(tmp_path, env={"dataset": str(tmp_path / "nowhere.npz")})
    killed = False

    def kill_once(_: int) -> None:
        nonlocal killed
        for child in [] if killed else multiprocessing.active_children():
            child.kill()
            killed = True

    jobs = [good, dataclasses.replace(bad, seed=9)]
    outcomes = {j.seed: error for j, error in play_jobs(jobs, workers=1, on_rounds=kill_once)}
    assert killed
    assert outcomes[0] is None
    assert outcomes[9] is not None
    assert "nowhere.npz" in outcomes[9]
    alone = play(config(tmp_path / "alone")).folder / "rounds.csv"
    assert (run_folder(good) / "rounds.csv").read_bytes() == alone.read_bytes()


def test_a_worker_that_is_killed_idle_costs_no_job(tmp_path: Path) -> None:
    outcomes = {}
    for job, error in play_jobs([config(tmp_path, seed=seed) for seed in range(2)], workers=1):
        outcomes[job.seed] = error
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
    assert outcomes == {0: None, 1: None}


def test_rounds_of_a_worker_that_is_killed_are_counted_once(tmp_path: Path) -> None:
    counted: list[int] = []

    def kill_once(rounds: int) -> None:
        counted.append(rounds)
        for child in multiprocessing.active_children() if rounds and len(set(counted)) == 2 else []:
            child.kill()

    job = config(tmp_path, num_rounds=2_000, checkpoint_every=100)
    assert [error for _, error in play_jobs([job], workers=1, on_rounds=kill_once)] == [None]
    assert counted[-1] == 2_000


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    words = ["--agent", "random", "--num-rounds", "1000000", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "vitucb", "sweep", "--workers", "1", *words]
    job = config(tmp_path, num_rounds=1_000_000)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as sweep:
        while sweep.poll() is None and not (run_folder(job) / "rounds.csv").is_file():
            time.sleep(0.05)
        sweep.kill()
        assert sweep.stderr is not None
        said = sweep.stderr.read()  # ends when the worker has ended, too
    assert b"Traceback" not in said
    assert RunFolder.of(job).checkpoints.rounds


def test_job_reports_its_error_in_one_line(tmp_path: Path) -> None:
    odd = override(config(tmp_path), {"env": {"options": {"colour": 3}}})
    assert "colour" in str(play_job(odd))
    counted: list[int] = []
    assert play_job(config(tmp_path), counted.append) is None
    assert sum(counted) == 20


def test_run_that_another_sweep_has_finished_meanwhile_is_not_played_again(tmp_path: Path) -> None:
    job, counted = config(tmp_path), list[int]()
    play(job)
    assert play_job(job, counted.append) is None
    assert counted == []
    assert play_job(dataclasses.replace(job, overwrite=True), counted.append) is None
    assert sum(counted) == 20
    assert "other settings" in str(play_job(dataclasses.replace(job, num_rounds=30)))


def test_workers_leave_room_for_the_threads_of_a_job(tmp_path: Path) -> None:
    assert workers_that_fit([config(tmp_path, threads=10_000)]) == 1
    assert workers_that_fit([config(tmp_path)]) >= 1


def test_ray_that_does_not_start_is_told_of_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise RuntimeError("The current node timed out during startup.")

    fake = SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.setitem(sys.modules, "ray", fake)
    with pytest.raises(ValueError, match=r"--engine ray: Ray did not start \(.*timed out"):
        run_jobs([RunConfig()], workers=1, engine="ray")


def test_ray_gets_the_cores_that_the_threads_of_its_runs_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []

    class Task:
        def __init__(self, play: Any) -> None:
            self.play = play

        def options(self, **options: Any) -> Task:
            asked.append(options)
            return self

        def remote(self, job: RunConfig) -> int:
            return job.seed

    fake = SimpleNamespace(
        is_initialized=lambda: False,
        init=lambda **options: asked.append(options),
        remote=Task,
        wait=lambda waiting, **_: (waiting[:1], waiting[1:]),
        get=lambda reference: None,
        exceptions=SimpleNamespace(RayError=RuntimeError),
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    jobs = [RunConfig(seed=0, threads=2), RunConfig(seed=1, threads=2, overwrite=True)]
    assert run_jobs(jobs, workers=1, engine="ray") == {}
    assert asked[0]["num_cpus"] == 2
    assert [options["num_cpus"] for options in asked[1:]] == [2, 2]
    assert [options["max_retries"] for options in asked[1:]] == [3, 0]


def test_ray_gives_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    _check_engine("ray", tmp_path)


def _fake_submitit(monkeypatch: pytest.MonkeyPatch, cluster: str) -> list[int]:
    """A module whose only job that ends is that of seed 0; the seeds of the jobs cancelled."""
    cancelled: list[int] = []

    class Executor:
        which = staticmethod(lambda: cluster)

        def __init__(self, folder: Path) -> None:
            assert cluster == "slurm"

        def update_parameters(self, **parameters: Any) -> None:
            assert parameters["slurm_array_parallelism"] == 1

        def map_array(self, task: Any, jobs: list[RunConfig]) -> list[Any]:
            return [
                SimpleNamespace(
                    done=lambda job=job: job.seed == 0,
                    result=lambda: None,
                    cancel=lambda check, job=job: cancelled.append(job.seed),
                )
                for job in jobs
            ]

    fake = SimpleNamespace(
        AutoExecutor=Executor,
        core=SimpleNamespace(utils=SimpleNamespace(UncompletedJobError=RuntimeError)),
    )
    monkeypatch.setitem(sys.modules, "submitit", fake)
    return cancelled


def test_slurm_jobs_of_a_sweep_that_is_stopped_are_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled = _fake_submitit(monkeypatch, "slurm")
    jobs = [config(tmp_path, seed=seed) for seed in range(3)]

    def stop(job: RunConfig, error: str | None, count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, workers=1, engine="submitit", on_end=stop)
    assert cancelled == [1, 2]


def test_submitit_without_slurm_keeps_to_the_workers_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_submitit(monkeypatch, "local")
    most = 0

    def end(job: RunConfig, error: str | None, count: int) -> None:
        nonlocal most
        most = max(most, len(multiprocessing.active_children()))

    jobs = [config(tmp_path, seed=seed) for seed in range(2)]
    assert run_jobs(jobs, workers=1, engine="submitit", on_end=end) == {}
    assert most == 1
    assert all(is_finished(run_folder(job)) for job in jobs)


def test_submitit_gives_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    _check_engine("submitit", tmp_path)


def _check_engine(engine: str, tmp_path: Path) -> None:
    jobs = [config(tmp_path / engine, seed=seed) for seed in range(2)]
    assert run_jobs(jobs, workers=2, engine=engine) == {}
    for job in jobs:
        alone = play(config(tmp_path / "alone", seed=job.seed)).folder
        for name in ("rounds.csv", "summary.json"):
            assert (run_folder(job) / name).read_bytes() == (alone / name).read_bytes()


@pytest.mark.slow
def test_a_stopped_sweep_tells_of_every_job_and_goes_no_further(tmp_path: Path) -> None:
    jobs = [config(tmp_path, seed=seed, num_rounds=1) for seed in range(12)]
    outcomes = []

    def stop(rounds: int) -> None:
        if rounds:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # what came before it counts
        for outcome in play_jobs(jobs, workers=1, on_rounds=stop):
            outcomes.append(outcome)
    assert sorted(job.seed for job, _ in outcomes) == list(range(12))
    assert any(error == "stopped before it began" for _, error in outcomes)
    finished = [job for job, error in outcomes if error is None]
    assert finished
    assert all(is_finished(run_folder(job)) for job in finished)
