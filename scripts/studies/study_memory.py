"""Memory or generalisation? What agents lose on images that were never rewarded.

Plays the recorded actions of finished runs of `study_experts.py` again, in the same environment and
without the agent, and sorts the rounds of the second half: those in which no image on offer had
been rewarded before, where an agent that remembers images knows nothing, and those in which some or
all had been. Regret of each kind is given per round and as a share of what a uniformly random
choice loses in the same rounds: 1 is chance, 0 the best arm.

    python scripts/studies/study_memory.py --data DATA digits silhouettes fashion-arms
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from laws import LAWS, Law
from study_experts import agents_of
from study_tools import (
    Curves,
    base_config,
    column,
    is_done,
    study_options,
    study_parser,
    write_table,
)

from vitucb.config import RunConfig, override
from vitucb.experiment.environments import make_env
from vitucb.experiment.run_folder import run_folder
from vitucb.learning.image_memory import image_key
from vitucb.seeding import stream_seed

KINDS = {"none": "no image rewarded before", "some": "some", "all": "every image"}
HEADER = ("law", "agent", "seeds", "images on offer", "rounds", "regret a round", "share of chance")


@dataclass
class Tally:
    """Regrets of the rounds of one kind, and what chance loses in them."""

    regrets: list[float] = field(default_factory=list)
    of_chance: list[float] = field(default_factory=list)


def replay(config: RunConfig, tallies: Mapping[str, Tally]) -> None:
    """Sort the later rounds of a finished run into `tallies` by kind.

    Raises:
        ValueError: If the environment does not give the recorded regrets again.
    """
    env = make_env(config.env, config.num_rounds)
    actions = column(config, "rounds.csv", "action").astype(int)
    recorded = column(config, "rounds.csv", "regret")
    obs = env.reset(seed=stream_seed(config.seed, "env"))[0]
    rewarded: set[bytes] = set()
    for index, (action, regret) in enumerate(zip(actions, recorded, strict=True)):
        keys = [image_key(image) for image in obs["images"]]
        known = sum(key in rewarded for key in keys)
        means = np.array(env.unwrapped.expected_rewards)  # type: ignore[attr-defined]
        if not np.isclose(means.max() - means[action], regret):
            raise ValueError(f"{run_folder(config)}: the environment gives another regret now")
        if index >= len(actions) // 2:
            tally = tallies["all" if known == len(keys) else "some" if known else "none"]
            tally.regrets.append(float(regret))
            tally.of_chance.append(float(means.max() - means.mean()))
        rewarded.add(keys[action] if len(keys) > 1 else keys[0])
        obs = env.step(int(action))[0]


def rows_of(name: str, law: Law, base: RunConfig, seeds: Sequence[int]) -> list[list[str]]:
    """A row for every agent and kind of round."""
    rows = []
    for label, agent in agents_of(law, None).items():
        changes: dict[str, Any] = {"agent": {**agent, "label": label}}
        runs = [override(base, {**changes, "seed": seed}) for seed in seeds]
        runs = [run for run in runs if is_done(run)]
        tallies = {kind: Tally() for kind in KINDS}
        for run in runs:
            replay(run, tallies)
        for kind, tally in tallies.items():
            if tally.regrets:
                share = f"{sum(tally.regrets) / sum(tally.of_chance):.3f}"
                counts = [str(len(runs)), KINDS[kind], str(round(len(tally.regrets) / len(runs)))]
                rows.append([name, label, *counts, f"{_mean(tally.regrets):.3f}", share])
    return rows


def _mean(values: Sequence[float]) -> float:
    array: Curves = np.array(values)
    return float(array.mean())


def main() -> None:
    """Run the study."""
    parser = study_parser(__doc__, rounds=0, seeds=0)
    parser.add_argument("laws", nargs="+", help="of study_experts.py, played before")
    options = study_options(parser)
    if unknown := set(options.laws) - set(LAWS):
        parser.error(f"no laws {sorted(unknown)}; choose of {list(LAWS)}")
    table = [list(HEADER)]
    for name in options.laws:
        law = LAWS[name]
        env = law.environment(options.data, Path(options.runs))
        changed = type(options)(**vars(options) | {"rounds": options.rounds or law.rounds})
        base = base_config(changed, f"experts/{name}", env, experts=None)
        table += rows_of(name, law, base, range(options.seeds or law.seeds))
    write_table(options.out / "memory.csv", table)


if __name__ == "__main__":
    main()
