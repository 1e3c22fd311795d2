"""Commands end with what came of their runs, and say it as they go where there is no bar."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vitucb.cli import demo
from vitucb.cli.main import main
from vitucb.cli.outcome import EndLines, duration, outcome_rows, print_outcome, report_command
from vitucb.cli.run import _standing
from vitucb.config import RunConfig, override, save_config
from vitucb.experiment import sweep
from vitucb.experiment.run_folder import RunFolder


def finished(
    out: Path, name: str, seed: int, regret: float | None, reward: float = 0.5, **changes: Any
) -> RunConfig:
    """A run of which only what the table reads is there."""
    base = {"out": str(out), "agent": name, "seed": seed, "num_rounds": 100}
    config = override(RunConfig(), base | changes)
    folder = RunFolder.of(config).path
    folder.mkdir(parents=True)
    save_config(config, folder / "config.yaml")
    summary = {"cumulative_regret": regret, "mean_reward": reward}
    (folder / "summary.json").write_text(json.dumps(summary))
    timing = {"wall_seconds": 90.0, "seconds_per_round": 0.002}
    (folder / "timing.json").write_text(json.dumps(timing))
    return config


def test_agents_are_ranked_by_regret_beside_random(tmp_path: Path) -> None:
    configs = [
        *(finished(tmp_path, "random", seed, 40.0 + seed) for seed in (0, 2)),
        *(finished(tmp_path, "lin-ucb", seed, 10.0 + seed) for seed in (0, 2)),
        finished(tmp_path, "ucb1", 0, 20.0),
    ]
    rows = outcome_rows(configs)
    assert [(row["agent"], row["seeds"], row["of random"]) for row in rows] == [
        ("lin-ucb", 2, "27%"),
        ("ucb1", 1, "50%"),
        ("random", 2, "100%"),
    ]
    # Student's t with one degree of freedom: 12.706 times the standard error, 1.
    assert [row["regret"] for row in rows[:2]] == ["11 [-1.706, 23.71]", "20"]
    assert (rows[0]["time"], rows[0]["ms a round"]) == ("90 s", 2.0)


def test_where_no_regret_is_known_agents_are_ranked_by_reward(tmp_path: Path) -> None:
    configs = [
        finished(tmp_path, "random", 0, None, 0.2),
        finished(tmp_path, "lin-ucb", 0, None, 0.5),
    ]
    rows = outcome_rows(configs)
    assert [(row["agent"], row["mean reward"]) for row in rows] == [
        ("lin-ucb", "0.5"),
        ("random", "0.2"),
    ]
    assert rows[0]["of random"] == "250%"


def test_a_single_run_finds_the_random_one_of_an_earlier_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path, "lin-ucb", 0, 10.0)
    print_outcome([run], "vitucb report x")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-2:] == [
        "of random: play --agent.name random with the same other options to see it",
        "next: vitucb report x",
    ]
    finished(tmp_path, "random", 0, 40.0, agent={"name": "random", "policy": {"alpha": 9.0}})
    assert outcome_rows([run])[0]["of random"] == "25%"


def test_random_of_another_environment_is_no_measure(tmp_path: Path) -> None:
    run = finished(tmp_path, "lin-ucb", 0, 10.0)
    finished(tmp_path, "random", 0, 40.0, env={"num_arms": 3})
    assert outcome_rows([run])[0]["of random"] == ""


def test_environments_are_told_apart(tmp_path: Path) -> None:
    configs = [
        finished(tmp_path, "ucb1", 0, 10.0, experiment=f"x/num_arms={n}", env={"num_arms": n})
        for n in (2, 3)
    ]
    assert [row["environment"] for row in outcome_rows(configs)] == [
        "x/num_arms=2: vitucb/ImageArms-v0",
        "x/num_arms=3: vitucb/ImageArms-v0",
    ]


def test_runs_without_a_summary_are_left_out(tmp_path: Path) -> None:
    run = finished(tmp_path, "ucb1", 0, 10.0)
    (RunFolder.of(run).path / "summary.json").write_text("[1]")
    assert outcome_rows([run]) == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.25, "0.2 s"), (41.2, "41 s"), (192.0, "3.2 min"), (9000.0, "2.5 h")]
)
def test_durations_are_short(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def instant(
    jobs: Sequence[RunConfig], *, workers: int | None, on_rounds: Callable[[int], None]
) -> Iterator[tuple[RunConfig, str | None]]:
    """An engine that loads for a while, and whose second run fails."""
    on_rounds(0)
    for number, job in enumerate(jobs):
        on_rounds(100 * (number + 1))
        yield job, "no memory" if number == 1 else None


def test_a_line_tells_of_every_run_that_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [finished(tmp_path, "ucb1", seed, 10.0) for seed in range(2)]
    for config in configs:
        RunFolder.of(config).path.joinpath("summary.json").rename(tmp_path / f"s{config.seed}")
    lines = EndLines()

    def on_end(config: RunConfig, error: str | None, total: int) -> None:
        (tmp_path / f"s{config.seed}").rename(RunFolder.of(config).path / "summary.json")
        lines(config, error, total)

    sweep.run_jobs(configs, engine="tests.cli.test_outcome:instant", on_end=on_end)
    places = [RunFolder.of(config).path for config in configs]
    assert capsys.readouterr().err.splitlines() == [
        f"[1/2] {places[0]}: regret 10, 90 s",
        f"[2/2] {places[1]}: no memory",
    ]


class Bar:
    """Notes what is asked of a progress bar."""

    def __init__(self, **_: Any) -> None:
        self.n, self.calls = 0, [""]
        BARS.append(self)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def reset(self) -> None:
        self.calls.append("reset")

    def update(self, count: int) -> None:
        self.n += count
        self.calls.append(f"update {count}")

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Not of interest."""


