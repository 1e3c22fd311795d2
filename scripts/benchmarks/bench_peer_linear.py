r"""`lin-ucb` and `kernel-ucb` beside linear bandits of published libraries.

One stream for all: the packaged digits, ten image arms in shuffled slots, rewards 0 or 1 with mean
0.1 to 0.9 by class; with one seed all face the same images and the same reward of every arm. All
see the same d = 192 features of the frozen embedded ViT, and learn after every reward. MABWiser has
one arm that is asked for ten contexts, bayesianbandits one regression that is sampled for ten,
Vowpal Wabbit its `cb_explore_adf`: in all three one model serves all arms, as in ours. Agents play
in turn, in one process of one thread. Writes `peers-linear.csv`.

    pip install --target PEERS --no-deps mabwiser pandas python-dateutil seaborn \
        bayesianbandits vowpalwabbit
    PYTHONPATH=PEERS python scripts/benchmarks/bench_peer_linear.py
    PYTHONPATH=PEERS python scripts/benchmarks/bench_peer_linear.py --tune --rounds 300
    python scripts/benchmarks/bench_peer_linear.py --rows lin-ucb kernel-ucb

`--tune` prints the regret of every setting of the peers on seeds 1000 and 1001, from which theirs
below are; ours are at their defaults. Finished seeds stay in `--runs`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import gymnasium as gym
import numpy as np
from bench_peers import ARMS, CHOOSE, LEARN, REGRET, Clocked
from numpy.typing import NDArray
from peer_tools import chosen_rows, machine, peer_parser
from study_tools import Curves, add_backbone, interval, out_folder, suffix, write_table

import vitucb
from vitucb.agents.baselines.frozen_features import FrozenFeatures, build_frozen_features
from vitucb.assets import DEFAULT_BACKBONE
from vitucb.cli.bench.scoring import one_thread
from vitucb.config import AgentConfig
from vitucb.experiment.episode import Episode
from vitucb.seeding import numpy_generator
from vitucb.types import Agent, Decision, Observation, State

REFERENCE = "lin-ucb"
TUNING_SEEDS = (1000, 1001)
Features: TypeAlias = NDArray[np.float64]


class Bandit(Protocol):
    """A bandit whose arms are rows of features."""

    def choose(self, x: Features) -> int:
        """An arm, of features (K, d)."""
        ...

    def learn(self, reward: float) -> None:
        """The reward of the arm chosen last."""
        ...


class MabwiserLinUCB:
    """MABWiser's LinUCB of one arm, whose index is asked of every context."""

    def __init__(self, rng: np.random.Generator, dim: int, *, alpha: float, ridge: float) -> None:
        """Start at zero; a context of zeros says nothing."""
        mab = importlib.import_module("mabwiser.mab")
        policy = mab.LearningPolicy.LinUCB(alpha=alpha, l2_lambda=ridge)
        self._mab = mab.MAB(arms=[0], learning_policy=policy, seed=int(rng.integers(2**31)))
        self._mab.fit([0], [0.0], np.zeros((1, dim)))
        self._chosen = np.zeros((1, dim))

    def choose(self, x: Features) -> int:
        """The context of the largest index."""
        told = self._mab.predict_expectations(x)
        best = int(np.argmax([row[0] for row in told]))
        self._chosen = x[[best]]
        return best

    def learn(self, reward: float) -> None:
        """Update the ridge regression."""
        self._mab.partial_fit([0], [reward], self._chosen)


class BayesianNormal:
    """Thompson sampling on a NormalRegressor of bayesianbandits."""

    def __init__(self, rng: np.random.Generator, dim: int, *, alpha: float, beta: float) -> None:
        """Prior precision `alpha`, noise precision `beta`."""
        library = importlib.import_module("bayesianbandits")
        self._model = library.NormalRegressor(alpha=alpha, beta=beta, random_state=rng)
        self._chosen = np.zeros((1, dim))

    def choose(self, x: Features) -> int:
        """The arm of the largest mean under one draw of the weights."""
        best = int(self._model.sample(x, size=1)[0].argmax())
        self._chosen = x[[best]]
        return best

    def learn(self, reward: float) -> None:
        """Update the posterior."""
        self._model.partial_fit(self._chosen, np.array([reward]))


