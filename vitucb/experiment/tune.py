"""Search settings by their regret, on seeds and images that an evaluation never sees.

Optuna proposes (ask), runs are played like those of a sweep, their mean regret goes back (tell).
Proposals follow from a seed and from earlier results alone, so an interrupted search resumes: what
was played is found in its run folder.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitucb.agents.settings import ignored
from vitucb.config import (
    RunConfig,
    flatten,
    override,
    override_key,
    override_keys,
    save_config,
    to_dict,
)
from vitucb.config.override import types_of
from vitucb.experiment.run_folder import RunFolder
from vitucb.experiment.sweep import check_different, parse_values, run_jobs
from vitucb.registry import import_extra
from vitucb.storage.atomic_files import write_durably

_logger = logging.getLogger(__name__)
TUNING_SEED = 1_000_000
"""First tuning seed; evaluations count up from 0 and never get there."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """One setting to search.

    Attributes:
        key: Dotted config key.
        choices: Values to choose from; empty for a range.
        low: Lower end of a range.
        high: Upper end of a range.
        is_log: Whether the range is searched on a logarithmic scale.
        is_integer: Whether only integers are tried.
    """

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    is_integer: bool = False

    def holds(self, value: object) -> bool:
        """Whether a value is among those that are searched."""
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high


# The same for all trials, or what is compared would not be the settings.
_FIXED = ("seed", "num_rounds", "out", "experiment", "overwrite", "env.data.split")


@dataclass(frozen=True, slots=True)
class Trial:
    """A point of the search space and what it came to.

    Attributes:
        number: Counts from 0.
        values: Dotted key -> value; empty for settings as given that are no point of the space.
        regret: Mean final regret of its runs, NaN if one failed. Where the environment does not
            know its mean rewards, the negative of the total reward: it is lowest at the same point.
        knows_regret: Whether it is a regret.
    """

    number: int
    values: Mapping[str, Any]
    regret: float
    knows_regret: bool = True

    def row(self) -> dict[str, Any]:
        """Number, values and, unless a run failed, regret (or reward) as a row of a table."""
        row = {"trial": self.number, **self.values}
        if math.isfinite(self.regret):
            row |= {"regret": self.regret} if self.knows_regret else {"reward": -self.regret}
        return row


def parse_dimension(text: str) -> Dimension:
    """Read `key=0.1..3:log` (a range), `key=1..8` (integers) or `key=a,b` (choices).

    Whether a range is one of integers follows from the type of the setting; from its ends where an
    option free in name has none.

    Raises:
        ValueError: If the text is none of these, or the setting takes no number of the range.
    """
    key, _, space = text.partition("=")
    if ".." not in space:
        name, values = parse_values(text)
        return Dimension(name, tuple(values))
    bounds, _, scale = space.partition(":")
    low, high = (_number(part, text) for part in bounds.split("..", 1))
    is_range = -math.inf < low < high < math.inf
    if not is_range or scale not in ("", "log") or (scale and low <= 0):
        raise ValueError(f"{text!r} is no range; write key=0.1..3 or, above zero, key=0.1..3:log")
    key = key.removeprefix("--").replace("-", "_")
    is_integer = _is_integer(key, isinstance(low, int) and isinstance(high, int), text)
    return Dimension(key, (), low, high, scale == "log", is_integer)


def _is_integer(key: str, has_integer_ends: bool, text: str) -> bool:
    kinds = types_of(RunConfig, key)
    if not kinds or dict in kinds:
        return has_integer_ends
    if float in kinds:
        return False
    if int not in kinds:
        raise ValueError(f"{text!r}: {key} is no number; write its values, {key}=a,b")
    if not has_integer_ends:
        raise ValueError(f"{text!r}: {key} is a whole number; write {key}=1..8")
    return True


def _number(part: str, text: str) -> int | float:
    try:
        return int(part) if part.lstrip("+-").isdigit() else float(part)
    except ValueError as error:
        raise ValueError(f"{text!r}: {part!r} is no number; write key=0.1..3") from error


def searched_in_vain(base: RunConfig, space: Sequence[Dimension]) -> list[str]:
    """Settings in `space` that the agent ignores, whatever the others in it are; dotted.

    Raises:
        ValueError: If a setting is unknown or does not take its values.
    """
    settings = [base] + [override_key(base, d.key, value) for d in space for value in d.choices]

    def has_effect(dimension: Dimension, setting: RunConfig) -> bool:
        ends = dimension.choices or (dimension.low, dimension.high)
        tried = (override_key(setting, dimension.key, value).agent for value in ends)
        return not any(
            f"{found}.".startswith(f"{dimension.key}.") for a in tried for found in ignored(a)
        )

    return [d.key for d in space if not any(has_effect(d, setting) for setting in settings)]


def changing_the_problem(space: Sequence[Dimension]) -> list[str]:
    """Settings in `space` that make trials easier or harder, whatever the agent does; dotted."""
    keys = [dimension.key for dimension in space]
    return [k for k in keys if k.startswith("env.") and k != "env.data.image_size"]


def search_settings(
    base: RunConfig,
    space: Sequence[Dimension],
    *,
    trials: int = 20,
    seeds: int = 3,
    workers: int | None = None,
    engine: str = "processes",
) -> tuple[Path, list[Trial]]:
    """Search `space`, starting with the settings of `base` themselves.

    Args:
        base: Settings to start from; `base.seed` seeds the search.
        space: What to search.
        trials: Points to try.
        seeds: Runs per point, on seeds from `TUNING_SEED` on and on the `tune` split of the images.
        workers: Runs at a time; what cores and memory allow if None.
        engine: See `vitucb.experiment.engines.ENGINES`.

    Returns:
        The file with the best settings, to be evaluated on the `eval` split, and all trials.

    Raises:
        ValueError: If optuna is missing, the space is not usable or every trial failed.
    """
    if not space or trials < 1 or seeds < 1:
        raise ValueError("give at least one --search setting, one trial and one seed")
    keys = [dimension.key for dimension in space]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"--search names {twice[0]} twice; give one range or one list of values")
    if fixed := [key for key in keys if key in _FIXED]:
        raise ValueError(f"--search {fixed[0]}: trials of different {fixed[0]} cannot be compared")
    for dimension in space:
        check_different(base, ({dimension.key: value} for value in dimension.choices))
    space = [_typed(base, dimension) for dimension in space]
    if base.env.dataset is None:
        raise ValueError("name env.dataset: a share of its images is kept for tuning")
    optuna = import_extra("optuna", "search", "vitucb tune")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=base.seed))
    start = _start(base, space)
    done: list[Trial] = []
    if start is not None and None in start.values():
        # With a setting that is not given they are no point of the space, and are played beside it.
        done.append(Trial(0, {}, *_regret(base, {}, 0, seeds, workers, engine)))
    elif start is not None:
        study.enqueue_trial(start)
    for number in range(len(done), trials):
        asked = study.ask()
        values = {dimension.key: _suggest(asked, dimension) for dimension in space}
        # The sampler repeats itself where there are few points; the same runs would say the same.
        twin = next((t for t in done if t.values == values and math.isfinite(t.regret)), None)
        if twin is not None:
            regret, knows_regret = twin.regret, twin.knows_regret
        else:
            regret, knows_regret = _regret(base, values, number, seeds, workers, engine)
        if math.isfinite(regret):
            study.tell(asked, regret)
        else:
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
        done.append(Trial(number, values, regret, knows_regret))
    return _write(base, done), done


def _typed(base: RunConfig, dimension: Dimension) -> Dimension:
    """`dimension` with its choices as the settings hold them: to YAML, 1e-3 is a text."""
    key = dimension.key
    settings = [flatten(to_dict(override_key(base, key, v))) for v in dimension.choices]
    pairs = zip(settings, dimension.choices, strict=True)
    return dataclasses.replace(dimension, choices=tuple(s.get(key, v) for s, v in pairs))


def _start(base: RunConfig, space: Sequence[Dimension]) -> dict[str, Any] | None:
    """The values of `base`, None for those that are not given; None if one lies outside."""
    settings = flatten(to_dict(base))
    point = {dimension.key: settings.get(dimension.key) for dimension in space}
    is_inside = all(
        point[dimension.key] is None or dimension.holds(point[dimension.key]) for dimension in space
    )
    return point if is_inside else None


def _suggest(trial: Any, dimension: Dimension) -> Any:
    if dimension.choices:
        return trial.suggest_categorical(dimension.key, list(dimension.choices))
    suggest = trial.suggest_int if dimension.is_integer else trial.suggest_float
    return suggest(dimension.key, dimension.low, dimension.high, log=dimension.is_log)


def _regret(
    base: RunConfig,
    values: Mapping[str, Any],
    number: int,
    seeds: int,
    workers: int | None,
    engine: str,
) -> tuple[float, bool]:
    """Mean final regret of one point, NaN if a run failed, and whether it is one: see `Trial`."""
    config = override_keys(base, values)
    config = override(config, {"env": {"data": {"split": "tune"}}})
    config = dataclasses.replace(config, experiment=f"{_folder_name(base)}/trial-{number:03d}")
    jobs = [dataclasses.replace(config, seed=TUNING_SEED + i) for i in range(seeds)]
    for folder, error in run_jobs(jobs, workers=workers, engine=engine).items():
        _logger.warning("%s: %s", folder, error)
    folders = [RunFolder.of(job) for job in jobs]
    if not all(folder.is_finished for folder in folders):
        return math.nan, True
    texts = [(folder.path / "summary.json").read_text(encoding="utf-8") for folder in folders]
    summaries = [json.loads(text) for text in texts]
    regrets = [summary["cumulative_regret"] for summary in summaries]
    if None not in regrets:
        return sum(map(float, regrets)) / seeds, True
    rewards = [float(summary["mean_reward"] * summary["rounds"]) for summary in summaries]
    return -sum(rewards) / seeds, False


def _folder_name(base: RunConfig) -> str:
    return f"{base.experiment}-tune"


def _write(base: RunConfig, trials: Sequence[Trial]) -> Path:
    """`trials.csv` and `best.yaml`; the path of the latter."""
    folder = Path(base.out) / _folder_name(base)
    folder.mkdir(parents=True, exist_ok=True)
    known = [trial for trial in trials if math.isfinite(trial.regret)]
    rows = [trial.row() for trial in trials]
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_durably(folder / "trials.csv", text.getvalue())
    if not known:
        raise ValueError(f"every trial failed; see the run folders in {folder}")
    best = override_keys(base, min(known, key=lambda trial: trial.regret).values)
    if best.env.data.split in ("all", "tune"):
        best = override(best, {"env": {"data": {"split": "eval"}}})
    # Trials were played anew, if asked for; evaluations of the file should not be.
    save_config(dataclasses.replace(best, overwrite=False), folder / "best.yaml")
    return folder / "best.yaml"
