"""Actions of a log of contexts meet those of the agent by name, or are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

import vitucb
from vitucb.cli.main import main
from vitucb.config import RunConfig, override
from vitucb.envs.data.log_files import read_log
from vitucb.envs.data.logged_rounds import LoggedRounds
from vitucb.evaluation.evaluate import evaluate, match_actions
from vitucb.evaluation.logs import open_log
from vitucb.evaluation.target_policy import load_policy
from vitucb.experiment.playing import play
from vitucb.types import action_names

COLOURS = {"ant": "red", "bee": "lime", "cow": "blue"}
CLASSES = ("cow", "ant", "bee")  # the agent's actions 0, 1, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("animals")
    for name, colour in COLOURS.items():
        Image.new("RGB", (8, 8), colour).save(path / f"{name}.png")
    table = "".join(f"{name}.png,{name}\n" for name in COLOURS)
    (path / "set.csv").write_text("path,label\n" + table)
    return path


@pytest.fixture(scope="module")
def run_folder(folder: Path) -> Path:
    """An agent that has learnt which animal is which."""
    return play_run(folder, "lin-ucb", 200)


def play_run(folder: Path, agent: str, rounds: int, **env: Any) -> Path:
    settings = {
        "out": str(folder / "runs"),
        "agent": agent,
        "num_rounds": rounds,
        "tensorboard": False,
        "env": {
            "id": "vitucb/ImageContext-v0",
            "dataset": str(folder / "set.csv"),
            "data": {"classes": list(CLASSES)},
        }
        | env,
    }
    return play(override(RunConfig(), settings)).folder


def write_log(folder: Path, labels: dict[str, str], name: str = "log.jsonl") -> Path:
    """90 rounds of two animals and uniformly random answers, named by `labels`."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "context_image": f"{shown}.png",
            "action": labels[answer],
            "reward": float(shown == answer),
            "propensity": 1 / len(labels),
        }
        for shown, answer in zip(
            rng.choice(["ant", "bee"], 90), rng.choice(list(labels), 90), strict=True
        )
    ]
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows))
    return folder / name


def value(log: Path, policy: Path, **options: Any) -> float:
    estimates = evaluate(log, policy, num_resamples=10, **options).estimates
    return next(e.value for e in estimates if e.name == "snips")


def test_labels_meet_the_classes_of_a_run_by_name(folder: Path, run_folder: Path) -> None:
    log = write_log(folder, {name: name for name in COLOURS})
    assert read_log(log).action_names == ("ant", "bee", "cow")
    assert load_policy(run_folder).action_names == CLASSES
    assert value(log, run_folder) == 1


def test_a_label_that_never_occurs_moves_no_other(folder: Path, run_folder: Path) -> None:
    log = write_log(folder, {"ant": "ant", "bee": "bee"})
    result = evaluate(log, run_folder, num_resamples=10)
    assert result.facts["actions"] == "cow, ant, bee"
    assert any(w.startswith("never chosen: cow") for w in result.warnings)
    assert value(log, run_folder) == 1


def test_names_go_with_an_agent_that_is_taken_away(folder: Path, run_folder: Path) -> None:
    agent = vitucb.load_agent(vitucb.load_agent(run_folder).save(folder / "taken"))
    assert agent.blueprint.action_names == CLASSES
    assert value(write_log(folder, {"ant": "ant", "bee": "bee"}), folder / "taken") == 1


def test_labels_that_are_no_names_of_the_agent_are_refused_or_stated(
    folder: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_log(folder, {"cow": "0", "ant": "1", "bee": "2"})
    with pytest.raises(ValueError, match=r"its action '0' is not among 'cow', .* give `actions`"):
        evaluate(log, run_folder)
    assert value(log, run_folder, actions=("0", "1", "2")) == 1
    main(["evaluate", str(log), "--policy", str(run_folder), "--actions", "0", "1", "2"])
    assert "actions: 0, 1, 2\n" in capsys.readouterr().out
    with pytest.raises(ValueError, match="made for 3 arms, not for 4"):
        evaluate(log, run_folder, actions=("0", "1", "2", "3"))
    log = write_log(folder, {name: name for name in COLOURS})
    with pytest.raises(ValueError, match="in another order, cow, ant, bee; leave them out"):
        evaluate(log, run_folder, actions=("ant", "bee", "cow"))


def test_an_agent_without_names_numbers_its_actions(folder: Path) -> None:
    vitucb.deploy("lin-ucb", num_arms=4, shares_image=True).save(folder / "nameless")
    policy = load_policy(folder / "nameless")
    log = match_actions(read_log(write_log(folder, {"ant": "3", "bee": "1"})), policy)
    assert log.action_names == ("0", "1", "2", "3")
    assert set(log.actions) == {1, 3}
    assert log.mask.all()
    named = read_log(write_log(folder, {"ant": "ant", "bee": "bee"}))
    with pytest.raises(ValueError, match=r"called ant, bee, and the policy has no names for its 4"):
        match_actions(named, policy)
    assert match_actions(named, policy, ("a", "bee", "c", "ant")).actions.max() == 3
    # Of a function nothing is known: it gets the actions as the log numbers them.
    assert match_actions(named, lambda obs: np.full(2, 0.5)) is named


def test_a_run_is_a_log_with_the_names_of_its_classes(folder: Path, run_folder: Path) -> None:
    log = open_log(play_run(folder, "random", 30, num_arms=2))
    assert log.action_names == CLASSES[:2]
    matched = match_actions(log, load_policy(run_folder))
    assert matched.action_names == CLASSES
    assert matched.mask.tolist() == [[1, 1, 0]] * 30  # it knows that no bee was on offer
    assert matched.expected_rewards is not None
    assert matched.expected_rewards[:, 2].tolist() == [0] * 30
    evaluation = evaluate(log, run_folder, num_resamples=10)
    assert evaluation.true_value == 1


def test_actions_can_be_put_in_order_and_mistakes_are_named(folder: Path) -> None:
    log = read_log(write_log(folder, {"ant": "ant", "bee": "bee"}))
    moved = log.with_actions(["x", "bee", "ant"])
    assert moved.mask.tolist() == [[1, 1, 1]] * 90
    np.testing.assert_array_equal(moved.actions, np.array([2, 1])[log.actions])
    for names, message in (
        (["ant"], "give at least two"),
        (["ant", "ant", "bee"], "each once"),
        (["ant", "x"], "its action 'bee' is not among 'ant', 'x'"),
    ):
        with pytest.raises(ValueError, match=message):
            log.with_actions(names)
    arms = LoggedRounds(
        "arms",
        np.zeros((2, 2, 2, 3), np.uint8),
        np.array([[0, 1]]),
        np.ones((1, 2), np.int8),
        np.array([1]),
        np.array([1.0]),
        None,
    )
    with pytest.raises(ValueError, match="every arm has its image"):
        match_actions(arms, lambda obs: obs["action_mask"] / 2, ("a", "b"))


def test_names_that_do_not_tell_actions_apart_are_none() -> None:
    class Named(gym.Env[Any, Any]):
        action_space = gym.spaces.Discrete(2)
        action_names: tuple[str, ...] = ("a", "b")

    assert action_names(Named()) == ("a", "b")
    for unsound in (("a", "a"), ("a", "b", "c"), ()):
        Named.action_names = unsound
        assert action_names(Named()) == ()
