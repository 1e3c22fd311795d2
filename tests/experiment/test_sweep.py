"""Jobs are data: what a sweep expands to, and that it plays them whatever happens to one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vitucb.cli.main import main
from vitucb.config import RunConfig, override
from vitucb.experiment.engines.job import play_job
from vitucb.experiment.playing import play
from vitucb.experiment.run_folder import is_finished, run_folder
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


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused(workers: int) -> None:
    with pytest.raises(ValueError, match=rf"^workers {workers} must be at least 1; leave it out"):
        run_jobs([], workers=workers)
