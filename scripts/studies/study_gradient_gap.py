"""How far is a LoRA step from the gradient of the whole weight? LoRA-Pro's figure, on a stream.

A step of the factors moves W by s (B dA + dB A) to first order. Plain gradients of the factors make
that s^2 (B B' G + G A' A) for the gradient G of W; LoRA-Pro (Wang et al., 2024, theorem 2.1,
https://arxiv.org/abs/2407.18242) changes them so that it is the projection of G, the least gap that
two factors leave. Here both are taken along the way of every optimizer, beside the gap of the step
that it takes, momentum and all. A gap is |c D - G| / |G| at the best scale c, so that learning
rates do not count; 1 is a right angle.

The stream is one digit with ten labels: a batch of random images a step, and the rewards of
uniformly random labels, squared loss of the score of the label. LoRA of rank 8 on the embedded
ViT, every optimizer at its own rate (`vitucb/optim/table.py`). Medians over layers.

    python scripts/studies/study_gradient_gap.py
    python scripts/studies/study_gradient_gap.py --quick
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from study_tools import Curves, interval, study_options, study_parser, suffix, write_table
from torch import Tensor
from torch.optim import Optimizer

from vitucb.assets import DEFAULT_BACKBONE
from vitucb.envs import load_dataset
from vitucb.models.backbone import create_backbone
from vitucb.models.lora import LoRAPair, add_lora, lora_pairs
from vitucb.models.preprocess import preprocess_for
from vitucb.models.reward_model import RewardModel
from vitucb.models.threads import use_threads
from vitucb.optim import ENTRIES, create_optimizer
from vitucb.seeding import numpy_generator
from vitucb.storage.atomic_files import replacing

BATCH, RANK, LABELS, EVERY = 16, 8, 10, 5
HEAD_RATE = 1e-2
CASES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "sgd": ("sgd", {}),
    "lora-pro, sgd": ("lora-pro", {"base": "sgd"}),
    "adamw": ("adamw", {}),
    "lora-plus": ("lora-plus", {}),
    "lora-pro": ("lora-pro", {}),
    "scaled-adam": ("scaled-adam", {}),
    "lora-rite": ("lora-rite", {}),
    "lora-muon": ("lora-muon", {}),
}
PLAIN, LEAST, STEP = range(3)
NAMES = ("plain gradients of the factors", "least possible (LoRA-Pro)", "step taken")


def gap(moves: Tensor, gradient: Tensor) -> float:
    """|c D - G| / |G| of a move and a gradient (out, in) at the best scale c."""
    cosine = torch.nn.functional.cosine_similarity(
        moves.double().flatten(), gradient.double().flatten(), dim=0
    )
    return float((1 - cosine.square()).clamp_min(0).sqrt())


def equivalent_gradients(pair: LoRAPair, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """First-order moves of W (out, in), up to scale: by plain gradients, and by LoRA-Pro's."""
    A, B, G = pair.A.detach().double(), pair.B.detach().double(), gradient.double()
    onto_B, onto_A = B @ torch.linalg.pinv(B), torch.linalg.pinv(A) @ A
    projected = onto_B @ G + G @ onto_A - onto_B @ G @ onto_A
    return B @ (B.mT @ G) + (G @ A.mT) @ A, projected


