"""Saved agents: whole, without code, refused by name when something is wrong with them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import vitucb
from vitucb import assets
from vitucb.agents.expert_agent import ExpertAgent
from vitucb.agents.vit_ucb import ViTUCB
from vitucb.config import RunConfig, override
from vitucb.evaluation.target_policy import load_policy
from vitucb.experiment.playing import play
from vitucb.models.backbone import create_backbone
from vitucb.serving import load
from vitucb.serving import run_agent as saved_run
from vitucb.serving.deployed_agent import DeployedAgent
from vitucb.serving.load import load_agent
from vitucb.types import Round

SMALL: dict[str, Any] = {"lora": {"rank": 1}, "training": {"batch_size": 4}}
WEIGHTS = Path(assets.__file__).parent / "vit_nano_patch8_32.safetensors"


def pictures(seed: int, arms: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (arms, 8, 8, 3), np.uint8)


GO_ON = """
import json, sys
import numpy as np, torch, vitucb
torch.set_num_threads(1)
agent = vitucb.load_agent(sys.argv[1])
print(json.dumps([agent.observe(i, 0.5).outcome for i in json.loads(sys.argv[2])]))
for seed in range(100, 106):
    images = np.random.default_rng(seed).integers(0, 256, (3, 8, 8, 3), np.uint8)
    d = agent.act(images)
    receipt = agent.observe(d.id, float(d.action))
    numbers = [d.mean, d.width, d.bonus, list(receipt.metrics.values())]
    print(d.action, d.propensity.hex(), [float(x).hex() for n in numbers for x in n])
