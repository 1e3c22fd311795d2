"""Which way of taking products is the fastest on this processor.

Rules by maker and instruction sets, never by timing, so that a seed gives the same run on one
machine. What they rest on is measured by `scripts/benchmarks/bench_products.py`.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what describes a run reads the facts without loading torch
    import torch

_TABLE = Path("/proc/cpuinfo")
INTEL, AMD = "GenuineIntel", "AuthenticAMD"


def facts_of_processor(table: Path = _TABLE) -> dict[str, str]:
    """What Linux says of the first processor in `table`, by name; empty on other systems."""
    try:
        lines = table.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return dict(reversed([(key.strip(), value.strip()) for key, _, value in pairs]))


@functools.cache
def prefers_onednn() -> bool:
    """Whether oneDNN takes large float32 products faster than MKL.

    It does where PyTorch finds AVX-512, unless the processor is Intel's: there MKL uses AVX-512
    too, and is ahead by 5 to 15 %.
    """
    import torch

    has_avx512 = "AVX512" in torch.backends.cpu.get_cpu_capability()
    return has_avx512 and facts_of_processor().get("vendor_id") != INTEL


@functools.cache
def prefers_bfloat16() -> bool:
    """Whether products with frozen weights are faster in bfloat16 than in float32.

    They are on AMD's processors with `avx512_bf16`. On Intel's, whole rounds were slower, in spite
    of the instructions; without them PyTorch converts.
    """
    facts = facts_of_processor()
    return facts.get("vendor_id") == AMD and "avx512_bf16" in facts.get("flags", "").split()


def frozen_dtype(precision: str, device: str) -> torch.dtype | None:
    """Type of the products with frozen weights.

    Args:
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 where it is known to be faster.
        device: Where they are taken.

    Returns:
        None for that of the weights.
    """
    import torch

    if precision == "auto":
        is_bfloat16 = torch.device(device).type == "cpu" and prefers_bfloat16()
    else:
        is_bfloat16 = precision == "bfloat16"
    return torch.bfloat16 if is_bfloat16 else None
