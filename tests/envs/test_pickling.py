"""Environments go to other processes and are copied, whatever their images are read from."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.envs.tiny_arms import Env
from tests.envs.tiny_datasets import encode, folder, jpeg_arrays, noise, save
from vitucb.envs import DelayedReward, DriftingRewards, RandomArmSubset
from vitucb.envs.data.datasets import load_dataset

_COPIES: dict[str, Callable[[Env], Env]] = {
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "deepcopy": copy.deepcopy,
}
_LABELS = [0, 1] * 3


def _jpeg(path: Path) -> str:
    return save(path, **jpeg_arrays([encode(image, "JPEG") for image in noise()], _LABELS))


def _manifest(path: Path) -> Path:
    folder(path)
    table = path / "set.csv"
    table.write_text("path,label\npets/cat/0.png,x\npets/dog/0.png,y\n")
    return table


_SETS: dict[str, Callable[[Path], Any]] = {
    "digits": lambda path: "digits",
    "digits resized": lambda path: load_dataset("digits", image_size=6),
    "npz": lambda path: save(path, images=noise(), labels=_LABELS),
    "jpeg": _jpeg,
    "folder": folder,
    "classes": lambda path: load_dataset(folder(path), classes=["dog", "cat"]),
    "split": lambda path: load_dataset(
        save(path, images=noise(60), labels=_LABELS * 10), split="train"
    ),
    "disk": lambda path: load_dataset(folder(path), disk_cache=True, cache_folder=path / "cache"),
    "manifest": _manifest,
}


def _rows(env: Env) -> list[tuple[int, float]]:
    rows = []
    for _ in range(3):
        obs, reward, *_ = env.step(0)
        rows.append((int(obs["images"].sum()), float(reward)))
    return rows


@pytest.mark.parametrize("how", _COPIES)
@pytest.mark.parametrize("name", _SETS)
def test_a_copy_goes_on_like_the_environment(name: str, how: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"dataset": _SETS[name](tmp_path), "num_arms": 2}
    env: Env = gymnasium.make("vitucb/ImageArms-v0", **options)
    env.reset(seed=1)
    env.step(0)
    other = _COPIES[how](env)
    assert _rows(other) == _rows(env)


@pytest.mark.parametrize("how", _COPIES)
def test_a_copy_of_a_replayed_log_goes_on_like_it(how: str, tmp_path: Path) -> None:
    folder(tmp_path)
    rows = "pets/cat/0.png,x,1,0.5\npets/dog/0.png,y,1,0.5\npets/dog/1.png,x,0,0.5\n"
    text = "context_image,action,reward,propensity\n" + rows * 2
    (tmp_path / "log.csv").write_text(text)
    env: Env = gymnasium.make("vitucb/Logged-v0", dataset=str(tmp_path / "log.csv"))
    env.reset(seed=1)
    other = _COPIES[how](env)
    assert _rows(other) == _rows(env)


@pytest.mark.parametrize("how", _COPIES)
def test_wrappers_are_copied_with_what_waits_in_them(how: str) -> None:
    inner: Env = gymnasium.make("vitucb/ImageArms-v0", dataset="digits")
    env = DelayedReward(DriftingRewards(RandomArmSubset(inner, 3), "abrupt", at=2), "uniform", 2)
    obs, _ = env.reset(seed=1)
    obs, *_ = env.step(int(obs["action_mask"].argmax()))
    other: Any = _COPIES[how](env)
    for _ in range(4):
        action = int(obs["action_mask"].argmax())
        obs, *_ = env.step(action)
        theirs, *_ = other.step(action)
        assert np.array_equal(obs["images"], theirs["images"])
        assert np.array_equal(obs["action_mask"], theirs["action_mask"])
        assert (env.arrivals, env.lost) == (other.arrivals, other.lost)
