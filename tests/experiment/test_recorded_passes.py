"""Image passes a round: in the summary, across a stop, and left out where they are not known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.experiment.stops import left_after, short_run, summary
from vitucb.agents.factory import make_agent
from vitucb.config import RunConfig
from vitucb.experiment.checkpoints import Checkpoints
from vitucb.experiment.playing import play
from vitucb.experiment.resume import StoppedError


def config(tmp_path: Path, agent: dict[str, Any], **changes: Any) -> RunConfig:
    env = {"id": "vitucb/ImageContext-v0", "num_arms": 3}
    return short_run(tmp_path, agent=agent, **{"env": env} | changes)


ALONE = {"name": "vit-ucb", "experts": ["adapted"], "lora": {"rank": 1, "blocks": [-1]}}


@pytest.mark.parametrize(
    "agent", [{"name": "lin-ucb"}, {"name": "lin-ucb", "prefix_cache_mib": 0}, ALONE]
)
def test_a_stop_changes_no_count(agent: dict[str, Any], tmp_path: Path) -> None:
    whole = summary(play(config(tmp_path, agent, experiment="whole")).folder)
    with pytest.raises(StoppedError):
        play(config(tmp_path, agent), left_after(13))
    found = summary(play(config(tmp_path, agent)).folder)
    assert found == whole
    assert found["image_passes"] > 0


def test_frozen_features_count_every_image_once(tmp_path: Path) -> None:
    found = summary(play(config(tmp_path, {"name": "lin-ucb"})).folder)
    assert found["image_passes"] == found["distinct_images"] / 20


def test_agents_without_a_network_pass_none(tmp_path: Path) -> None:
    assert summary(play(config(tmp_path, {"name": "ucb1"})).folder)["image_passes"] == 0


def test_a_checkpoint_that_did_not_count_leaves_the_passes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, settings = Checkpoints.save, config(tmp_path, {"name": "lin-ucb"})

    def save_as_before(self: Checkpoints, rounds: int, state: dict[str, Any]) -> None:
        del state["recorder"]["counts_passes"], state["agent"]["frozen"]["passes"]
        save(self, rounds, state)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_as_before)
        with pytest.raises(StoppedError):
            play(settings, left_after(8))
    with pytest.raises(StoppedError):  # once more, so that not knowing is kept, too
        play(settings, left_after(13))
    assert "image_passes" not in summary(play(settings).folder)


def test_an_agent_that_does_not_tell_has_none_in_its_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent:
        def __init__(self, inner: Any) -> None:
            self.select_action, self.update = inner.select_action, inner.update
            self.state_dict, self.load_state_dict = inner.state_dict, inner.load_state_dict

    monkeypatch.setattr(
        "vitucb.experiment.playing.make_agent", lambda *a, **k: Silent(make_agent(*a, **k))
    )
    assert "image_passes" not in summary(play(config(tmp_path, {"name": "ucb1"})).folder)
