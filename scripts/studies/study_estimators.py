"""What do Bernoulli-LoRA's estimators and RAC-LoRA's passes gain, cost and err by, online?

One handwritten digit with ten labels, right or wrong; `vit-ucb` with the experts `linear` and
`adapted`, and in `adapted` one estimator each, all at one rate. For every one: regret, images that
went through the adapted blocks per reward, and the error of the estimate, |G - grad f|^2 over
|grad f|^2 for the gradient of the mean over the whole replay, at every tenth step (`--every`). A
study that is stopped goes on where it was.

    python scripts/studies/study_estimators.py
    python scripts/studies/study_estimators.py --rounds 200 --only page mvr
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from study_tools import interval, study_options, study_parser, suffix, write_table

import vitucb.envs  # noqa: F401  # registers the environments
from vitucb.agents.expert_agent import ExpertAgent
from vitucb.agents.factory import make_agent
from vitucb.experiment.episode import Episode
from vitucb.learning.experts.adapted.expert import AdaptedExpert
from vitucb.learning.experts.adapted.finite_sum import FiniteSumNetwork
from vitucb.learning.experts.adapted.likelihoods import SoftmaxLikelihood
from vitucb.optim import ENTRIES
from vitucb.optim.chains.bernoulli_lora import BernoulliLoRA
from vitucb.optim.chains.estimators import Estimator, Gradients, Query
from vitucb.storage.atomic_files import write_durably

BERNOULLI: Mapping[str, Mapping[str, Any]] = {
    "sgd": {"estimator": "mvr", "b": 1.0},  # the same gradient, by the way that can be watched
    "mvr": {"estimator": "mvr"},
    "gd": {"estimator": "gd"},
    "page": {"estimator": "page"},
    "qgd": {"estimator": "qgd"},
    "marina": {"estimator": "marina"},
    "ef21": {"estimator": "ef21"},
    "subgradient": {"estimator": "subgradient"},
    "polyak": {"estimator": "subgradient", "step_size": "polyak"},
}
CASES: dict[str, tuple[str, Mapping[str, Any]]] = {
    **{label: ("bernoulli-lora", options) for label, options in BERNOULLI.items()},
    "reshuffling": ("rac-lora", {"data": "reshuffling"}),
    "federated": ("rac-lora", {"data": "federated"}),
}
HEADER = ("estimator", "seeds", "regret", "95 %", "images a reward", "squared error of G", "median")


class Watched:
    """An estimator that is compared with the whole gradient at some of its steps.

    Attributes:
        errors: Squared errors over squared lengths of the gradient.
        passes: Images that the comparison took.
    """

    def __init__(
        self, estimator: Estimator, optimizer: BernoulliLoRA, expert: AdaptedExpert, every: int
    ) -> None:
        self._estimator, self._optimizer, self._expert = estimator, optimizer, expert
        self._every = every
        self.needs_previous, self.uses = estimator.needs_previous, estimator.uses
        self.errors: list[float] = []
        self.passes = self._calls = 0

    def refresh(self, query: Query, estimates: list[Gradients]) -> list[Gradients]:
        """The estimator's own; the comparison changes no state and draws nothing."""
        found = self._estimator.refresh(query, estimates)
        self._calls += 1
        network = self._expert.network
        if self._calls % self._every == 0 and isinstance(network, FiniteSumNetwork):
            terms = np.arange(len(self._expert.replay) * network.num_copies)
            exact, _ = self._optimizer.full_gradients(
                lambda: network.evaluate(terms, SoftmaxLikelihood())
            )
            self.passes += len(terms)
            self.errors.append(_squares(found[0], exact) / max(_squares(exact), 1e-30))
        return found


def _squares(gradients: Gradients, others: Gradients | None = None) -> float:
    pairs = zip(gradients, others or [torch.zeros(())] * len(gradients), strict=True)
    return float(sum((a - b).double().square().sum() for a, b in pairs))


def play(options: argparse.Namespace, label: str, seed: int) -> dict[str, Any]:
    """Regret, images a reward and errors of one run."""
    rounds = options.rounds
    env = gym.make("vitucb/ImageContext-v0", dataset="digits", max_episode_steps=rounds)
    name, own = CASES[label]
    settings = {**own, "full_limit": options.full_limit}
    agent = make_agent(
        "vit-ucb",
        env,
        seed=seed,
        experts=["linear", "adapted"],
        backbone=options.backbone,
        optimizer={"name": name, "lr": options.lr, "options": settings},
    )
    assert isinstance(agent, ExpertAgent)
    expert = agent.experts["adapted"]
    assert isinstance(expert, AdaptedExpert)
    assert isinstance(expert.network, FiniteSumNetwork)
    optimizer, watched = expert.network.optimizer, None
    if isinstance(optimizer, BernoulliLoRA):
        watched = Watched(optimizer.estimator, optimizer, expert, options.every)
        optimizer.estimator = watched  # type: ignore[assignment]  # it does what one does
    episode = Episode(env, agent, seed=seed)
    for _ in range(rounds):
        episode.play_round()
    passes = expert.passes - (watched.passes if watched else 0)
    return {
        "regret": episode.cumulative_regret,
        "images": passes / rounds,
        "errors": watched.errors if watched else [],
    }


def results(options: argparse.Namespace, label: str) -> list[dict[str, Any]]:
    """Those of all seeds, played or read."""
    found = []
    lr = ENTRIES[CASES[label][0]].lr if options.lr is None else options.lr
    asked = f"T{options.rounds}__L{options.full_limit}__E{options.every}__lr{lr:g}"
    asked += suffix(options.backbone)
    for seed in range(options.seeds):
        path = Path(options.runs) / "estimators" / f"{label}__{asked}__s{seed}.json"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            run = play(options, label, seed)
            write_durably(path, json.dumps(run))
        found.append(json.loads(path.read_text(encoding="utf-8")))
    return found


def row_of(label: str, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The row of an estimator: mean and median of its errors over all steps and seeds."""
    regrets = np.array([run["regret"] for run in runs])
    images = np.mean([run["images"] for run in runs])
    errors = [error for run in runs for error in run["errors"]]
    spread = [f"{np.mean(errors):.3g}", f"{np.median(errors):.3g}"] if errors else ["", ""]
    numbers = [f"{regrets.mean():.1f}", interval(regrets, 1), f"{images:.1f}"]
    return [label, str(len(runs)), *numbers, *spread]


def main() -> None:
    """Run the study."""
    parser = study_parser(__doc__, rounds=300, seeds=5)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--lr", type=float, help="the optimizer's own rate if not given")
    parser.add_argument("--full-limit", type=int, default=128, help="images of a full gradient")
    parser.add_argument("--every", type=int, default=10, help="steps from comparison to comparison")
    options = study_options(parser)
    if options.quick:
        options.rounds = 90  # the network wakes after 84 rewards, and makes up for its steps
    table = [list(HEADER)]
    for label in options.only:
        table.append(row_of(label, results(options, label)))
    write_table(options.out / "estimators.csv", table)


if __name__ == "__main__":
    main()
