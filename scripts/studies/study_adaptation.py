"""When adapting the ViT pays, by how far images are from what it was trained on.

One digit and ten labels a round, rewards of 0 and 1. The packaged digits, enlarged to 32 px, are
moved away from what the embedded ViT was trained on, one data set per shift, with labels and so
with everything else as it was: agents and shifts that share a seed see the same digits. How far a
shift goes is said by the accuracy of a linear probe on the frozen features, from ten labels per
class.

`vit-ucb` plays with its defaults; `frozen` is the same mixture without its trained network;
`lin-ucb` is one linear model of the frozen features, and `item-ucb` remembers images and looks at
none.

    python scripts/studies/study_adaptation.py
    python scripts/studies/study_adaptation.py --quick --shifts native --agents frozen vit-ucb
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from study_optimizers import UNTRAINED
from study_tools import (
    Curves,
    base_config,
    play_each,
    study_options,
    study_parser,
    write_table,
)

from vitucb.models.backbone import create_backbone
from vitucb.models.preprocess import preprocess_for
from vitucb.models.threads import use_threads
from vitucb.statistics import paired_difference

# A script finds modules of its own folder alone.
sys.path.append(str(Path(__file__).resolve().parents[1] / "pretrain"))
from evaluate_backbone import extract, linear_accuracy

Pixels = NDArray[np.uint8]
SIDE, PATCH = 32, 8
MARKS = (100, 300, 1_000)
HEADER = [
    *("shift", "probe, %", "agent", "T", "regret", "minus frozen", "95 %", "lower", "seeds"),
]
AGENTS: dict[str, dict[str, Any]] = {
    "vit-ucb": {},
    "frozen": {"experts": UNTRAINED},
    "lin-ucb": {"name": "lin-ucb"},
    "item-ucb": {"name": "item-ucb"},
}


def _gray(pixels: Pixels) -> Pixels:
    return np.repeat(pixels[..., None], 3, axis=3)


def _on_background(
    pixels: Pixels, rng: np.random.Generator, *, brightness: float = 1.0, is_inked: bool = False
) -> Pixels:
    """Digits, white or each of a random colour, on 8 x 8 fields of random colours."""
    fields = rng.integers(0, 256, (len(pixels), 8, 8, 3)) * brightness
    back = fields.repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2)
    ink = rng.integers(0, 256, (len(pixels), 1, 1, 3)) if is_inked else 255
    share = pixels[..., None] / 255.0
    return np.round(share * ink + (1 - share) * back).astype(np.uint8)


def _patches_permuted(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    grid = SIDE // PATCH
    tiles = pixels.reshape(-1, grid, PATCH, grid, PATCH).swapaxes(2, 3)
    tiles = tiles.reshape(len(pixels), grid * grid, PATCH, PATCH)[:, rng.permutation(grid * grid)]
    return tiles.reshape(-1, grid, grid, PATCH, PATCH).swapaxes(2, 3).reshape(pixels.shape)


def _pixels_permuted(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return pixels.reshape(len(pixels), -1)[:, rng.permutation(SIDE * SIDE)].reshape(pixels.shape)


SHIFTS: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "native": lambda x, rng: _gray(x),
    "inverted": lambda x, rng: _gray(255 - x),
    "rotated": lambda x, rng: _gray(np.rot90(x, 1, (1, 2))),
    "patches": lambda x, rng: _gray(_patches_permuted(x, rng)),
    "pixels": lambda x, rng: _gray(_pixels_permuted(x, rng)),
    "faint-colours": lambda x, rng: _on_background(x, rng, brightness=0.6),
    "colours": lambda x, rng: _on_background(x, rng),
    "inked": lambda x, rng: _on_background(x, rng, is_inked=True),
}
"""From digits (N, 32, 32) to images (N, 32, 32, 3); permutations are one for all images."""


def digits() -> tuple[Pixels, NDArray[np.int64]]:
    """The packaged digits at 32 px (N, 32, 32), enlarged as the agents would, and their labels."""
    packaged = load_digits()
    small = np.round(packaged.images * (255 / 16)).astype(np.uint8)
    bicubic = Image.Resampling.BICUBIC
    large = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), bicubic)) for image in small]
    return np.stack(large), packaged.target.astype(np.int64)


def write_set(shift: str, folder: Path) -> Path:
    """The data set of a shift as a .npz file; one that is there stays, so that runs go on."""
    path = folder / f"{shift}.npz"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        pixels, labels = digits()
        np.savez(path, images=SHIFTS[shift](pixels, np.random.default_rng(0)), labels=labels)
    return path


def probe(path: Path, backbone: str, *, shots: int = 10, draws: int = 5) -> float:
    """Accuracy on one half of a set of a linear probe on `shots` labels per class of the other.

    The mean of `draws` draws; features are those of the frozen backbone, standardised.
    """
    with np.load(path) as file:
        images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
    model = create_backbone(backbone)
    x = extract(model, preprocess_for(model), images.permute(0, 3, 1, 2))
    x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(draws):
        order = torch.randperm(len(x), generator=generator)
        train, test = order.tensor_split([len(x) // 2])
        few = torch.cat([train[labels[train] == c][:shots] for c in range(10)])
        found.append(linear_accuracy(x[few], labels[few], x[test], labels[test], penalty=1e-2))
    return float(np.mean(found))


def rows(shift: str, accuracy: float, curves: Mapping[str, Curves]) -> list[list[str]]:
    """One row per agent and horizon T: regret, and paired difference to `frozen` (Student)."""
    table = []
    for label, regrets in curves.items():
        for mark in _marks(regrets.shape[1]):
            values = regrets[:, mark - 1]
            cells = ["-", "-", "-"]
            if label != "frozen" and "frozen" in curves and len(values) > 1:
                paired = paired_difference(values, curves["frozen"][:, mark - 1])
                ends = f"[{paired.student_low:.1f}, {paired.student_high:.1f}]"
                lower = f"{paired.num_lower} of {paired.num_pairs}"
                cells = [f"{paired.difference.value:+.1f}", ends, lower]
            each = " ".join(f"{value:.0f}" for value in values)
            head = [shift, f"{100 * accuracy:.0f}", label, str(mark), f"{values.mean():.1f}"]
            table.append([*head, *cells, each])
    return table


def _marks(rounds: int) -> list[int]:
    return sorted({mark for mark in MARKS if mark < rounds} | {rounds})


def draw(
    results: Mapping[str, Mapping[str, Curves]], accuracies: Mapping[str, float], path: Path
) -> None:
    """Regret of `vit-ucb` less that of the mixture without a trained network, a panel per shift."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(results), figsize=(2.6 * len(results) + 0.6, 3.2), sharey=True, squeeze=False
    )
    for axis, (shift, curves) in zip(axes[0], results.items(), strict=True):
        if {"vit-ucb", "frozen"} <= set(curves):
            gaps = curves["vit-ucb"] - curves["frozen"]
            rounds = np.arange(1, gaps.shape[1] + 1)
            axis.plot(rounds, gaps.mean(0), color="C0")
            axis.plot(rounds, gaps.T, color="C0", alpha=0.3, linewidth=0.7)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(title=f"{shift} (probe {100 * accuracies[shift]:.0f} %)", xlabel="round")
        axis.title.set_size(9)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("regret minus that of frozen")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _known(parser: Any, given: Sequence[str] | None, table: Mapping[str, object]) -> list[str]:
    """What was asked for of `table`, all if nothing was."""
    if unknown := set(given or ()) - set(table):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose of {', '.join(table)}")
    return list(given or table)


