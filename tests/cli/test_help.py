"""Help is short by section, lists everything on demand, and completes in a shell."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vitucb.cli.completion import SHELLS
from vitucb.cli.main import main
from vitucb.cli.run_help import short_help
from vitucb.cli.setting_docs import settings_of
from vitucb.config import RunConfig, flatten, to_dict


def test_settings_are_those_of_the_config_with_text_and_default() -> None:
    settings = {setting.key: setting for setting in settings_of(RunConfig)}
    defaults = flatten(to_dict(RunConfig()))
    options = {"env.options", "agent.options", "agent.optimizer.options"}
    assert settings.keys() == defaults.keys() | options
    assert [key for key, setting in settings.items() if not setting.doc] == []
    assert settings["agent.policy.delta"].doc == "Failure probability of radius oful."
    assert settings["agent.policy.alpha"].doc == (
        "Multiplier of the confidence width; among experts, of linear alone, and twice as much "
        "beside others: kernel and adapted have multipliers of their own."
    )
    assert settings["agent.policy.alpha"].default == 0.3
    assert settings["env.delay.law"].choices[:2] == ("none", "fixed")
    assert settings["agent.lora.targets"].choices == ("qkv", "proj", "fc1", "fc2")


def test_help_fits_a_terminal_and_says_where_the_rest_is() -> None:
    lines = short_help().splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) <= 100
    text = "\n".join(lines)
    assert "--agent.policy.alpha X        Multiplier of the confidence width (0.3)" in text
    assert "--seed N                      Seed of every source of chance (0)" in text
    assert "Torch device, e.g. cpu, cuda (cpu)" in text
    assert "vitucb run --help-all" in text


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--seed", "3", "--help"]])
def test_run_prints_the_short_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", *words])
    assert capsys.readouterr().out == f"{short_help()}\n"


@pytest.mark.parametrize(
    ("words", "own"),
    [
        (["sweep", "--seeds", "3", "--help"], "--grid KEY=A,B"),
        (["sweep", "--grid", "agent.name=random", "-h"], "--dry-run"),
        (["tune", "--trials", "3", "--help"], "--search KEY=LOW..HIGH"),
        (["list", "envs", "--help"], "usage: vitucb list"),
    ],
)
def test_help_is_that_of_the_command_wherever_it_is_asked_for(
    words: list[str], own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):
        main(words)
    said = capsys.readouterr()
    assert own in said.out
    assert said.err == ""
    if words[0] != "list":
        assert "--config FILE.yaml" in said.out


def test_help_all_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["run", "--help-all"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    names = [setting.option.rpartition(".")[2].lstrip("-") for setting in settings_of(RunConfig)]
    assert [name for name in names if name not in said] == []


def test_an_unknown_option_points_at_the_whole_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--alpha", "3"])
    said = capsys.readouterr().err
    assert "did you mean --agent.lora.alpha?" in said
    assert said.endswith("see vitucb run --help-all\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_commands_options_and_names(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["completion", shell])
    script = capsys.readouterr().out
    for word in (
        "sweep",
        "resume",
        "agent.policy.alpha",
        "lin-ucb",
        "no-tensorboard",
        "grid",
        "geometric",
    ):
        assert word in script


ASKED = """
source "$1"
COMP_WORDS=(vitucb run --agent.name li)
COMP_CWORD=3
COMP_LINE="${COMP_WORDS[*]}"
COMP_POINT=${#COMP_LINE}
$(complete -p vitucb | sed 's/.*-F \\([^ ]*\\).*/\\1/') vitucb li --agent.name
echo "${COMPREPLY[*]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_the_name_of_an_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["completion", "bash"])
    script = tmp_path / "vitucb.bash"
    script.write_text(capsys.readouterr().out)
    done = subprocess.run(
        ["bash", "-c", ASKED, "bash", str(script)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["lin-ucb", "lin-ts"]


def test_completion_says_what_it_needs_and_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["completion"])
    assert "usage: vitucb completion bash|zsh|fish" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["completion", "powershell"])
    assert "unknown shell 'powershell'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit):
        main(["completion", "bash"])
    assert "pip install 'vitucb[completion]'" in capsys.readouterr().err
