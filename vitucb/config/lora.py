"""Settings of the adapters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from vitucb.config.checks import ONE_OR_MORE, check_most, check_ranges

Target: TypeAlias = Literal["qkv", "proj", "fc1", "fc2"]
TARGETS: tuple[Target, ...] = get_args(Target)
"""Layers of a block that adapters may be put on."""

INITS = ("default", "gaussian", "orthogonal", "olora", "pissa")
"""Starts of the adapters that need no data; also pissa_niter_N, PiSSA by N subspace iterations."""

_REFUSED = {
    "eva": "takes its start from activations on data, and there are none before the first round",
    "lora_ga": "takes its start from gradients on data, and there are none before the first round",
    "corda": "takes its start from activations on data, and there are none before the first round",
    "loftq": "is a start for quantised weights, and the backbone's are not",
    "adalora": "has layers of SVD triplets in place of lora_A and lora_B",
}


def check_init(init: str, rank: int | None, name: str) -> None:
    """Refuse a start that adapters of `rank` (None: of any) cannot have, called `name`.

    Raises:
        ValueError: If it is unknown, needs data, or does not go with the rank.
    """
    if reason := _REFUSED.get(init.lower().replace("-", "_")):
        raise ValueError(f"{name} {init!r} {reason}; use one of {', '.join(INITS)}")
    if init not in INITS and not re.fullmatch(r"pissa_niter_[1-9]\d*", init):
        raise ValueError(f"{name} {init!r} is not one of {', '.join(INITS)} or pissa_niter_N")
    if init == "orthogonal" and rank is not None and rank % 2:
        raise ValueError(f"{name} orthogonal needs an even rank, not {rank}")


def check_blocks(blocks: Iterable[int] | None, depth: int, name: str) -> None:
    """Refuse blocks, called `name`, that a backbone of `depth` blocks does not have.

    Raises:
        ValueError: If one is out of range; negative ones count from the end.
    """
    wanted = list(blocks or ())
    if not all(-depth <= block < depth for block in wanted):
        raise ValueError(f"{name} {wanted}: the backbone has blocks 0 to {depth - 1}")


@dataclass(frozen=True)
class LoRAConfig:
    """The adapters."""

    rank: int = 4
    """Rank r of every adapter."""
    alpha: float = 8.0
    """Scaling of B @ A is alpha / rank."""
    targets: tuple[Target, ...] = ("qkv", "proj", "fc1", "fc2")
    """Adapted layers of a block: any of qkv proj fc1 fc2."""
    blocks: tuple[int, ...] | None = None
    """Adapted blocks, negative from the end; all if not given."""
    init: str = "default"
    """Start of the factors: default gaussian orthogonal olora pissa, or pissa_niter_N."""
    use_rslora: bool = False
    """Scale B @ A by alpha / sqrt(rank) (rsLoRA)."""
    use_dora: bool = False
    """Learn magnitudes apart from directions (DoRA); gradient features take K backwards."""

    def __post_init__(self) -> None:
        """Refuse what cannot be, or would fill the memory."""
        check_ranges(self, "agent.lora.", {"rank": ONE_OR_MORE})
        check_most(self, "agent.lora.", "rank", "rank")
        check_init(self.init, None, "agent.lora.init")
        if not self.targets:
            raise ValueError(f"agent.lora.targets: name one or more of {', '.join(TARGETS)}")
