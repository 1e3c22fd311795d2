from __future__ import annotations

import dataclasses
import string
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitucb.agents.factory import make_agent
from vitucb.config import ParallelConfig, RunConfig, load_config, override
from vitucb.envs.data.logged_rounds import LoggedRounds
from vitucb.envs.logged import made_up_log
from vitucb.evaluation.logs import estimate_propensities, inspect_log, open_log, read_run_log
from vitucb.experiment.distributed.ranks import rank_seed
from vitucb.experiment.environments import make_env
from vitucb.experiment.episode import Episode
from vitucb.experiment.playing import play

ROUNDS = 40


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {
        "out": str(tmp_path_factory.mktemp("runs")),
        "agent": "random",
        "num_rounds": ROUNDS,
        "tensorboard": False,
        "env": {"num_arms": 4},
    }
    return play(override(RunConfig(), settings)).folder


def context_log(rounds: int) -> LoggedRounds:
    """Three actions on 10 shared images; the logging policy looks at the image."""
    rng = np.random.default_rng(0)
    items = rng.integers(0, 10, rounds)
    preferred = rng.random(rounds) < 0.8
    actions = np.where(preferred, items % 2, rng.integers(0, 2, rounds))
    return LoggedRounds(
        name="contexts",
        images=np.zeros((10, 2, 2, 3), np.uint8),
        items=items[:, None],
        mask=np.ones((rounds, 3), np.int8),
        actions=actions,
        rewards=rng.random(rounds),
        propensities=None,
        action_names=("a", "b", "c"),
    )


def test_a_run_becomes_a_log_that_knows_the_truth(run_folder: Path) -> None:
    log = open_log(run_folder)
    assert len(log) == ROUNDS
    assert log.num_arms == 4
    assert log.propensities is not None
    np.testing.assert_allclose(log.propensities, 0.25)
    assert log.expected_rewards is not None
    chosen = log.expected_rewards[np.arange(ROUNDS), log.actions]
    recorded = np.genfromtxt(run_folder / "rounds.csv", delimiter=",", names=True)
    np.testing.assert_allclose(chosen, recorded["expected_reward"])
    assert log.images.shape[0] < ROUNDS * 4
    assert log.observation(3)["images"].shape == (4, 8, 8, 3)


def test_runs_with_late_rewards_and_masked_arms_are_logs_too(tmp_path: Path) -> None:
    env = {"num_arms": 4, "delay": {"law": "fixed", "rounds": 3}, "arm_subset": {"min_arms": 2}}
    settings = {"out": str(tmp_path), "agent": "random", "num_rounds": 20, "tensorboard": False}
    folder = play(override(RunConfig(), {**settings, "env": env})).folder
    log = read_run_log(folder)
    assert log.propensities is not None
    np.testing.assert_allclose(log.propensities, 1 / log.mask.sum(axis=1))
    assert len(set(log.mask.sum(axis=1))) > 1


