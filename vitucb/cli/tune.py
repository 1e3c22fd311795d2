"""`vitucb tune`: search settings by their regret."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from vitucb.cli.arguments import (
    asks_help,
    parse,
    parse_run,
    pop_values,
    split_options,
    warn_of_ignored,
)
from vitucb.cli.output import table
from vitucb.config import override_key


@dataclass(frozen=True)
class TuneArgs:
    """How much to search, and where to run it; the options of vitucb run set everything else."""

    trials: int = 20
    """Points to try; the first one are the settings as given."""
    seeds: int = 3
    """Runs per point, on seeds of their own."""
    engine: str = "processes"
    """See `vitucb list engines`."""
    workers: int | None = None
    """Runs at a time; what cores and memory allow if not given."""


def tune(words: list[str]) -> None:
    """Search settings by their regret, on seeds and images that evaluations never see."""
    if not words or asks_help(words):
        print("--config FILE.yaml  settings to start from; options override them")
        print("--search KEY=LOW..HIGH[:log] KEY=A,B ...  settings to search\n")
        parse(TuneArgs, ["--help"], "tune")
    from vitucb.agents.settings import describe_ignored
    from vitucb.cli.catalog import check_names
    from vitucb.experiment.preflight import check_environments, check_settings, check_writable
    from vitucb.experiment.tune import (
        changing_the_problem,
        parse_dimension,
        search_settings,
        searched_in_vain,
    )

    words, searched = pop_values(words, "--search")
    options, words = split_options(words, TuneArgs)
    args = parse(TuneArgs, options, "tune")
    base = parse_run(words, "tune")
    check_names(base)
    space = [parse_dimension(text) for text in searched]
    warn_of_ignored([base], "tune")
    if keys := searched_in_vain(base, space):
        print(f"vitucb tune: {describe_ignored(base.agent.name, keys)}", file=sys.stderr)
    if keys := changing_the_problem(space):
        print(
            f"vitucb tune: {', '.join(keys)} change what is played: the trial of least regret may "
            "be the easiest, not the best; to compare agents in several environments, use a sweep",
            file=sys.stderr,
        )
    check_writable(Path(base.out) / base.experiment, "--out")
    choices = [override_key(base, d.key, value) for d in space for value in d.choices]
    check_settings([base, *choices])
    check_environments([base])
    best, trials = search_settings(
        base,
        space,
        trials=args.trials,
        seeds=args.seeds,
        workers=args.workers,
        engine=args.engine,
    )
    print(table([trial.row() for trial in trials]), file=sys.stderr)
    print(best)
