"""A search never touches evaluation seeds or images, starts from the defaults, and resumes."""

from __future__ import annotations

import csv
import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from vitucb.cli.main import main
from vitucb.config import RunConfig, load_config, override
from vitucb.config.override import override_keys
from vitucb.experiment.engines.job import play_job
from vitucb.experiment.tune import (
    TUNING_SEED,
    Dimension,
    parse_dimension,
    search_settings,
    searched_in_vain,
)


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("agent.policy.alpha=0.1..3:log", Dimension("agent.policy.alpha", (), 0.1, 3.0, True)),
        ("agent.policy.alpha=1..3", Dimension("agent.policy.alpha", (), 1, 3)),
        ("env.noise-std=1..2:log", Dimension("env.noise_std", (), 1, 2, True)),
        ("env.num-arms=2..9", Dimension("env.num_arms", (), 2, 9, False, True)),
        ("agent.options.b=1..8", Dimension("agent.options.b", (), 1, 8, False, True)),
        ("agent.options.b=1..8.0", Dimension("agent.options.b", (), 1, 8)),
        ("agent.lora.rank=1..8", Dimension("agent.lora.rank", (), 1, 8, False, True)),
        ("--agent.policy.alpha=1..3", Dimension("agent.policy.alpha", (), 1, 3)),
        ("agent.optimizer.lr=1e-5..1e-2", Dimension("agent.optimizer.lr", (), 1e-5, 1e-2)),
        ("agent.optimizer.name=adamw,sgd", Dimension("agent.optimizer.name", ("adamw", "sgd"))),
    ],
)
def test_dimensions_are_ranges_or_choices(text: str, dimension: Dimension) -> None:
    assert parse_dimension(text) == dimension


@pytest.mark.parametrize(
    "text", ["a=3..1", "a=0..1:log", "a=x..2", "a=1..2:lin", "a=", "..3", "a=1..inf"]
)
def test_what_is_no_dimension_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no range|is no number|names no values"):
        parse_dimension(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agent.lora.rank=0.5..8", "agent.lora.rank is a whole number; write agent.lora.rank=1..8"),
        ("agent.name=1..2", "agent.name is no number; write its values"),
        ("agent.lora.use_dora=0..1", "agent.lora.use_dora is no number"),
        ("agent.lora.blocks=0..1", "agent.lora.blocks is no number"),
        ("agent.policy=0..1", "agent.policy is no number"),
    ],
)
def test_range_that_the_setting_cannot_take_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_dimension(text)


def test_missing_optuna_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    words = ["--search", "agent.policy.alpha=0.1..3", "--env.dataset", "digits"]
    with pytest.raises(SystemExit):
        main(["tune", *words, "--out", str(tmp_path)])
    assert "pip install 'vitucb[search]'" in capsys.readouterr().err


def _play_here(jobs: Any, *, workers: int | None, on_rounds: Any) -> Any:
    for job in jobs:
        yield job, play_job(job)


def test_search_uses_other_seeds_and_images_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setattr("vitucb.experiment.engines.processes.play_jobs", _play_here)
    base = override(
        RunConfig(),
        {"out": str(tmp_path), "agent": "ucb1", "num_rounds": 12, "tensorboard": False},
    )
    base = override(base, {"env": {"dataset": "digits"}})
    space = [Dimension("env.num_arms", (3, 10)), Dimension("agent.policy.alpha", (), 0.5, 2.0)]
    anew = dataclasses.replace(base, overwrite=True)
    best, trials = search_settings(anew, space, trials=3, seeds=2)
    played = [load_config(path) for path in tmp_path.rglob("config.yaml")]
    assert {config.seed for config in played} == {TUNING_SEED, TUNING_SEED + 1}
    assert {config.env.data.split for config in played} == {"tune"}
    assert load_config(best).env.data.split == "eval"
    assert not load_config(best).overwrite
    with (best.parent / "trials.csv").open() as file:
        assert [row["trial"] for row in csv.DictReader(file)] == ["0", "1", "2"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("summary.json")}
    again, repeated = search_settings(base, space, trials=3, seeds=2)
    assert repeated == trials
    assert again == best
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("summary.json")}


class Untold(gym.Wrapper[Any, Any, Any, Any]):
    """Tells no mean, as the world does."""

    def step(self, action: Any) -> Any:
        *result, info = self.env.step(action)
        untold = dict.fromkeys(("expected_reward", "optimal_reward", "regret"), math.nan)
        return *result, info | untold | {"optimal_action": -1}


def untold_digits(**options: Any) -> gym.Env[Any, Any]:
    return Untold(gym.make("vitucb/DigitsPaper-v0", **options).unwrapped)