"""


def test_it_goes_on_bit_for_bit_in_a_fresh_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = vitucb.deploy("vit-ucb", num_arms=3, policy={"name": "thompson"}, **SMALL)
    ids = [agent.act(pictures(seed)).id for seed in range(8)]
    for name in ids[5:1:-1]:
        agent.observe(name, 1.0)
    agent.save(tmp_path / "agent")
    arguments = [str(tmp_path / "agent"), json.dumps(ids)]
    elsewhere = subprocess.run(
        [sys.executable, "-c", GO_ON, *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert elsewhere.returncode == 0, elsewhere.stderr
    monkeypatch.setattr(sys, "argv", ["", *arguments])
    monkeypatch.setattr(load, "load_agent", lambda folder: agent)
    exec(GO_ON, {})
    assert capsys.readouterr().out == elsewhere.stdout
    assert elsewhere.stdout.startswith(
        json.dumps(["learnt"] * 2 + ["answered"] * 4 + ["learnt"] * 2)
    )


def test_agent_of_an_experiment_is_saved_and_its_adapter_is_pefts(tmp_path: Path) -> None:
    from peft import PeftModel

    env = gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=6)
    agent = vitucb.make_agent("vit-ucb", env, seed=3, experts=["adapted"], **SMALL)
    for last in vitucb.run(env, agent, seed=0):
        obs = last.observation
    assert isinstance(agent, ViTUCB)
    assert agent.save(tmp_path / "agent") == tmp_path / "agent"
    loaded = load_agent(tmp_path / "agent")
    assert (loaded.blueprint.num_arms, loaded.blueprint.image_shape) == (3, (8, 8, 3))
    ours, theirs = loaded.act(obs["images"]), agent.select_action(obs)
    assert ours.action == theirs.action
    np.testing.assert_array_equal(ours.mean, theirs.mean)
    np.testing.assert_array_equal(ours.width, theirs.width)
    adapted = PeftModel.from_pretrained(create_backbone(), str(tmp_path / "agent" / "adapter"))
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(adapted.eval()(x), agent.trainer.model.backbone.eval()(x))
        assert not torch.equal(adapted(x), create_backbone()(x))


@pytest.mark.parametrize(
    ("name", "options", "is_saved"),
    [
        ("rac-lora", {}, False),
        ("lora-pro", {"decay": "full", "weight_decay": 0.1}, False),
        ("lora-pro", {"decay": "adapter", "weight_decay": 0.1}, True),
    ],
)
def test_adapters_are_saved_for_peft_only_where_they_make_up_the_model(
    name: str,
    options: dict[str, Any],
    is_saved: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    env = gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=6)
    optimizer = {"name": name, "options": options}
    agent = vitucb.make_agent("vit-ucb", env, experts=["adapted"], optimizer=optimizer, **SMALL)
    assert isinstance(agent, ViTUCB)
    agent.save(tmp_path / "agent")
    assert (tmp_path / "agent" / "adapter").exists() == is_saved
    said = "no adapter/ for PEFT: the optimizer changes the base weights"
    assert (said in caplog.text) == (not is_saved)


def test_weights_from_a_file_travel_with_the_agent(tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(WEIGHTS.read_bytes())
    agent = vitucb.deploy("greedy", num_arms=2, weights=str(weights))
    agent.save(tmp_path / "agent")
    weights.unlink()
    (tmp_path / "agent").rename(tmp_path / "moved")
    moved = load_agent(tmp_path / "moved")
    np.testing.assert_array_equal(moved.act(pictures(0)).width, agent.act(pictures(0)).width)
    moved.save(tmp_path / "moved")  # over the folder its own weights are read from
    assert load_agent(tmp_path / "moved").counts.decided == 1


def run_config(out: Path, agent: str, **settings: Any) -> RunConfig:
    values = {"out": str(out), "agent": {"name": agent}, "num_rounds": 6, "tensorboard": False}
    return override(RunConfig(), values | {"env": {"num_arms": 3}} | settings)


def no_env(*_: object) -> None:
    raise AssertionError("no environment is needed")


def test_finished_run_loads_without_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Round] = []
    folder = play(run_config(tmp_path, "lin-ucb"), shown.append).folder
    expected = load_policy(folder)(shown[-1].observation)
    monkeypatch.setattr(saved_run, "make_env", no_env)
    agent = load_agent(folder)
    decision = agent.act(shown[-1].observation["images"])
    assert expected[decision.action] == decision.propensity
    assert decision.round == 6
    assert agent.blueprint.num_arms == 3
    agent.save(tmp_path / "taken")
    assert load_agent(tmp_path / "taken").act(pictures(0)).round == 7


def test_unfinished_run_loads_from_its_newest_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(
        tmp_path, "lin-ucb", checkpoint_every=2, env={"id": "vitucb/ImageContext-v0"}
    )

    def interrupt(round: Round) -> None:
        if round.index == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(config, interrupt)
    monkeypatch.setattr(saved_run, "make_env", no_env)
    (folder,) = (tmp_path / "default").iterdir()
    agent = load_agent(folder)
    assert agent.blueprint.shares_image
    assert agent.act(pictures(0)[0]).round == 4
    (folder / "checkpoint" / "round-000000004" / "state.json").write_text("{")
    assert load_agent(folder).act(pictures(0)[0]).round == 2
    assert (folder / "checkpoint" / "round-000000004").is_dir()  # a look deletes nothing
    (folder / "checkpoint" / "round-000000002" / "state.json").unlink()
    with pytest.raises(ValueError, match=r"no whole checkpoint: state\.json is missing"):
        load_agent(folder)


def test_run_without_pictures_asks_its_environment(tmp_path: Path) -> None:
    folder = play(run_config(tmp_path, "ucb1")).folder
    (folder / "gallery.npz").write_bytes(b"PK damaged")
    assert load_agent(folder).blueprint.num_arms == 3


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    agent = vitucb.deploy("ucb1", num_arms=3)
    agent.act(pictures(0))
    return agent.save(tmp_path_factory.mktemp("saved") / "agent")


def test_wrong_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither a saved agent .* name the folder given to save"):
        load_agent(tmp_path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_is_a_clear_error(saved: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(p for p in saved.iterdir() if p.is_file())))
    whole = path.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    change = data.draw(st.sampled_from(["flip", "cut", "append"]))
    broken = bytearray(whole)
    if change == "flip":
        broken[position] ^= data.draw(st.integers(1, 255))
    damaged = bytes(broken) if change == "flip" else whole[:position]
    try:
        path.write_bytes(damaged if change != "append" else whole + b"x")
        if path.name == "agent.json" and parsed(damaged) == parsed(whole) and change == "flip":
            return  # white space for white space
        with pytest.raises(ValueError, match=path.name):
            load_agent(saved)
    finally:
        path.write_bytes(whole)


def parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def test_other_format_names_the_version_that_wrote_it(saved: Path, tmp_path: Path) -> None:
    manifest = json.loads((saved / "agent.json").read_text())
    manifest |= {"format": 7, "packages": {"vitucb": "9.1"}}
    (tmp_path / "agent.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"format 7, this version reads 1; install vitucb 9\.1"):
        load_agent(tmp_path)


def test_other_versions_of_the_packages_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    agent = vitucb.deploy("random", num_arms=2)
    with monkeypatch.context() as patch:
        patch.setattr("vitucb.agents.saving.metadata.version", lambda name: "0.0.1")
        agent.save(tmp_path / "agent")
    load_agent(tmp_path / "agent")
    assert "saved with other versions (vitucb 0.0.1 -> " in caplog.text


def test_a_folder_with_anything_else_is_never_replaced(tmp_path: Path) -> None:
    agent = vitucb.deploy("random", num_arms=2)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds other files, among them 'thesis.tex'.*name a new"):
        agent.save(tmp_path)
    with pytest.raises(ValueError, match="is a file; name a folder"):
        agent.save(tmp_path / "thesis.tex")
    (tmp_path / "empty").mkdir()
    agent.save(tmp_path / "empty")
    agent.save(tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "thesis.tex"]


@pytest.mark.parametrize("name", ["decisions.jsonl", ".git/HEAD", "adapter/notes.txt"])
def test_what_somebody_put_beside_a_saved_agent_is_not_deleted(tmp_path: Path, name: str) -> None:
    folder = vitucb.deploy("random", num_arms=2).save(tmp_path / "agent")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}\n")
    with pytest.raises(ValueError, match=f"holds other files, among them '{name}'"):
        vitucb.deploy("random", num_arms=2).save(folder)
    assert (folder / name).read_text() == "{}\n"
    load_agent(folder)


def test_the_card_beside_a_saved_agent_is_kept(tmp_path: Path) -> None:
    folder = vitucb.deploy("random", num_arms=2).save(tmp_path / "agent")
    (folder / "README.md").write_text("mine")
    vitucb.deploy("random", num_arms=3).save(folder)
    assert (folder / "README.md").read_text() == "mine"
    assert load_agent(folder).blueprint.num_arms == 3


@pytest.mark.parametrize(
    ("name", "env", "needs"),
    [
        ("kernel-ucb", "Creatives", "needs the ids of items and creatives"),
        ("oracle", "ImageArms", "oracle needs an environment that tells its mean rewards"),
        ("best-fixed-arm", "ImageArms", "needs an environment that tells its mean rewards"),
    ],
)
def test_an_agent_that_could_not_be_loaded_is_not_saved(
    tmp_path: Path, name: str, env: str, needs: str
) -> None:
    agent: Any = vitucb.make_agent(name, gym.make(f"vitucb/{env}-v0", num_arms=3))
    with pytest.raises(ValueError, match=f"{needs}.* cannot be taken elsewhere"):
        agent.save(tmp_path / "agent")
    assert not (tmp_path / "agent").exists()


def test_agent_put_together_by_hand_says_so(tmp_path: Path) -> None:
    agent = vitucb.deploy("vit-ucb", num_arms=2, **SMALL).agent
    assert isinstance(agent, ExpertAgent)
    agent.blueprint = None
    with pytest.raises(ValueError, match="build it with make_agent"):
        agent.save(tmp_path / "agent")


def test_state_of_other_settings_is_refused(saved: Path, tmp_path: Path) -> None:
    agent = vitucb.deploy("lin-ucb", num_arms=3)
    wrong = dataclasses.replace(
        agent.blueprint, config=vitucb.deploy("ucb1", num_arms=3).blueprint.config
    )
    DeployedAgent(agent.agent, wrong).save(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"the state does not fit config\.yaml: KeyError"):
        load_agent(tmp_path / "agent")


@pytest.mark.parametrize("name", ["lin-ucb", "ucb1", "gaussian-ts"])
def test_agents_of_make_agent_can_be_saved(name: str, tmp_path: Path) -> None:
    env = gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=6)
    agent: Any = vitucb.make_agent(name, env, seed=0)
    rounds = list(vitucb.run(env, agent, seed=0))
    loaded = vitucb.load_agent(agent.save(tmp_path / "agent"))
    obs = rounds[0].observation
    decision = loaded.act(obs["images"], obs["action_mask"])
    expected = agent.select_action(obs)
    assert decision.action == expected.action
    np.testing.assert_array_equal(decision.mean, expected.mean)


def test_a_policy_is_asked_only_about_what_its_agent_was_made_for(tmp_path: Path) -> None:
    vitucb.deploy("lin-ucb", num_arms=4, shares_image=True).save(tmp_path / "context")
    vitucb.deploy("lin-ucb", num_arms=3).save(tmp_path / "arms")
    shared = {"images": pictures(0)[:1], "action_mask": np.ones(4, np.int8)}
    each = {"images": pictures(0), "action_mask": np.ones(len(pictures(0)), np.int8)}
    assert load_policy(tmp_path / "context")(shared).shape == (4,)
    assert load_policy(tmp_path / "arms")(each).shape == (len(pictures(0)),)
    for name, obs, words in (
        ("context", each, "made for one image for all arms, not for an image per arm"),
        ("arms", shared, "made for an image per arm, not for one image for all arms"),
        ("context", shared | {"action_mask": np.ones(5, np.int8)}, "for 4 arms, not for 5"),
    ):
        with pytest.raises(ValueError, match=words):
            load_policy(tmp_path / name)(obs)


def signed(folder: Path, **changes: Any) -> None:
    """The manifest with changes, right in itself."""
    manifest = json.loads((folder / "agent.json").read_text()) | changes
    manifest.pop("sha256", None)
    text = json.dumps(manifest, sort_keys=True)
    manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "agent.json").write_text(json.dumps(manifest))


def sums(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "agent.json"]
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_arms": 10**12}, r"num_arms 1,000,000,000,000 is above the limit of 10,000"),
        ({"num_arms": 10**400}, r"num_arms \(a huge number\) is above the limit"),
        ({"num_arms": "x"}, "invalid literal"),
        ({"num_arms": None}, "int"),
        ({"image_shape": [60_000, 20_000, 3]}, "size of its images in MiB, .* is above the limit"),
        ({"image_shape": [-1, 8, 3]}, r"is not \(height, width, channels\)"),
        ({"image_shape": [8]}, r"is not \(height, width, channels\)"),
        ({"image_shape": 8}, "agent.json"),
        ({"files": {}}, r"does not list config.yaml, state.json, state.safetensors"),
        ({"files": []}, "does not list"),
        ({"packages": 3}, "agent.json is damaged"),
    ],
)
def test_a_forged_manifest_is_refused(
    changes: dict[str, Any], message: str, saved: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "agent"
    shutil.copytree(saved, folder)
    signed(folder, **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_agent(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["/dev/zero", "../precious", "link"])
def test_files_of_a_manifest_lie_in_its_folder(name: str, saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "agent"
    shutil.copytree(saved, folder)
    (tmp_path / "precious").write_text("a thesis")
    (folder / "link").symlink_to(tmp_path / "precious")
    digest = hashlib.sha256(b"a thesis").hexdigest()
    signed(folder, files=sums(folder) | {name: digest})
    with pytest.raises(ValueError, match=r"agent\.json: .*(no name of a file|link out of)"):
        load_agent(folder)


def test_weights_that_the_manifest_does_not_list_are_not_read(tmp_path: Path) -> None:
    folder = vitucb.deploy("greedy", num_arms=2).save(tmp_path / "agent")
    (tmp_path / "other.safetensors").write_bytes(WEIGHTS.read_bytes())
    config, text = folder / "config.yaml", (folder / "config.yaml").read_text()
    for name in ("../other.safetensors", str(tmp_path / "other.safetensors")):
        config.write_text(text.replace("weights: null", f"weights: {name}"))
        signed(folder, files=sums(folder))
        with pytest.raises(ValueError, match=r"weights .* is no file of weights that agent\.json"):
            load_agent(folder)


def test_a_saved_agent_leaves_no_file_aside(tmp_path: Path) -> None:
    agent = vitucb.deploy("random", num_arms=2)
    (tmp_path / ".agent.tmp").symlink_to(tmp_path / "elsewhere")
    agent.save(tmp_path / "agent")
    agent.save(tmp_path / "agent")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".agent.tmp", "agent"]
