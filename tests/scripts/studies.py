"""Runs a study as a user would, in its short version, and reads what it wrote."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def run(script: str, *arguments: str) -> None:
    """Run a script of `scripts/`."""
    (path,) = SCRIPTS.rglob(script)
    command = [sys.executable, str(path), *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=900)


def folders(path: Path) -> list[str]:
    """Options that keep everything under `path`."""
    return ["--out", str(path), "--runs", str(path / "runs")]


def table(path: Path) -> list[list[str]]:
    """Rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.reader(file))
