"""Is `vit-ucb` at least as good as every simpler agent, and what does each expert do?

Plays `vit-ucb` with its defaults beside `lin-ucb`, `kernel-ucb` and `item-ucb`, or with other
experts (`--agents "linear softmax"`) or other settings (`--agents "vit-ucb lora.rank=4"`), on the
laws of `laws.py`, all on the same seeds. A study that is stopped goes on where it was; tables and
figure hold the seeds that are finished.

    python scripts/studies/study_experts.py --data DATA digits emoji
    python scripts/studies/study_experts.py --data DATA mnist --agents vit-ucb "linear softmax"
    python scripts/studies/study_experts.py --data DATA --tuning fashion --agents vit-ucb linear
    python scripts/studies/study_experts.py --data DATA flowers --rounds 2000 --name vit-s \
        --backbone vit_small_patch14_dinov2.lvd142m --weights FILE --img-size 98
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from laws import LAWS, TUNING, Law
from study_tools import (
    Curves,
    base_config,
    finished,
    play_each,
    study_options,
    study_parser,
    timing,
    write_table,
)

from vitucb.config import RunConfig, override
from vitucb.statistics.paired_tests import student_interval

SIMPLER = ("lin-ucb", "kernel-ucb", "item-ucb")
FIRST_TUNING_SEED = 100


def agents_of(law: Law, asked: list[str] | None) -> dict[str, dict[str, Any]]:
    """Label -> the `agent` section."""
    simpler = [name for name in SIMPLER if not (law.is_shared and name == "kernel-ucb")]
    return {label: section_of(label) for label in asked or ["vit-ucb", *simpler]}


def section_of(label: str) -> dict[str, Any]:
    """The `agent` section of a label: an agent's name or its experts, then settings KEY=VALUE."""
    words = label.split()
    names = [word for word in words if "=" not in word]
    if not names:
        raise SystemExit(f"--agents {label!r}: name an agent or experts before the settings")
    is_agent = len(names) == 1 and names[0] in ("vit-ucb", *SIMPLER)
    section: dict[str, Any] = {"name": names[0]} if is_agent else {"experts": tuple(names)}
    for key, _, value in (word.partition("=") for word in words if "=" in word):
        *path, last = key.split(".")
        node = section
        for part in path:
            node = node.setdefault(part, {})
        node[last] = yaml.safe_load(value)
    return section


def rows_of(
    name: str, curves: Mapping[str, Mapping[int, Curves]], costs: Mapping[str, float]
) -> list[list[str]]:
    """One row an agent: regret on the way and at the end, and its ratio to that of `vit-ucb`.

    Ratio and difference are of the seeds that both finished.
    """
    rows, ours = [], curves.get("vit-ucb", {})
    for label, by_seed in curves.items():
        regrets = np.stack([*by_seed.values()])
        ends, horizon = regrets[:, -1], regrets.shape[1]
        ratio = interval = ""
        paired = [s for s in by_seed if s in ours and label != "vit-ucb"]
        if paired:
            mine, its = (np.array([of[s][-1] for s in paired]) for of in (ours, by_seed))
            ratio = f"{mine.mean() / its.mean():.3f}"
            if len(paired) > 1:
                low, high = student_interval(mine - its)
                interval = f"{(mine - its).mean():.1f} [{low:.1f}, {high:.1f}]"
        marks = [f"{regrets[:, t - 1].mean():.1f}" for t in (horizon // 10, horizon // 2)]
        each = " ".join(f"{end:.0f}" for end in ends)
        numbers = [f"{ends.mean():.1f}", f"{ends.max():.1f}", ratio, interval]
        rows.append([name, label, *marks, *numbers, f"{costs[label]:.1f}", each])
    return rows


HEADER = [
    *("law", "agent", "R(T/10)", "R(T/2)", "R(T)", "worst", "vit-ucb / it", "vit-ucb - it, 95 %"),
    *("ms a round", "seeds"),
]


def main() -> None:
    """Run the study."""
    parser = study_parser(__doc__, rounds=0, seeds=0)
    parser.add_argument("laws", nargs="*", help="all of them if not given")
    parser.add_argument("--agents", nargs="+", help="vit-ucb and the simpler ones if not given")
    parser.add_argument("--tuning", action="store_true", help="tuning laws, seeds from 100 on")
    parser.add_argument("--table", action="store_true", help="of what is finished; play nothing")
    parser.add_argument("--name", default="experts", help="of the table")
    parser.add_argument("--weights", help="its .safetensors file")
    parser.add_argument("--img-size", type=int, help="its input, pixels")
    options = study_options(parser)
    known = TUNING if options.tuning else LAWS
    if unknown := set(options.laws) - set(known):
        parser.error(f"no laws {sorted(unknown)}; choose of {list(known)}")
    first = FIRST_TUNING_SEED if options.tuning else 0
    network = {"weights": options.weights, "img_size": options.img_size}
    plans, marks = [], []
    for name in options.laws or known:
        law = known[name]
        env = law.environment(options.data, Path(options.runs))
        options_of_law = type(options)(**vars(options) | {"rounds": options.rounds or law.rounds})
        experiment = f"experts/{name}{'-tuning' * options.tuning}"
        base = base_config(options_of_law, experiment, env, experts=None)
        base = override(base, {"agent": network})
        plans.append((base, agents_of(law, options.agents)))
        marks.append((name, range(first, first + (options.seeds or law.seeds))))
    # One call per number of seeds: workers start once for all laws that have it.
    for count in sorted({len(seeds) for _, seeds in marks} if not options.table else ()):
        same = [plan for plan, (_, seeds) in zip(plans, marks, strict=True) if len(seeds) == count]
        play_each(same, seeds=range(first, first + count), workers=options.workers)
    table = [HEADER]
    for (base, agents), (name, seeds) in zip(plans, marks, strict=True):
        curves = finished(base, agents, seeds=seeds)
        costs = {label: cost(base, label, curves[label]) for label in curves}
        table += rows_of(name, curves, costs)
    write_table(options.out / f"{options.name}.csv", table)


def cost(base: RunConfig, label: str, seeds: Iterable[int]) -> float:
    """Median milliseconds of a round over finished seeds."""
    found = [timing(base, label, seed) for seed in seeds]
    return 1_000 * float(np.median([times["seconds_per_round"] for times in found]))


if __name__ == "__main__":
    main()