class VowpalWabbit:
    """`--cb_explore_adf` of Vowpal Wabbit, which draws from its own probabilities."""

    def __init__(self, rng: np.random.Generator, dim: int, *, options: str) -> None:
        """Start a workspace with `options`."""
        library = importlib.import_module("vowpalwabbit")
        self._workspace = library.Workspace(f"--cb_explore_adf --quiet {options}")
        self._rng = rng
        self._arms: list[str] = []
        self._chosen, self._probability = 0, 1.0

    def choose(self, x: Features) -> int:
        """An arm, with the probability that the workspace gives it."""
        self._arms = ["|x " + " ".join(f"{i}:{v:.6g}" for i, v in enumerate(row)) for row in x]
        told = np.array(self._workspace.predict(self._arms))
        self._chosen = int(self._rng.choice(len(x), p=told / told.sum()))
        self._probability = float(told[self._chosen])
        return self._chosen

    def learn(self, reward: float) -> None:
        """Learn from the cost, which is minus the reward."""
        label = f"0:{-reward}:{self._probability} "
        arms = [label + arm if i == self._chosen else arm for i, arm in enumerate(self._arms)]
        self._workspace.learn(arms)


Make: TypeAlias = Callable[[np.random.Generator, int], Bandit]


def _settings() -> dict[str, tuple[str, Make]]:
    """Every setting that was tried: its label -> the peer's module and how to make it."""
    made: dict[str, tuple[str, Make]] = {}
    for alpha, ridge in product((0.3, 1.0, 2.0), (1.0, 0.1)):
        linucb = partial(MabwiserLinUCB, alpha=alpha, ridge=ridge)
        made[f"MABWiser LinUCB, alpha {alpha}, ridge {ridge}"] = ("mabwiser", linucb)
    for alpha, beta in product((1.0, 0.1, 0.01), (4.0, 16.0)):
        normal = partial(BayesianNormal, alpha=alpha, beta=beta)
        name = f"bayesianbandits NormalRegressor, alpha {alpha}, beta {beta:g}"
        made[name] = ("bayesianbandits", normal)
    for option in ("--epsilon 0.05", *(f"--squarecb --gamma_scale {g}" for g in (1, 3, 10, 30))):
        explored = partial(VowpalWabbit, options=option)
        made[f"Vowpal Wabbit {option}"] = ("vowpalwabbit", explored)
    return made


SETTINGS: Final = _settings()
CHOSEN: Final = (
    "MABWiser LinUCB, alpha 1.0, ridge 1.0",
    "bayesianbandits NormalRegressor, alpha 1.0, beta 16",
    "Vowpal Wabbit --squarecb --gamma_scale 30",
)
"""What had the least regret of its library on `TUNING_SEEDS`."""
OURS: Final = (REFERENCE, "kernel-ucb")


