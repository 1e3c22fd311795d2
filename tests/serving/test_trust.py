"""What a folder names is imported only where the caller trusts it."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import vitucb
from vitucb.agents.saving import MANIFEST
from vitucb.agents.vit_ucb import ViTUCB
from vitucb.config import EnvConfig, RunConfig, override
from vitucb.evaluation.logs import open_log
from vitucb.experiment.environments import make_env
from vitucb.experiment.playing import play
from vitucb.registry import import_path, reading_folder

TINY: dict[str, Any] = {"lora": {"rank": 1}, "training": {"batch_size": 2}}
# Whatever imports it leaves a mark.
SPY = "import pathlib\npathlib.Path(__file__).with_name('was-run').touch()\nx = None\n"


@pytest.fixture(autouse=True)
def spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module on the path; the file that appears when its code runs."""
    (tmp_path / "spy_module.py").write_text(SPY)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("spy_module", None)
    return tmp_path / "was-run"


def saved(folder: Path, name: str, **settings: Any) -> Path:
    agent = vitucb.deploy(name, num_arms=2, **settings)
    agent.act(np.zeros((2, 32, 32, 3), np.uint8))
    return agent.save(folder)


def rewritten(folder: Path, change: dict[str, Any]) -> Path:
    """The folder with settings of somebody else's in `config.yaml`, and a manifest that fits."""
    path = folder / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    for key, value in change.items():
        section: Any = settings["agent"]
        *parts, last = key.split(".")
        for part in parts:
            section = section[part]
        section[last] = value
    path.write_text(yaml.safe_dump(settings))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["config.yaml"] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.pop("sha256", None)
    whole = json.dumps(manifest, sort_keys=True).encode()
    manifest["sha256"] = hashlib.sha256(whole).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("agent", "key"),
    [
        ("random", "name"),
        ("lin-ucb", "backbone"),
        ("lin-ucb", "policy.name"),
        ("vit-ucb", "optimizer.name"),
        ("vit-ucb", "covariance.name"),
    ],
)
@pytest.mark.parametrize("value", ["spy_module:x", "unittest.__main__:x", "sys:exit"])
def test_a_saved_agent_names_no_module_of_its_own(
    agent: str, key: str, value: str, tmp_path: Path, spy: Path
) -> None:
    settings = TINY if agent == "vit-ucb" else {}
    folder = rewritten(saved(tmp_path / "agent", agent, **settings), {key: value})
    with pytest.raises(ValueError, match=rf"names '{value}'.*if you trust it, give trust="):
        vitucb.load_agent(folder)
    assert not spy.exists()


@pytest.mark.parametrize("experts", [["adapted"], ["linear", "adapted"]])
def test_names_inside_options_are_not_imported_either(
    experts: list[str], tmp_path: Path, spy: Path
) -> None:
    folder = saved(tmp_path / "agent", "vit-ucb", experts=experts, **TINY)
    rewritten(folder, {"optimizer": {"name": "rac-lora", "options": {"inner": "spy_module:x"}}})
    with pytest.raises(ValueError, match="names 'spy_module:x'"):
        vitucb.load_agent(folder)
    assert not spy.exists()


def test_what_is_trusted_is_imported(tmp_path: Path) -> None:
    (tmp_path / "my_agents.py").write_text(
        "from vitucb.agents.baselines.context_free import build_random as build\n"
    )
    folder = saved(tmp_path / "agent", "my_agents:build")
    with pytest.raises(ValueError, match=r"give trust=\['my_agents'\]"):
        vitucb.load_agent(folder)
    agent = vitucb.load_agent(folder, trust=["my_agents"])
    assert agent.act(np.zeros((2, 32, 32, 3), np.uint8)).action in (0, 1)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "hf-hub:somebody/model"])
def test_no_hub_is_asked_for_a_folder(name: str, tmp_path: Path) -> None:
    folder = rewritten(saved(tmp_path / "agent", "lin-ucb"), {"backbone": name})
    with pytest.raises(ValueError, match=r"ask a hub on the network; .* trust=\['hub'\]"):
        vitucb.load_agent(folder)


def test_a_run_names_no_environment_of_its_own(tmp_path: Path, spy: Path) -> None:
    env = {"dataset": "digits", "num_arms": 2}
    values = {"agent": "random", "env": env, "num_rounds": 3, "out": str(tmp_path)}
    run = play(override(RunConfig(), {**values, "tensorboard": False})).folder
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["env"]["id"] = "spy_module:vitucb/ImageArms-v0"
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError, match="names 'spy_module:vitucb/ImageArms-v0'"):
        open_log(run)
    assert not spy.exists()
    assert len(open_log(run, trust=["spy_module"]).actions) == 3
    assert spy.exists()


def test_images_of_a_folders_environment_come_from_no_network(tmp_path: Path) -> None:
    with (
        reading_folder(tmp_path),
        pytest.raises(ValueError, match=r"names 'torch/cifar10'.* hub on the network"),
    ):
        make_env(EnvConfig(dataset="torch/cifar10"))


def test_trust_is_by_whole_names_and_ends_with_the_folder(spy: Path) -> None:
    with (
        reading_folder("f", trust=["spy"]),
        pytest.raises(ValueError, match="--trust spy_module"),
    ):
        import_path("spy_module:x")
    assert not spy.exists()
    with reading_folder("f", trust=["os"]):
        assert import_path("os.path:join")
    assert import_path("spy_module:x") is None


def test_agent_saved_before_there_were_experts_loads_as_the_network_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path / "agent", "vit-ucb", experts=["adapted"], **TINY)
    agent = vitucb.load_agent(rewritten(folder, {"experts": None}))
    assert isinstance(agent.agent, ViTUCB)
