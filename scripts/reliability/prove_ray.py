"""Play a sweep on a simulated Ray cluster of two nodes, kill a worker midway, compare every byte.

    python scripts/reliability/prove_ray.py [--rounds 3000]

Needs `vitucb[ray]`. The sequential runs come from this process.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from vitucb.config import RunConfig, override
from vitucb.experiment.playing import play
from vitucb.experiment.run_folder import run_folder
from vitucb.experiment.sweep import expand, run_jobs

SAME_BYTES = ("rounds.csv", "metrics.csv", "summary.json", "gallery.npz")


def main() -> None:
    """Run the sweep both ways and print a line; exit code 1 if any byte differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3_000, help="horizon")
    arguments = parser.parse_args()
    if importlib.util.find_spec("ray") is None:
        parser.error("needs Ray; pip install 'vitucb[ray]'")
    import ray
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory() as out:
        base = override(RunConfig(), {"agent": "gaussian-ts", "tensorboard": False})
        base = dataclasses.replace(
            base, out=out, num_rounds=arguments.rounds, checkpoint_every=100, experiment="ray"
        )
        jobs = expand(base, grid={"agent.name": ["gaussian-ts", "random"]}, seeds=2)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        os.environ["RAY_ADDRESS"] = cluster.address
        killed: list[int] = []
        threading.Thread(target=kill_one, args=(jobs, killed), daemon=True).start()
        errors = run_jobs(jobs, engine="ray")
        ray.shutdown()
        cluster.shutdown()
        equal = sum(is_equal(job) for job in jobs)
    print(
        f"{len(jobs)} jobs on 2 nodes, workers killed midway: {len(killed)}, errors: "
        f"{list(errors.values())}, byte-equal to sequential: {equal}"
    )
    sys.exit(0 if equal == len(jobs) and killed else 1)


def kill_one(jobs: list[RunConfig], killed: list[int]) -> None:
    """Kill the first worker seen past round 500; its lock says which process it is."""
    while not killed:
        time.sleep(0.05)
        for job in jobs:
            table, lock = run_folder(job) / "rounds.csv", run_folder(job) / "run.lock"
            if table.is_file() and table.read_bytes().count(b"\n") > 500 and lock.is_file():
                killed.append(int(json.loads(lock.read_text(encoding="utf-8"))["pid"]))
                os.kill(killed[0], signal.SIGKILL)
                return


def is_equal(job: RunConfig) -> bool:
    """Whether the job's files are those of a run in this process."""
    alone = play(dataclasses.replace(job, experiment="alone")).folder
    return all(
        (run_folder(job) / name).read_bytes() == (Path(alone) / name).read_bytes()
        for name in SAME_BYTES
    )


if __name__ == "__main__":
    main()
