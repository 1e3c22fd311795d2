"""Many runs: a grid of settings times seeds as a list of configs, played by an engine."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from tqdm import tqdm

from vitucb.config import RunConfig, flatten, override, override_keys, to_dict
from vitucb.experiment.engines import ENGINES, Engine
from vitucb.experiment.run_folder import RunFolder, run_folder
from vitucb.registry import lookup
from vitucb.storage.foreign_files import parse_yaml


def parse_values(text: str) -> tuple[str, list[Any]]:
    """`agent.policy.alpha=0.3,1` as the dotted key and its values, typed as YAML would.

    Raises:
        ValueError: If the text has no key or no values.
    """
    key, _, values = text.partition("=")
    try:
        parsed = parse_yaml(f"[{values}]")
    except ValueError as error:
        message = f"{text!r}: {values!r} is no list of values such as 1,2: {error}"
        raise ValueError(message) from error
    if not key or not parsed:
        raise ValueError(f"{text!r} names no values; write key=value,value")
    return key.removeprefix("--").replace("-", "_"), parsed


def parse_all(texts: Iterable[str]) -> dict[str, list[Any]]:
    """Every `key=value,value` as in `parse_values`, by key.

    Raises:
        ValueError: If a text cannot be read, or a key is named twice.
    """
    parsed: dict[str, list[Any]] = {}
    for text in texts:
        key, values = parse_values(text)
        if key in parsed:
            raise ValueError(f"{key} is named twice; give all its values at once")
        parsed[key] = values
    return parsed


def expand(
    base: RunConfig,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    together: Mapping[str, Sequence[Any]] | None = None,
    seeds: int = 1,
) -> list[RunConfig]:
    """The runs of a sweep: every combination of `grid`, every row of `together`, every seed.

    All settings get the same seeds, and with one seed all agents face the same images and noise:
    differences are paired. What differs is in the label of the agent, or in the experiment where
    it is no setting of the agent, so every run has its own folder.

    Args:
        base: Settings to start from.
        grid: Dotted key -> values, combined with each other.
        together: Dotted key -> values, all of one length, that advance together.
        seeds: Seeds per setting, counted up from that of `base`.

    Raises:
        ValueError: If a key or value is not usable, lengths differ, a key is in both, two settings
            are the same in other words, or two runs share a folder.
    """
    if seeds < 1:
        raise ValueError(f"seeds {seeds} must be at least 1")
    rows = _rows(together or {})
    grid = grid or {}
    if twice := grid.keys() & (together or {}).keys():
        raise ValueError(f"{min(twice)} is named in the grid and in a list; leave one out")
    cells = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    settings = [row | cell for row, cell in itertools.product(rows, cells)]
    check_different(base, settings)
    varied = {k for k in [*grid, *(together or {})] if len({str(s[k]) for s in settings}) > 1}
    varied -= {"seed", "experiment", "agent", "agent.name", "agent.label"}
    configs = [_configured(base, setting, varied) for setting in settings]
    jobs = [
        dataclasses.replace(config, seed=config.seed + i)
        for config in configs
        for i in range(seeds)
    ]
    _check_folders(jobs)
    return jobs


def _rows(together: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    lengths = {key: len(values) for key, values in together.items()}
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{key} has {count}" for key, count in lengths.items())
        raise ValueError(f"lists that advance together differ in length: {text}")
    if not together:
        return [{}]
    return [dict(zip(together, row, strict=True)) for row in zip(*together.values(), strict=True)]


def check_different(base: RunConfig, settings: Iterable[Mapping[str, Any]]) -> None:
    """Refuse values that are one number in two spellings, 1e-3 and 0.001: both would be played.

    Args:
        base: Settings that all of them override.
        settings: Dotted key -> value, of every setting.

    Raises:
        ValueError: Names the two.
    """
    seen: dict[str, str] = {}
    for setting in settings:
        values = flatten(to_dict(override_keys(base, setting)))
        # As text: lists may be among the values, and 1.0 of an option is 1.
        played = repr([(key, _one_spelling(value)) for key, value in sorted(values.items())])
        words = ", ".join(f"{key}={value}" for key, value in setting.items())
        if other := seen.get(played):
            raise ValueError(f"{other} and {words} are the same settings; leave one out")
        seen[played] = words


def _one_spelling(value: Any) -> Any:
    if isinstance(value, list):
        return [_one_spelling(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _configured(base: RunConfig, setting: Mapping[str, Any], varied: set[str]) -> RunConfig:
    config = override_keys(base, setting)
    ours = {k: v for k, v in setting.items() if k in varied}
    of_agent = {k: v for k, v in ours.items() if k.startswith("agent.")}
    if of_agent:
        label = "_".join([config.agent.label or config.agent.name, *_named(of_agent)])
        config = override(config, {"agent": {"label": label}})
    of_rest = {k: v for k, v in ours.items() if k not in of_agent}
    if of_rest:
        name = "_".join(_named(of_rest)).replace("/", "-")
        config = dataclasses.replace(config, experiment=f"{config.experiment}/{name}")
    return config


def _named(setting: Mapping[str, Any]) -> Iterable[str]:
    """`optimizer=lora-rite`, `alpha=0.3`: the last word of the key that says something."""
    for key, value in setting.items():
        yield f"{key.removesuffix('.name').split('.')[-1]}={value}"


def _check_folders(jobs: Sequence[RunConfig]) -> None:
    for path, count in Counter(map(run_folder, jobs)).items():
        if count > 1:
            raise ValueError(f"two runs of the sweep would share {path}; tell them apart")


OnEnd: TypeAlias = Callable[[RunConfig, str | None, int], None]
"""Told of every run that ended, what went wrong in one line or None, and of how many it is one."""


def run_jobs(
    configs: Sequence[RunConfig],
    *,
    workers: int | None = None,
    engine: str = "processes",
    on_end: OnEnd | None = None,
) -> dict[str, str]:
    """Play every config whose run folder is not finished; slow agents should come first.

    The results do not depend on engine or number of workers.

    Args:
        configs: The runs. Unfinished ones resume.
        workers: Runs at a time; by default what cores and memory allow.
        engine: A name of `ENGINES`, or an import path `module:function`.
        on_end: See `OnEnd`.

    Returns:
        Error message per failed run folder; empty if all went well.

    Raises:
        ValueError: If a run folder holds a run with other settings, finished or not, or `workers`
            is below 1.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers {workers} must be at least 1; leave it out for as many as fit")
    folders = [RunFolder.of(config) for config in configs]
    for folder in folders:
        folder.check_same_config()
    play_jobs: Engine = lookup(
        "engine", engine, {name: path for name, (path, _) in ENGINES.items()}
    )
    jobs = [folder.config for folder in folders if folder.needs_playing]
    errors: dict[str, str] = {}
    if not jobs:
        return errors
    with tqdm(total=sum(job.num_rounds for job in jobs), unit="round", disable=None) as bar:

        def show(rounds: int) -> None:
            if rounds and not bar.n:
                bar.reset()  # the clock starts with the first round, not while torch is loaded
            bar.update(rounds - bar.n)

        ends = play_jobs(jobs, workers=workers, on_rounds=show)
        for ended, (job, error) in enumerate(ends, start=1):
            if error is not None:
                errors[str(run_folder(job))] = error
            if on_end is not None:
                on_end(job, error, len(jobs))
            failed = f", {len(errors)} failed" if errors else ""
            bar.set_postfix_str(f"{ended}/{len(jobs)} runs{failed}")
    return errors
