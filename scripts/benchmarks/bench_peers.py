"""Published libraries of neural bandits beside ours: CPU time of a round, and regret.

Calvera and AgileRL (`peer_bandits.py`) play the stream that our agents play: the packaged digits,
ten arms in shuffled slots, Bernoulli rewards; with one seed all face the same images and the same
reward of every arm. Their contexts, float32 (K, d), are the features of the frozen embedded ViT.
All agents play round by round in turn in one process of one thread.

The peers are optional, and nothing of vitucb needs them. To put them where they replace nothing:

    pip install --target PEERS --no-deps calvera lightning lightning-utilities torchmetrics \
        agilerl agilerl-arena dill fastrand lazy-loader opt-einsum pettingzoo pyvers sniffio \
        tensordict wandb xxhash
    PYTHONPATH=PEERS python scripts/benchmarks/bench_peers.py
    python scripts/benchmarks/bench_peers.py --quick --agents vit-ucb lin-ucb    # without them

Writes `peers-time.csv`, `peers.csv` and `peers.png`. Finished seeds stay in `--runs`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from peer_bandits import PEERS
from peer_tools import chosen_rows, machine
from study_tools import (
    Curves,
    draw_curves,
    interval,
    study_options,
    study_parser,
    suffix,
    write_table,
)

import vitucb
from vitucb.agents.baselines.frozen_features import FrozenFeatures, build_frozen_features
from vitucb.assets import DEFAULT_BACKBONE
from vitucb.cli.bench.scoring import one_thread
from vitucb.config import AgentConfig
from vitucb.experiment.episode import Episode
from vitucb.types import Agent, Decision, Observation, State

ARMS = 10
REFERENCE = "vit-ucb"
ADAPTED = "adapted"
OURS = (REFERENCE, ADAPTED, "kernel-ucb", "lin-ucb", "neural-linear", "neural-ucb", "random")
# Columns of a played stream: regret, then seconds of CPU time, exclusive of each other.
REGRET, FORWARD, CHOOSE, LEARN = range(4)
_PARTS = (FORWARD, CHOOSE, LEARN)


class Clocked:
    """An agent, and the CPU time of its parts, round by round.

    Attributes:
        rows: Seconds in the frozen backbone, choosing and learning of every round, exclusive.
    """

    def __init__(self, agent: Agent) -> None:
        """Watch `agent`, and the features of a frozen backbone if it has them."""
        self._agent, self.rows = agent, list[list[float]]()
        self._forward, self._started = 0.0, 0.0
        frozen = getattr(agent, "frozen", getattr(agent, "_frozen", None))
        if isinstance(frozen, FrozenFeatures):
            for module in (frozen._preprocess, frozen._backbone):
                module.register_forward_pre_hook(self._begin_forward)
                module.register_forward_hook(self._end_forward)

    def _begin_forward(self, *_: object) -> None:
        self._started = time.process_time()

    def _end_forward(self, *_: object) -> None:
        self._forward += time.process_time() - self._started

    def select_action(self, obs: Observation) -> Decision:
        """Let the agent choose."""
        self._forward, start = 0.0, time.process_time()
        decision = self._agent.select_action(obs)
        self.rows.append([self._forward, time.process_time() - start - self._forward, 0.0])
        return decision

    def update(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        """Let the agent learn."""
        self._forward, start = 0.0, time.process_time()
        metrics = self._agent.update(obs, decision, reward)
        self.rows[-1][2] = time.process_time() - start - self._forward
        self.rows[-1][0] += self._forward
        return metrics

    def state_dict(self) -> State:
        """That of the agent."""
        return self._agent.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Restore the agent."""
        self._agent.load_state_dict(state)


def make(
    label: str, seed: int, rounds: int, backbone: str = DEFAULT_BACKBONE
) -> tuple[Episode, Clocked]:
    """The agent of a label in an environment of its own."""
    env = gym.make("vitucb/ImageArms-v0", dataset="digits", num_arms=ARMS, max_episode_steps=rounds)
    agent: Agent
    if label in PEERS:
        frozen = build_frozen_features(AgentConfig(backbone=backbone), env, "cpu")
        agent = PEERS[label].build(frozen, seed, ARMS)
    else:
        is_alone = label == ADAPTED
        changes: dict[str, Any] = {"experts": [ADAPTED]} if is_alone else {}
        if label != "random":
            changes["backbone"] = backbone
        agent = vitucb.make_agent(REFERENCE if is_alone else label, env, seed=seed, **changes)
    clocked = Clocked(agent)
    return Episode(env, clocked, seed=seed), clocked


def play_seed(
    labels: Sequence[str], seed: int, rounds: int, backbone: str = DEFAULT_BACKBONE
) -> dict[str, Curves]:
    """Regret and CPU seconds of every round, float64 (4, T) by label, the agents in turn."""
    made = {label: make(label, seed, rounds, backbone) for label in labels}
    regret: dict[str, list[float]] = {label: [] for label in labels}
    with one_thread():
        for _ in range(rounds):
            for label, (episode, _) in made.items():
                regret[label].append(episode.play_round().regret)
    return {
        label: np.vstack([regret[label], np.array(clocked.rows).T])
        for label, (_, clocked) in made.items()
    }


