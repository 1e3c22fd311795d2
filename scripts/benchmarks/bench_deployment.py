"""Decisions per second, rewards lost and memory of a deployed agent under many threads.

    python scripts/benchmarks/bench_deployment.py [--agent vit-ucb] [--covariance low-rank]
        [--decisions 1200]

Threads ask for decisions among K random images. Half of the decisions are answered, in random
order, up to 100 decisions later, by whichever thread comes next; the other half never. Every reward
must be learnt, and memory must not grow once the table of waiting decisions, the replay and the
covariance are full. Prints a Markdown table, a row per quarter. One torch thread; figures of a
shared machine vary.
"""

from __future__ import annotations

import argparse
import heapq
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import vitucb
from vitucb.models.threads import use_threads
from vitucb.serving.deployed_agent import DeployedAgent

_LATEST = 100
_CAP = 200


class Loop:
    """What the threads share: what is due to be answered, and counts."""

    def __init__(self, agent: DeployedAgent, num_arms: int, image_size: int, seed: int) -> None:
        self._agent, self._lock = agent, threading.Lock()
        self._rng = np.random.default_rng(seed)
        self._shape = (num_arms, image_size, image_size, 3)
        self._due: list[tuple[int, str, float]] = []
        self._left = self._decided = 0
        self.sent = self.not_learnt = 0

    def play(self, decisions: int, num_threads: int) -> float:
        """Make so many decisions; seconds."""
        self._left = decisions
        threads = [threading.Thread(target=self._work) for _ in range(num_threads)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started

    def _work(self) -> None:
        while (images := self._next()) is not None:
            decision = self._agent.act(images)
            answers = self._exchange(decision.id, float(images[decision.action].mean() / 255))
            outcomes = [self._agent.observe(name, reward).is_learnt for name, reward in answers]
            with self._lock:
                self.sent += len(outcomes)
                self.not_learnt += outcomes.count(False)

    def _next(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None:
        with self._lock:
            if not self._left:
                return None
            self._left -= 1
            return self._rng.integers(0, 256, self._shape, np.uint8)

    def _exchange(self, name: str, reward: float) -> list[tuple[str, float]]:
        """Hand in a decision that half the time will be answered; take those that are due."""
        with self._lock:
            self._decided += 1
            if self._rng.random() < 0.5:
                when = self._decided + int(self._rng.integers(1, _LATEST))
                heapq.heappush(self._due, (when, name, reward))
            answers = []
            while self._due and self._due[0][0] <= self._decided:
                answers.append(heapq.heappop(self._due)[1:])
            return answers


def private_memory_mib() -> float:
    """Memory of this process that no file backs, MiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(x for x in status.splitlines() if x.startswith("RssAnon")).split()[1]) / 1024


def array_mib(value: Any) -> float:
    """Memory of all arrays and tensors in a state dict, MiB."""
    if isinstance(value, dict):
        return sum(array_mib(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(array_mib(item) for item in value)
    return getattr(value, "nbytes", 0) / 2**20


def main() -> None:
    """Play four quarters and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--agent", default="vit-ucb")
    parser.add_argument("--covariance", default="low-rank")
    parser.add_argument("--decisions", type=int, default=1_200)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--num-arms", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--update-every", type=int, default=1)
    parser.add_argument("--prefix-cache-mib", type=int, default=256)
    args = parser.parse_args()
    use_threads(1)
    training = {"replay_capacity": _CAP, "update_every": args.update_every}
    agent = vitucb.deploy(
        args.agent,
        num_arms=args.num_arms,
        max_unanswered=_CAP,
        experts=["adapted"] if args.agent == "vit-ucb" else None,
        covariance=args.covariance,
        training=training,
        prefix_cache_mib=args.prefix_cache_mib,
    )
    loop = Loop(agent, args.num_arms, args.image_size, 0)
    print(f"before: {private_memory_mib():,.0f} MiB", flush=True)
    print(
        "| decisions | decisions/s | rewards sent | not learnt | held | state, MiB | process, MiB |"
    )
    print("|---" * 7 + "|")
    quarter = args.decisions // 4
    for _ in range(4):
        seconds = loop.play(quarter, args.threads)
        columns = (
            f"{agent.counts.decided:,}",
            f"{quarter / seconds:.1f}",
            f"{loop.sent:,}",
            f"{loop.not_learnt:,}",
            f"{agent.num_held:,}",
            f"{array_mib(agent.agent.state_dict()):,.1f}",
            f"{private_memory_mib():,.0f}",
        )
        print("| " + " | ".join(columns) + " |", flush=True)


if __name__ == "__main__":
    main()