BARS: list[Bar] = []


def test_the_clock_of_a_sweep_starts_with_the_first_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "tqdm", Bar)
    configs = [finished(tmp_path, "ucb1", seed, 10.0, overwrite=True) for seed in range(2)]
    sweep.run_jobs(configs, engine="tests.cli.test_outcome:instant")
    assert BARS[-1].calls == ["", "update 0", "reset", "update 100", "update 100"]


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    name, version = capsys.readouterr().out.split()
    assert name == "vitucb"
    assert version[0].isdigit()


@pytest.mark.parametrize(("regret", "shown"), [(3.25, "regret 3.2"), (float("nan"), "reward 0.5")])
def test_the_bar_shows_the_reward_where_nobody_knows_the_regret(regret: float, shown: str) -> None:
    played = SimpleNamespace(cumulative_regret=regret, reward=0.5)
    assert _standing(played) == shown  # type: ignore[arg-type]  # no more of a round is read


@pytest.mark.parametrize(
    ("out", "experiment", "folder"),
    [("", "exp", "exp"), ("/", "exp", "/exp"), ("my runs/", "a", "'my runs/a'"), ("r", ".", "r")],
)
def test_the_report_that_is_advised_is_of_the_folder_that_was_written(
    out: str, experiment: str, folder: str
) -> None:
    config = RunConfig(out=out, experiment=experiment)
    assert report_command(config) == f"vitucb report {folder}"


@pytest.mark.parametrize(
    ("option", "way"),
    [
        ([], "the same command plays them again, from their checkpoints"),
        (["--overwrite"], "the same command, without --overwrite, plays them again, from their"),
    ],
)
@pytest.mark.parametrize("command", ["demo", "sweep"])
def test_a_run_that_failed_is_told_by_the_exit_code(
    command: str,
    option: list[str],
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def play(jobs: Sequence[RunConfig], **_: object) -> dict[str, str]:
        return {str(RunFolder.of(jobs[0]).path): "no memory"}

    monkeypatch.setattr(sweep, "run_jobs", play)
    written: list[object] = []
    monkeypatch.setattr(demo, "write_report_page", written.append)
    words = [command, "--seeds", "2", "--num-rounds", "3", "--out", str(tmp_path), *option]
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 1
    assert len(written) == (command == "demo")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"vitucb {command}: 1 of ")
    assert f"runs did not finish; {way}" in last
