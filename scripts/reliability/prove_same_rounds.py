"""Print the SHA-256 sum of `rounds.csv` of a fixed list of runs, and compare with an earlier print.

    python scripts/reliability/prove_same_rounds.py > before.sha
    ... change the code ...
    python scripts/reliability/prove_same_rounds.py --against before.sha

A change that keeps behaviour keeps every sum. They hold for one machine and one set of versions:
others may differ in the last digits of products. All settings take about 40 minutes on one core,
`--only lin-ucb ucb1` and the like seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from vitucb.config import RunConfig, override, override_keys
from vitucb.experiment.run_folder import run_folder
from vitucb.experiment.sweep import run_jobs

_ARMS = {"env.dataset": "digits", "env.num_arms": 10, "env.reward": "bernoulli"}
_ALONE = {**_ARMS, "agent.experts": ("adapted",)}
_CONTEXT = {"env.id": "vitucb/ImageContext-v0", "env.dataset": "digits"}
_AGENTS = (
    "lin-ucb greedy ucb1 gaussian-ts random oracle vit-ucb "
    "neural-linear neural-ucb full-finetune lin-ts"
)
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {**_ARMS, "agent.name": name} for name in _AGENTS.split()},
    "lora-rite": {**_ALONE, "agent.optimizer.name": "lora-rite"},
    "rac-lora": {**_ALONE, "agent.optimizer.name": "rac-lora"},
    "lora-pro": {**_ALONE, "agent.optimizer.name": "lora-pro"},
    "bernoulli": {**_ALONE, "agent.optimizer.name": "bernoulli-lora"},
    "low-rank": {**_ALONE, "agent.covariance.name": "low-rank"},
    "logistic": {**_ALONE, "agent.link": "bernoulli"},
    "last-layer": {**_ALONE, "agent.features": "last-layer"},
    "every4": {**_ALONE, "agent.training.update_every": 4, "agent.policy.name": "thompson"},
    "drift": {**_ALONE, "env.drift.kind": "abrupt", "agent.training.discount": 0.99},
    "delayed": {
        **_ALONE,
        "env.delay.law": "fixed",
        "env.delay.rounds": 5,
        "env.delay.loss_probability": 0.1,
    },
    "context": _CONTEXT,
    "adapted": _ALONE,
}
"""Name -> what differs from the defaults; 200 rounds, seed 0, one thread."""


def main() -> None:
    """Play the settings and print a sum for each; exit code 1 if one differs or is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=sorted(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--against", type=Path, help="what this printed before")
    parser.add_argument("--out", help="folder of the runs; one that is deleted if not given")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    arguments = parser.parse_args()
    before = {}
    if arguments.against is not None:
        if not arguments.against.is_file():
            parser.error(f"--against {arguments.against} is no file; name what this printed before")
        lines = arguments.against.read_text(encoding="utf-8").splitlines()
        before = {path: digest for digest, path in (line.split() for line in lines)}
    with tempfile.TemporaryDirectory() as temporary:
        sums = play_all(arguments.only, arguments.out or temporary, arguments.workers)
    print("\n".join(f"{digest}  {path}" for path, digest in sums.items()))
    if arguments.against is not None:
        other = [path for path, digest in sums.items() if before.get(path) != digest]
        if other:
            sys.exit("other bytes than before, or not there before: " + ", ".join(other))
        print(f"{len(sums)} runs, every byte as before", file=sys.stderr)


def play_all(names: list[str], out: str, workers: int) -> dict[str, str]:
    """Path of `rounds.csv` below `out` -> its sum, for the settings of these names."""
    base = override(RunConfig(num_rounds=200), {"out": out, "overwrite": True})
    jobs = [override_keys(base, {**SETTINGS[name], "experiment": name}) for name in names]
    if errors := run_jobs(jobs, workers=workers):
        sys.exit("\n".join(f"{folder}: {message}" for folder, message in errors.items()))
    tables = [run_folder(job) / "rounds.csv" for job in jobs]
    return {
        table.relative_to(out).as_posix(): hashlib.sha256(table.read_bytes()).hexdigest()
        for table in tables
    }


if __name__ == "__main__":
    main()
