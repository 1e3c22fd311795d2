"""Jobs are data: what a sweep expands to, and that it plays them whatever happens to one."""

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

from vitucb.cli.main import main
from vitucb.config import RunConfig, override
from vitucb.experiment.engines.job import play_job
from vitucb.experiment.engines.processes import play_jobs, workers_that_fit
from vitucb.experiment.playing import play
from vitucb.experiment.run_folder import RunFolder, is_finished, run_folder
from vitucb.experiment.sweep import expand, parse_values, run_jobs


def config(tmp_path: Path, **changes: Any) -> RunConfig:
    base = {
        "out": str(tmp_path),
        "agent": {"name": "random"},
        "num_rounds": 20,
        "tensorboard": False,
    }
    return override(RunConfig(), base | changes)


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("agent.policy.alpha=0.3,1", "agent.policy.alpha", [0.3, 1]),
        ("agent.optimizer.name=adamw,lora-rite", "agent.optimizer.name", ["adamw", "lora-rite"]),
        ("env.num-arms=3", "env.num_arms", [3]),
        ("agent.lora.blocks=[0,1],[-1]", "agent.lora.blocks", [[0, 1], [-1]]),
        ("agent.options.betas=[0.9, 0.99],[0, 0]", "agent.options.betas", [[0.9, 0.99], [0, 0]]),
        ("agent.options.inner={a: 1},{}", "agent.options.inner", [{"a": 1}, {}]),
        ("agent.label=null,x", "agent.label", [None, "x"]),
    ],
)
def test_values_are_typed_as_in_yaml(text: str, key: str, values: list[Any]) -> None:
    assert parse_values(text) == (key, values)


@pytest.mark.parametrize("text", ["agent.name", "=a", "agent.name=", "a=[1"])
def test_values_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"key=value,value|no list of values"):
        parse_values(text)


def test_grid_is_a_product_with_the_same_seeds_everywhere() -> None:
    jobs = expand(
        RunConfig(seed=5),
        grid={"agent.optimizer.name": ["adamw", "lora-rite"], "agent.policy.alpha": [0.5, 1]},
        seeds=3,
    )
    assert len(jobs) == 12
    by_label: dict[str | None, list[int]] = {}
    for job in jobs:
        by_label.setdefault(job.agent.label, []).append(job.seed)
    assert "vit-ucb_optimizer=lora-rite_alpha=0.5" in by_label
    assert set(map(tuple, by_label.values())) == {(5, 6, 7)}


def test_agents_need_no_label_and_the_environment_goes_into_the_experiment() -> None:
    jobs = expand(
        RunConfig(experiment="exp"),
        grid={"agent": ["vit-ucb", "ucb1"], "env.num_arms": [3, 10]},
    )
    assert {job.agent.label for job in jobs} == {None}
    assert {job.experiment for job in jobs} == {"exp/num_arms=3", "exp/num_arms=10"}
    assert len({run_folder(job) for job in jobs}) == 4


def test_options_of_one_section_do_not_drive_each_other_out() -> None:
    base = override(RunConfig(), {"agent": {"optimizer": {"options": {"eps": 1e-6}}}})
    section = "agent.optimizer.options"
    jobs = expand(
        base, grid={f"{section}.ratio": [2, 4], f"{section}.betas": [[0.9, 0.99], [0.8, 0.9]]}
    )
    options = [job.agent.optimizer.options for job in jobs]
    assert options[0] == {"eps": 1e-6, "ratio": 2, "betas": [0.9, 0.99]}
    assert options[-1] == {"eps": 1e-6, "ratio": 4, "betas": [0.8, 0.9]}
    assert len({run_folder(job) for job in jobs}) == 4


