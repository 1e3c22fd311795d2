"""How often images came again: in the summary, across a restart, and unknown where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.experiment.stops import left_after, short_run, summary
from vitucb.experiment.checkpoints import Checkpoints
from vitucb.experiment.offered_images import OfferedImages
from vitucb.experiment.playing import play
from vitucb.experiment.resume import StoppedError
from vitucb.types import Round

FIELDS = ("distinct_images", "offers_per_image")


def test_the_summary_counts_every_image_on_offer(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def look(round: Round) -> None:
        seen.extend(image.tobytes() for image in round.observation["images"])

    found = summary(play(short_run(tmp_path, num_rounds=300), look).folder)
    assert found["distinct_images"] == len(set(seen)) < 900
    assert found["offers_per_image"] == pytest.approx(900 / len(set(seen)))


def test_a_resumed_run_has_counted_the_rounds_before(tmp_path: Path) -> None:
    whole = summary(play(short_run(tmp_path, experiment="whole")).folder)
    with pytest.raises(StoppedError):
        play(short_run(tmp_path), left_after(13))
    assert summary(play(short_run(tmp_path)).folder) == whole


def test_a_checkpoint_without_counts_leaves_them_out_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpoints.save

    def save_as_before(self: Checkpoints, rounds: int, state: dict[str, Any]) -> None:
        del state["recorder"]["recurrence"]
        save(self, rounds, state)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_as_before)
        with pytest.raises(StoppedError):
            play(short_run(tmp_path), left_after(8))
    with pytest.raises(StoppedError):  # once more, so that not knowing is kept, too
        play(short_run(tmp_path), left_after(13))
    found = summary(play(short_run(tmp_path)).folder)
    assert found["rounds"] == 20
    assert not set(FIELDS) & set(found)


def test_a_masked_arm_is_not_on_offer() -> None:
    offered, mask = OfferedImages(), np.array([1, 0, 1], np.int8)
    images = np.arange(36, dtype=np.uint8).reshape(3, 2, 2, 3)
    for _ in range(4):
        offered.add({"images": images, "action_mask": mask})
    offered.add({"images": images[:1], "action_mask": mask})  # one for all arms
    assert offered.summary() == {"distinct_images": 2, "offers_per_image": 4.5}


@pytest.mark.parametrize("images", [np.array(["a.png", "b.png"]), np.array([0, 1])])
def test_what_holds_no_pixels_is_not_counted(images: np.ndarray[Any, Any]) -> None:
    offered = OfferedImages()
    offered.add({"images": images, "action_mask": np.ones(2, np.int8)})
    offered.add({"images": np.zeros((2, 2, 2, 3), np.uint8), "action_mask": np.ones(2, np.int8)})
    assert offered.summary() == {}
    assert offered.state_dict() == {}


def test_an_environment_without_images_has_no_counts() -> None:
    offered = OfferedImages()
    offered.add({"action_mask": np.ones(2, np.int8)})
    assert offered.summary() == {}


def test_images_of_several_sizes_are_told_apart() -> None:
    images = np.empty(2, object)
    images[:] = [np.zeros((2, 2, 3), np.uint8), np.zeros((3, 2, 3), np.uint8)]
    offered = OfferedImages()
    for _ in range(2):
        offered.add({"images": images, "action_mask": np.ones(2, np.int8)})
    assert offered.summary() == {"distinct_images": 2, "offers_per_image": 2.0}