def played(
    labels: Sequence[str], seed: int, rounds: int, folder: Path, backbone: str = DEFAULT_BACKBONE
) -> dict[str, Curves]:
    """`play_seed`, or what it wrote to `folder` before if all agents are in it."""
    path = folder / f"peers{suffix(backbone)}-s{seed}-{rounds}.npz"
    if path.is_file():
        with np.load(path) as file:
            before = dict(zip(file["labels"].tolist(), file["rows"], strict=True))
        if set(labels) <= set(before):
            return {label: before[label] for label in labels}
    runs = play_seed(labels, seed, rounds, backbone)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp.npz")
    np.savez(unfinished, labels=np.array(list(runs)), rows=np.stack(list(runs.values())))
    unfinished.replace(path)
    return runs


def time_rows(runs: Mapping[str, Curves]) -> list[list[str]]:
    """Milliseconds of CPU time of a round by part: medians over seeds and the last third.

    What an agent does every so many rounds is in the mean alone, and in the ratio, which is that of
    means.

    Args:
        runs: Label -> float64 (S, 4, T), the agent `REFERENCE` among them or not.
    """
    horizon = next(iter(runs.values())).shape[-1]
    first = max(1, horizon // 3)
    last = horizon - first
    wholes = {label: 1e3 * run[:, FORWARD:].sum(1) for label, run in runs.items()}
    mean = {label: float(whole[:, last:].mean()) for label, whole in wholes.items()}
    rows = []
    for label, run in runs.items():
        forward, choose, learn = (float(np.median(1e3 * run[:, i, last:])) for i in _PARTS)
        is_frozen = forward > 0
        alone = np.median(1e3 * run[:, CHOOSE:, last:].sum(1))
        ratio = f"{mean[label] / mean[REFERENCE]:.2f}" if REFERENCE in mean else "-"
        rows.append(
            [
                label,
                f"{forward:.1f}" if is_frozen else "-",
                f"{choose:.1f}",
                f"{learn:.1f}",
                f"{np.median(wholes[label][:, :first]):.1f}",
                f"{np.median(wholes[label][:, last:]):.1f}",
                f"{mean[label]:.1f}",
                f"{alone:.1f}" if is_frozen else "-",
                ratio,
            ]
        )
    ends = [f"round, first {first}", f"round, last {first}", f"mean, last {first}"]
    parts = ["frozen forward", "choose", "learn"]
    return [["agent", *parts, *ends, "features at hand", f"x {REFERENCE}"], *rows]


def regret_rows(runs: Mapping[str, NDArray[np.float64]]) -> list[list[str]]:
    """Cumulative regret at a tenth, half and all of the horizon, and against `REFERENCE`.

    Args:
        runs: Label -> float64 (S, 4, T), one stream per seed.
    """
    curves = cumulative_regret(runs)
    horizon = next(iter(curves.values())).shape[1]
    marks = [max(1, horizon // 10), max(1, horizon // 2), horizon]
    header = ["agent", *(f"R({t})" for t in marks), "95 %", f"minus {REFERENCE}", "95 %", "seeds"]
    rows = [header]
    for label, curve in curves.items():
        ends = curve[:, -1]
        paired = ["-", "-"]
        if REFERENCE in curves and label != REFERENCE:
            difference = ends - curves[REFERENCE][:, -1]
            paired = [f"{difference.mean():+.1f}", interval(difference, 1)]
        means = [f"{curve[:, t - 1].mean():.1f}" for t in marks]
        each = " ".join(f"{end:.0f}" for end in ends)
        rows.append([label, *means, interval(ends, 1), *paired, each])
    return rows


def cumulative_regret(runs: Mapping[str, NDArray[np.float64]]) -> dict[str, Curves]:
    """Cumulative regret (S, T) by label."""
    return {label: run[:, REGRET].cumsum(1) for label, run in runs.items()}


def main() -> None:
    """Play, and write tables and figure."""
    parser = study_parser(__doc__, rounds=300, seeds=8)
    modules = {label: peer.module for label, peer in PEERS.items()}
    known = {**modules, **dict.fromkeys(OURS)}
    parser.add_argument(
        "--agents", dest="rows", nargs="+", choices=list(known), help="all if not given"
    )
    options = study_options(parser)
    labels = chosen_rows(parser, options, known, option="--agents")
    print(machine())
    seeds = [
        played(labels, seed, options.rounds, Path(options.runs), options.backbone)
        for seed in range(options.seeds)
    ]
    runs = {label: np.stack([seed[label] for seed in seeds]) for label in labels}
    write_table(options.out / "peers-time.csv", time_rows(runs))
    write_table(options.out / "peers.csv", regret_rows(runs))
    # Ranges of so many agents over seeds would hide each other; the table has them.
    means = {
        label: curve.mean(0, keepdims=True) for label, curve in cumulative_regret(runs).items()
    }
    title = f"Digits, ten arms: mean of {options.seeds} seeds"
    draw_curves(means, title, options.out / "peers.png")


if __name__ == "__main__":
    main()
