"""Which optimizer learns most from a stream of rewards? Ranks over image sets and seeds.

Supervised and online: the trainer of `vit-ucb` gets one image and its reward N(class, 1) a round,
as a uniformly random policy would log them, and takes one step on 8 images of its replay. The
figure is the share of the variance of the mean rewards that the model leaves unexplained on images
it never saw, and the regret of choosing greedily among 10 of these. Every optimizer meets the same
images, rewards and starts, so that rows are paired. Its learning rate is the best of four (or two)
on other seeds and other images, set by set. `no training` solves for the head alone, as all do.

With `--online`, regret of `vit-ucb` itself with these learning rates.

    python scripts/studies/study_optimizers.py --data FOLDER
    python scripts/studies/study_optimizers.py --data FOLDER --online --rounds 300
        --sets digits fashion
    python scripts/studies/study_optimizers.py --quick
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import matplotlib as mpl
import numpy as np
import torch
from study_tools import (
    Curves,
    base_config,
    interval,
    play,
    study_options,
    study_parser,
    write_table,
)

from vitucb.agents.factory import make_agent
from vitucb.agents.vit_ucb import ViTUCB
from vitucb.envs import ImageDataset, load_dataset
from vitucb.learning.trainer import OnlineTrainer
from vitucb.seeding import numpy_generator, stream_seed
from vitucb.statistics import bootstrap_ci, holm_correction, paired_difference

Rates = tuple[float, ...]
ADAM: Rates = (1e-4, 3e-4, 1e-3, 3e-3)
LARGE: Rates = (3e-2, 3e-1, 1.0, 3.0)
CASES: dict[str, tuple[str, dict[str, Any], Rates]] = {
    "no training": ("sgd", {}, (0.0,)),
    "adamw": ("adamw", {}, ADAM),
    "lora-plus": ("lora-plus", {}, (3e-5, 1e-4, 3e-4, 1e-3)),
    "lora-pro": ("lora-pro", {}, ADAM),
    "lora-rite": ("lora-rite", {}, ADAM),
    "scaled-adam": ("scaled-adam", {}, ADAM),
    "rac-lora": ("rac-lora", {}, (1e-3, 5e-3, 2e-2, 6e-2)),
    "bernoulli-lora": ("bernoulli-lora", {}, LARGE),
    "lora-rite, free": ("lora-rite", {"fix_gauge": False}, ADAM),
    "lora-rite, balanced": ("lora-rite", {"fix_gauge": False, "balance": True}, ADAM),
    "lora-pro, full": ("lora-pro", {"moments": "full"}, ADAM),
    "lora-pro, sgd": ("lora-pro", {"base": "sgd"}, LARGE),
    "lora-fa": ("lora-fa", {}, ADAM),
    "lamb": ("lamb", {}, (1e-3, 3e-3, 1e-2, 3e-2)),
    "cola": ("cola", {}, (1e-4, 3e-4, 1e-3, 3e-3)),
    "asymmetric-lora": ("asymmetric-lora", {}, ADAM),
    "sgd": ("sgd", {}, LARGE),
    "scaled-gd": ("scaled-gd", {}, LARGE),
}
MAIN = tuple(CASES)[:8]
SETS = {
    "digits": "digits",
    "mnist": "mnist_test10k.npz",
    "fashion": "fashion_mnist_test10k.npz",
    "cifar10": "cifar10_test10k_jpeg.npz",  # the backbone was trained on its training images
}
BATCH, HELD_OUT, ARMS, FIRST_TUNING_SEED = 8, 200, 10, 1000


@dataclass(frozen=True)
class Fit:
    """One stream: which images, optimizer, learning rate and seed, how long, and judged on what."""

    data: str
    label: str
    lr: float
    seed: int
    rounds: int
    part: Literal["tune", "eval"]

    @property
    def file(self) -> str:
        """Where its result is kept, below the folder of the runs."""
        label = self.label.replace(", ", "-").replace(" ", "-")
        return f"{self.data}/{label}__lr{self.lr:g}__T{self.rounds}__{self.part}__s{self.seed}.json"


@functools.cache
def images(data: Path, name: str, part: Literal["train", "tune", "eval"]) -> ImageDataset:
    """Part of an image set: `train` makes the streams, the others judge."""
    file = SETS[name]
    return load_dataset(data / file if file.endswith(".npz") else file, split=part)


def stream(fit: Fit, data: Path) -> Iterator[OnlineTrainer]:
    """The trainer before the first round and after every round."""
    seed = stream_seed(fit.seed, fit.data)  # what one set draws says nothing about the others
    env = gym.make(
        "vitucb/ImageArms-v0",
        dataset=images(data, fit.data, "train"),
        num_arms=2,
        reward="gaussian",
    )
    name, options, _ = CASES[fit.label]
    agent = make_agent(
        "vit-ucb",
        env,
        seed=seed,
        experts=["adapted"],
        features="last-layer",  # of the bonus, which nobody asks for here
        optimizer={"name": name, "lr": fit.lr, "options": options},
        training={"batch_size": BATCH},
    )
    assert isinstance(agent, ViTUCB)
    rng = numpy_generator(seed, "logging policy")
    obs, _ = env.reset(seed=seed)
    yield agent.trainer
    for _ in range(fit.rounds):
        action = int(rng.integers(2))
        following, reward, *_ = env.step(action)
        agent.trainer.observe(obs["images"][action], float(reward))
        obs = following
        yield agent.trainer


def marks(rounds: int) -> list[int]:
    """The rounds after which a model is judged."""
    return [rounds // 2, rounds]


def run(fit: Fit, data: Path) -> dict[str, list[float]]:
    """Unexplained share and greedy regret at every mark."""
    held_out = images(data, fit.data, fit.part)
    rng = numpy_generator(fit.seed, f"judges of {fit.data}")
    chosen = rng.permutation(len(held_out.images))[:HELD_OUT]
    pictures, means = list(held_out.images[chosen]), held_out.labels[chosen]  # type: ignore[index]  # all labelled
    arms = rng.integers(len(chosen), size=(2_000, ARMS))
    unexplained, regret = [], []
    for t, trainer in enumerate(stream(fit, data)):
        if t in marks(fit.rounds):
            guess = predictions(trainer, pictures)
            unexplained.append(float(np.square(guess - means).mean() / means.var()))
            greedy = np.take_along_axis(arms, guess[arms].argmax(1)[:, None], 1)[:, 0]
            regret.append(float((means[arms].max(1) - means[greedy]).mean()))
    return {"unexplained": unexplained, "greedy_regret": regret}


@torch.no_grad()
def predictions(trainer: OnlineTrainer, pictures: Sequence[Any]) -> Curves:
    """Predicted rewards (n,), in reward units."""
    trainer.model.eval()
    groups = [pictures[start : start + 50] for start in range(0, len(pictures), 50)]
    scores = torch.cat([trainer.model(trainer.inputs(group)) for group in groups])
    return trainer.link.decision_scale(scores.double().numpy())


def result(fit: Fit, options: argparse.Namespace) -> dict[str, list[float]]:
    """What `run` returns, played or read if it was played before."""
    path = Path(options.runs) / "optimizers" / fit.file
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        found = run(fit, options.data)
        print(f"{fit.file}: {found['unexplained'][-1]:.3f}", flush=True)
        path.with_suffix(".part").write_text(json.dumps(found))
        path.with_suffix(".part").replace(path)
    figures: dict[str, list[float]] = json.loads(path.read_text())
    return figures


def tuned_rates(options: argparse.Namespace) -> dict[tuple[str, str], float]:
    """The learning rate of least mean unexplained share by set and optimizer, on tuning seeds."""
    seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + options.tuning_seeds)
    best = {}
    for data in options.sets:
        for label in options.only:
            rates = CASES[label][2][:: 2 if options.quick else 1]
            if len(rates) == 1:
                best[data, label] = rates[0]
                continue
            fits = {
                lr: [Fit(data, label, lr, s, options.tuning_rounds, "tune") for s in seeds]
                for lr in rates
            }
            loss = {
                lr: np.mean([result(fit, options)["unexplained"][-1] for fit in group])
                for lr, group in fits.items()
            }
            best[data, label] = min(rates, key=lambda lr: loss[lr])
    return best


def played(
    options: argparse.Namespace, rates: dict[tuple[str, str], float], name: str
) -> dict[str, Curves]:
    """A figure by set: (optimizers, seeds, marks); a seed is played by all before the next."""
    for seed in range(options.seeds):
        for (data, label), lr in rates.items():
            result(Fit(data, label, lr, seed, options.rounds, "eval"), options)
    return {
        data: np.array(
            [
                [
                    result(
                        Fit(data, label, rates[data, label], s, options.rounds, "eval"), options
                    )[name]
                    for s in range(options.seeds)
                ]
                for label in options.only
            ]
        )
        for data in options.sets
    }


def percent(a: Curves, b: Curves) -> str:
    """Geometric mean of a / b over pairs as a change in per cent, with its 95 % interval."""
    gaps = np.log(a / b)
    change = [f"{100 * np.expm1(x):+.0f}" for x in (gaps.mean(), *_ends(gaps))]
    return change[0] if len(gaps) < 2 else f"{change[0]} [{change[1]}, {change[2]}]"


def _ends(values: Curves) -> tuple[float, float]:
    low, high = bootstrap_ci(values, seed=0)
    return float(low), float(high)


def table_by_set(
    unexplained: dict[str, Curves],
    regret: dict[str, Curves],
    rates: dict[tuple[str, str], float],
    labels: Sequence[str],
) -> list[list[str]]:
    """One row per set and optimizer: means over seeds with intervals, and the change."""
    header = ["set", "optimizer", "lr", "unexplained %", "95 %", "against adamw %", "greedy regret"]
    rows = [[*header, "95 % of it"]]
    for data, cube in unexplained.items():
        base = cube[labels.index("adamw"), :, -1]
        for k, label in enumerate(labels):
            end, greedy = 100 * cube[k, :, -1], regret[data][k, :, -1]
            change = "-" if label == "adamw" else percent(cube[k, :, -1], base)
            means = [f"{end.mean():.1f}", interval(end, 1), change, f"{greedy.mean():.2f}"]
            rows.append([data, label, f"{rates[data, label]:g}", *means, interval(greedy, 2)])
    return rows


def table_of_ranks(unexplained: dict[str, Curves], labels: Sequence[str]) -> list[list[str]]:
    """One row per optimizer over all pairs of set and seed; p is Wilcoxon's, Holm-corrected."""
    blocks = np.concatenate([cube[:, :, -1] for cube in unexplained.values()], axis=1)
    ranks = 1.0 + blocks.argsort(axis=0).argsort(axis=0)
    base = blocks[labels.index("adamw")]
    logs = {x: np.log(b / base) for x, b in zip(labels, blocks, strict=True) if x != "adamw"}
    pairs = {x: paired_difference(gap, np.zeros_like(gap)) for x, gap in logs.items()}
    p_values = dict(
        zip(pairs, holm_correction([pair.wilcoxon_p for pair in pairs.values()]), strict=True)
    )
    rows = [["optimizer", "mean rank", "95 %", "against adamw %", "better : worse", "p, Holm"]]
    for k in ranks.mean(axis=1).argsort(kind="stable"):
        label, cells = labels[k], ["-", "-", "-"]
        if label in pairs:
            score = f"{pairs[label].num_lower} : {pairs[label].num_higher}"
            cells = [percent(blocks[k], base), score, f"{p_values[label]:.2g}"]
        rows.append([label, f"{ranks[k].mean():.2f}", interval(ranks[k], 2), *cells])
    return rows


