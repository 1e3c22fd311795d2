"""The `vitucb` command."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata

from vitucb.cli.output import UsageError, fail
from vitucb.inert_text import InertFormatter
from vitucb.registry import import_path, unknown_name

# Name -> import path, loaded when it is called, and a line for `vitucb --help`.
COMMANDS = {
    "demo": (
        "vitucb.cli.demo:demo",
        "Play vit-ucb and simpler agents on two laws of handwritten digits, then write a report.",
    ),
    "run": ("vitucb.cli.run:run", "Play one agent in one environment and record it."),
    "sweep": (
        "vitucb.cli.sweep:sweep",
        "Play a grid of settings times seeds, many runs at a time.",
    ),
    "tune": (
        "vitucb.cli.tune:tune",
        "Search settings by their regret, on seeds and images that evaluations never see.",
    ),
    "report": (
        "vitucb.cli.report:report",
        "Write the regret report of an experiment as one HTML file.",
    ),
    "evaluate": (
        "vitucb.cli.evaluate:evaluate",
        "Estimate from a log what a saved agent would have earned on it.",
    ),
    "list": (
        "vitucb.cli.catalog:list_names",
        "List envs, wrappers, agents, experts, optimizers, covariances, policies and so on.",
    ),
    "bench": (
        "vitucb.cli.bench.command:bench",
        "Measure scoring, covariance, optimizers and whole rounds side by side, on one device.",
    ),
    "completion": (
        "vitucb.cli.completion:completion",
        "Print a script that completes commands, options and names in bash, zsh or fish.",
    ),
}

# What goes on where it was when it is given again; the others begin again.
_RESUMED = ("demo", "run", "sweep", "tune")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line `arguments`; errors are one line on stderr.

    Exit code 2 if what was asked for cannot be, 1 if it failed, 130 if interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    words = words or ["--help"]
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(InertFormatter())
    try:
        if words[0] in ("-h", "--help"):
            print(_overview(), flush=True)
            return
        if words[0] in ("-V", "--version"):
            print(f"vitucb {metadata.version('vitucb')}", flush=True)
            return
        if words[0] not in COMMANDS:
            raise unknown_name("command", words[0], COMMANDS)
        import_path(COMMANDS[words[0]][0])(words[1:])
    except UsageError as error:
        fail(f"vitucb {words[0]}: {error}")
    except (ValueError, TypeError) as error:
        fail(f"vitucb {words[0]}: {error}{_foreign_place(error)}")
    except BrokenPipeError:
        # The reader of a pipe (`vitucb list | head`) left; silence the flush at exit too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        fail(f"vitucb {words[0]}: {_file_problem(error, words[0])}", 1)
    except KeyboardInterrupt:
        fail(f"vitucb {words[0]}: interrupted; {_way_on(words)}", 130)


def _foreign_place(error: Exception) -> str:
    """Where an error was raised, if not by vitucb: our messages need no place, a plug-in's do."""
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    module = str(frame.f_globals.get("__name__"))
    is_ours = module.partition(".")[0] == "vitucb"
    return "" if is_ours else f" (raised in line {line} of {module})"


def _way_on(words: Sequence[str]) -> str:
    """What the same command does when it is given again after Ctrl-C."""
    if words[0] not in _RESUMED:
        return "the same command begins again"
    without = ", without overwrite," * _plays_again(words)
    return f"the same command{without} goes on from the last checkpoint"


def _plays_again(words: Sequence[str]) -> bool:
    """Whether a command, or the file of its settings, says overwrite."""
    from vitucb.cli.arguments import pop_option
    from vitucb.config import load_config

    try:
        _, file = pop_option(list(words), "--config")
        return "--overwrite" in words or (file is not None and load_config(file).overwrite)
    except (UsageError, ValueError):  # interrupted before the file was found to be wrong
        return False


def _file_problem(error: OSError, command: str) -> str:
    """What the system would not do, e.g. write to a full disk, and what helps."""
    where = f" ({error.filename})" if error.filename else ""
    what = f"{error.strerror or error}{where}"
    way = "goes on from what was kept" if command in _RESUMED else "begins again"
    return f"{what}; mend that, and the same command {way}"


def _overview() -> str:
    lines = [f"  {name:12s}{summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vitucb COMMAND [OPTIONS]",
            "",
            "Online contextual bandits whose arms are images.",
            "",
            *lines,
            "",
            "vitucb COMMAND --help lists the options of a command, vitucb --version the version.",
        ]
    )
