"""`vitucb evaluate`: what a saved agent would have earned on a log."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from vitucb.cli.arguments import parse
from vitucb.cli.output import UsageError, cell, table
from vitucb.config.checks import THREADS
from vitucb.inert_text import visible
from vitucb.storage.atomic_files import write_durably

if TYPE_CHECKING:
    from vitucb.evaluation.evaluate import Evaluation
    from vitucb.evaluation.evaluate_slates import SlateEvaluation

_MOST_RESAMPLES = 1_000_000  # some hundred MiB


@dataclass(frozen=True)
class EvaluateArgs:
    """Estimate from a log what a saved agent would have earned on it."""

    log: tyro.conf.Positional[str]
    """A log (.csv, .jsonl, .parquet; .npz of the Open Bandit Pipeline; .json, .dsjson of Vowpal
    Wabbit), or the folder of a run."""
    policy: str
    """Folder of the run, or of the saved agent, that is evaluated."""
    out: str | None = None
    """Write evaluation.json and evaluation.html into this folder; or one file, FILE.json or
    FILE.html."""
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
    """Threads of torch, NumPy and SciPy each."""


def evaluate(words: list[str]) -> None:
    """Estimate from a log what a saved agent would have earned on it."""
    args = parse(EvaluateArgs, words, "evaluate")
    _check(args)
    from vitucb.evaluation.slate_log import slots_of_run

    if slots_of_run(args.log) is not None:
        _evaluate_slates(args)
        return
    from vitucb.evaluation import evaluate as off_policy
    from vitucb.evaluation.logs import open_log

    log = open_log(args.log, trust=args.trust)
    from vitucb.models.threads import use_threads

    use_threads(args.threads)
    result = off_policy.evaluate(
        log,
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
    print(_text(result))
    if args.out is not None:
        from vitucb.report.evaluation_page import write_evaluation

        command = shlex.join(["vitucb", "evaluate", *words])
        for path in write_evaluation(result, args.out, command):
            print(path.resolve())


def _evaluate_slates(args: EvaluateArgs) -> None:
    """The same for a run of slates."""
    for name in ("actions", "max_weight", "max_rounds"):
        if getattr(args, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} has no use with slates; leave it out")
    if args.out is not None and not args.out.endswith(".json"):
        raise UsageError(f"--out {args.out}: slates are written as JSON only; give FILE.json")
    from vitucb.evaluation.evaluate_slates import evaluate_slates
    from vitucb.models.threads import use_threads

    use_threads(args.threads)
    result = evaluate_slates(
        args.log,
        args.policy,
        num_resamples=args.resamples,
        confidence=args.confidence,
        seed=args.seed,
        trust=args.trust,
    )
    for warning in result.warnings:
        print(f"warning: {visible(warning)}", file=sys.stderr)
    print(_text_of_slates(result))
    if args.out is not None:
        path = Path(args.out)
        write_durably(path, json.dumps(result.to_dict(), indent=2) + "\n")
        print(path.resolve())


def _text_of_slates(result: SlateEvaluation) -> str:
    """The answer, every estimator, the truth where it is known."""
    read = result.advised
    parts = [
        f"{result.slates} slates of {result.slots}: {visible(result.policy)} would have earned "
        f"{cell(read.value)} a slate ({cell(read.low)} to {cell(read.high)}), the log earned "
        f"{cell(result.logged_value)}",
        f"read {read.name}: {result.advice}",
        table(result.rows()),
        "" if result.true_value is None else f"true value: {cell(result.true_value)}",
    ]
    return "\n\n".join(part for part in parts if part)


def _check(args: EvaluateArgs) -> None:
    """Refuse what cannot be, before the log is read and torch loaded."""
    rules = (
        ("confidence", 0 < args.confidence < 1, "a share between 0 and 1, say 0.95"),
        ("resamples", 1 <= args.resamples <= _MOST_RESAMPLES, f"1 to {_MOST_RESAMPLES:,}"),
        ("max-weight", args.max_weight is None or args.max_weight > 0, "a number above 0"),
        ("max-rounds", args.max_rounds is None or args.max_rounds >= 1, "at least 1"),
        ("seed", args.seed >= 0, "a whole number of at least 0"),
        ("threads", THREADS.holds(args.threads), f"a whole number {THREADS}"),
    )
    for name, is_sound, allowed in rules:
        if not is_sound:
            given = getattr(args, name.replace("-", "_"))
            raise UsageError(f"--{name} {given} is out of range; give {allowed}")
    if not os.path.exists(args.log):
        raise UsageError(f"log {args.log}: no such file or folder; check the path")
    if not os.path.isdir(args.policy):
        raise UsageError(
            f"--policy {args.policy}: no such folder; give that of a run, or of a saved agent"
        )
    if args.out is not None:
        from vitucb.report.evaluation_page import out_files

        out_files(args.out)


def _text(result: Evaluation) -> str:
    """The answer, who else would have earned what, every estimator, the log."""
    from vitucb.evaluation.verdict import headline, short_name

    policies = result.policy_rows()
    policies[0]["policy"] = short_name(result.advised.policy)
    facts = "\n".join(f"{visible(name)}: {cell(value)}" for name, value in result.facts.items())
    parts = [
        visible(headline(result)),
        f"read {result.advice.estimator}: {result.advice.why}",
        table(policies),
        "" if result.true_value is None else f"true value: {cell(result.true_value)}",
        table(result.rows()),
        facts,
    ]
    return "\n\n".join(part for part in parts if part)