def test_where_no_regret_is_known_the_reward_is_searched_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setattr("vitucb.experiment.engines.processes.play_jobs", _play_here)
    monkeypatch.setitem(gym.registry, "tests/Untold-v0", _untold_spec())
    # Noise of 3 and means 0 to 9: random play earns 4.5 a round.
    words = ["--env.id", "tests/Untold-v0", "--env.dataset", "digits", "--num-rounds", "150"]
    words += ["--out", str(tmp_path), "--no-tensorboard", "--trials", "4", "--seeds", "2"]
    main(["tune", *words, "--search", "agent.name=random,ucb1", "agent.policy.alpha=0.1..3"])
    printed = capsys.readouterr()
    best = Path(printed.out.strip())
    assert load_config(best).agent.name == "ucb1"
    with (best.parent / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    earned = {row["agent.name"]: float(row["reward"]) for row in rows}
    assert earned["ucb1"] > earned["random"] + 150
    assert "regret" not in rows[0]
    assert "reward" in printed.err
    assert "regret" not in printed.err


def _untold_spec() -> Any:
    return gym.envs.registration.EnvSpec(
        "tests/Untold-v0", entry_point=untold_digits, max_episode_steps=150
    )


def test_one_value_in_two_spellings_is_refused_as_in_a_grid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tune", "--env.dataset", "digits", "--out", str(tmp_path), "--search"]
    with pytest.raises(SystemExit):
        main([*words, "agent.policy.alpha=1e-3,0.001", "agent.lora.rank=2,4"])
    message = "agent.policy.alpha=1e-3 and agent.policy.alpha=0.001 are the same settings"
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("agent", "searched", "in_vain"),
    [
        ("ucb1", ["agent.policy.alpha=0.1..3", "env.num_arms=2..5"], ["agent.policy.alpha"]),
        ("vit-ucb", ["agent.policy.alpha=0.1..3", "agent.lora.rank=1..8"], []),
        ("vit-ucb", ["agent.optimizer.head_lr=0.1..3"], ["agent.optimizer.head_lr"]),
        (
            {"name": "vit-ucb", "experts": ["adapted"]},
            ["agent.optimizer.head_lr=0.1..3", "agent.head=ridge,gradient"],
            [],
        ),
        ("ucb1", ["agent.policy.alpha=0.1..3", "agent=ucb1,lin-ucb"], []),
        ("my_agents:build", ["agent.policy.alpha=0.1..3"], []),
    ],
)
def test_settings_searched_in_vain_are_told(
    agent: Any, searched: list[str], in_vain: list[str]
) -> None:
    base = override(RunConfig(), {"agent": agent})
    assert searched_in_vain(base, list(map(parse_dimension, searched))) == in_vain


def test_data_that_cannot_be_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name env.dataset"):
        search_settings(RunConfig(out=str(tmp_path)), [Dimension("env.num_arms", (3,))])


def test_setting_searched_twice_is_refused() -> None:
    space = [Dimension("env.num_arms", (3,)), Dimension("env.num_arms", (4,))]
    with pytest.raises(ValueError, match=r"--search names env\.num_arms twice"):
        search_settings(RunConfig(), space)


def test_empty_space_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one --search"):
        search_settings(RunConfig(), [])


@pytest.mark.parametrize("key", ["seed=0..9", "num_rounds=10..20", "env.data.split=tune,eval"])
def test_what_must_be_the_same_in_all_trials_is_not_searched(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    with pytest.raises(SystemExit):
        main(["tune", "--env.dataset", "digits", "--out", str(tmp_path), "--search", key])
    assert "cannot be compared" in capsys.readouterr().err


def test_settings_that_are_not_given_are_played_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setattr("vitucb.experiment.engines.processes.play_jobs", _play_here)
    base = override_keys(
        RunConfig(),
        {"agent.name": "lin-ucb", "env.dataset": "digits", "env.num_arms": 3, "num_rounds": 5}
        | {"out": str(tmp_path), "tensorboard": False},
    )
    space = [parse_dimension("agent.head_ridge=0.1..10:log")]
    _, trials = search_settings(base, space, trials=2, seeds=1)
    assert trials[0].values == {}
    assert len(trials) == 2
    assert load_config(next(tmp_path.rglob("trial-000/*/config.yaml"))).agent.head_ridge is None


def test_choices_in_any_spelling_begin_with_the_settings_as_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setattr("vitucb.experiment.engines.processes.play_jobs", _play_here)
    base = override_keys(
        RunConfig(),
        {"agent.name": "ucb1", "env.dataset": "digits", "num_rounds": 5, "out": str(tmp_path)}
        | {"tensorboard": False, "agent.policy.alpha": 3e-1},
    )
    space = [parse_dimension("agent.policy.alpha=1e-1,2e-1,3e-1,4e-1,5e-1,6e-1,7e-1")]
    _, trials = search_settings(base, space, trials=1, seeds=1)
    assert trials[0].values == {"agent.policy.alpha": 0.3}


def test_a_search_among_problems_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    words = ["tune", "--env.dataset", "digits", "--out", str(tmp_path), "--search"]
    with pytest.raises(SystemExit):
        main([*words, "env.num_arms=2..5", "env.data.image_size=8,16", "agent.policy.alpha=0..1"])
    assert "vitucb tune: env.num_arms change what is played" in capsys.readouterr().err


def test_a_point_that_the_search_meets_again_is_not_played_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setattr("vitucb.experiment.engines.processes.play_jobs", _play_here)
    base = override_keys(
        RunConfig(),
        {"agent.name": "ucb1", "env.dataset": "digits", "num_rounds": 5, "out": str(tmp_path)}
        | {"tensorboard": False},
    )
    space = [Dimension("agent.policy.alpha", (0.5, 1.0))]
    _, trials = search_settings(base, space, trials=6, seeds=1)
    assert len(trials) == 6
    assert len({trial.regret for trial in trials}) <= 2
    assert len(list(tmp_path.rglob("summary.json"))) == 2
