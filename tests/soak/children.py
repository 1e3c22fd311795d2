"""Runs in processes of their own, forked so that the libraries are loaded already."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitucb.cli.main import main
from vitucb.config import RunConfig, override

SAME_BYTES = ("rounds.csv", "metrics.csv", "summary.json", "gallery.npz")


def config(folder: Path, **changes: Any) -> RunConfig:
    """A short run under `folder` with many checkpoints."""
    base = {
        "out": str(folder),
        "agent": {"name": "gaussian-ts"},
        "env": {"num_arms": 3},
        "num_rounds": 60,
        "checkpoint_every": 5,
        "record_every": 1,
    }
    return override(RunConfig(), base | changes)


def contents(folder: Path) -> dict[str, bytes]:
    """The files whose bytes must not depend on what happened on the way."""
    return {name: (folder / name).read_bytes() for name in SAME_BYTES}


def command(words: Sequence[str], errors: Path) -> int:
    """Start `vitucb` with `words` in a child that writes its stderr to `errors`; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    # A shell that started the suite in the background ignores Ctrl-C, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with errors.open("w", encoding="utf-8") as sys.stderr, open(os.devnull, "w") as sys.stdout:
            main(words)
            code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """Exit code of a child, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_for_rounds(child: int, table: Path, count: int) -> None:
    """Wait until `table` holds `count` rounds or the child has stopped writing for a while."""
    patience = time.monotonic() + 60.0
    while time.monotonic() < patience:
        if table.is_file() and table.read_bytes().count(b"\n") > count:
            return
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.001)