def test_a_run_that_does_not_repeat_is_refused(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((run_folder / "config.yaml").read_text())
    lines = (run_folder / "rounds.csv").read_text().splitlines()
    cells = lines[6].split(",")
    cells[2] = "0.0" if float(cells[2]) else "1.0"
    lines[6] = ",".join(cells)
    (tmp_path / "rounds.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"round 5 pays .* when played again, but .* was recorded"):
        read_run_log(tmp_path)


def test_a_recorded_propensity_above_1_by_rounding_is_1(run_folder: Path, tmp_path: Path) -> None:
    header, *rows = (run_folder / "rounds.csv").read_text().splitlines()
    place = header.split(",").index("propensity")
    cells = rows[0].split(",")
    cells[place] = "1.0000000000000002"
    (tmp_path / "rounds.csv").write_text("\n".join([header, ",".join(cells), *rows[1:]]))
    (tmp_path / "config.yaml").write_text((run_folder / "config.yaml").read_text())
    log = read_run_log(tmp_path)
    assert log.propensities is not None
    assert log.propensities[0] == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "round,action,reward,propensity\n0,one,1,1\n",
            "damaged: could not convert string 'one' .* row 0",
        ),
        ("round,action\n0,1\n", "rounds.csv lacks the columns reward, propensity"),
        ("round,action,reward,propensity\n", "no rounds in it"),
        ("round,action,reward,propensity\n0,1,1,0\n", "propensity 0.0 of round 0 is not in"),
        ("round,action,reward,propensity\n0,0.5,1,1\n", "action 0.5 of round 0 is no arm"),
        ("round,action,reward,propensity\n0,9,1,1\n", "round 0 cannot be played again: action 9"),
    ],
)
def test_damaged_runs_are_refused(
    run_folder: Path, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "config.yaml").write_text((run_folder / "config.yaml").read_text())
    (tmp_path / "rounds.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_run_log(tmp_path)
    with pytest.raises(ValueError, match=r"config.yaml: No such file"):
        read_run_log(tmp_path / "nowhere")


@given(st.text(alphabet=string.printable + "é\0", max_size=80), st.booleans())
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_fuzzed_rounds_are_read_or_refused_by_name(tmp_path: Path, text: str, header: bool) -> None:
    (tmp_path / "config.yaml").write_text("env: {num_arms: 4}")
    head = "action,reward,propensity\n" * header
    (tmp_path / "rounds.csv").write_text(head + text, encoding="utf-8")
    message = ""
    try:
        assert len(read_run_log(tmp_path)) > 0
    except ValueError as error:
        message = str(error)
    assert not message or (str(tmp_path) in message and "\n" not in message)


def test_a_replay_of_a_log_is_no_log(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("env: {id: vitucb/Logged-v0}")
    (tmp_path / "rounds.csv").write_text((run_folder / "rounds.csv").read_text())
    with pytest.raises(ValueError, match=r"a replay of a log.*give the log 'digits' itself"):
        read_run_log(tmp_path)


def test_a_sound_log_gives_no_warning() -> None:
    report = inspect_log(made_up_log(300))
    assert report.warnings == ()
    assert report.facts["mean inverse propensity"] == pytest.approx(4)
    assert report.facts["arms"] == 4


def test_wrong_propensities_and_certain_choices_are_said() -> None:
    log = made_up_log(300)
    wrong = dataclasses.replace(log, propensities=np.full(300, 0.1))
    (warning,) = inspect_log(wrong).warnings
    assert "mean of 1/propensity is 10" in warning
    certain = dataclasses.replace(log, propensities=np.ones(300))
    (warning,) = inspect_log(certain).warnings
    assert "in 100 % of the rounds the logging policy could choose one arm only" in warning


def test_duplicates_constant_rewards_and_left_out_rows_are_said() -> None:
    log = made_up_log(50)
    twice = np.repeat(np.arange(50), 2)
    doubled = dataclasses.replace(
        log,
        items=log.items[twice],
        mask=log.mask[twice],
        actions=log.actions[twice],
        rewards=np.ones(100),
        propensities=None,
        dropped=3,
    )
    report = inspect_log(doubled)
    assert report.facts["duplicate rounds"] == 50
    said = " ".join(report.warnings)
    for words in (
        "50 of 100 rounds repeat",
        "3 rows were left out",
        "every reward is 1",
        "no prop",
    ):
        assert words in said


def test_actions_never_chosen_are_named() -> None:
    warnings = inspect_log(context_log(100)).warnings
    assert any("never chosen: c;" in warning for warning in warnings)


def test_estimated_propensities_follow_the_context() -> None:
    log = context_log(2_000)
    features = np.eye(10, dtype=np.float32)
    p = estimate_propensities(log, features)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert (p[:, 2] == 0).all()
    preferred = p[np.arange(2_000), log.items[:, 0] % 2]
    np.testing.assert_allclose(preferred, 0.9, atol=0.06)


def test_masked_actions_have_no_propensity() -> None:
    log = context_log(300)
    mask = log.mask.copy()
    other = 1 - log.actions  # of the two that are ever taken
    mask[np.arange(150), other[:150]] = 0
    p = estimate_propensities(dataclasses.replace(log, mask=mask), np.eye(10, dtype=np.float32))
    assert (p[mask == 0] == 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1)


def test_estimated_propensities_are_those_among_the_actions_on_offer() -> None:
    rng, rounds = np.random.default_rng(0), 4_000
    mask = np.ones((rounds, 3), np.int8)
    mask[:, 0] = rng.random(rounds) < 0.5
    weights = np.array([1.0, 2.0, 1.0]) * mask
    actions = (weights.cumsum(axis=1) > rng.random((rounds, 1)) * weights.sum(1)[:, None]).argmax(1)
    log = dataclasses.replace(
        context_log(rounds), mask=mask, actions=actions, action_names=("a", "b", "c")
    )
    p = estimate_propensities(log, rng.normal(size=(10, 2)))
    np.testing.assert_allclose(
        p[mask[:, 0] == 1], [[0.25, 0.5, 0.25]] * mask[:, 0].sum(), atol=0.08
    )
    np.testing.assert_allclose(p[mask[:, 0] == 0, 1], 2 / 3, atol=0.08)


def test_the_run_of_a_rank_is_a_log(tmp_path: Path) -> None:
    settings = {
        "out": str(tmp_path),
        "agent": "random",
        "num_rounds": 12,
        "tensorboard": False,
        "env": {"num_arms": 4},
    }
    folder = play(override(RunConfig(), settings)).folder
    rank = ParallelConfig(ranks=2, rank=1)
    env = make_env(load_config(folder / "config.yaml").env, 12)
    episode = Episode(env, make_agent("random", env), seed=rank_seed(0, rank))
    played = [episode.play_round() for _ in range(12)]
    lines = (folder / "rounds.csv").read_text(encoding="utf-8").splitlines()
    cells = [line.split(",") for line in lines]
    for row, r in zip(cells[1:], played, strict=True):
        row[1], row[2] = str(r.decision.action), repr(r.reward)
    text = "\n".join(",".join(row) for row in cells) + "\n"
    (folder / "rounds.csv").write_text(text, encoding="utf-8")
    settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    settings["parallel"] |= {"ranks": 2, "rank": 1}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert len(open_log(folder)) == 12


def test_estimated_propensities_of_image_arms_are_uniform_where_the_choice_was() -> None:
    log = made_up_log(600)
    features = np.random.default_rng(0).normal(size=(log.images.shape[0], 3))
    p = estimate_propensities(log, features)
    np.testing.assert_allclose(p, 0.25, atol=0.1)