def main() -> None:
    """Run the study."""
    parser = study_parser(__doc__, rounds=2_000, seeds=10)
    parser.add_argument("--shifts", nargs="+", help="all if not given")
    parser.add_argument("--agents", nargs="+", help="all if not given")
    options = study_options(parser)
    shifts = _known(parser, options.shifts, SHIFTS)
    agents = {label: AGENTS[label] for label in _known(parser, options.agents, AGENTS)}
    use_threads(1)
    paths = {shift: write_set(shift, Path(options.runs) / "adaptation-sets") for shift in shifts}
    accuracies = {shift: probe(path, options.backbone) for shift, path in paths.items()}
    plans = []
    for shift, path in paths.items():
        env = {"id": "vitucb/ImageContext-v0", "dataset": str(path)}
        plans.append((base_config(options, f"adaptation/{shift}", env, experts=None), agents))
    results: dict[str, dict[str, Curves]] = {}
    for played in range(1, options.seeds + 1):  # Seeds outermost: a stop leaves whole seeds.
        found = play_each(plans, seeds=range(played), workers=options.workers)
        results = dict(zip(shifts, found, strict=True))
    table = [row for shift in shifts for row in rows(shift, accuracies[shift], results[shift])]
    write_table(options.out / "adaptation.csv", [HEADER, *table])
    draw(results, accuracies, options.out / "adaptation.png")


if __name__ == "__main__":
    main()
