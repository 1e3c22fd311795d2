"""What can be refused without torch is, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from vitucb.config import EnvConfig, RunConfig, override
from vitucb.experiment.environments import ignored_by_env, make_env
from vitucb.experiment.lock import locked
from vitucb.experiment.preflight import check_environments, check_places, check_writable
from vitucb.experiment.run_folder import run_folder


def config(tmp_path: Path, **agent: object) -> RunConfig:
    base = RunConfig(out=str(tmp_path / "runs"), num_rounds=5)
    return override(base, {"agent": agent})


def test_what_can_be_played_is_let_through_and_nothing_is_made(tmp_path: Path) -> None:
    check_places([config(tmp_path)])
    check_environments([config(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(ValueError, match=r"^--out: .*runs.* cannot be written \(Not a directory"):
        check_places([config(tmp_path)])


def test_a_name_that_is_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--report: .* cannot be written \(File name too long"):
        check_writable(tmp_path / ("a" * 300), "--report")


def test_a_folder_that_is_being_played_is_named(tmp_path: Path) -> None:
    settings = config(tmp_path)
    with locked(run_folder(settings)), pytest.raises(ValueError, match="is being played by proc"):
        check_places([settings])
    check_places([settings])


def test_a_lock_that_a_killed_run_left_is_no_hindrance(tmp_path: Path) -> None:
    settings = config(tmp_path)
    run_folder(settings).mkdir(parents=True)
    (run_folder(settings) / "run.lock").write_text("{}")
    check_places([settings])


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ({"weights": "nowhere.safetensors"}, "agent.weights 'nowhere.safetensors': no such"),
        ({"backbone": "local-dir:nowhere"}, "agent.backbone 'local-dir:nowhere': no config.json"),
        ({"lora": {"init": "eva"}, "experts": ["adapted"]}, "init 'eva' is taken from images, for"),
        (
            {"lora": {"init": "eva"}, "name": "neural-linear"},
            "init 'eva' is taken from images, for",
        ),
        ({"lora": {"init": "orthogonal", "rank": 3}}, "orthogonal needs an even rank, not 3"),
        ({"optimizer": {"options": {"lr": 1.0}}}, "set agent.optimizer.lr or"),
        ({"optimizer": {"options": {"beta": 1.0}}}, "'adamw' has no option 'beta'; options: ams"),
        ({"backbone": "vit_smal_patch16_224"}, "unknown backbone 'vit_smal_patch16_224'; nearest"),
        ({"lora": {"blocks": [4]}}, r"agent.lora.blocks \[4\]: the backbone has blocks 0 to 3"),
    ],
)
def test_files_of_the_agent_are_looked_for(
    agent: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        check_places([config(tmp_path, **agent)])


def test_what_the_agent_ignores_is_not(tmp_path: Path) -> None:
    check_places([config(tmp_path, name="random", weights="nowhere.safetensors")])
    check_places([config(tmp_path, name="random", backbone="nosuch", lora={"blocks": [9]})])
    check_places([config(tmp_path, name="random", optimizer={"options": {"beta": 1.0}})])
    check_places([config(tmp_path, name="my_agents:build", lora={"blocks": [9]})])


def test_a_device_that_torch_cannot_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device 'cudaa' is no name of a device"):
        check_places([dataclasses.replace(config(tmp_path), device="cudaa")])


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"dataset": "digits", "data": {"classes": ["3", "x"]}}, "unknown class 'x'"),
        ({"dataset": "digits#nosuch"}, "digits#nosuch"),
        ({"options": {"colour": 3}}, "colour"),
        ({"reward": "foo"}, "unknown reward 'foo'"),
    ],
)
def test_environments_are_tried(env: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        check_environments([override(config(tmp_path), {"env": env})])


def test_a_unknown_column_of_a_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_text("path,label\na.png,one\n")
    env = {"id": "vitucb/RatedItems-v0", "dataset": f"{tmp_path / 'set.csv'}#beauty"}
    with pytest.raises(ValueError, match="beauty"):
        check_environments([override(config(tmp_path), {"env": env})])


def test_sets_of_a_hub_are_left_to_the_run(tmp_path: Path) -> None:
    settings = override(config(tmp_path), {"env": {"dataset": "torch/no-such-set"}})
    check_environments([settings, dataclasses.replace(settings, seed=1)])


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"noise_std": 5.0}, ["env.noise_std 5.0 is of no use"]),
        ({"noise_std": 5.0, "id": "vitucb/ImageContext-v0"}, ["env.noise_std 5.0 is of no use"]),
        ({"noise_std": 5.0, "reward": "gaussian"}, []),
        ({"noise_std": 5.0, "id": "vitucb/RatedItems-v0"}, []),
        ({"noise_std": 5.0, "id": "my_envs:my/Own-v0"}, []),
        ({"delay": {"law": "fixed", "tail": 3.0}}, ["env.delay.tail 3.0 is of no use with"]),
        ({"delay": {"law": "heavy-tailed", "tail": 3.0}}, []),
    ],
)
def test_settings_of_an_environment_without_effect_are_told(
    env: dict[str, object], said: list[str]
) -> None:
    found = ignored_by_env(override(EnvConfig(), env))
    assert [line[: len(start)] for line, start in zip(found, said, strict=True)] == said


@pytest.mark.parametrize(
    ("name", "setting"), [("num_arms", "env.num_arms"), ("max_episode_steps", "num_rounds")]
)
def test_options_that_are_settings_by_themselves_are_refused(name: str, setting: str) -> None:
    with pytest.raises(ValueError, match=f"env.options {name}: .* give {setting}"):
        make_env(EnvConfig(options={name: 3}), 5)
