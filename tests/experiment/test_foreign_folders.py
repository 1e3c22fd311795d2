"""Playing in a folder that somebody else prepared changes nothing outside of it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from vitucb.config import RunConfig, override
from vitucb.experiment import playing, resume
from vitucb.experiment.playing import play
from vitucb.experiment.run_folder import RunFolder, run_folder
from vitucb.types import Round


def config(out: Path) -> RunConfig:
    values = {"out": str(out), "agent": {"name": "gaussian-ts"}, "num_rounds": 6}
    return override(RunConfig(), values | {"tensorboard": False, "checkpoint_every": 2})


def linked(folder: Path, name: str, target: Path) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(target)


@pytest.mark.parametrize(
    "name",
    ["config.yaml.tmp", "summary.json.tmp", "summary.json", "config.yaml", "gallery.npz",
     "environment.json", "timing.json", "rounds.csv", "metrics.csv"],
)  # fmt: skip
def test_a_link_in_a_run_folder_is_replaced_or_refused_and_never_written_through(
    name: str, tmp_path: Path
) -> None:
    settings = config(tmp_path / "runs")
    (tmp_path / "precious").write_text("num_rounds: 6\n")
    linked(run_folder(settings), name, tmp_path / "precious")
    try:
        play(settings)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017  most are replaced
    assert (tmp_path / "precious").read_text() == "num_rounds: 6\n"


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint/pieces", "run.lock"])
def test_links_to_folders_are_refused_or_removed_and_never_emptied(
    name: str, tmp_path: Path
) -> None:
    settings = config(tmp_path / "runs")
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "round-thesis").write_text("years of work")
    linked(run_folder(settings), name, tmp_path / "documents")
    try:
        play(settings)
    except ValueError as error:
        assert "is a link" in str(error)  # noqa: PT017  without checkpoints pieces are dropped
    else:
        assert not (run_folder(settings) / name).is_symlink()
    assert [path.name for path in (tmp_path / "documents").iterdir()] == ["round-thesis"]


def test_leftovers_of_a_killed_run_are_dropped(tmp_path: Path) -> None:
    settings = config(tmp_path / "runs")
    run_folder(settings).mkdir(parents=True)
    (run_folder(settings) / ".summary.json.0123456789abcdef.tmp").write_text("{")
    folder = play(settings).folder
    assert [path.name for path in folder.iterdir() if path.name.endswith(".tmp")] == []


def test_a_lock_of_another_host_tells_its_age_and_a_way_out(tmp_path: Path) -> None:
    settings = config(tmp_path / "runs")
    folder = run_folder(settings)
    folder.mkdir(parents=True)
    lock = folder / "run.lock"
    lock.write_text(json.dumps({"pid": 7, "host": "gone"}))
    os.utime(lock, (time.time() - 3 * 3600,) * 2)
    with pytest.raises(
        ValueError,
        match=r"process 7 on gone, another host or container, since 3 hours ago, its last round "
        r"never; wait for it, or if it is gone delete .*run\.lock",
    ):
        play(settings)
    (folder / "rounds.csv").write_text("")
    os.utime(folder / "rounds.csv", (time.time() - 600,) * 2)
    with pytest.raises(ValueError, match="its last round 10 minutes ago"):
        play(settings)
    lock.unlink()
    assert play(settings).folder == folder


@pytest.mark.parametrize("content", ["[" * 5_000, '{"host": "a\\nb"}', '{"host": 7}'])
def test_a_lock_of_nonsense_is_one_line_or_nothing(content: str, tmp_path: Path) -> None:
    settings = config(tmp_path / "runs")
    run_folder(settings).mkdir(parents=True)
    (run_folder(settings) / "run.lock").write_text(content)
    try:
        play(settings)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017  nonsense may be nobody's lock


@pytest.mark.parametrize("name", ["../../precious", "/dev/zero"])
def test_names_in_a_checkpoint_stay_in_it(name: str, tmp_path: Path) -> None:
    from vitucb.experiment.checkpoints import Checkpoints

    checkpoints = Checkpoints(tmp_path / "checkpoint")
    checkpoints.save(5, {"a": 1})
    (tmp_path / "precious").touch()
    manifest = tmp_path / "checkpoint" / "round-000000005" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"][name] = "0" * 64
    manifest.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no name of a file in the folder"):
        checkpoints.load(5)
    content["files"] = {}
    manifest.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"state\.json is not in its manifest"):
        checkpoints.load(5)


def test_state_of_the_wrong_kind_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(round: Round) -> None:
        if round.index == 3:
            raise KeyboardInterrupt

    settings = config(tmp_path / "runs")
    with pytest.raises(KeyboardInterrupt):
        play(settings, stop)
    earlier = resume.earlier_state

    def changed(folder: RunFolder) -> Any:
        state = earlier(folder)
        assert state is not None
        state["recorder"]["metrics"] = {"score/noise": 0.5}
        return state

    monkeypatch.setattr(playing, "earlier_state", changed)
    with pytest.raises(ValueError, match=r"does not fit its settings: .*--overwrite"):
        play(settings)
