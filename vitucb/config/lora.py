"""Settings of the adapters."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from vitucb.config.checks import ONE_OR_MORE, check_most, check_ranges

Target: TypeAlias = Literal["qkv", "proj", "fc1", "fc2"]
TARGETS: tuple[Target, ...] = get_args(Target)
"""Layers of a block that adapters may be put on."""

BlockNames: TypeAlias = Literal["last-half"]

_PISSA_NITER = r"pissa_niter_[1-9]\d*"
INITS = ("default", "gaussian", "orthogonal", "olora", "pissa")
"""Starts of the adapters that need no data; also pissa_niter_N, PiSSA by N subspace iterations."""

DATA_INITS = {"eva": "images", "corda": "images", "lora_ga": "rewards", "lora_one": "rewards"}
"""Starts that are taken from the first images offered, or from the first rewards."""

_REFUSED = {
    "loftq": "is a start for quantised weights, and the backbone's are not",
    "adalora": "prunes ranks by a schedule over a number of steps that must be known before the "
    "first one, and an agent that learns from a stream has none",
}


def check_init(init: str, rank: int | None, name: str, *, waits: bool = True) -> None:
    """Refuse a start that adapters of `rank` (None: of any) cannot have, called `name`.

    Args:
        init: The start.
        rank: Rank of the adapters; None for any.
        name: What to call the setting.
        waits: Whether the adapters can wait for data.

    Raises:
        ValueError: If it is unknown, does not go with the rank, or needs data and cannot wait.
    """
    known = ", ".join((*INITS, *DATA_INITS))
    if reason := _REFUSED.get(init.lower()):
        raise ValueError(f"{name} {init!r} {reason}; use one of {known}")
    if init not in INITS and init not in DATA_INITS and not re.fullmatch(_PISSA_NITER, init):
        raise ValueError(f"{name} {init!r} is not one of {known} or pissa_niter_N")
    if init in DATA_INITS and not waits:
        raise ValueError(
            f"{name} {init!r} is taken from {DATA_INITS[init]}, for which only the expert adapted "
            "beside others waits: let agent vit-ucb mix it with another, e.g. agent.experts "
            f"[linear, adapted], or use one of {', '.join(INITS)}"
        )
    if init == "orthogonal" and rank is not None and rank % 2:
        raise ValueError(f"{name} orthogonal needs an even rank, not {rank}")


def block_numbers(blocks: Sequence[int] | BlockNames | None, depth: int, name: str) -> list[int]:
    """Which blocks of a backbone of `depth` blocks are adapted, in order.

    Args:
        blocks: Their numbers, negative from the end; `last-half`, of three the last two; None
            means all.
        depth: How many there are.
        name: What to call the setting.

    Raises:
        ValueError: If a number is out of range.
    """
    if blocks is None:
        return list(range(depth))
    if blocks == "last-half":
        return list(range(depth // 2, depth))
    if not all(-depth <= block < depth for block in blocks):
        raise ValueError(f"{name} {list(blocks)}: the backbone has blocks 0 to {depth - 1}")
    return sorted({block % depth for block in blocks})


RANK_ALONE = 4
"""Rank of the adapters in agents that train alone."""


@dataclass(frozen=True)
class LoRAConfig:
    """The adapters."""

    rank: int | None = None
    """Rank r of every adapter; if not given, 8 in the expert adapted and 4 in agents that train
    alone."""
    alpha: float | None = None
    """Scaling of B @ A is alpha / rank; if not given, alpha is twice the rank."""
    targets: tuple[Target, ...] = ("qkv", "proj", "fc1", "fc2")
    """Adapted layers of a block: any of qkv proj fc1 fc2."""
    blocks: tuple[int, ...] | BlockNames | None = None
    """Adapted blocks: their numbers, negative from the end, or last-half; all if not given."""
    init: str = "default"
    """Start of the factors: default gaussian orthogonal olora pissa, or pissa_niter_N; taken from
    data: eva corda lora_ga lora_one."""
    init_samples: int = 64
    """How many images offered (eva, corda) or rewards (lora_ga, lora_one) a start is taken from,
    the first ones; training begins after as many rewards, at least."""
    use_rslora: bool = False
    """Scale B @ A by alpha / sqrt(rank) (rsLoRA)."""
    use_dora: bool = False
    """Learn magnitudes apart from directions (DoRA)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be, or would fill the memory."""
        check_ranges(self, "agent.lora.", dict.fromkeys(("rank", "init_samples"), ONE_OR_MORE))
        check_most(self, "agent.lora.", "rank", "rank")
        check_init(self.init, None, "agent.lora.init")
        if self.rank is not None and self.alpha == 2 * self.rank:
            # What is as by default is not told apart from it; rank 4 with alpha 8 in a file is of
            # older versions, see `vitucb.config.files`.
            object.__setattr__(self, "alpha", None)
        if not self.targets:
            raise ValueError(f"agent.lora.targets: name one or more of {', '.join(TARGETS)}")

    def of_adapters(self, rank: int = RANK_ALONE) -> dict[str, Any]:
        """Arguments of `vitucb.models.lora.add_lora`, all but what belongs to data.

        Args:
            rank: Where none is given.
        """
        settings = dataclasses.asdict(self)
        settings["rank"] = rank if self.rank is None else self.rank
        del settings["init_samples"]
        return settings
