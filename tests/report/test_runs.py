from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from vitucb.report.groups import group_runs
from vitucb.report.runs import load_gallery, load_metrics, load_run, load_runs

WriteRun: TypeAlias = Callable[..., Path]


def test_runs_are_read_with_their_columns(experiment: Path) -> None:
    runs = load_runs(experiment)
    assert len(runs) == 21
    first = runs[0]
    assert (first.agent, first.seed, first.rounds, first.is_finished) == (
        "gaussian-ts",
        0,
        200,
        True,
    )
    assert first.env == "vitucb/ImageArms-v0"
    assert first.columns["regret"].sum() == pytest.approx(first.summary["cumulative_regret"])


def test_a_run_an_experiment_and_a_folder_of_experiments_can_be_read(experiment: Path) -> None:
    one = load_runs(experiment / "vit-ucb__vitucb-ImageArms-v0__s1")
    assert [(run.agent, run.seed, run.experiment) for run in one] == [("vit-ucb", 1, "digits")]
    assert len(load_runs(experiment.parent)) == 21


def test_the_gallery_is_read_and_may_be_missing(experiment: Path) -> None:
    by_seed = {run.seed: run for run in load_runs(experiment) if run.agent == "vit-ucb"}
    gallery = load_gallery(by_seed[0])
    assert gallery is not None
    assert gallery.images.shape == (5, 10, 16, 16, 3)
    assert load_gallery(by_seed[1]) is None


def test_a_damaged_gallery_is_named(tmp_path: Path, write_run: WriteRun) -> None:
    folder = write_run(tmp_path / "exp", "vit-ucb", 0)
    (folder / "gallery.npz").write_bytes(b"PK broken")
    with pytest.raises(ValueError, match=r"gallery\.npz cannot be read"):
        load_gallery(load_runs(folder)[0])


def test_half_a_row_of_a_run_in_progress_is_not_a_round(
    tmp_path: Path, write_run: WriteRun
) -> None:
    folder = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=20, finished=False)
    with (folder / "rounds.csv").open("a", encoding="utf-8") as file:
        file.write("20,3,0.5")
    run = load_runs(folder)[0]
    assert run.rounds == 20
    assert not run.is_finished


def test_nan_estimates_are_kept(tmp_path: Path, write_run: WriteRun) -> None:
    folder = write_run(tmp_path / "exp", "random", 0, rounds=1)
    header = (folder / "rounds.csv").read_text(encoding="utf-8").splitlines()[0]
    row = "0,1,1.0,0.5,1.0,2,0.5,0.5,0.1,nan,nan,nan,nan"
    (folder / "rounds.csv").write_text(f"{header}\n{row}\n", encoding="utf-8")
    assert np.isnan(load_runs(folder)[0].columns["bonus"]).all()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("rounds.csv", "round,action\n0,1\n", "lacks the columns reward, expected_reward"),
        ("summary.json", "{", r"summary\.json cannot be read"),
        ("summary.json", '{"rounds": 7}', "has 20 rounds but summary.json says 7"),
        ("config.yaml", "a: [", r"config\.yaml cannot be read"),
        ("config.yaml", "agent: [1]", r"config\.yaml: agent is \[1\]"),
    ],
)
def test_damage_is_a_one_line_error(
    tmp_path: Path, write_run: WriteRun, file: str, content: str, message: str
) -> None:
    folder = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=20)
    (folder / file).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        load_runs(tmp_path / "exp")
    assert "\n" not in str(error.value)


