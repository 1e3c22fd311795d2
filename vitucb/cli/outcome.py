"""What came of runs: a small table at the end, and a line a run where nobody watches a bar."""

from __future__ import annotations

import dataclasses
import math
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitucb.cli.output import fail, table
from vitucb.config import AgentConfig, EnvConfig, RunConfig
from vitucb.experiment.run_folder import RunFolder
from vitucb.inert_text import visible
from vitucb.statistics import student_interval
from vitucb.storage.foreign_files import read_json


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one finished run.

    Attributes:
        config: Its settings.
        regret: Cumulative regret, reward units; NaN where nobody knows the mean rewards.
        reward: Mean reward of a round; of the accepted ones where a log is replayed.
        seconds: Time it took, loading and all its parts together.
        round_seconds: Time the agent took for a round.
    """

    config: RunConfig
    regret: float
    reward: float
    seconds: float
    round_seconds: float

    @classmethod
    def of(cls, config: RunConfig) -> Outcome | None:
        """That of the run of `config`; None unless it is finished and can be read."""
        folder = RunFolder.of(config).path
        try:
            summary = read_json(folder / "summary.json")
            timing = read_json(folder / "timing.json")
            values = [summary[name] for name in ("cumulative_regret", "mean_reward")]
            values[1] = summary.get("accepted_mean_reward", values[1])
            values += [timing[name] for name in ("wall_seconds", "seconds_per_round")]
            numbers = [math.nan if value is None else float(value) for value in values]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return cls(config, *numbers)


def print_outcome(configs: Sequence[RunConfig], following: str) -> None:
    """Print on stderr what came of the runs that have finished, and the command to go on with."""
    rows = outcome_rows(configs)
    if rows:
        print(f"\n{table(rows)}", file=sys.stderr)
    if rows and not any(row["of random"] for row in rows):
        note = "of random: play --agent.name random with the same other options to see it"
        print(note, file=sys.stderr)
    print(f"next: {following}", file=sys.stderr)


def report_command(config: RunConfig) -> str:
    """The command that writes the report of an experiment."""
    return f"vitucb report {shlex.quote(str(Path(config.out) / config.experiment))}"


def outcome_rows(configs: Iterable[RunConfig]) -> list[dict[str, object]]:
    """A row for every agent in every environment, the best first.

    It has the mean over seeds of the cumulative regret, or of the reward of a round where no regret
    is known, with Student's 95 % interval, and its share of that of random choices.
    """
    outcomes = [outcome for config in configs if (outcome := Outcome.of(config)) is not None]
    groups: list[tuple[tuple[str, EnvConfig, int], list[Outcome]]] = []
    for outcome in outcomes:
        config = outcome.config
        key = (config.experiment, config.env, config.num_rounds)
        members = next((members for known, members in groups if known == key), None)
        if members is None:
            groups.append((key, members := []))
        members.append(outcome)
    rows: list[dict[str, object]] = []
    for (experiment, env, _), members in groups:
        is_told = len({key[0] for key, _ in groups}) > 1
        where = f"{experiment}: {env.id}" if is_told else env.id
        named = {"environment": where} if len(groups) > 1 else {}
        rows += [named | row for row in _rows(members)]
    return rows


def _rows(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """The rows of one environment."""
    has_regret = not any(math.isnan(outcome.regret) for outcome in outcomes)
    by_agent: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        agent = outcome.config.agent
        by_agent.setdefault(agent.label or agent.name, []).append(outcome)

    def figure(outcome: Outcome) -> float:
        return outcome.regret if has_regret else outcome.reward

    def mean(members: Sequence[Outcome]) -> float:
        return sum(map(figure, members)) / len(members)

    ranked = sorted(by_agent.items(), key=lambda item: mean(item[1]) * (1 if has_regret else -1))
    rows = []
    for label, members in ranked:
        references = [_random_beside(outcome, outcomes) for outcome in members]
        known = [reference for reference in references if reference is not None]
        share = mean(members) / mean(known) if known and mean(known) else math.nan
        is_whole = len(known) == len(members) and not math.isnan(share)
        low, high = student_interval([figure(outcome) for outcome in members])
        interval = "" if math.isnan(low) else f" [{low:.4g}, {high:.4g}]"
        rows.append(
            {
                "agent": label,
                "seeds": len(members),
                "regret" if has_regret else "mean reward": f"{mean(members):.4g}{interval}",
                "of random": f"{share:.0%}" if is_whole else "",
                "time": duration(sum(o.seconds for o in members) / len(members)),
                "ms a round": 1e3 * sum(o.round_seconds for o in members) / len(members),
            }
        )
    return rows


def _random_beside(outcome: Outcome, others: Sequence[Outcome]) -> Outcome | None:
    """The run of random choices with the same environment, horizon and seed, if there is one."""
    for other in others:
        is_random = other.config.agent.name == "random"
        if is_random and other.config.seed == outcome.config.seed:
            return other
    asked = dataclasses.replace(outcome.config, agent=AgentConfig("random"))
    try:
        found = RunFolder.open(RunFolder.of(asked).path).config
    except ValueError:
        return None
    is_beside = (found.env, found.num_rounds) == (asked.env, asked.num_rounds)
    return Outcome.of(asked) if is_beside and found.agent.name == "random" else None


def duration(seconds: float) -> str:
    """Seconds in words: 41 s, 3.2 min, 1.5 h."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


class EndLines:
    """Called as runs end: a line for each on stderr, where that is no terminal with a bar."""

    def __init__(self) -> None:
        """Count from one."""
        self._count = 0

    def __call__(self, config: RunConfig, error: str | None, total: int) -> None:
        """Say what came of one run out of `total`."""
        self._count += 1
        if sys.stderr.isatty():
            return
        outcome = Outcome.of(config) if error is None else None
        told = error or "finished"
        if outcome is not None:
            regret, reward = f"regret {outcome.regret:.4g}", f"mean reward {outcome.reward:.4g}"
            figure = reward if math.isnan(outcome.regret) else regret
            told = f"{figure}, {duration(outcome.seconds)}"
        place = f"[{self._count}/{total}] {RunFolder.of(config).path}"
        print(visible(f"{place}: {told}"), file=sys.stderr, flush=True)


def print_errors(errors: Mapping[str, str]) -> None:
    """Print on stderr what stopped each run, by folder."""
    for folder, message in errors.items():
        print(f"{folder}: {message}", file=sys.stderr)


def fail_unless_all_ended(
    errors: Mapping[str, str], jobs: Sequence[RunConfig], command: str
) -> None:
    """End the process with exit code 1 if runs did not finish, by `errors`."""
    if not errors:
        return
    without = ", without --overwrite," * any(job.overwrite for job in jobs)
    remedy = f"the same command{without} plays them again, from their checkpoints"
    fail(f"vitucb {command}: {len(errors)} of {len(jobs)} runs did not finish; {remedy}", 1)
