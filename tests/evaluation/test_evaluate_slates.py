"""Runs of slates as logs: what is read, what is estimated, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vitucb.cli.main import main
from vitucb.config import RunConfig, override
from vitucb.evaluation.evaluate import evaluate
from vitucb.evaluation.evaluate_slates import evaluate_slates
from vitucb.evaluation.slate_log import SlateLog, estimated_examination, read_slate_run
from vitucb.experiment.playing import play
from vitucb.types import Observation

CLICKS = [1.0, 0.5, 0.25]


@pytest.fixture(scope="module")
def random_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return played(tmp_path_factory.mktemp("runs"), "random", 1_200)


def played(out: Path, agent: str, rounds: int) -> Path:
    values: dict[str, Any] = {
        "out": str(out),
        "agent": {"name": agent},
        "env": {"num_arms": 4, "slate": {"slots": 3, "examination": CLICKS}},
        "num_rounds": rounds,
        "tensorboard": False,
    }
    return play(override(RunConfig(), values)).folder


def darkest(obs: Observation) -> NDArray[np.float64]:
    """Mostly the picture with the least ink among those left."""
    ink = obs["images"].mean(axis=(1, 2, 3))
    left = obs["action_mask"].astype(bool)
    best = np.where(left, ink, np.inf).argmin()
    probabilities: NDArray[np.float64] = 0.3 * left / left.sum()
    probabilities[best] += 0.7
    return probabilities


def test_a_run_of_random_slates_tells_the_value_of_a_policy(random_run: Path) -> None:
    result = evaluate_slates(random_run, darkest, num_resamples=300)
    assert (result.slates, result.slots, result.policy) == (400, 3, "darkest")
    assert result.true_value is not None
    assert result.advised.name == "sn-item-position"
    assert result.warnings == ()
    assert result.advised.low < result.true_value < result.advised.high
    assert result.logged_value == pytest.approx(read_slate_run(random_run).rewards.sum() / 400)
    names = [row["estimator"] for row in result.rows()]
    assert names[::2] == ["standard-ips", "reward-interaction", "item-position"]


def test_uniform_play_has_the_value_of_the_random_log(random_run: Path) -> None:
    def uniform(obs: Observation) -> NDArray[np.float64]:
        share: NDArray[np.float64] = obs["action_mask"] / obs["action_mask"].sum()
        return share

    result = evaluate_slates(random_run, uniform, num_resamples=50)
    assert [e.value for e in result.estimates] == pytest.approx([result.logged_value] * 6)


def test_how_often_positions_are_looked_at_is_found_in_a_random_log(random_run: Path) -> None:
    log = read_slate_run(random_run)
    assert log.examination.tolist() == CLICKS
    found = estimated_examination(log)
    assert found[0] == 1
    np.testing.assert_allclose(found, CLICKS, atol=0.2)  # four standard errors of 400 slates


def test_a_log_of_certain_choices_knows_no_positions_and_says_so(tmp_path: Path) -> None:
    log = read_slate_run(played(tmp_path, "ucb1", 31 * 3))
    assert log.known_position_propensities() is None
    result = evaluate_slates(log, darkest, num_resamples=20)
    assert result.advised.name == "sn-reward-interaction"
    assert "item-position" in result.advice
    said = " ".join(result.warnings)
    assert "does not cover what the policy does, and no estimate is right" in said
    assert "% of the positions the logging policy could choose one arm only" in said
    assert "few slates decide it" in said
    with pytest.raises(ValueError, match="is not known; give position_propensities, or a log of"):
        estimated_examination(log)
    given = SlateLog(log.rounds, 3, log.examination, np.full((31, 3), 0.25))
    assert evaluate_slates(given, darkest, num_resamples=20).advised.name == "sn-item-position"


def test_an_agent_that_is_judged_by_its_own_run_is_told_of(random_run: Path) -> None:
    for result in (
        evaluate_slates(random_run, random_run, num_resamples=5),
        evaluate_slates(read_slate_run(random_run), str(random_run), num_resamples=5),
    ):
        assert "the policy is the agent that wrote this log" in result.warnings[0]


def test_slates_are_not_evaluated_as_if_positions_were_rounds(random_run: Path) -> None:
    with pytest.raises(ValueError, match=r"a run of slates; evaluate it by vitucb\.evaluation"):
        evaluate(random_run, darkest)


def test_the_command_evaluates_slates_and_writes_json(
    random_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(random_run), "--policy", str(random_run), "--resamples", "20"]
    main([*words, "--out", str(tmp_path / "slates.json")])
    printed = capsys.readouterr().out
    assert "400 slates of 3: " in printed
    assert "sn-item-position" in printed
    held = json.loads((tmp_path / "slates.json").read_text())
    assert held["slates"] == 400
    assert len(held["estimates"]) == 6
    for more, message in (
        (["--out", str(tmp_path)], "slates are written as JSON only; give FILE.json"),
        (["--max-rounds", "5"], "--max-rounds has no use with slates"),
    ):
        with pytest.raises(SystemExit) as exit:
            main([*words, *more])
        assert exit.value.code == 2
        assert message in capsys.readouterr().err


def test_a_run_without_slates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run of slates"):
        read_slate_run(tmp_path)