def test_a_regret_that_is_no_number_is_found(tmp_path: Path, write_run: WriteRun) -> None:
    folder = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=20)
    lines = (folder / "rounds.csv").read_text(encoding="utf-8").splitlines()
    cells = lines[4].split(",")
    cells[6] = "inf"
    lines[4] = ",".join(cells)
    (folder / "rounds.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="regret of round 3 is not finite"):
        load_runs(folder)


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run an experiment first"):
        load_runs(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        load_runs(tmp_path / "nowhere")


def test_environments_and_horizons_are_grouped_apart(tmp_path: Path, write_run: WriteRun) -> None:
    folder = tmp_path / "exp"
    write_run(folder, "vit-ucb", 0, rounds=20)
    write_run(folder, "vit-ucb", 1, rounds=30)
    write_run(folder, "vit-ucb", 0, rounds=20, env="vitucb/DigitsPaper-v0")
    groups = group_runs(load_runs(folder))
    assert [(g.env, g.horizon) for g in groups] == [
        ("vitucb/DigitsPaper-v0", 20),
        ("vitucb/ImageArms-v0", 20),
        ("vitucb/ImageArms-v0", 30),
    ]


def test_one_label_with_two_settings_becomes_two_agents(
    tmp_path: Path, write_run: WriteRun
) -> None:
    for lr, experiment in ((0.1, "a"), (0.2, "b")):
        folder = write_run(tmp_path / experiment, "vit-ucb", 0, rounds=20, settings={"lr": lr})
        folder.rename(folder.with_name(f"run-{lr}"))
        (tmp_path / "exp").mkdir(exist_ok=True)
        (tmp_path / experiment / f"run-{lr}").rename(tmp_path / "exp" / f"run-{lr}")
    (group,) = group_runs(load_runs(tmp_path / "exp"))
    assert list(group.agents) == ["vit-ucb (lr=0.1)", "vit-ucb (lr=0.2)"]


def test_a_seed_played_twice_is_refused(tmp_path: Path, write_run: WriteRun) -> None:
    folder = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=20)
    folder.rename(folder.with_name("copy"))
    write_run(tmp_path / "exp", "vit-ucb", 0, rounds=20)
    with pytest.raises(ValueError, match="vit-ucb has seed 0 twice"):
        group_runs(load_runs(tmp_path / "exp"))


def test_unfinished_runs_are_left_out_or_cut_the_horizon(
    tmp_path: Path, write_run: WriteRun
) -> None:
    folder = tmp_path / "exp"
    write_run(folder, "vit-ucb", 0, rounds=20)
    write_run(folder, "random", 0, rounds=12, num_rounds=20, finished=False)
    (group,) = group_runs(load_runs(folder))
    assert (list(group.agents), group.horizon) == (["vit-ucb"], 20)
    assert [run.agent for run in group.unfinished] == ["random"]
    (group,) = group_runs(load_runs(folder), include_unfinished=True)
    assert (list(group.agents), group.horizon) == (["vit-ucb", "random"], 12)
    assert group.is_truncated


def test_only_unfinished_runs_are_an_error(tmp_path: Path, write_run: WriteRun) -> None:
    write_run(tmp_path / "exp", "vit-ucb", 0, rounds=12, finished=False)
    with pytest.raises(ValueError, match="no run has finished"):
        group_runs(load_runs(tmp_path / "exp"))


def test_metrics_are_read_under_the_names_they_were_written(
    tmp_path: Path, write_run: WriteRun
) -> None:
    folder = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=25)
    text = 'round,metric,value\n0,"own/loss, first",1.5\n10,"own/loss, first",0.5\n20,hal'
    (folder / "metrics.csv").write_text(text, encoding="utf-8")
    rounds, values = load_metrics(load_run(folder))["own/loss, first"]
    assert (rounds.tolist(), values.tolist()) == ([0.0, 10.0], [1.5, 0.5])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("summary.json", '{"rounds": "x"}', "rounds 'x' is not a number"),
        ("summary.json", '{"rounds": 1e400}', "rounds 'inf' is not a number"),
        ("summary.json", '{"rounds": 20, "parameters": 3}', "parameters '3' is not an object"),
        ("summary.json", '{"rounds": 20, "parameters": {"a": []}}', "'a' is no count"),
        ("summary.json", "[" * 50_000, "nested too deeply"),
        ("timing.json", '{"wall_seconds": [1]}', r"wall_seconds '\[1\]' is not a number"),
        ("environment.json", '{"packages": 1}', "packages '1' is not an object"),
        ("config.yaml", "seed: x", "seed 'x' is no integer"),
        ("config.yaml", "num_rounds: [1]", r"num_rounds '\[1\]' is no integer"),
        ("config.yaml", "a: &a [*a]", "stands for what it is a part of"),
    ],
)
def test_a_damaged_run_is_named_and_left_out(
    tmp_path: Path,
    write_run: WriteRun,
    caplog: pytest.LogCaptureFixture,
    file: str,
    content: str,
    message: str,
) -> None:
    folder = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=20)
    write_run(tmp_path / "exp", "vit-ucb", 1, rounds=20)
    (folder / file).write_text(content, encoding="utf-8")
    assert [run.seed for run in load_runs(tmp_path / "exp")] == [1]
    assert "the run is left out" in caplog.text
    with pytest.raises(ValueError, match=message) as error:
        load_runs(folder)
    assert folder.name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("action", "100000000000", r"action of round 3 is no arm \(1e\+11\)"),
        ("action", "-1", "action of round 3 is no arm"),
        ("action", "0.5", "action of round 3 is no arm"),
        ("action", "nan", "action of round 3 is no arm"),
        ("optimal_action", "1e300", "optimal_action of round 3 is no arm"),
        ("greedy_action", "-2", "greedy_action of round 3 is no arm"),
        ("regret", "1e300", "regret of round 3 is out of range"),
        ("reward", "-1e31", "reward of round 3 is out of range"),
        ("reward", "1" + "0" * 400, "reward of round 3 is not finite"),
        ("bonus", "1e300", "bonus of round 3 is out of range"),
    ],
)
def test_numbers_that_cannot_be_are_found(
    tmp_path: Path, write_run: WriteRun, column: str, cell: str, message: str
) -> None:
    folder = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=20)
    lines = (folder / "rounds.csv").read_text(encoding="utf-8").splitlines()
    cells = lines[4].split(",")
    cells[lines[0].split(",").index(column)] = cell
    lines[4] = ",".join(cells)
    (folder / "rounds.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_runs(folder)


@pytest.mark.parametrize("file", ["config.yaml", "rounds.csv", "summary.json", "gallery.npz"])
def test_pipes_and_links_out_of_a_run_are_refused(
    file: str, tmp_path: Path, write_run: WriteRun
) -> None:
    folder = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=20, gallery=True)
    (folder / file).rename(tmp_path / "elsewhere")
    for make, message in (
        (os.mkfifo, "no regular file"),
        (lambda path: path.symlink_to(tmp_path / "elsewhere"), "link out of the folder"),
    ):
        make(folder / file)
        with pytest.raises(ValueError, match=message):
            load_gallery(load_runs(folder)[0])
        (folder / file).unlink()


