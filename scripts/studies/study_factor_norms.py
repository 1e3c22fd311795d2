"""How far do A and B move? Norms of the LoRA factors over a stream, one learning rate for all.

An update that depends on how B A is factored can leave one factor about where it started while the
other does the work (LoRA-RITE, figure 1; Yen et al., 2024, https://arxiv.org/abs/2410.20625). Here
from PEFT's start, A random and B = 0. The trainer of `vit-ucb` with `agent.experts adapted` gets an
image and its reward N(class, 1) a round, as a uniformly random policy would log them, and takes one
step on 8 images of its replay. Frobenius norms, layer by layer; curves are medians over layers and
seeds, the table has the largest layer too. LoRA-RITE is here with its gauge free, as published; by
default it keeps A A^T at I / 3.

The gradient in B is proportional to A, so the norms say as well which layers the features of a
bonus from LoRA gradients speak of: the second table has the largest share that one layer has of
their squared length after 50 rounds.

    python scripts/studies/study_factor_norms.py --lr 1e-3
    python scripts/studies/study_factor_norms.py --quick
"""

from __future__ import annotations

import argparse
import functools
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
    data_file,
    interval,
    study_options,
    study_parser,
    suffix,
    write_table,
)
from torch import Tensor

from vitucb.agents.factory import make_agent
from vitucb.agents.vit_ucb import ViTUCB
from vitucb.assets import DEFAULT_BACKBONE
from vitucb.envs import ImageDataset, load_dataset
from vitucb.learning.feature_maps import GradientMap
from vitucb.learning.trainer import OnlineTrainer
from vitucb.models.lora import lora_pairs
from vitucb.models.threads import use_threads
from vitucb.seeding import numpy_generator, stream_seed
from vitucb.storage.atomic_files import replacing

SETS = {
    "digits": "digits",
    "mnist": "mnist_test10k.npz",
    "fashion": "fashion_mnist_test10k.npz",
    "cifar10": "cifar10_test10k_jpeg.npz",  # the backbone was trained on its training images
}
BATCH = 8
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "adamw": ("adamw", {}),
    "lora-plus": ("lora-plus", {}),
    "scaled-adam": ("scaled-adam", {}),
    "lora-pro": ("lora-pro", {}),
    "lora-rite": ("lora-rite", {}),
    "lora-rite, free": ("lora-rite", {"fix_gauge": False}),
    "lora-rite, balanced": ("lora-rite", {"fix_gauge": False, "balance": True}),
}
LABELS = ("adamw", "lora-plus", "scaled-adam", "lora-pro", "lora-rite, free")
# What is kept of every round and layer: norms, distances from the start, lengths of the last step.
A, B, A_MOVED, B_MOVED, A_STEP, B_STEP = range(6)
BONUS_LABELS = ("adamw", "lora-rite", "lora-rite, free", "lora-rite, balanced")


@dataclass(frozen=True)
class Fit:
    """One stream: which images, optimizer, learning rate, seed and backbone, and how long."""

    data: str
    label: str
    lr: float
    seed: int
    rounds: int
    backbone: str = DEFAULT_BACKBONE

    @property
    def file(self) -> str:
        """Where its result is kept, below the folder of the runs."""
        label = self.label.replace(", ", "-").replace(" ", "-")
        label += suffix(self.backbone)
        return f"{self.data}/{label}__lr{self.lr:g}__T{self.rounds}__s{self.seed}.npy"


@functools.cache
def images(data: Path, name: str, split: Literal["train", "eval"]) -> ImageDataset:
    """A split of an image set: streams are of `train`, features of `eval`."""
    file = SETS[name]
    return load_dataset(data_file(data, file) if file.endswith(".npz") else file, split=split)


