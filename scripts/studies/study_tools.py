"""What studies share: options, runs that go on where they stopped, intervals, tables, curves."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from vitucb.assets import DEFAULT_BACKBONE
from vitucb.config import RunConfig, override
from vitucb.experiment.run_folder import RunFolder, run_folder
from vitucb.experiment.sweep import run_jobs
from vitucb.statistics import bootstrap_ci

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
QUICK = Path("runs") / "quick"
Curves = NDArray[np.float64]
_LOG_RATIO = 30


def study_parser(doc: str | None, *, rounds: int, seeds: int) -> argparse.ArgumentParser:
    """The options of every study, with its own defaults of rounds and seeds."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the .npz files")
    parser.add_argument("--workers", type=int, help="runs at a time; what fits if not given")
    parser.add_argument("--runs", help="folder of the runs, runs if not given; finished ones stay")
    add_backbone(parser)
    add_out(parser, "30 rounds of one seed")
    return parser


def add_backbone(parser: argparse.ArgumentParser) -> None:
    """The option `--backbone`, for `base_config`."""
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE, help="as in agent.backbone")


def study_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What was asked for; `--quick` sets rounds and seeds, and has folders of its own."""
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seeds = 30, 1
    options.runs = options.runs or str(QUICK if options.quick else "runs")
    options.out = out_folder(options)
    return options


def data_file(data: Path, name: str) -> Path:
    """The file `name` in the folder `--data`; a study without it ends in a line."""
    if not (data / name).is_file():
        raise SystemExit(f"no file {name} in --data {data}; name the folder that has it")
    return data / name


def add_out(parser: argparse.ArgumentParser, quick: str) -> None:
    """The options `--out` and `--quick`, which is what `quick` says, for `out_folder`."""
    parser.add_argument(
        "--out", type=Path, help=f"folder of tables, docs/results if not given ({QUICK} if quick)"
    )
    parser.add_argument("--quick", action="store_true", help=quick)


def out_folder(options: argparse.Namespace) -> Path:
    """Where tables go: those of a short version not in the place of the published ones."""
    out: Path = options.out or (QUICK if options.quick else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    return out


def base_config(
    options: argparse.Namespace,
    experiment: str,
    env: Mapping[str, Any],
    experts: tuple[str, ...] | None = ("adapted",),
) -> RunConfig:
    """The config all runs of one table share; most studies are of the adapted network alone."""
    experiment += suffix(options.backbone)
    values: dict[str, Any] = {"experiment": experiment, "env": env, "num_rounds": options.rounds}
    values["agent"] = {"experts": experts, "backbone": options.backbone}
    return override(RunConfig(), {**values, "out": options.runs, "tensorboard": False})


def suffix(backbone: str) -> str:
    """What tells results with another backbone than the default apart in names of files."""
    return "" if backbone == DEFAULT_BACKBONE else f"-{backbone}"


def play(
    base: RunConfig,
    agents: Mapping[str, Mapping[str, Any]],
    *,
    seeds: Sequence[int],
    workers: int | None = None,
) -> dict[str, Curves]:
    """Cumulative regret (S, T) by label of every agent whose seeds all finished."""
    return play_each([(base, agents)], seeds=seeds, workers=workers)[0]


def play_each(
    plans: Sequence[tuple[RunConfig, Mapping[str, Mapping[str, Any]]]],
    *,
    seeds: Sequence[int],
    workers: int | None = None,
) -> list[dict[str, Curves]]:
    """`play` of several bases, each with its agents; workers start once for all of them."""
    found = [
        {
            label: [
                override(base, {"agent": {**agent, "label": slug(label)}, "seed": s}) for s in seeds
            ]
            for label, agent in agents.items()
        }
        for base, agents in plans
    ]
    jobs = [config for configs in found for group in configs.values() for config in group]
    run_all(jobs, workers)
    return [
        {
            label: np.stack([regret_curve(config) for config in group])
            for label, group in configs.items()
        }
        for configs in found
    ]


def run_all(jobs: Sequence[RunConfig], workers: int | None) -> None:
    """Play what is not finished; end the study before its tables are written if a run fails."""
    try:
        errors = run_jobs(jobs, workers=workers)
    except ValueError as error:
        raise SystemExit(f"{error}; of a study that is another --runs") from error
    for folder, message in errors.items():
        print(f"{folder}: {message}", file=sys.stderr)
    if errors:
        raise SystemExit(
            f"{len(errors)} of {len(jobs)} runs failed, see above; no table is written. Mend what "
            "is said there and give the same command: what is finished stays"
        )


def finished(
    base: RunConfig, agents: Mapping[str, Mapping[str, Any]], *, seeds: Sequence[int]
) -> dict[str, dict[int, Curves]]:
    """Cumulative regret (T,) by label and seed of finished runs; agents with none left out."""
    found = {}
    for label, agent in agents.items():
        changes = {"agent": {**agent, "label": slug(label)}}
        configs = {s: override(base, {**changes, "seed": s}) for s in seeds}
        ends = {s: regret_curve(config) for s, config in configs.items() if is_done(config)}
        curves = {s: curve for s, curve in ends.items() if len(curve) == base.num_rounds}
        if curves:
            found[label] = curves
    return found


def is_done(config: RunConfig) -> bool:
    """Whether this very run is finished: one of other settings in its folder is told of."""
    folder = RunFolder.of(config)
    if not folder.is_finished:
        return False
    try:
        folder.check_same_config()
    except ValueError as error:
        print(f"left out: {error}", file=sys.stderr)
        return False
    return True


def regret_curve(config: RunConfig) -> Curves:
    """Cumulative regret (T,) of a finished run."""
    return column(config, "rounds.csv", "cumulative_regret")


def column(config: RunConfig, file: str, name: str) -> Curves:
    """A column of a table in the folder of a finished run."""
    with (run_folder(config) / file).open(newline="") as lines:
        return np.array([float(row[name]) for row in csv.DictReader(lines)])


def timing(base: RunConfig, label: str, seed: int) -> dict[str, float]:
    """The `timing.json` of a run that `play` finished."""
    folder = run_folder(override(base, {"agent": {"label": slug(label)}, "seed": seed}))
    times: dict[str, float] = json.loads((folder / "timing.json").read_text(encoding="utf-8"))
    return times


def interval(values: Curves, digits: int = 0) -> str:
    """95 % bootstrap interval of the mean over seeds, as text."""
    if len(values) < 2:
        return "-"
    low, high = (float(end) for end in bootstrap_ci(list(values), seed=0))
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def write_table(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """Write rows, the first of them the header, as CSV; and print them in columns."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