def with_arrays(folder: Path, **changed: Any) -> None:
    with np.load(folder / "gallery.npz") as file:
        arrays = {name: file[name] for name in file.files}
    np.savez_compressed(folder / "gallery.npz", **(arrays | changed))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("action", lambda array: array + 100),
        ("optimal_action", lambda array: array - 100),
        ("action", lambda array: array[:2]),
        ("mean", lambda array: array.astype("U5")),
        ("mean", lambda array: array * 1e300),
        ("reward", lambda array: array * np.nan),
        ("expected_rewards", lambda array: array[:, :0]),
        ("images", lambda array: array.astype(np.float32)),
        ("images", lambda array: array[:, :2]),
        ("images", lambda array: array[..., :2]),
        ("round", lambda array: array + 0.5),
    ],
)
def test_a_gallery_that_does_not_fit_itself_is_refused(
    name: str, change: Callable[[Any], Any], tmp_path: Path, write_run: WriteRun
) -> None:
    folder = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=20, gallery=True)
    run = load_run(folder)
    gallery = load_gallery(run)
    assert gallery is not None
    with np.errstate(over="ignore"):
        with_arrays(folder, **{name: change(getattr(gallery, name))})
    with pytest.raises(ValueError, match=r"gallery\.npz cannot be read") as error:
        load_gallery(run)
    assert "\n" not in str(error.value)


def test_a_damaged_table_of_metrics_is_named(tmp_path: Path, write_run: WriteRun) -> None:
    folder = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=25)
    for text in ("0,a,1e300", "nan,a,1", "0,a", f"0,{'n' * 1_000},1", '0,"a,1'):
        (folder / "metrics.csv").write_text(f"round,metric,value\n{text}\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"metrics\.csv is damaged") as error:
            load_metrics(load_run(folder))
        assert "\n" not in str(error.value)


def test_a_metric_that_grew_past_all_bounds_has_gaps(tmp_path: Path, write_run: WriteRun) -> None:
    folder = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=25)
    lines = "round,metric,value\n0,a,1\n1,a,inf\n2,a,-inf\n3,a,2\n"
    (folder / "metrics.csv").write_text(lines, encoding="utf-8")
    _, values = load_metrics(load_run(folder))["a"]
    np.testing.assert_array_equal(values, [1, np.nan, np.nan, 2])


def test_a_gallery_has_the_regret_that_was_recorded(tmp_path: Path, write_run: WriteRun) -> None:
    folder = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=20, gallery=True)
    run = load_run(folder)
    gallery = load_gallery(run)
    assert gallery is not None
    with_arrays(folder, regret=np.linspace(0, 1, len(gallery.round)))
    told = load_gallery(run)
    assert told is not None
    assert told.regret is not None
    assert told.regret[-1] == 1
