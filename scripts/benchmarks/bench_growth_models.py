"""What a round of `vit-ucb` costs on larger backbones, with a million trained parameters.

    python scripts/benchmarks/bench_growth_models.py [--models NAME ..] [--agents NAME ..]

Adapters of rank 8 on all layers, which is the default of the expert `adapted` and makes 1.2 million
parameters on ViT-B/16; rank 84 makes a million on the embedded ViT, and is played there alone. The
mixture's width is of last-layer features; `adapted alone` has one of the gradients of all
parameters, in the covariance named. CPU time of one thread; random weights, on which times do not
depend; the first 60 of the packaged digits, resized to the model's input, all seen before. A bare
forward is that of ten images by timm, in the same process just before. Each row has a process of
its own, since memory is measured: the most during the rounds timed. Rows that `--out` has are kept.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from process_tools import forget_peak, resident_mib
from torch import nn

from vitucb.agents.expert_agent import ExpertAgent
from vitucb.agents.vit_ucb import ViTUCB
from vitucb.cli.bench.contestant import Contestant, keep_asleep, model_settings
from vitucb.cli.bench.scoring import least_times, make_bare, make_images, one_thread
from vitucb.cli.output import table

Row: TypeAlias = dict[str, str]
WARM_UP: Final = 2
FORWARDS: Final = 3
IMAGES: Final = 60
SMALLEST: Final = "embedded ViT, 32 px"

MODELS: Final = {
    SMALLEST: ("vitucb-nano", None),
    "ViT-Tiny/16, 224 px": ("vit_tiny_patch16_224", 224),
    "ViT-S/16, 224 px": ("vit_small_patch16_224", 224),
    "ViT-B/16, 224 px": ("vit_base_patch16_224", 224),
}
"""Label -> (backbone, image size)."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is played.

    Attributes:
        settings: Of `vit-ucb`.
        has_labels: Whether one image is the context of ten labels, not every arm an image.
        skipped: Rounds played before any is timed.
        wakes: Whether `adapted` is woken then, and trains after every reward.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    has_labels: bool = False
    skipped: int = 0
    wakes: bool = False


def alone(covariance: str, rank: int = 8) -> Case:
    """The adapted network by itself, at the scale of the default adapters."""
    lora = {"rank": rank, "alpha": 2.0 * rank}
    return Case({"experts": ("adapted",), "lora": lora, "covariance": covariance})


CASES: Final = {
    "an image per arm": Case(skipped=100),
    "ten labels, adapted asleep": Case(has_labels=True, skipped=60),
    # The 65th reward is the second that deserves a step.
    "ten labels, a step after every reward": Case(has_labels=True, skipped=64, wakes=True),
    "adapted alone, exact": alone("exact"),
    "adapted alone, low-rank": alone("low-rank"),
    "adapted alone, exact, rank 84": alone("exact", 84),
    "adapted alone, low-rank, rank 84": alone("low-rank", 84),
}
HEADER: Final = (
    "model",
    "agent",
    "parameters",
    "ms",
    "x bare forward",
    "scoring %",
    "covariance %",
    "training %",
    "rebuild %",
    "bare forward, ms",
    "covariance, MiB",
    "before, MiB",
    "MiB",
)


def measure(model: str, who: str, rounds: int) -> Row:
    """Play a case in this process: its row."""
    backbone, img_size = MODELS[model]
    case = CASES[who]
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        forward = bare_forward_ms(backbone, img_size)
        contestant = Contestant(
            "vit-ucb",
            dict(case.settings),
            model_settings(backbone, img_size, Path(folder)),
            has_labels=case.has_labels,
            num_images=IMAGES,
        )
        contestant.skip(case.skipped)
        if case.wakes:
            keep_asleep(contestant.agent, "adapted", rewards=1)
        contestant.skip(WARM_UP)
        contestant.forget_times()
        before = resident_mib()
        forget_peak()
        for _ in range(rounds):
            contestant.play()
    ms = 1e3 * statistics.median(contestant.seconds)
    figures = {"ms": ms, "x bare forward": ms / forward, "bare forward, ms": forward}
    figures |= {"before, MiB": before, "MiB": resident_mib("VmHWM")}
    return as_row(model, who, contestant, figures)


def as_row(model: str, who: str, contestant: Contestant, figures: Mapping[str, float]) -> Row:
    """Texts of a row of `HEADER`; "-" where an agent has no such part."""
    agent, total = contestant.agent, sum(contestant.seconds)
    row = dict.fromkeys(HEADER, "-") | {"model": model, "agent": who}
    row |= {name: f"{value:.4g}" for name, value in figures.items()}
    if isinstance(agent, ViTUCB):
        parts = contestant.phases.seconds
        for part in ("scoring", "covariance", "training", "rebuild"):
            row[f"{part} %"] = f"{100 * parts[part] / total:.2g}"
        row["parameters"] = str(agent.parameters["adapter_parameters"])
        row["covariance, MiB"] = f"{agent.covariance.memory_bytes / 2**20:.3g}"
    elif isinstance(agent, ExpertAgent) and "adapted" in agent.experts:
        row["parameters"] = str(adapter_parameters(agent.experts["adapted"].network.model))  # type: ignore[attr-defined]  # of this expert alone
    return row


def adapter_parameters(model: nn.Module) -> int:
    """Number of elements of all factors A and B."""
    from vitucb.models.lora import lora_pairs

    return sum(pair.A.numel() + pair.B.numel() for pair in lora_pairs(model))


def bare_forward_ms(backbone: str, img_size: int | None) -> float:
    """CPU time of timm's own model on ten images, ms, the least of a few."""
    bare, images = make_bare(backbone, img_size), make_images(img_size)

    @torch.no_grad()
    def forward() -> None:
        bare(images)

    return least_times({"": forward}, FORWARDS)[""]


def read_rows(path: Path) -> list[Row]:
    """Rows of a table of `HEADER`; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a table of `HEADER`, in the order of models and cases."""
    order = [(model, who) for model in MODELS for who in CASES]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, HEADER, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: order.index((row["model"], row["agent"]))))


def measure_and_add(path: Path, model: str, who: str, rounds: int) -> None:
    """Add the row of a case to a table."""
    write_rows(path, [*read_rows(path), measure(model, who, rounds)])


def main(words: Sequence[str]) -> None:
    """Measure what is missing, one case after the other, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--agents", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3, help="timed of each")
    parser.add_argument("--out", type=Path, default=Path("runs/growth"))
    args = parser.parse_args(words)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "growth-models.csv"
    for model, who in itertools.product(args.models, args.agents):
        is_left_out = "rank 84" in who and model != SMALLEST
        if is_left_out or any(
            (row["model"], row["agent"]) == (model, who) for row in read_rows(path)
        ):
            continue
        process = get_context("spawn").Process(
            target=measure_and_add, args=(path, model, who, args.rounds)
        )
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{model}, {who} ended with code {process.exitcode}; see above")
    print(table(read_rows(path)))


if __name__ == "__main__":
    main(sys.argv[1:])
