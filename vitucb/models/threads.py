"""How many threads compute: torch's own, and those of the BLAS under NumPy and SciPy."""

from __future__ import annotations


def use_threads(count: int) -> None:
    """Let torch, NumPy and SciPy use `count` threads each, in this process.

    Torch's setting does not reach the others, which by default take every core: runs beside each
    other would wait for one another, and the last bits of a run would depend on the machine.
    """
    import scipy.linalg  # noqa: F401  only a BLAS that is loaded can be told
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(count)
    threadpool_limits(count, user_api="blas")
