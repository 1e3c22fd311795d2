"""The `vitucb` command: one module a command."""

from __future__ import annotations

from vitucb.cli.main import main

__all__ = ["main"]
