"""`vitucb completion`: a script that completes commands, options and names in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from vitucb.cli.catalog import CATALOG
from vitucb.cli.main import COMMANDS
from vitucb.cli.setting_docs import Setting, settings_of
from vitucb.config import RunConfig
from vitucb.registry import import_extra, import_path, unknown_name

SHELLS = ("bash", "zsh", "fish")
# What names a setting takes; others are the user's own.
_NAMES = {
    "env.id": "envs",
    "agent.name": "agents",
    "agent.optimizer.name": "optimizers",
    "agent.covariance.name": "covariances",
    "agent.policy.name": "policies",
    "engine": "engines",
}
_ARGUMENTS = {
    "demo": "vitucb.cli.demo:DemoArgs",
    "sweep": "vitucb.cli.sweep:SweepArgs",
    "tune": "vitucb.cli.tune:TuneArgs",
    "report": "vitucb.cli.report:ReportArgs",
    "evaluate": "vitucb.cli.evaluate:EvaluateArgs",
    "bench": "vitucb.cli.bench.command:BenchArgs",
}
_TAKES_SETTINGS = ("run", "sweep", "tune")
# Options that are read before the dataclasses are.
_MORE = {
    "run": {
        "--config": "settings to start from",
        "--resume": "say what the run folder holds first",
        "--help-all": "list every setting",
    },
    "sweep": {"--config": "settings to start from", "--grid": "KEY=A,B", "--list": "KEY=A,B"},
    "tune": {"--config": "settings to start from", "--search": "KEY=LOW..HIGH"},
}
_FILES = ("config", "dataset", "weights", "runs", "log", "policy")
_FOLDERS = ("out", "report", "cache_folder")


def completion(words: list[str]) -> None:
    """Print a script that completes commands, options and names in bash, zsh or fish."""
    if words in ([], ["-h"], ["--help"]):
        print(_USAGE)
        return
    shell = words[0]
    if shell not in SHELLS:
        raise unknown_name("shell", shell, list(SHELLS))
    shtab = import_extra("shtab", "completion", "vitucb completion")
    print(shtab.complete(build_parser(shtab.FILE, shtab.DIRECTORY), shell))


_USAGE = """usage: vitucb completion bash|zsh|fish

Print a script that completes commands, options and names.

  bash  eval "$(vitucb completion bash)"         in ~/.bashrc
  zsh   vitucb completion zsh > FOLDER/_vitucb   FOLDER being one of $fpath
  fish  vitucb completion fish > ~/.config/fish/completions/vitucb.fish"""


def build_parser(file: Any, folder: Any) -> argparse.ArgumentParser:
    """A parser of every command and option, which only completion reads.

    Args:
        file: What completes a file, for shtab.
        folder: What completes a folder.
    """
    parser = argparse.ArgumentParser(prog="vitucb")
    parser.add_argument("--version", action="store_true", help="say which version this is")
    commands = parser.add_subparsers()
    for command, (_, summary) in COMMANDS.items():
        told = summary.replace("%", "%%")
        of_command = commands.add_parser(command, help=told, description=told)
        if command == "list":
            of_command.add_argument("kind", nargs="*", choices=list(CATALOG))
        if command == "completion":
            of_command.add_argument("shell", choices=SHELLS)
        for option, text in _MORE.get(command, {}).items():
            added = of_command.add_argument(option, help=text, nargs="*")
            if option == "--config":
                added.complete = file  # type: ignore[attr-defined]  # as shtab reads it
        for setting in _settings(command):
            _add(of_command, setting, file, folder)
    return parser


def _settings(command: str) -> Iterator[Setting]:
    if command in _ARGUMENTS:
        yield from settings_of(import_path(_ARGUMENTS[command]))
    if command in _TAKES_SETTINGS:
        yield from settings_of(RunConfig)


def _add(parser: argparse.ArgumentParser, setting: Setting, file: Any, folder: Any) -> None:
    told = setting.doc.split(". ")[0].replace("%", "%%")
    if setting.hint is bool:
        parser.add_argument(setting.option, setting.off, help=told, action="store_true")
        return
    choices = list(CATALOG[_NAMES[setting.key]]()) if setting.key in _NAMES else setting.choices
    name, count = (setting.key, "?") if setting.is_positional else (setting.option, "*")
    added = parser.add_argument(name, help=told, nargs=count, choices=choices or None)
    last = setting.key.rpartition(".")[2]
    if last in _FILES or last in _FOLDERS:
        added.complete = file if last in _FILES else folder  # type: ignore[attr-defined]
