"""The optimizers by name: import path, paper, state and cost; free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OptimizerEntry:
    """One row of `vitucb list optimizers`.

    Attributes:
        path: Import path `module:attribute` of the class.
        summary: What it does, in one line.
        paper: arXiv number or reference.
        state: Floats kept per pair (r rank, m outputs, n inputs); Adam keeps 2r(m+n).
        cost: Extra floating point operations per pair and step on top of its base rule.
    """

    path: str
    summary: str
    paper: str
    state: str
    cost: str


ENTRIES: dict[str, OptimizerEntry] = {
    "sgd": OptimizerEntry(
        "torch.optim:SGD", "torch.optim.SGD on both factors", "-", "0, r(m+n) with momentum", "-"
    ),
    "adamw": OptimizerEntry(
        "torch.optim:AdamW", "torch.optim.AdamW on both factors", "1711.05101", "2r(m+n)", "-"
    ),
    "lora-plus": OptimizerEntry(
        "vitucb.optim.lora_plus:LoRAPlus",
        "lora_B at `ratio` times the learning rate of lora_A",
        "2402.12354",
        "as the base",
        "-",
    ),
}

OPTIMIZERS: dict[str, str] = {name: entry.path for name, entry in ENTRIES.items()}
