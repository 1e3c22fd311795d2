"""Time and peak memory of `vitucb report` on many synthetic runs.

    python scripts/benchmarks/bench_report.py [--runs 1000] [--rounds 10000] [--agents 10]

The runs are written first and not timed; the report is made in a process of its own. Every agent
has a few distinct tables, hard-linked to its seeds, to spare the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vitucb.config import RunConfig, override, save_config
from vitucb.experiment.recorder import METRIC_COLUMNS
from vitucb.experiment.rounds_file import ROUND_COLUMNS
from vitucb.experiment.run_folder import run_folder

_NAMES = ("vit-ucb", "lin-ucb", "greedy", "ucb1", "gaussian-ts", "random", "oracle")
_TABLES_PER_AGENT = 5


def main() -> None:
    """Write the runs, make the report, print a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--agents", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_runs(Path(folder), arguments.runs, arguments.rounds, arguments.agents)
        command = [sys.executable, "-m", "vitucb", "report", f"{folder}/runs/bench"]
        started = time.perf_counter()
        subprocess.run([*command, "--out", f"{folder}/report"], check=True, capture_output=True)
        seconds = time.perf_counter() - started
        page = Path(folder, "report", "index.html").stat().st_size
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak, cpu = usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime
    print("| runs | rounds | agents | wall s | CPU s | peak MiB | page kB |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {arguments.runs} | {arguments.rounds} | {arguments.agents} | {seconds:.1f} | {cpu:.1f} "
        f"| {peak:.0f} | {page / 1000:.0f} |"
    )


def write_runs(out: Path, runs: int, rounds: int, agents: int) -> None:
    """`runs` finished runs of `agents` agents under `out/runs/bench`."""
    for index in range(agents):
        name = _NAMES[index % len(_NAMES)]
        label = name if index < len(_NAMES) else f"{name}-{index}"
        tables = []
        for table in range(_TABLES_PER_AGENT):
            tables.append(out / f"{label}-{table}.csv")
            tables[-1].write_text(synthetic_table(rounds, [index, table]), encoding="utf-8")
        for seed in range(runs // agents):
            _write_run(out / "runs", name, label, seed, rounds, tables[seed % len(tables)])


def _write_run(out: Path, name: str, label: str, seed: int, rounds: int, table: Path) -> None:
    base = RunConfig(experiment="bench", seed=seed, num_rounds=rounds, out=str(out))
    config = override(base, {"agent": {"name": name, "label": label}})
    folder = run_folder(config)
    folder.mkdir(parents=True)
    save_config(config, folder / "config.yaml")
    os.link(table, folder / "rounds.csv")
    metrics = [
        ",".join(METRIC_COLUMNS),
        *(f"{t},train/loss,{1 / (t + 1)}" for t in range(0, rounds, 10)),
    ]
    (folder / "metrics.csv").write_text("\n".join(metrics) + "\n", encoding="utf-8")
    last = table.read_text(encoding="utf-8").splitlines()[-1].split(",")
    summary = {"rounds": rounds, "cumulative_regret": float(last[7]), "parameters": {}}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    timing = {"seconds_per_round": 0.01, "wall_seconds": 0.01 * rounds, "peak_memory_mib": 700.0}
    (folder / "timing.json").write_text(json.dumps(timing), encoding="utf-8")


def synthetic_table(rounds: int, seed: list[int]) -> str:
    """A `rounds.csv` with falling regret and full-length floats."""
    rng = np.random.default_rng(seed)
    regret = rng.random(rounds) * (rng.random(rounds) < 1 / np.sqrt(1 + np.arange(rounds) / 50))
    columns = {name: rng.random(rounds) for name in ROUND_COLUMNS}
    columns |= {"regret": regret, "cumulative_regret": regret.cumsum()}
    for name in ("action", "optimal_action", "greedy_action"):
        columns[name] = rng.integers(0, 10, rounds).astype(float)
    columns["round"] = np.arange(float(rounds))
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return "\n".join([",".join(ROUND_COLUMNS), *(",".join(map(str, row)) for row in rows)]) + "\n"


if __name__ == "__main__":
    main()
