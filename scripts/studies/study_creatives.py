"""Clicks on creatives: regret in per cent of random choices, with ids and without.

Plays `vitucb/Creatives-v0` on the packaged digits under three laws: clicks of single impressions;
shares of a thousand impressions; and these with a library of 30 pictures that 50 items share.
`vit-ucb` and `kernel-ucb` are played with ids and without; the other agents make no use of them. A
study that is stopped goes on where it was; the table holds the seeds that are finished.

    python scripts/studies/study_creatives.py --workers 1
    python scripts/studies/study_creatives.py --table
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from study_tools import (
    base_config,
    finished,
    interval,
    play_each,
    study_options,
    study_parser,
    write_table,
)

from vitucb.config import RunConfig

# Twenty rounds for each of the items, and ten days.
_SIZES = {"num_items": 50, "rounds_per_day": 100}
LAWS: dict[str, dict[str, Any]] = {
    "single impressions": _SIZES,
    "a thousand impressions": {**_SIZES, "impressions": 1_000},
    "a thousand, 30 pictures": {**_SIZES, "impressions": 1_000, "num_pictures": 30},
}
WITH_IDS = ("vit-ucb", "kernel-ucb")
OTHERS = ("lin-ucb", "item-ucb", "ucb1", "random")
HEADER = [
    *("law", "agent", "ids", "regret", "% of random", "95 %", "ids change, points", "95 %", "each"),
]
Plan = tuple[RunConfig, Mapping[str, Mapping[str, Any]]]
Ends = dict[int, float]
"""Seed -> regret."""


def main() -> None:
    """Run the study."""
    parser = study_parser(__doc__, rounds=1_000, seeds=10)
    parser.add_argument("--table", action="store_true", help="of what is finished; play nothing")
    options = study_options(parser)
    seeds = range(options.seeds)
    plans: dict[tuple[str, bool], Plan] = {}
    for place, (law, settings) in enumerate(LAWS.items()):
        for has_ids in (True, False):
            env = {"id": "vitucb/Creatives-v0", "options": {**settings, "context_ids": has_ids}}
            name = f"creatives/{place}{'' if has_ids else '-without-ids'}"
            names = WITH_IDS if has_ids else (*WITH_IDS, *OTHERS)
            base = base_config(options, name, env, experts=None)
            plans[law, has_ids] = (base, {agent: {"name": agent} for agent in names})
    if not options.table:
        play_each(list(plans.values()), seeds=seeds, workers=options.workers)
    table = [HEADER]
    for law in LAWS:
        told, blind = (ends_of(plans[law, ids], seeds) for ids in (True, False))
        table += rows_of(law, told, blind)
    write_table(options.out / "creatives.csv", table)


def ends_of(plan: Plan, seeds: range) -> dict[str, Ends]:
    """Regret at the end by agent and seed, of what is finished."""
    base, agents = plan
    found = finished(base, agents, seeds=seeds)
    return {
        agent: {seed: float(curve[-1]) for seed, curve in found.get(agent, {}).items()}
        for agent in agents
    }


def rows_of(law: str, told: Mapping[str, Ends], blind: Mapping[str, Ends]) -> list[list[str]]:
    """One row an agent; those that take ids have one with and one without."""
    random, rows = blind["random"], []
    for agent, without in blind.items():
        rows.append(row_of(law, agent, "without" if agent in told else "", without, random))
        if agent in told:
            rows.append(row_of(law, agent, "with", told[agent], random, without))
    return [row for row in rows if row[3]]


def row_of(
    law: str, agent: str, ids: str, ends: Ends, random: Ends, without: Ends | None = None
) -> list[str]:
    """Regrets of one agent, and what ids changed, on seeds that both finished; empty of none."""
    shares = {seed: 100 * ends[seed] / random[seed] for seed in ends if seed in random}
    if not shares:
        return [law, agent, ids, *([""] * 6)]
    kept = np.array([*shares.values()])
    numbers = [f"{np.mean([*ends.values()]):.1f}", f"{kept.mean():.1f}", interval(kept, 1)]
    changed = ["", ""]
    paired = [seed for seed in shares if without is not None and seed in without]
    if without is not None and paired:
        change = np.array([shares[s] - 100 * without[s] / random[s] for s in paired])
        changed = [f"{change.mean():+.1f}", interval(change, 1)]
    return [law, agent, ids, *numbers, *changed, " ".join(f"{share:.0f}" for share in kept)]


if __name__ == "__main__":
    main()