class PeerAgent:
    """A peer's bandit on features of the frozen backbone, of norm 1 for the first arms."""

    def __init__(self, frozen: FrozenFeatures, bandit: Bandit) -> None:
        """Play `bandit` on `frozen`."""
        self._frozen, self._bandit, self._rounds = frozen, bandit, 0

    def select_action(self, obs: Observation) -> Decision:
        """Features of the images, and the bandit's choice."""
        x = self._frozen(obs["images"])
        action, nothing = self._bandit.choose(x.numpy()), np.zeros(len(x))
        self._rounds += 1
        return Decision(action, 1.0, nothing, nothing, x[action], self._rounds - 1, nothing)

    def update(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        """Learn from the reward."""
        self._bandit.learn(float(reward))
        return {}

    def state_dict(self) -> State:
        """Nothing: streams are short and played from the start."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Nothing to restore."""


def make(
    label: str, seed: int, rounds: int, shared: list[FrozenFeatures], backbone: str
) -> tuple[Episode, Clocked]:
    """The agent of a label in an environment of its own; peers look at an image once for all."""
    env = gym.make("vitucb/ImageArms-v0", dataset="digits", num_arms=ARMS, max_episode_steps=rounds)
    agent: Agent
    if label in SETTINGS:
        if not shared:
            shared.append(build_frozen_features(AgentConfig(backbone=backbone), env, "cpu"))
        (frozen,) = shared
        bandit = SETTINGS[label][1](numpy_generator(seed, "peer"), frozen.dim)
        agent = PeerAgent(frozen, bandit)
    else:
        agent = vitucb.make_agent(label, env, seed=seed, backbone=backbone)
    clocked = Clocked(agent)
    return Episode(env, clocked, seed=seed), clocked


def played(
    labels: Sequence[str], seed: int, rounds: int, folder: Path, backbone: str = DEFAULT_BACKBONE
) -> dict[str, Curves]:
    """Regret and CPU seconds of every round, (4, T) by label, or what lies in `folder`."""
    path = folder / f"linear{suffix(backbone)}-s{seed}-{rounds}.npz"
    if path.is_file():
        with np.load(path) as file:
            before = dict(zip(file["labels"].tolist(), file["rows"], strict=True))
        if set(labels) <= set(before):
            return {label: before[label] for label in labels}
    shared: list[FrozenFeatures] = []
    made = {label: make(label, seed, rounds, shared, backbone) for label in labels}
    regret: dict[str, list[float]] = {label: [] for label in labels}
    with one_thread():
        for _ in range(rounds):
            for label, (episode, _) in made.items():
                regret[label].append(episode.play_round().regret)
    runs = {
        label: np.vstack([regret[label], np.array(clocked.rows).T])
        for label, (_, clocked) in made.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(path, labels=np.array(list(runs)), rows=np.stack(list(runs.values())))
    return runs


def table_rows(runs: Mapping[str, Curves]) -> list[list[str]]:
    """Milliseconds of choosing and learning with features at hand, and regret at two times.

    Args:
        runs: Label -> float64 (S, 4, T).
    """
    horizon = next(iter(runs.values())).shape[-1]
    early = max(1, horizon // 10)
    reference = runs.get(REFERENCE)
    times = ["choose", "learn", f"x {REFERENCE}"]
    regrets = [f"R({early})", f"R({horizon})", "95 %", f"minus {REFERENCE}", "95 %"]
    rows = [["agent", *times, *regrets]]
    for label, run in runs.items():
        choose, learn = (float(np.median(1e3 * run[:, part])) for part in (CHOOSE, LEARN))
        curves = run[:, REGRET].cumsum(1)
        ratio, paired = "-", ["-", "-"]
        if reference is not None:
            ratio = f"{_whole(run) / _whole(reference):.2f}"
        if reference is not None and label != REFERENCE:
            apart = curves[:, -1] - reference[:, REGRET].sum(1)
            paired = [f"{apart.mean():+.1f}", interval(apart, 1)]
        means = [f"{curves[:, t - 1].mean():.1f}" for t in (early, horizon)]
        ends = interval(curves[:, -1], 1)
        rows.append([label, f"{choose:.2f}", f"{learn:.2f}", ratio, *means, ends, *paired])
    return rows


def _whole(run: Curves) -> float:
    """Median CPU time of a round without the frozen forward."""
    return float(np.median(run[:, CHOOSE] + run[:, LEARN]))


def main() -> None:
    """Play, and write the table."""
    labels: dict[str, str | None] = {
        **dict.fromkeys(OURS),
        **{name: SETTINGS[name][0] for name in CHOSEN},
    }
    parser = peer_parser(__doc__, labels)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    add_backbone(parser)
    parser.add_argument("--tune", action="store_true", help="print the regret of every setting")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seeds = 30, 1
    seeds: Sequence[int] = TUNING_SEEDS if options.tune else range(options.seeds)
    if options.tune:
        labels = {name: module for name, (module, _) in SETTINGS.items()}
    names = chosen_rows(parser, options, labels)
    print(machine())
    each = [played(names, seed, options.rounds, options.runs, options.backbone) for seed in seeds]
    runs = {name: np.stack([seed[name] for seed in each]) for name in names}
    table: list[list[str]] = table_rows(runs)
    if options.tune:
        print("\n".join("  ".join(row) for row in table))
    else:
        write_table(out_folder(options) / "peers-linear.csv", table)


if __name__ == "__main__":
    main()
