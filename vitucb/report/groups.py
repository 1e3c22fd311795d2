"""What may share a figure: one experiment, one environment, one horizon; agents told apart."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitucb.agents.table import FAMILY_ORDER, family_of
from vitucb.config import flatten
from vitucb.inert_text import visible
from vitucb.report.measure import REGRET, REWARD, Measure
from vitucb.report.runs import Run

_MAIN = "vit-ucb"


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that can be compared.

    Attributes:
        title: Experiment and environment, in words.
        env: Environment id.
        settings: Settings of the environment that tell this group from its neighbours, in words.
        horizon: Rounds compared, T.
        num_rounds: Rounds asked for; more than T where runs have not come so far.
        agents: Runs by agent label, each sorted by seed.
        unfinished: Runs left out because they have not finished.
        is_truncated: Whether unfinished runs are included, up to their common horizon.
        measure: What the agents are compared by: regret if all runs know theirs, else reward.
        task: Dataset, number of arms and law of the reward, in words, each where it is known.
        untold: Those of `settings` that `task` does not tell.
    """

    title: str
    env: str
    settings: str
    horizon: int
    num_rounds: int
    agents: Mapping[str, Sequence[Run]]
    unfinished: Sequence[Run]
    is_truncated: bool
    measure: Measure = REGRET
    task: str = ""
    untold: str = ""

    @property
    def is_cut(self) -> bool:
        """Whether some runs have more rounds than are compared."""
        return any(run.rounds > self.horizon for runs in self.agents.values() for run in runs)


def group_runs(runs: Iterable[Run], *, include_unfinished: bool = False) -> list[Group]:
    """Sort runs into groups that share experiment, environment settings and horizon.

    Args:
        runs: Runs of any mix.
        include_unfinished: Count unfinished runs too, cutting all to the common horizon.

    Raises:
        ValueError: If an agent has a seed twice, or nothing is left to compare.
    """
    buckets: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        key = (run.experiment, _settings_key(_env_settings(run)), run.num_rounds)
        buckets.setdefault(key, []).append(run)
    several = len({key[0] for key in buckets}) > 1
    differing = _differing([_env_settings(members[0]) for members in buckets.values()])
    groups = [
        _group(members, differing, several, include_unfinished) for members in buckets.values()
    ]
    usable = [group for group in groups if group.agents]
    if not usable:
        raise ValueError(
            "no run has finished (none has summary.json); wait, resume them, "
            "or include unfinished runs"
        )
    return usable


def config_differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Dotted config keys whose values are not the same in all runs, with their distinct values."""
    configs = [flatten(run.config) for run in runs]
    return {key: _distinct([c.get(key) for c in configs]) for key in _differing(configs)}


def _group(
    members: list[Run], differing: list[str], several: bool, include_unfinished: bool
) -> Group:
    used = [r for r in members if r.rounds and (r.is_finished or include_unfinished)]
    first = members[0]
    settings = {key: flatten(_env_settings(first)).get(key) for key in differing if key != "id"}
    return Group(
        title=f"{first.experiment}: {first.env}" if several else first.env,
        env=first.env,
        settings=_settings_text(settings),
        untold=_settings_text(
            {key: value for key, value in settings.items() if key not in first.task}
        ),
        horizon=min((r.rounds for r in used), default=0),
        num_rounds=first.num_rounds,
        agents=_by_agent(used),
        unfinished=[r for r in members if r not in used],
        is_truncated=any(not r.is_finished for r in used),
        task=_task_text(first),
        measure=REGRET if all(r.knows_regret for r in used) else REWARD,
    )


def _settings_text(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)


def _task_text(run: Run) -> str:
    """`digits, K = 10, bernoulli reward`."""
    task = run.task
    # Of a file its name; `torch/cifar10` is a name of its own.
    dataset = str(task.get("dataset", ""))
    parts = [Path(dataset).name if Path(dataset).suffix else dataset]
    parts += [f"K = {task['num_arms']}"] if "num_arms" in task else []
    parts += [f"slates of {task['slots']}, a round a position"] if "slots" in task else []
    parts += [f"{task['reward']} reward"] if "reward" in task else []
    parts += _changes(run.config.get("env"))
    return visible(", ".join(part for part in parts if part))


def _changes(env: Any) -> list[str]:
    """What is done to rewards and arms, a word or two each."""

    def setting(section: str, name: str) -> Any:
        part = env.get(section) if isinstance(env, Mapping) else None
        return part.get(name) if isinstance(part, Mapping) else None

    loss, drift = setting("delay", "loss_probability"), setting("drift", "kind")
    told = {
        "late rewards": setting("delay", "law") not in (None, "none"),
        "lost rewards": isinstance(loss, int | float) and loss > 0,
        f"{drift} drift": drift not in (None, "none"),
        "random subsets of arms": setting("arm_subset", "min_arms") is not None,
    }
    return [text for text, holds in told.items() if holds]


def _by_agent(runs: list[Run]) -> dict[str, list[Run]]:
    by_label: dict[str, list[Run]] = {}
    for run in runs:
        by_label.setdefault(run.agent, []).append(run)
    agents: dict[str, list[Run]] = {}
    for label, members in by_label.items():
        settings = [_agent_settings(run) for run in members]
        keys = _differing(settings)
        for run, values in zip(members, settings, strict=True):
            changed = ", ".join(_setting(key, values.get(key), len(keys)) for key in keys)
            agents.setdefault(f"{label} ({changed})" if keys else label, []).append(run)
    for label, members in agents.items():
        _check_seeds(label, members)
    return dict(sorted(agents.items(), key=lambda item: _rank(item[0], item[1][0])))


def _check_seeds(label: str, runs: list[Run]) -> None:
    runs.sort(key=lambda run: run.seed)
    for one, other in itertools.pairwise(runs):
        if one.seed == other.seed:
            raise ValueError(
                f"{label} has seed {one.seed} twice: {one.folder} and {other.folder}; remove one"
            )


def _rank(label: str, run: Run) -> tuple[int, str]:
    """The default main agent first, then contextual ones, then the references."""
    place = FAMILY_ORDER.index(family_of(run.agent_name))
    return (-1 if run.agent_name == _MAIN else place, label)


def _env_settings(run: Run) -> Mapping[str, Any]:
    env = run.config.get("env", {})
    return env if isinstance(env, Mapping) else {"id": env}


def _agent_settings(run: Run) -> dict[str, Any]:
    agent = run.config.get("agent", {})
    return flatten(agent) if isinstance(agent, Mapping) else {"name": agent}


def _settings_key(settings: Mapping[str, Any]) -> str:
    """Equal for equal settings; one that is null is as good as absent."""
    known = {key: value for key, value in flatten(settings).items() if value is not None}
    return json.dumps(known, sort_keys=True, default=str)


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    flat = [flatten(config) for config in configs]
    keys = dict.fromkeys(key for config in flat for key in config)
    return [key for key in keys if len(_distinct([config.get(key) for config in flat])) > 1]


def _distinct(values: Sequence[Any]) -> list[Any]:
    return list({json.dumps(value, default=str): value for value in values}.values())


def _setting(key: str, value: Any, count: int) -> str:
    """`optimizer=adamw`; `adamw` where nothing else differs; `lora.rank=8`."""
    name = key.removesuffix(".name")
    return str(value) if count == 1 and name != key else f"{name}={value}"
