"""Where a result was made: versions, hardware, git commit, peak memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from vitucb.models.processor import facts_of_processor


def describe_environment() -> dict[str, Any]:
    """Versions, hardware and git commit of this process, for `environment.json`."""
    packages = ("vitucb", "torch", "timm", "peft", "gymnasium", "numpy")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": processor(),
        "cpu_count": os.cpu_count(),
        "packages": {name: metadata.version(name) for name in packages},
        "git_commit": _git_commit(),
    }


def processor(table: Path = Path("/proc/cpuinfo")) -> str:
    """Model of the processor and its widest vectors, which decide the last digits of products.

    Args:
        table: What Linux says of its processors; elsewhere Python is asked.
    """
    told = facts_of_processor(table)
    numbers = [f"{key} {told[key]}" for key in ("cpu family", "model") if key in told]
    vectors = [v for v in ("avx512f", "avx2") if v in told.get("flags", "").split()]
    parts = [told.get("model name"), *numbers, *vectors[:1]]
    named = ", ".join(part for part in parts if part)
    return named or platform.processor() or platform.machine()


def peak_memory_mib() -> float | None:
    """Largest resident memory of this process so far, MiB; None where it cannot be asked."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
