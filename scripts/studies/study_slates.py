"""Regret of slates on the digits: three of ten images shown at once.

Two laws: every position pays its arm's reward (semi-bandit), and clicks, where the second and third
position are looked at half and a third as often as the first. A round is a position. Regret is
against the best slate. Seeds are paired. Writes runs that `vitucb report` reads and a table with
95 % intervals. A study that is stopped goes on where it was.

    python scripts/studies/study_slates.py
"""

from __future__ import annotations

from typing import Any

from study_tools import (
    Curves,
    base_config,
    interval,
    play_each,
    study_options,
    study_parser,
    write_table,
)

AGENTS: dict[str, dict[str, Any]] = {
    name: {"name": name}
    for name in ("vit-ucb", "kernel-ucb", "lin-ucb", "item-ucb", "ucb1", "random")
}
LAWS: dict[str, dict[str, Any]] = {
    "semi-bandit": {"slots": 3},
    "clicks": {"slots": 3, "examination": [1, 0.5, 1 / 3]},
}
HEADER = ["law", "agent", "regret", "95 %", "last tenth, of random", "seeds"]


def rows_of(law: str, curves: dict[str, Curves]) -> list[list[str]]:
    """A row for every agent: regret at the end, and in the last tenth as a share of random's."""
    tenth = {label: _last_tenth(regrets) for label, regrets in curves.items()}
    chance = tenth.get("random", 0.0)
    return [
        [
            *(law, label, f"{regrets[:, -1].mean():.1f}", interval(regrets[:, -1], 1)),
            f"{tenth[label] / chance:.2f}" if chance else "-",
            " ".join(f"{value:.0f}" for value in regrets[:, -1]),
        ]
        for label, regrets in curves.items()
    ]


def _last_tenth(regrets: Curves) -> float:
    start = regrets.shape[1] - max(1, regrets.shape[1] // 10) - 1
    return float((regrets[:, -1] - regrets[:, start]).mean())


def main() -> None:
    """Run the study."""
    parser = study_parser(__doc__, rounds=900, seeds=10)
    parser.add_argument("--agents", nargs="+", default=list(AGENTS), choices=list(AGENTS))
    parser.add_argument("--laws", nargs="+", default=list(LAWS), choices=list(LAWS))
    options = study_options(parser)
    agents = {name: AGENTS[name] for name in options.agents}
    plans = [
        (base_config(options, f"slates/{law}", {"slate": LAWS[law]}, experts=None), agents)
        for law in options.laws
    ]
    found = play_each(plans, seeds=range(options.seeds), workers=options.workers)
    rows = [
        row for law, curves in zip(options.laws, found, strict=True) for row in rows_of(law, curves)
    ]
    write_table(options.out / "slates.csv", [HEADER, *rows])


if __name__ == "__main__":
    main()
