"""Which of several processes this is: what torchrun says, as part of the config.

`torchrun --nproc-per-node N -m vitucb run ...` starts N processes with the variables RANK,
WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Each plays a run of its own, in a folder of
its own: `<agent>-rank<r>of<N>__<env>__s<seed>`. Nothing here imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from vitucb.config import ParallelConfig, RunConfig
from vitucb.seeding import stream_seed

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class RankLostError(Exception):
    """Another process of the run has ended, or does not answer."""


def at_this_rank(config: RunConfig, environ: Mapping[str, str] = os.environ) -> RunConfig:
    """The run that this process plays; `config` itself where no torchrun started it.

    Rank and number of ranks enter the config, and the agent's label, so that every rank has a run
    folder of its own; `cuda` becomes the GPU of the local rank.

    Raises:
        ValueError: If the config names ranks that torchrun has not started.
    """
    size, rank = 1, 0
    if all(name in environ for name in _VARIABLES):
        size, rank = int(environ["WORLD_SIZE"]), int(environ["RANK"])
    parallel = config.parallel
    if (parallel.ranks, parallel.rank) == (size, rank):
        return config
    if (parallel.ranks, parallel.rank) != (1, 0):
        raise ValueError(
            f"parallel.ranks {parallel.ranks}, parallel.rank {parallel.rank}, but {size} processes "
            "were started and this is number "
            f"{rank}; leave both out, torchrun --nproc-per-node sets them"
        )
    device = config.device
    if device == "cuda":
        device = f"cuda:{environ.get('LOCAL_RANK', rank)}"
    label = f"{config.agent.label or config.agent.name}-rank{rank}of{size}"
    return replace(
        config,
        device=device,
        agent=replace(config.agent, label=label),
        parallel=replace(parallel, ranks=size, rank=rank),
    )


def all_ranks(config: RunConfig) -> list[RunConfig]:
    """The runs of all ranks, from that of one; a single one without torchrun."""
    parallel = config.parallel
    if parallel.ranks == 1:
        return [config]
    own = f"-rank{parallel.rank}of{parallel.ranks}"
    base = (config.agent.label or config.agent.name).removesuffix(own)
    return [
        replace(
            config,
            agent=replace(config.agent, label=f"{base}-rank{rank}of{parallel.ranks}"),
            parallel=replace(parallel, rank=rank),
        )
        for rank in range(parallel.ranks)
    ]


def rank_seed(seed: int, parallel: ParallelConfig) -> int:
    """Seed of what a rank has to itself, environment and policy; rank 0 has the run's own."""
    return stream_seed(seed, f"rank-{parallel.rank}") if parallel.rank else seed
