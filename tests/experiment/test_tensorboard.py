"""What TensorBoard shows of a run: settings, arms, a page of charts, and points at each round."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from vitucb.config import RunConfig, override
from vitucb.experiment.playing import play
from vitucb.experiment.tensorboard import EventLog, arm_strip, event_files
from vitucb.types import Decision, Round


def round_of(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], *, arms: int = 3) -> Round:
    zeros = np.zeros(arms)
    mask = np.ones(arms, np.int8)
    return Round(
        index=4,
        observation={"images": images, "action_mask": mask},
        decision=Decision(1, 1.0, zeros, zeros, None, 4, zeros),
        reward=1.0,
        expected_reward=0.5,
        optimal_reward=1.0,
        optimal_action=2,
        expected_rewards=zeros,
        regret=0.5,
        cumulative_regret=2.0,
        metrics={},
        seconds=0.0,
    )


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def test_scalars_images_settings_and_layout_are_read_back(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.describe({"agent.name": "vit-ucb", "num_rounds": 9, "agent.label": None})
    log.add_scalars({"regret/cumulative": 2.5, "train/loss": 0.25}, 4)
    log.add_arms(round_of(np.full((3, 8, 8, 3), 9, np.uint8)))
    log.close()
    events = read(tmp_path)
    assert [(p.step, p.value) for p in events.Scalars("train/loss")] == [(4, 0.25)]
    (picture,) = events.Images("arms/offered")
    assert Image.open(io.BytesIO(picture.encoded_image_string)).size == (30, 12)
    tags = events.Tags()["tensors"]
    assert "custom_scalars__config__" in tags
    assert (
        "hparams" in events.summary_metadata["_hparams_/session_start_info"].plugin_data.plugin_name
    )


def test_hparams_show_regret_first_and_trials_by_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "lin-ucb__digits__s3"
    folder.mkdir()
    log = EventLog(folder)
    log.describe({"agent.name": "lin-ucb", "seed": 3, "agent.label": None})
    log.close()
    found = {}
    for tag, summary in read(folder).summary_metadata.items():
        if tag.startswith("_hparams_"):
            found[tag] = HParamsPluginData.FromString(summary.plugin_data.content)
    experiment = found["_hparams_/experiment"].experiment
    assert experiment.metric_infos[0].name.tag == "regret/cumulative"
    assert [info.name for info in experiment.hparam_infos] == ["agent.name", "seed"]
    session = found["_hparams_/session_start_info"].session_start_info
    assert session.group_name == "lin-ucb__digits__s3"
    assert session.hparams["seed"].number_value == 3


def test_strip_underlines_the_chosen_arm_in_white_and_the_best_in_green() -> None:
    strip = arm_strip(round_of(np.zeros((3, 8, 8, 1), np.uint8)))
    assert strip.shape == (12, 30, 3)
    assert (strip[10:, 10:18] == 255).all()
    assert (strip[9, 20:28] == (0, 200, 120)).all()
    assert not strip[:8].any()


def test_chosen_and_best_of_many_arms_are_on_the_strip() -> None:
    images = np.arange(40, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)
    many = round_of(images, arms=40)
    many = dataclasses.replace(
        many, decision=dataclasses.replace(many.decision, action=30), optimal_action=20
    )
    strip = arm_strip(many)
    assert strip.shape == (12, 120, 3)
    assert strip[0, ::10, 0].tolist() == [*range(10), 20, 30]
    assert (strip[9, 100:108] == (0, 200, 120)).all()
    assert (strip[10:, 110:118] == 255).all()


def test_no_arm_is_the_best_where_it_is_not_known() -> None:
    images = 10 * np.arange(1, 4, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)
    strip = arm_strip(dataclasses.replace(round_of(images), optimal_action=-1))
    assert strip[0, ::10, 0].tolist() == [10, 20, 30]
    assert not (strip == (0, 200, 120)).all(axis=-1).any()


def test_what_is_not_on_offer_is_dark() -> None:
    light = round_of(np.full((3, 8, 8, 1), 200, np.uint8))
    obs = {**light.observation, "action_mask": np.array([0, 1, 1], np.int8)}
    strip = arm_strip(dataclasses.replace(light, observation=obs))
    assert strip[0, ::10, 0].tolist() == [50, 200, 200]


def test_image_that_all_arms_share_is_shown_once_without_marks() -> None:
    strip = arm_strip(round_of(np.zeros((1, 8, 8, 3), np.uint8)))
    assert strip.shape == (12, 10, 3)
    assert not strip.any()


def test_the_last_round_of_a_run_is_on_the_curve(tmp_path: Path) -> None:
    settings = {"out": str(tmp_path), "agent": "random", "num_rounds": 25, "record_every": 10}
    folder = play(override(RunConfig(), settings)).folder
    points = read(folder).Scalars("regret/cumulative")
    assert [point.step for point in points] == [0, 10, 20, 24]
    summary = json.loads((folder / "summary.json").read_text())
    assert points[-1].value == pytest.approx(summary["cumulative_regret"])


def test_a_metric_is_shown_at_the_round_that_reported_it(tmp_path: Path) -> None:
    """Rewards come late, so the last report of ten rounds is seldom of the tenth."""
    delay = {"law": "geometric", "rounds": 6}
    settings = {"out": str(tmp_path), "agent": "lin-ucb", "num_rounds": 25, "env": {"delay": delay}}
    folder = play(override(RunConfig(), settings)).folder
    with (folder / "metrics.csv").open(newline="") as file:
        table = [row for row in csv.DictReader(file) if row["metric"] == "score/noise"]
    told = [int(row["round"]) for row in table]
    assert set(told) - {0, 10, 20, 24}
    assert [point.step for point in read(folder).Scalars("score/noise")] == told


@pytest.mark.parametrize("count", [0, 3])
def test_sizes_tell_where_the_files_stand(tmp_path: Path, count: int) -> None:
    log = EventLog(tmp_path)
    for step in range(count):
        log.add_scalars({"a/b": 1.0}, step)
    (path,) = event_files(tmp_path)
    assert log.sizes() == {path.name: path.stat().st_size}
    log.close()
    assert len(read(tmp_path).Scalars("a/b") if count else []) == count


def test_clock_set_back_leaves_the_newest_file_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step, now in enumerate((2_000_000.0, 1_000.0, 1_500_000.0)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        log = EventLog(tmp_path)
        log.add_scalars({"a/b": 1.0}, step)
        monkeypatch.setattr("time.time", lambda now=now: now - 500.0)
        log.add_scalars({"a/b": 1.0}, step)
        log.close()
    points = read(tmp_path).Scalars("a/b")
    assert [point.step for point in points] == [0, 0, 1, 1, 2, 2]
    times = [point.wall_time for point in points]
    assert times == sorted(times)
