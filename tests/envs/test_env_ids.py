from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import vitucb.envs
from vitucb.config import EnvConfig
from vitucb.envs import DATASETS, ENVS, WRAPPERS

ROOT = Path(__file__).resolve().parents[2]


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_every_registered_id_is_described_and_every_description_registered() -> None:
    registered = {env_id for env_id in gymnasium.registry if env_id.startswith("vitucb/")}
    assert registered == set(ENVS)


@pytest.mark.parametrize("env_id", sorted(ENVS))
def test_check_env_finds_nothing_to_warn_about(env_id: str) -> None:
    env = gymnasium.make(env_id)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


@pytest.mark.parametrize("env_id", sorted(ENVS))
def test_copies_of_an_environment_step_together(env_id: str) -> None:
    envs = gymnasium.make_vec(env_id, num_envs=2)
    obs, _ = envs.reset(seed=0)
    assert obs["images"].shape[0] == obs["action_mask"].shape[0] == 2
    assert not np.array_equal(obs["images"][0], obs["images"][1])  # each has its own stream
    _, rewards, *_ = envs.step(obs["action_mask"].argmax(axis=1))
    assert np.isfinite(rewards).all()
    envs.close()


def test_a_second_import_registers_nothing_twice() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(vitucb.envs)


def test_bare_import_from_the_root_is_refused() -> None:
    done = _run("import envs")
    assert done.returncode == 1
    assert "ImportError: import this package as vitucb.envs" in done.stderr


def test_importing_the_environments_imports_no_heavy_library() -> None:
    heavy = "{'torch', 'timm', 'PIL', 'sklearn', 'matplotlib'}"
    done = _run(f"import sys, vitucb.envs; print(sorted({heavy} & set(sys.modules)))")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("setting", sorted(WRAPPERS))
def test_settings_of_wrappers_exist(setting: str) -> None:
    section, field = setting.removeprefix("env.").split(".")
    assert hasattr(getattr(EnvConfig(), section), field)


def test_descriptions_are_single_lines() -> None:
    lines = [*ENVS.values(), *DATASETS.values(), *WRAPPERS.values()]
    assert all(line and "\n" not in line and len(line) < 100 for line in lines)
