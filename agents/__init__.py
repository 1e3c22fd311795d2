"""The agents, installed as `vitucb.agents`; `AGENTS` has an entry for each by name."""

from __future__ import annotations

if __name__ == "agents":
    raise ImportError(
        "import this package as vitucb.agents; the bare name belongs to other distributions"
    )

from vitucb.agents.table import AGENTS, AgentEntry

__all__ = ["AGENTS", "AgentEntry"]