def stream(seed: int, rounds: int, backbone: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of inputs (b, 3, H, W), labels asked for (b,) and rewards (b,)."""
    digits = load_dataset("digits")
    assert digits.labels is not None
    preprocess = preprocess_for(create_backbone(backbone), "cpu")
    rng = numpy_generator(seed, "stream")
    for _ in range(rounds):
        chosen = rng.choice(len(digits.images), BATCH, replace=False)
        asked = rng.integers(LABELS, size=BATCH)
        inputs = torch.stack([preprocess(digits.images[i]) for i in chosen])
        rewards = (asked == digits.labels[chosen]).astype(np.float32)
        yield inputs, torch.from_numpy(asked), torch.from_numpy(rewards)


def make_case(label: str, seed: int, backbone: str) -> tuple[RewardModel, Optimizer]:
    """The model, and the optimizer of `label` at its own rate."""
    name, options = CASES[label]
    network = create_backbone(backbone)
    width = int(network.num_features)  # type: ignore[arg-type]  # timm sets an int
    model = RewardModel(
        add_lora(network, rank=RANK, alpha=2 * RANK, seed=seed), width, num_outputs=LABELS
    )
    # The rate and the options of the table are those of the default base.
    entry = ENTRIES[options.get("base", name)]
    return model, create_optimizer(
        name,
        model,
        lr=entry.lr,
        other_params=model.head.parameters(),
        **{"other_lr": HEAD_RATE, **entry.options, **options},
    )


def gaps_of_step(pairs: Sequence[LoRAPair], take_step: Callable[[], object]) -> list[list[float]]:
    """`PLAIN`, `LEAST` and `STEP` of every layer whose base weight has its gradient."""
    told = []
    for pair in pairs:
        assert pair.base is not None
        assert pair.base.grad is not None
        before = (pair.B @ pair.A).detach()
        told.append((pair, pair.base.grad, equivalent_gradients(pair, pair.base.grad), before))
    take_step()
    return [
        [gap(move, G) for move in (*both, (pair.B @ pair.A).detach() - before)]
        for pair, G, both, before in told
    ]


def measure(label: str, seed: int, rounds: int, backbone: str = DEFAULT_BACKBONE) -> Curves:
    """Gaps at every `EVERY`-th step but the first, (steps, 3, layers): `PLAIN`, `LEAST`, `STEP`."""
    model, optimizer = make_case(label, seed, backbone)
    pairs, found = lora_pairs(model), []
    for number, (inputs, asked, rewards) in enumerate(stream(seed, rounds, backbone)):
        is_watched = number > 0 and number % EVERY == 0  # at B = 0 there is one factor alone
        for pair in pairs:
            assert pair.base is not None
            pair.base.requires_grad_(is_watched)
        scores = model(inputs).gather(1, asked[:, None])[:, 0]
        (scores - rewards).square().mean().backward()
        if is_watched:
            found.append(gaps_of_step(pairs, optimizer.step))
        else:
            optimizer.step()
        model.zero_grad()
    return np.array(found).swapaxes(1, 2)


def curves(options: argparse.Namespace, label: str) -> Curves:
    """`measure` of every seed, played or read: (seeds, steps, 3, layers)."""
    found = []
    for seed in range(options.seeds):
        name = label.replace(", ", "-") + suffix(options.backbone)
        path = Path(options.runs) / "gradient_gap" / f"{name}__T{options.rounds}__s{seed}.npy"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            played = measure(label, seed, options.rounds, options.backbone)
            with replacing(path) as file:
                np.save(file, played, allow_pickle=False)
            print(path, flush=True)
        found.append(np.load(path, allow_pickle=False))
    return np.stack(found)


def table(by_label: Mapping[str, Curves]) -> list[list[str]]:
    """Median layer, mean over the second half of the steps, with 95 % over seeds."""
    rows = [["optimizer", *(cell for name in NAMES for cell in (name, "95 %"))]]
    for label, gaps in by_label.items():
        late = np.median(gaps[:, gaps.shape[1] // 2 :], axis=3).mean(axis=1)
        rows.append([label, *_cells(late.T)])
    return rows


def _cells(by_kind: Sequence[Curves] | Curves) -> list[str]:
    return [cell for each in by_kind for cell in (f"{each.mean():.3f}", interval(each, 3))]


def draw(by_label: Mapping[str, Curves], path: Path) -> None:
    """A panel for each kind of gap: median layer and mean over seeds, by steps."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), sharey=True)
    for kind, (axis, title) in enumerate(zip(axes, NAMES, strict=True)):
        for label, gaps in by_label.items():
            middle = np.median(gaps[:, :, kind], axis=2).mean(axis=0)
            axis.plot(EVERY * np.arange(1, len(middle) + 1), middle, lw=1.2, label=label)
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("gap to the gradient of W")
    axes[0].legend(fontsize=7, ncol=2)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    """Run the study."""
    use_threads(1)
    parser = study_parser(__doc__, rounds=120, seeds=5)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    options = study_options(parser)
    if options.rounds <= EVERY:
        parser.error(f"--rounds {options.rounds}: the gap is taken every {EVERY} steps; give more")
    by_label = {label: curves(options, label) for label in options.only}
    write_table(options.out / "gradient_gap.csv", table(by_label))
    draw(by_label, options.out / "gradient_gap.png")


if __name__ == "__main__":
    main()