def stream(fit: Fit, data: Path) -> Iterator[OnlineTrainer]:
    """The trainer before the first round and after every round."""
    seed = stream_seed(fit.seed, fit.data)  # what one set draws says nothing about the others
    env = gym.make(
        "vitucb/ImageArms-v0",
        dataset=images(data, fit.data, "train"),
        num_arms=2,
        reward="gaussian",
    )
    name, options = CASES[fit.label]
    agent = make_agent(
        "vit-ucb",
        env,
        seed=seed,
        experts=["adapted"],
        backbone=fit.backbone,
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


def distances(factors: Sequence[Tensor], others: Sequence[Tensor]) -> list[float]:
    """Frobenius norm of the difference, layer by layer."""
    return [float((x - y).double().norm()) for x, y in zip(factors, others, strict=True)]


def norms(fit: Fit, data: Path) -> Curves:
    """What `A` to `B_STEP` name: (rounds + 1, 6, layers)."""
    rows: list[list[list[float]]] = []
    start: list[list[Tensor]] = []
    before: list[list[Tensor]] = []
    for trainer in stream(fit, data):
        pairs = lora_pairs(trainer.model)
        now = [
            [pair.A.detach().clone() for pair in pairs],
            [pair.B.detach().clone() for pair in pairs],
        ]
        start, before = start or now, before or now
        zero = [[torch.zeros_like(factor) for factor in side] for side in now]
        origins = (zero, start, before)
        rows.append([distances(now[k], origin[k]) for origin in origins for k in (0, 1)])
        before = now
    return np.array(rows)


def curves(options: argparse.Namespace, label: str) -> Curves:
    """`norms` of every seed, played or read: (seeds, rounds + 1, 6, layers)."""
    found = []
    for seed in range(options.seeds):
        fit = Fit(options.set, label, options.lr, seed, options.rounds, options.backbone)
        path = Path(options.runs) / "factor_norms" / fit.file
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            played = norms(fit, options.data)
            with replacing(path) as file:
                np.save(file, played, allow_pickle=False)
            print(path, flush=True)
        found.append(np.load(path, allow_pickle=False))
    return np.stack(found)


def table(by_label: dict[str, Curves]) -> list[list[str]]:
    """Where the factors ended in units of |A0|: median layer with 95 % over seeds, and largest."""
    names = ("|A|", "A moved", "|B|")
    rows = [["optimizer", *(x for name in names for x in (name, "95 %", "largest layer"))]]
    for label, figures in by_label.items():
        end = figures[:, -1] / figures[:, 0, A, None]
        row = [label]
        for values in end[:, [A, A_MOVED, B]].swapaxes(0, 1):
            middle, most = np.median(values, axis=1), values.max(axis=1)
            row += [f"{middle.mean():.2f}", interval(middle, 2), f"{most.mean():.2f}"]
        rows.append(row)
    return rows


def layer_shares(fit: Fit, data: Path) -> Curves:
    """Share of every layer in the squared LoRA gradients of 20 images after the stream."""
    *_, trainer = stream(fit, data)
    inputs = trainer.inputs(list(images(data, fit.data, "eval").images[np.arange(20)]))
    gradients = GradientMap(trainer.model).unprojected(inputs, torch.zeros(20, dtype=torch.int64))
    sizes = [pair.A.numel() + pair.B.numel() for pair in lora_pairs(trainer.model)]
    squares = [float(part.double().square().sum()) for part in torch.split(gradients, sizes, dim=1)]
    return np.array(squares) / sum(squares)


def bonus_table(options: argparse.Namespace) -> list[list[str]]:
    """The largest share of a layer by optimizer, mean and 95 % over seeds."""
    rows = [["optimizer", "largest share of a layer", "95 %"]]
    for label in BONUS_LABELS:
        fits = [
            Fit(options.set, label, options.lr, seed, min(options.rounds, 50), options.backbone)
            for seed in range(options.seeds)
        ]
        largest = np.array([layer_shares(fit, options.data).max() for fit in fits])
        rows.append([label, f"{largest.mean():.3f}", interval(largest, 3)])
    return rows


def draw(by_label: dict[str, Curves], title: str, path: Path) -> None:
    """Left: way from the start. Right: last step over norm. A solid, B dotted."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    for k, (label, figures) in enumerate(by_label.items()):
        way = np.median(figures / figures[:, :1, A, None], axis=(0, 3))
        with np.errstate(invalid="ignore", divide="ignore"):  # B starts at 0
            step = np.median(figures[:, :, [A_STEP, B_STEP]] / figures[:, :, [A, B]], axis=(0, 3))
        left.plot(way[:, A_MOVED], "-", color=f"C{k}", label=f"{label}, A", lw=1.2)
        left.plot(way[:, B_MOVED], ":", color=f"C{k}", label=f"{label}, B", lw=1.6)
        later = np.arange(3, len(step))  # before, there was hardly anything to learn from
        right.semilogy(later, step[3:, 0], "-", color=f"C{k}", lw=1.2)
        right.semilogy(later, step[3:, 1], ":", color=f"C{k}", lw=1.6)
    left.set(title="distance from the start over |A0|", xlabel="round")
    right.set(title="last step over the factor's norm", xlabel="round")
    left.legend(fontsize=7, ncol=2)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    """Run the study."""
    use_threads(1)
    parser = study_parser(__doc__, rounds=150, seeds=5)
    parser.add_argument("--set", choices=SETS, default="digits")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--only", nargs="+", choices=LABELS, default=list(LABELS))
    options = study_options(parser)
    by_label = {label: curves(options, label) for label in options.only}
    write_table(options.out / "factor_norms.csv", table(by_label))
    write_table(options.out / "factor_norms_bonus.csv", bonus_table(options))
    title = f"{options.set}, lr {options.lr:g}, median layer"
    draw(by_label, title, options.out / "factor_norms.png")


if __name__ == "__main__":
    main()
