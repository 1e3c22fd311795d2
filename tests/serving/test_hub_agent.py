"""Sharing agents, without a network: to a folder, and to a hub that is a folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import ModelCard, hub_mixin

import vitucb
from vitucb.serving.deployed_agent import DeployedAgent
from vitucb.serving.hub import HubAgent

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)


def taught(name: str = "lin-ucb") -> DeployedAgent:
    agent = vitucb.deploy(name, num_arms=3)
    for reward in (0.0, 1.0):
        agent.observe(agent.act(IMAGES), reward)
    return agent


def test_an_agent_goes_to_a_folder_and_comes_back_as_it_was(tmp_path: Path) -> None:
    agent = taught()
    waiting = agent.act(IMAGES)
    HubAgent(agent).save_pretrained(tmp_path / "agent")
    again = HubAgent.from_pretrained(tmp_path / "agent", reward_range=(0.0, 1.0)).deployed
    assert again.counts == agent.counts
    assert again.reward_range == (0.0, 1.0)
    assert again.observe(waiting, 1.0).is_learnt
    agent.observe(waiting, 1.0)
    np.testing.assert_array_equal(again.act(IMAGES).mean, agent.act(IMAGES).mean)
    assert vitucb.load_agent(tmp_path / "agent").counts.decided == 3
    HubAgent(again).save_pretrained(tmp_path / "agent")  # over the one before


def test_the_card_tells_what_it_is_and_what_it_holds(tmp_path: Path) -> None:
    agent = vitucb.deploy("random", num_arms=3, shares_image=True, label="a|b")
    HubAgent(agent).save_pretrained(tmp_path / "agent", model_card_kwargs={"license": "mit"})
    card = ModelCard.load(tmp_path / "agent" / "README.md")
    assert card.data.library_name == "vitucb"
    assert card.data.license == "mit"
    assert "| agent | a&#124;b |" in card.text
    assert "| arms | 3, one image for all of them |" in card.text
    assert "| rewards learnt | 0 |" in card.text
    assert "publish it only if you may publish these" in card.text


def test_pushed_and_pulled_through_a_hub_that_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub"

    class Api:
        def __init__(self, **_: Any) -> None:
            pass

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> str:
            shutil.copytree(folder_path, hub / repo_id)
            return repo_id

    def download(repo_id: str, *, local_dir: str, **_: Any) -> str:
        shutil.copytree(hub / repo_id, local_dir, dirs_exist_ok=True)
        return local_dir

    def config_file(repo_id: str, filename: str, **_: Any) -> str:
        return str(hub / repo_id / filename)

    monkeypatch.setattr(hub_mixin, "HfApi", Api)
    monkeypatch.setattr(hub_mixin, "hf_hub_download", config_file)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    agent = taught()
    assert HubAgent(agent).push_to_hub("me/mine") == "me/mine"
    assert {"README.md", "agent.json", "config.json"} <= {
        p.name for p in (hub / "me/mine").iterdir()
    }
    again = HubAgent.from_pretrained("me/mine").deployed
    assert again.counts == agent.counts
    assert again.save(tmp_path / "copy").is_dir()


def test_a_repository_without_an_agent_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: "")
    monkeypatch.setattr(hub_mixin, "hf_hub_download", lambda **_: None)
    with pytest.raises(ValueError, match="holds neither a saved agent"):
        HubAgent.from_pretrained("me/other")
    assert list(tmp_path.iterdir()) == []
