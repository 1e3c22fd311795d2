"""Memory and CPU time of processes, read from Linux, for benchmarks of runs and sweeps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

PROC: Final = Path("/proc")


def resident_mib(what: Literal["VmRSS", "VmHWM"] = "VmRSS") -> float:
    """Memory of this process, MiB: now, or (`VmHWM`) the most since `forget_peak`."""
    status = (PROC / "self" / "status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    """Let the peak of this process's memory be what it has now."""
    (PROC / "self" / "clear_refs").write_text("5", encoding="ascii")


def tree_cpu_seconds(root: int, proc: Path = PROC) -> float:
    """CPU time of a process, of all that it started, and of those of them that were waited for.

    Args:
        root: Number of the process.
        proc: Where Linux tells of processes.
    """
    stats = dict(_stats(proc))
    family = {root}
    while more := {number for number, (parent, _) in stats.items() if parent in family} - family:
        family |= more
    ticks = sum(stats[number][1] for number in family if number in stats)
    return ticks / os.sysconf("SC_CLK_TCK")


def _stats(proc: Path) -> Iterator[tuple[int, tuple[int, int]]]:
    """Number of every process, its parent, and its ticks with those of children waited for."""
    for file in proc.glob("[0-9]*/stat"):
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has just ended
        # The name in brackets may hold blanks and brackets of its own.
        fields = text[text.rindex(")") + 2 :].split()
        yield int(file.parent.name), (int(fields[1]), sum(map(int, fields[11:15])))
