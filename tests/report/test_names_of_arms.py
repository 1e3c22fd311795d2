"""Reports speak of classes and labels, where somebody said what they are called."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vitucb.config import AgentConfig, EnvConfig, RunConfig, SlateConfig
from vitucb.config.env import ArmSubsetConfig, DelayConfig, DriftConfig
from vitucb.experiment.playing import play
from vitucb.report import load_gallery, write_report
from vitucb.report.analysis import Analysis, analyse
from vitucb.report.figures.arms import chosen
from vitucb.report.groups import group_runs
from vitucb.report.runs import load_classes, load_runs
from vitucb.report.sentences import section_title

DIGITS = [str(digit) for digit in range(10)]


def played(folder: Path, env: EnvConfig, agent: str = "oracle") -> Analysis:
    config = RunConfig(
        experiment="exp",
        out=str(folder),
        num_rounds=30,
        env=env,
        agent=AgentConfig(name=agent),
        tensorboard=False,
    )
    play(config)
    (group,) = group_runs(load_runs(folder / "exp"))
    return analyse(group)


def test_shuffled_arms_are_counted_by_class(tmp_path: Path) -> None:
    analysis = played(tmp_path, EnvConfig(dataset="digits", num_arms=10, reward="gaussian"))
    choices = chosen(analysis.main)
    assert choices is not None
    assert (choices.kind, list(choices.names)) == ("class", DIGITS)
    assert (choices.numbers == 9).all()  # the best digit, in whichever slot it is
    assert len(set(analysis.main.column("action").ravel().tolist())) > 1
    gallery = load_gallery(analysis.main.runs[0])
    assert gallery is not None
    assert gallery.classes is not None
    assert (gallery.classes[np.arange(len(gallery.round)), gallery.action] == 9).all()


def test_the_title_says_what_was_played(tmp_path: Path) -> None:
    analysis = played(tmp_path, EnvConfig(dataset="digits", num_arms=4), "random")
    title = "digits, K = 4, bernoulli reward · vitucb/ImageArms-v0 · 30 rounds · 1 seed per agent"
    assert section_title(analysis) == title
    html = write_report(tmp_path / "exp", tmp_path / "out").read_text(encoding="utf-8")
    assert "<title>digits, K = 4, bernoulli reward: exp</title>" in html


def test_the_title_says_that_slates_were_shown(tmp_path: Path) -> None:
    env = EnvConfig(dataset="digits", num_arms=4, slate=SlateConfig(slots=3))
    title = section_title(played(tmp_path, env, "random"))
    assert title.startswith("digits, K = 4, slates of 3, a round a position, bernoulli reward · ")


def test_the_title_says_what_is_done_to_rewards_and_arms(tmp_path: Path) -> None:
    env = EnvConfig(
        dataset="digits", num_arms=4, delay=DelayConfig(law="fixed", rounds=2),
        drift=DriftConfig(kind="abrupt"), arm_subset=ArmSubsetConfig(min_arms=2),
    )  # fmt: skip
    title = section_title(played(tmp_path, env, "random"))
    changes = "late rewards, abrupt drift, random subsets of arms"
    assert title.startswith(f"digits, K = 4, bernoulli reward, {changes} · ")


def test_labels_have_their_names(tmp_path: Path) -> None:
    env = EnvConfig(id="vitucb/ImageContext-v0", dataset="digits", num_arms=3)
    choices = chosen(played(tmp_path, env, "random").main)
    assert choices is not None
    assert choices.kind == "label"
    assert [choices.name(i) for i in range(3)] == DIGITS[:3]


def test_shares_of_shuffled_slots_are_left_out(tmp_path: Path) -> None:
    """A run of an earlier version does not tell classes."""
    main = played(tmp_path, EnvConfig(dataset="digits", num_arms=10), "random").main
    (main.runs[0].folder / "classes.csv").unlink()
    assert chosen(main) is None


def test_shares_of_the_shuffled_slots_of_creatives_without_classes_are_left_out(
    tmp_path: Path,
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "rated.npz", images=images, scores=np.arange(12.0, dtype=np.float32))
    env = EnvConfig(
        id="vitucb/Creatives-v0",
        dataset=str(tmp_path / "rated.npz"),
        num_arms=3,
        options={"num_items": 4},
    )
    assert chosen(played(tmp_path, env, "random").main) is None


@pytest.mark.parametrize("row", ["29,10", "29,-1", "29,0.5"])
def test_a_class_that_is_none_is_named(
    tmp_path: Path, row: str, caplog: pytest.LogCaptureFixture
) -> None:
    main = played(tmp_path, EnvConfig(dataset="digits", num_arms=10), "random").main
    path = main.runs[0].folder / "classes.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:-1], row, ""]), encoding="utf-8")
    with pytest.raises(ValueError, match="names a class that is none of 10"):
        load_classes(main.runs[0])
    assert chosen(main) is None
    assert "what it chose is not shown by class" in caplog.text


def test_the_run_folder_tells_its_task(tmp_path: Path) -> None:
    main = played(tmp_path, EnvConfig(dataset="digits", num_arms=10), "random").main
    told = json.loads((main.runs[0].folder / "environment.json").read_text(encoding="utf-8"))
    assert told["task"] == {
        "dataset": "digits",
        "reward": "bernoulli",
        "num_arms": 10,
        "class_names": DIGITS,
    }
