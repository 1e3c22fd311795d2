"""`vitucb evaluate`: what a saved agent would have earned on a log."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import tyro

from vitucb.cli.arguments import parse
from vitucb.cli.output import cell, table
from vitucb.inert_text import visible


@dataclass(frozen=True)
class EvaluateArgs:
    """Estimate from a log what a saved agent would have earned on it."""

    log: tyro.conf.Positional[str]
    """A .csv, .jsonl or .parquet log, or the folder of a run."""
    policy: str
    """Folder of the run whose agent is evaluated."""
    actions: tuple[str, ...] | None = None
    """What a log of contexts calls the agent's actions 0, 1, ...; needed where the agent does not
    call them the same."""
    confidence: float = 0.95
    """Nominal coverage of the intervals."""
    resamples: int = 2_000
    """Bootstrap resamples."""
    max_weight: float | None = None
    """Limit of clipped-ips and switch-dr; sqrt(rounds) if not given."""
    max_rounds: int | None = None
    """Use the first so many rounds only."""
    trust: tuple[str, ...] = ()
    """Packages or modules that names in the folders may refer to, which runs their code; hub lets
    weights and images come from the network."""
    seed: int = 0
    """Seed of folds and resamples."""
    threads: int = 1
    """Torch threads."""


def evaluate(words: list[str]) -> None:
    """Estimate from a log what a saved agent would have earned on it."""
    args = parse(EvaluateArgs, words, "evaluate")
    from vitucb.evaluation import evaluate as off_policy
    from vitucb.models.threads import use_threads

    use_threads(args.threads)
    result = off_policy.evaluate(
        args.log,
        args.policy,
        actions=args.actions,
        num_resamples=args.resamples,
        confidence=args.confidence,
        max_weight=args.max_weight,
        max_rounds=args.max_rounds,
        seed=args.seed,
        trust=args.trust,
    )
    for warning in result.warnings:
        print(f"warning: {visible(warning)}", file=sys.stderr)
    print("\n".join(f"{visible(name)}: {cell(value)}" for name, value in result.facts.items()))
    if result.true_value is not None:
        print(f"true value: {cell(result.true_value)}")
    print(f"\n{table(result.rows())}")
