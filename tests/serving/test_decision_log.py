from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitucb
from vitucb.envs.data.log_files import read_log
from vitucb.serving.decision_log import DecisionLog

IMAGES = np.zeros((3, 8, 8, 3), np.uint8)
PATHS = ("a.png", "b.png", "c.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for value, name in enumerate(PATHS):
        Image.new("RGB", (4, 4), (value, 0, 0)).save(tmp_path / name)
    return tmp_path


@pytest.fixture
def log(folder: Path) -> Iterator[DecisionLog]:
    with DecisionLog(folder / "log.jsonl") as opened:
        yield opened


def test_rewards_join_their_decisions_in_the_order_of_these(log: DecisionLog) -> None:
    agent = vitucb.deploy("random", num_arms=3)
    decisions = [agent.act(IMAGES) for _ in range(4)]
    for index, decision in enumerate(decisions):
        log.decided(decision, arm_images=PATHS, shown_to=index)
    for index in (3, 0, 1):
        log.rewarded(decisions[index], index)
    log.rewarded(decisions[0].id, 99)  # the first one counts
    log.rewarded("of an earlier file", 99)
    rounds = read_log(log.path)
    assert rounds.rewards.tolist() == [0, 1, 3]
    assert rounds.actions.tolist() == [decisions[i].action for i in (0, 1, 3)]
    assert rounds.propensities is not None
    assert rounds.propensities == pytest.approx([1 / 3] * 3)
    assert rounds.dropped == 1


def test_arms_that_were_not_on_offer_are_not_written(log: DecisionLog) -> None:
    agent = vitucb.deploy("random", num_arms=3)
    mask = [0, 1, 1]
    decision = agent.act(IMAGES, mask)
    log.decided(decision, arm_images=PATHS, action_mask=mask)
    log.rewarded(decision, 1)
    written = json.loads(log.path.read_text().splitlines()[0])
    assert written["arm_images"] == ["b.png", "c.png"]
    assert written["arm_images"][written["action"]] == PATHS[decision.action]


def test_labels_of_a_shared_image_are_written_by_name(log: DecisionLog) -> None:
    agent = vitucb.deploy("random", num_arms=3, shares_image=True)
    for index in range(8):
        decision = agent.act(IMAGES[:1])
        log.decided(decision, context_image="a.png", action_names=("x", "y", "z"))
        log.rewarded(decision, index)
    rounds = read_log(log.path)
    assert set(rounds.action_names) <= {"x", "y", "z"}
    assert rounds.rewards.tolist() == list(range(8))


def test_a_line_that_a_crash_left_torn_does_not_spoil_the_next(folder: Path) -> None:
    path = folder / "log.jsonl"
    path.write_text('{"decision_id": "a", "rew')
    agent = vitucb.deploy("random", num_arms=3)
    with DecisionLog(path) as log:
        log.decided(agent.act(IMAGES), arm_images=PATHS)
    lines = path.read_text().splitlines()
    assert len(lines) == 2
    assert json.loads(lines[1])["arm_images"] == list(PATHS)
    DecisionLog(path).close()
    assert len(path.read_text().splitlines()) == 2


def test_what_does_not_fit_is_refused(log: DecisionLog) -> None:
    agent = vitucb.deploy("random", num_arms=3)
    decision = agent.act(IMAGES)
    with pytest.raises(ValueError, match="give either arm_images or context_image"):
        log.decided(decision)
    with pytest.raises(ValueError, match="arm_images are 2 of 3 arms"):
        log.decided(decision, arm_images=PATHS[:2])
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.rewarded(decision, float("nan"))
    assert log.path.read_text() == ""


def test_two_decisions_of_one_id_are_refused(folder: Path) -> None:
    line = {"decision_id": "a", "arm_images": ["a.png", "b.png"], "action": 0}
    (folder / "log.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(line)}\n")
    with pytest.raises(ValueError, match=r"log.jsonl:2: field 'decision_id': 'a' is the id of an"):
        read_log(folder / "log.jsonl")


def test_whole_rows_may_have_ids_of_any_kind(folder: Path) -> None:
    line = {"decision_id": 7, "arm_images": ["a.png", "b.png"], "action": 0, "reward": 1}
    (folder / "log.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(line)}\n")
    assert read_log(folder / "log.jsonl").rewards.tolist() == [1, 1]