def test_lists_advance_together() -> None:
    jobs = expand(
        RunConfig(), together={"agent.name": ["vit-ucb", "lin-ucb"], "agent.policy.alpha": [1, 2]}
    )
    assert [(j.agent.name, j.agent.policy.alpha) for j in jobs] == [("vit-ucb", 1), ("lin-ucb", 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid": {"agent.nme": ["x"]}}, "unknown config key 'agent.nme'"),
        ({"grid": {"num_rounds": ["many"]}}, "num_rounds: expected int"),
        ({"together": {"seed": [1, 2], "num_rounds": [1]}}, "differ in length"),
        ({"grid": {"seed": [1, 2]}, "seeds": 2}, "would share"),
        (
            {"grid": {"agent.policy.alpha": ["1e-3", 0.001]}},
            "alpha=1e-3 and agent.policy.alpha=0.001 are the same settings; leave one out",
        ),
        ({"grid": {"num_rounds": [5, 5]}}, "are the same settings"),
        ({"grid": {"agent.optimizer.options.ratio": [1, 1.0]}}, "are the same settings"),
        ({"together": {"agent": ["ucb1", {"name": "ucb1"}]}}, "are the same settings"),
        ({"grid": {"seed": [1]}, "together": {"seed": [2]}}, "seed is named in the grid and in a"),
        ({"seeds": 0}, "seeds 0 must be at least 1"),
    ],
)
def test_sweep_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand(RunConfig(), **arguments)


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


def test_finished_runs_are_skipped_and_only_errors_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, open_, broken = (config(tmp_path, seed=seed) for seed in range(3))
    play(done)
    seen = []

    def engine(jobs: Any, *, workers: int | None, on_rounds: Any) -> Any:
        for job in jobs:
            seen.append(job.seed)
            yield job, "it broke" if job is broken else None

    monkeypatch.setattr("vitucb.experiment.engines.processes.play_jobs", engine)
    assert run_jobs([done, open_, broken]) == {str(run_folder(broken)): "it broke"}
    assert seen == [1, 2]


def test_finished_runs_of_other_settings_are_not_passed_off(tmp_path: Path) -> None:
    done = config(tmp_path)
    play(done)
    other = override(done, {"agent": {"policy": {"alpha": 9.0}}})
    with pytest.raises(ValueError, match=r"other settings \(agent.policy.alpha .* -> 9.0\)"):
        run_jobs([other])
    assert run_jobs([done]) == {}


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


def test_command_lists_and_plays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(jobs: Any, *, workers: int | None, on_rounds: Any) -> Any:
        for job in jobs:
            yield job, play_job(job)

    monkeypatch.setattr("vitucb.experiment.engines.processes.play_jobs", here)
    words = ["sweep", "--grid", "agent.name=random,oracle", "env.num_arms=2,3", "--seeds", "2"]
    words += ["--num-rounds", "6", "--out", str(tmp_path), "--no-tensorboard"]
    main([*words, "--dry-run"])
    folders = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert len(folders) == 8
    assert not any(tmp_path.iterdir())
    main(words)
    assert capsys.readouterr().out.strip() == str(tmp_path / "default")
    assert all(is_finished(folder) for folder in folders)


def test_one_line_for_each_agent_says_what_it_ignores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--grid", "agent.name=vit-ucb,random,ucb1", "agent.covariance.name=low-rank,dense"]
    main(["sweep", *words, "--seeds", "2", "--out", str(tmp_path), "--dry-run"])
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[3] for line in lines] == ["random", "ucb1"]
    assert all("no use of agent.covariance.name;" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--grid", "env.num_arms=2", "--grid", "env.num-arms=3"], "env.num_arms is named twice"),
        (["--grid", "--seeds", "2"], "--grid names no values; write --grid KEY=A,B"),
        (["--seeds", "2", "--list"], "--list names no values"),
        (["--grid", "agent.name=vit-ucbb"], "did you mean 'vit-ucb'?"),
        (["--engine", "rya"], "unknown engine 'rya'; did you mean 'ray'?"),
        (["--seeds", "x"], "--seeds"),
        (["--sedes", "3"], "--sedes"),
    ],
)
def test_mistake_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["sweep", "--agent.name", "random", "--out", str(tmp_path), *words])
    assert message in capsys.readouterr().err


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


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused(workers: int) -> None:
    with pytest.raises(ValueError, match=rf"^workers {workers} must be at least 1; leave it out"):
        run_jobs([], workers=workers)
