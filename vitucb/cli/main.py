"""The `vitucb` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from vitucb.cli.bench.command import bench
from vitucb.cli.catalog import list_names
from vitucb.cli.demo import demo
from vitucb.cli.evaluate import evaluate
from vitucb.cli.output import UsageError, fail
from vitucb.cli.report import report
from vitucb.cli.run import run
from vitucb.cli.sweep import sweep
from vitucb.cli.tune import tune


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line `arguments`; errors are one line on stderr.

    Exit code 2 if what was asked for cannot be, 1 if it failed, 130 if interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    words = words or ["--help"]
    command = COMMANDS.get(words[0])
    try:
        if words[0] in ("-h", "--help"):
            print(_overview(), flush=True)
            return
        if command is None:
            from vitucb.registry import unknown_name

            raise unknown_name("command", words[0], list(COMMANDS))
        command(words[1:])
    except (UsageError, ValueError, TypeError) as error:
        fail(f"vitucb {words[0]}: {error}")
    except BrokenPipeError:
        # The reader of a pipe (`vitucb list | head`) left; silence the flush at exit too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        fail(f"vitucb {words[0]}: {_file_problem(error)}", 1)
    except KeyboardInterrupt:
        message = "interrupted; the same command goes on from the last checkpoint"
        fail(f"vitucb {words[0]}: {message}", 130)


def _file_problem(error: OSError) -> str:
    """What the system would not do, e.g. write to a full disk, and what helps."""
    where = f" ({error.filename})" if error.filename else ""
    what = f"{error.strerror or error}{where}"
    return f"{what}; mend that, and the same command goes on from what was kept"


def _overview() -> str:
    lines = [f"  {name:10s}{(f.__doc__ or '').splitlines()[0]}" for name, f in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vitucb COMMAND [OPTIONS]",
            "",
            "Online contextual bandits whose arms are images.",
            "",
            *lines,
            "",
            "vitucb COMMAND --help lists the options of a command.",
        ]
    )


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "demo": demo,
    "run": run,
    "sweep": sweep,
    "tune": tune,
    "report": report,
    "evaluate": evaluate,
    "list": list_names,
    "bench": bench,
}
