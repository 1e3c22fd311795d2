"""A state dict survives the disk exactly, and damage is reported, never executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import vitucb
from vitucb.storage.state_files import load_state, save_state


def test_nested_state_comes_back_exactly(tmp_path: Path) -> None:
    shared = torch.arange(6.0).view(2, 3)
    state: dict[str, Any] = {
        "tensor": shared,
        "alias": shared.T,
        "half": torch.ones(2, dtype=torch.bfloat16),
        "array": np.arange(4, dtype=np.uint8),
        "empty": torch.zeros(0, 3),
        "rng": np.random.default_rng(3).bit_generator.state,
        "optimizer": {0: {"step": torch.tensor(3.0)}, 1: {}},
        "list": [1, 2.5, None, "x", True, float("inf")],
        "numpy_scalar": np.float64(0.1),
    }
    save_state(state, tmp_path)
    loaded = load_state(tmp_path)
    torch.testing.assert_close(loaded["tensor"], shared, rtol=0, atol=0)
    torch.testing.assert_close(loaded["alias"], shared.T, rtol=0, atol=0)
    assert loaded["half"].dtype == torch.bfloat16
    assert loaded["array"].dtype == np.uint8
    np.testing.assert_array_equal(loaded["array"], state["array"])
    assert loaded["empty"].shape == (0, 3)
    assert loaded["rng"] == state["rng"]
    assert list(loaded["optimizer"]) == [0, 1]
    assert loaded["list"] == state["list"]
    assert loaded["numpy_scalar"] == 0.1


def test_arrays_and_tensors_may_lie_in_memory_as_they_like(tmp_path: Path) -> None:
    frozen = np.arange(6)
    frozen.flags.writeable = False
    picture = torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last)
    state = {"back": np.arange(6)[::-1], "frozen": frozen}
    save_state(state | {"last": picture, "steps": picture[..., ::2]}, tmp_path)
    loaded = load_state(tmp_path)
    for name, value in state.items():
        np.testing.assert_array_equal(loaded[name], value)
        assert loaded[name].shape == value.shape
    assert torch.equal(loaded["last"], picture)
    assert torch.equal(loaded["steps"], picture[..., ::2])


def test_agent_restored_from_disk_continues_identically(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "training": {"batch_size": 4},
        "lora": {"rank": 2},
        "optimizer": "adamw",
    }
    env = gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=5)
    agent = vitucb.make_agent("vit-ucb", env, seed=0, **options)
    rounds = list(vitucb.run(env, agent, seed=0))
    save_state(agent.state_dict(), tmp_path)
    restored = vitucb.make_agent("vit-ucb", env, seed=7, **options)
    restored.load_state_dict(load_state(tmp_path))
    for r in rounds[:3]:
        one, two = (a.select_action(r.observation) for a in (agent, restored))
        np.testing.assert_array_equal(one.mean, two.mean)
        np.testing.assert_array_equal(one.width, two.width)
        agent.update(r.observation, one, r.reward)
        restored.update(r.observation, two, r.reward)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("keep_devices", [True, False])
def test_tensors_return_to_their_device_where_asked(tmp_path: Path, keep_devices: bool) -> None:
    save_state({"a": torch.ones(3, device="cuda"), "b": torch.ones(3)}, tmp_path)
    loaded = load_state(tmp_path, keep_devices=keep_devices)
    assert loaded["a"].is_cuda is keep_devices
    assert not loaded["b"].is_cuda


def test_device_is_noted_without_a_gpu_too(tmp_path: Path) -> None:
    save_state({"a": torch.ones(3)}, tmp_path)
    tree = (tmp_path / "state.json").read_text()
    (tmp_path / "state.json").write_text(tree.replace('"0"}', '"0", "device": "meta"}'))
    assert load_state(tmp_path, keep_devices=True)["a"].device.type == "meta"
    assert load_state(tmp_path)["a"].device.type == "cpu"


def test_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="only data can be saved"):
        save_state({"f": print}, tmp_path)


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_damage_is_reported(tmp_path: Path, name: str) -> None:
    save_state({"a": torch.ones(3)}, tmp_path)
    (tmp_path / name).write_bytes(b"{broken")
    with pytest.raises(ValueError, match="checkpoint"):
        load_state(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        load_state(tmp_path)


def test_folder_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "state.safetensors").mkdir()
    with pytest.raises(OSError, match=r"state\.safetensors"):
        save_state({"a": torch.ones(2)}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