_COLOURS = 10  # that matplotlib tells apart


def draw_curves(curves: Mapping[str, Curves], title: str, path: Path) -> None:
    """Mean cumulative regret of every label, and the range over seeds.

    On a log scale where ends lie so far apart that the smallest could not be read otherwise.
    """
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    is_crowded = len(curves) > _COLOURS
    figure, axis = plt.subplots(figsize=(9, 4.5) if is_crowded else (6.5, 4))
    for place, (label, regrets) in enumerate(curves.items()):
        rounds = np.arange(1, regrets.shape[1] + 1)
        dashes = "--" if place < len(curves) - _COLOURS else "-"
        (line,) = axis.plot(rounds, regrets.mean(0), dashes, label=label)
        if len(regrets) > 1:
            low, high = regrets.min(0), regrets.max(0)
            axis.fill_between(rounds, low, high, alpha=0.2, color=line.get_color())
    ends = [regrets[:, -1].mean() for regrets in curves.values()]
    scale = "symlog" if max(ends) > _LOG_RATIO * min(ends) else "linear"
    axis.set(title=title, xlabel="round", ylabel="cumulative regret", yscale=scale)
    axis.grid(alpha=0.3)
    if is_crowded:  # names from the highest end to the lowest, as the lines lie
        lines = sorted(axis.get_lines(), key=lambda line: -float(line.get_ydata()[-1]))
        axis.legend(handles=lines, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def slug(label: str) -> str:
    """A label as it stands in the name of a folder."""
    return label.replace(", ", "-").replace(" ", "-")
