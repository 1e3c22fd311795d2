"""What the README promises runs: its modules, its Python and the commands that use them."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import yaml

from vitucb.cli.main import COMMANDS, main
from vitucb.config import RunConfig, override

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
PYTHON = [text for language, text in BLOCKS if language == "python"]
MODULES = {text.split()[1].removesuffix(".py"): text for text in PYTHON if text.startswith("# my_")}
COMMAND = "python -m vitucb "
USES = [line for kind, text in BLOCKS if not kind for line in text.splitlines() if " my_" in line]
KINDS = {"my_policies", "my_optimizers", "my_backbones", "my_envs", "my_agents"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the modules of the README in it; forgotten afterwards."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    gymnasium.registry.pop("my/Brightness-v0", None)
    for name in MODULES:
        sys.modules.pop(name, None)


def test_every_kind_of_part_has_an_example_and_a_command() -> None:
    assert set(MODULES) == KINDS
    assert {name for line in USES for name in KINDS if f" {name}:" in line} == KINDS
    assert all(line.startswith(COMMAND) for line in USES)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_example_takes_at_most_20_lines(name: str) -> None:
    lines = MODULES[name].splitlines()
    code = [line for line in lines if line.strip() and not re.match(r'#|import|from|\s+"""', line)]
    assert len(code) <= 20


@pytest.mark.parametrize("line", USES, ids=lambda line: re.findall(r" (my_\w+):", line)[0])
def test_command_with_a_part_of_ones_own_plays(
    line: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in PYTHON:
        if text.startswith("import my_") and text.split()[1] in line:
            exec(text, {})
    words = shlex.split(line.removeprefix(COMMAND))
    main([*words, "--num-rounds", "18", "--no-tensorboard", "--checkpoint-every", "9"])
    run = Path(capsys.readouterr().out.strip())
    assert (run / "summary.json").is_file()


def test_python_example_plays(capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = [text for text in PYTHON if "vitucb.run(" in text]
    exec(text.replace("max_episode_steps=200", "max_episode_steps=3"), {})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["0", "1", "2"]


def test_example_in_a_loop_of_ones_own_plays(folder: Path) -> None:
    (text,) = [text for text in PYTHON if "vitucb.deploy(" in text]
    names: dict[str, Any] = {}
    exec(text, names)
    assert names["agent"].counts.learnt == 1


def test_config_example_is_a_config() -> None:
    (text,) = [text for language, text in BLOCKS if language == "yaml"]
    config = override(RunConfig(), yaml.safe_load(text))
    assert (config.experiment, config.agent.policy.alpha) == ("fashion", 0.3)


def test_commands_shown_exist() -> None:
    shown = {
        name
        for language, text in BLOCKS
        if not language
        for name in re.findall(r"\bvitucb ([a-z]+)", text)
    }
    assert shown <= set(COMMANDS)


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", re.sub(r"<!--.*?-->", "", README, flags=re.DOTALL))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
