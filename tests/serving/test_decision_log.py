from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vitucb
from vitucb.envs.data.log_files import read_log
from vitucb.evaluation.evaluate import evaluate
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


def test_arms_that_were_not_on_offer_keep_their_numbers(log: DecisionLog) -> None:
    agent = vitucb.deploy("random", num_arms=3)
    masks = ([0, 1, 1], [1, 0, 1], [1, 1, 1])
    decisions = [agent.act(IMAGES, mask) for mask in masks]
    for decision, mask in zip(decisions, masks, strict=True):
        log.decided(decision, arm_images=PATHS, action_mask=mask)
        log.rewarded(decision, 1)
    rounds = read_log(log.path)
    assert rounds.mask.tolist() == [list(mask) for mask in masks]
    assert rounds.actions.tolist() == [decision.action for decision in decisions]
    assert (rounds.items >= 0).all()


def test_an_agent_that_knows_arms_by_number_is_evaluated_on_a_log_with_masks(
    log: DecisionLog, tmp_path: Path
) -> None:
    agent, rng = vitucb.deploy("random", num_arms=3), np.random.default_rng(0)
    for _ in range(300):
        mask = [int(rng.random() < 0.5), 1, 1]
        decision = agent.act(IMAGES, mask)
        log.decided(decision, arm_images=PATHS, action_mask=mask)
        log.rewarded(decision, float(decision.action == 1))
    judged = vitucb.deploy("ucb1", num_arms=3)
    for _ in range(100):
        decision = judged.act(IMAGES)
        judged.observe(decision, float(decision.action == 1))
    found = evaluate(log.path, judged.save(tmp_path / "ucb1"), num_resamples=50)
    assert found.advised.value == pytest.approx(1.0)


def test_an_agent_that_knows_arms_by_number_needs_all_of_them_in_every_round(
    folder: Path, tmp_path: Path
) -> None:
    rows = [["a.png", "b.png", "c.png"], ["b.png", "c.png"]]
    path = folder / "log.jsonl"
    path.write_text(
        "".join(json.dumps({"arm_images": r, "action": 0, "reward": 1}) + "\n" for r in rows)
    )
    policy = vitucb.deploy("ucb1", num_arms=3).save(tmp_path / "ucb1")
    with pytest.raises(ValueError, match="different numbers of images, and the agent knows its"):
        evaluate(path, policy)


def test_a_line_that_cannot_be_written_whole_is_not_written(log: DecisionLog) -> None:
    class Full(io.FileIO):
        def write(self, line: Any) -> int:
            return super().write(line[: len(line) // 2])

    agent = vitucb.deploy("random", num_arms=3)
    log.decided(agent.act(IMAGES), arm_images=PATHS)
    before, sound = log.path.read_bytes(), log._file
    log._file = Full(log.path, "ab")
    with pytest.raises(OSError, match="bytes could be written"):
        log.decided(agent.act(IMAGES), arm_images=PATHS)
    log._file.close()
    log._file = sound
    assert log.path.read_bytes() == before
    log.decided(agent.act(IMAGES), arm_images=PATHS)
    assert len([json.loads(line) for line in log.path.read_text().splitlines()]) == 2


def test_labels_of_a_shared_image_are_written_by_name(log: DecisionLog) -> None:
    agent = vitucb.deploy("random", num_arms=3, shares_image=True)
    for index in range(8):
        decision = agent.act(IMAGES[:1])
        log.decided(decision, context_image="a.png", action_names=("x", "y", "z"))
        log.rewarded(decision, index)
    rounds = read_log(log.path)
    assert set(rounds.action_names) <= {"x", "y", "z"}
    assert rounds.rewards.tolist() == list(range(8))


def test_labels_that_were_not_on_offer_are_none_when_the_log_is_read(log: DecisionLog) -> None:
    agent, names = vitucb.deploy("random", num_arms=3, shares_image=True), ("x", "y", "z")
    for mask in ([1, 1, 0], [0, 1, 1], [1, 1, 1]):
        decision = agent.act(IMAGES[:1], mask)
        log.decided(decision, context_image="a.png", action_names=names, action_mask=mask)
        log.rewarded(decision, 1)
    numbers = agent.act(IMAGES[:1])
    log.decided(numbers, context_image="a.png", action_names=names)
    log.rewarded(numbers, 1)
    rounds = read_log(log.path).with_actions([*names, "w"])
    offered = [[1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert rounds.mask.tolist() == offered


TORN = '{"decision_id": "a", "rew'


@pytest.mark.parametrize(
    ("left", "is_kept"),
    [(TORN, False), ('{"x": "\N{LATIN SMALL LETTER E WITH ACUTE}', False), ('{"reward": 1}', True)],
)
@pytest.mark.parametrize("before", ["", '{"reward": 2}\n', f'{{"reward": {"1" * 100_000}}}\n'])
def test_what_a_crash_left_of_a_line_does_not_spoil_the_log(
    folder: Path, before: str, left: str, is_kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "log.jsonl"
    path.write_bytes(before.encode() + left.encode()[: None if is_kept else -1])
    agent = vitucb.deploy("random", num_arms=3)
    with DecisionLog(path) as log:
        log.decided(agent.act(IMAGES), arm_images=PATHS)
    *earlier, last = path.read_text().splitlines()
    assert json.loads(last)["arm_images"] == list(PATHS)
    assert earlier == [*before.splitlines(), *[left] * is_kept]
    assert ("cut off a line that stops midway" in caplog.text) == (not is_kept)
    whole = path.read_bytes()
    DecisionLog(path).close()
    assert path.read_bytes() == whole


def test_a_log_that_ends_midway_is_read_without_that_line(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"arm_images": ["a.png", "b.png"], "action": 0, "reward": 1}
    path = folder / "log.jsonl"
    for end in (TORN, '{"note": "é'.encode()[:-1].decode("latin-1")):
        path.write_bytes(f"{json.dumps(row)}\n".encode() * 2 + end.encode("latin-1"))
        assert read_log(path).rewards.tolist() == [1, 1]
        assert "log.jsonl:3: the last line stops midway" in caplog.text
        caplog.clear()
    path.write_text(f"{json.dumps(row)}\n{TORN}\n")  # whoever wrote its end wrote it whole
    with pytest.raises(ValueError, match=r"log.jsonl:2: no JSON in UTF-8"):
        read_log(path)
    path.write_text(f"{json.dumps(row)}\n{TORN}\n{json.dumps(row)}")
    with pytest.raises(ValueError, match=r"log.jsonl:2: no JSON in UTF-8"):
        read_log(path)
    path.write_text(TORN)
    with pytest.raises(ValueError, match="no rounds in it"):
        read_log(path)


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