def table_of_ordering(unexplained: dict[str, Curves], labels: Sequence[str]) -> list[list[str]]:
    """LoRA < LoRA+ ~ LoRA < LoRA-Pro: the steps of this ordering, by set and over all."""
    rows = [["of", "against", *unexplained, "all", "p, Holm"]]
    chain = (("lora-plus", "adamw"), ("lora-pro", "adamw"), ("lora-pro", "lora-plus"))
    steps = [pair for pair in chain if set(pair) <= set(labels)]
    p_values = []
    for first, second in steps:
        a, b = labels.index(first), labels.index(second)
        ends = [(cube[a, :, -1], cube[b, :, -1]) for cube in unexplained.values()]
        joined = tuple(np.concatenate(side) for side in zip(*ends, strict=True))
        p_values.append(paired_difference(*(np.log(side) for side in joined)).wilcoxon_p)
        rows.append([first, second, *(percent(*pair) for pair in ends), percent(*joined)])
    for row, p in zip(rows[1:], holm_correction(p_values) if p_values else [], strict=True):
        row.append(f"{p:.2g}")
    return rows


def draw(unexplained: dict[str, Curves], labels: Sequence[str], path: Path) -> None:
    """Change of the unexplained share against `adamw`, one panel per set; 95 % intervals."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(unexplained), figsize=(2.4 * len(unexplained) + 1.5, 3), sharey=True, squeeze=False
    )
    for axis, (data, cube) in zip(axes[0], unexplained.items(), strict=True):
        gaps = np.log(cube[:, :, -1] / cube[labels.index("adamw"), :, -1])
        mean = 100 * np.expm1(gaps.mean(axis=1))
        if gaps.shape[1] > 1:
            ends = 100 * np.expm1([_ends(gap) for gap in gaps])
            axis.hlines(range(len(labels)), *ends.T)
        axis.plot(mean, range(len(labels)), "o", ms=4)
        axis.axvline(0.0, color="k", lw=0.8)
        axis.set(title=data, xlabel="change, %")
        axis.grid(alpha=0.3)
    axes[0, 0].set_yticks(range(len(labels)), labels)
    axes[0, 0].invert_yaxis()
    figure.suptitle("variance left unexplained, against adamw", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def regret_table(
    options: argparse.Namespace, rates: dict[tuple[str, str], float]
) -> list[list[str]]:
    """Cumulative regret of `vit-ucb` by set and optimizer, paired with `adamw`."""
    rows = [["set", "optimizer", "lr", "regret", "95 %", "minus adamw", "95 % of it"]]
    for data in options.sets:
        file = SETS[data]
        dataset = str(options.data / file) if file.endswith(".npz") else file
        env = {"dataset": dataset, "num_arms": ARMS, "reward": "gaussian"}
        base = base_config(options, f"optimizers-{data}", {**env, "data": {"split": "eval"}})
        agents = {
            label: {
                "features": "last-layer",
                "optimizer": {
                    "name": CASES[label][0],
                    "lr": rates[data, label],
                    "options": CASES[label][1],
                },
                "training": {"batch_size": BATCH},
            }
            for label in options.only
        }
        curves = play(base, agents, seeds=range(options.seeds), workers=options.workers)
        for label, regrets in curves.items():
            end, gap = regrets[:, -1], regrets[:, -1] - curves["adamw"][:, -1]
            row = [data, label, f"{rates[data, label]:g}", f"{end.mean():.0f}", interval(end)]
            rows.append([*row, f"{gap.mean():+.0f}", interval(gap)])
    return rows


def options_of_study() -> argparse.Namespace:
    """What was asked for."""
    parser = study_parser(__doc__, rounds=100, seeds=6)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(MAIN))
    parser.add_argument("--tuning-seeds", type=int, default=3)
    parser.add_argument("--tuning-rounds", type=int, default=100)
    parser.add_argument("--online", action="store_true", help="regret of vit-ucb, not the streams")
    options = study_options(parser)
    if options.quick:
        options.sets, options.tuning_seeds, options.tuning_rounds = ["digits"], 1, 30
        options.only = ["no training", "adamw"]
    if "adamw" not in options.only:
        parser.error("--only needs adamw, which the others are compared with")
    return options


def main() -> None:
    """Run the study."""
    torch.set_num_threads(1)
    options = options_of_study()
    rates = tuned_rates(options)
    if options.online:
        write_table(options.out / "optimizers_regret.csv", regret_table(options, rates))
        return
    unexplained = played(options, rates, "unexplained")
    regret = played(options, rates, "greedy_regret")
    labels = options.only
    tables = {
        "optimizers_by_set": table_by_set(unexplained, regret, rates, labels),
        "optimizers_ordering": table_of_ordering(unexplained, labels),
        "optimizers": table_of_ranks(unexplained, labels),
    }
    for name, rows in tables.items():
        write_table(options.out / f"{name}.csv", rows)
    draw(unexplained, labels, options.out / "optimizers.png")


if __name__ == "__main__":
    main()
