"""The processes of one run as a gloo group: what they exchange, add up and wait for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, nn

from vitucb.config import ParallelConfig
from vitucb.experiment.distributed.ranks import RankLostError

ResultT = TypeVar("ResultT")
Package = dict[str, Tensor]


class Ranks:
    """The processes of one run and what they do together.

    Attributes:
        rank: Number of this process.
        size: Number of processes N.
    """

    def __init__(self, config: ParallelConfig) -> None:
        """Describe a process group that has been joined."""
        self.rank, self.size = config.rank, config.ranks
        self._timeout_s = config.timeout_s

    def exchange(self, package: Package) -> list[Package]:
        """The packages of all ranks, in order of rank, on the CPU."""
        payload = save({name: tensor.cpu().contiguous() for name, tensor in package.items()})
        content = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        self.guarded(lambda: dist.all_gather(sizes, torch.tensor([len(content)])))
        longest = max(int(size) for size in sizes)
        padded = torch.cat([content, content.new_zeros(longest - len(content))])
        received = [torch.empty_like(padded) for _ in range(self.size)]
        self.guarded(lambda: dist.all_gather(received, padded))
        pairs = zip(received, sizes, strict=True)
        return [load(bytes(data[: int(size)].numpy().data)) for data, size in pairs]

    def share(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """The part of a batch of at least N slots that is this rank's."""
        return np.array_split(slots, self.size)[self.rank]

    def gather(self, rows: Tensor) -> Tensor:
        """Rows (b, d) of the whole batch from those (n, d) of every rank's part."""
        parts = [package["rows"] for package in self.exchange({"rows": rows})]
        return torch.cat(parts).to(rows.device)

    def add_up(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """Replace every `.grad` by its sum over the ranks; one flat all-reduce, with the loss."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        last = loss.detach().reshape(1).to(gradients[0].device)
        flat = torch.cat([*(g.flatten() for g in gradients), last]).cpu()
        self.guarded(lambda: dist.all_reduce(flat))
        *parts, total = torch.split(flat, [*(g.numel() for g in gradients), 1])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return total[0]

    def mean(self, phi: Tensor) -> Tensor:
        """Mean (1, p) of the features (n, p) of all ranks."""
        total = torch.cat([phi.double().sum(dim=0), phi.new_tensor([len(phi)]).double()]).cpu()
        self.guarded(lambda: dist.all_reduce(total))
        return (total[:-1] / total[-1]).to(phi)[None]

    def wait(self) -> None:
        """Wait for all ranks."""
        self.guarded(dist.barrier)

    def guarded(self, collective: Callable[[], ResultT]) -> ResultT:
        """The result of `collective`, or a `RankLostError` that says what to do."""
        try:
            return collective()
        except RuntimeError as error:
            reason = str(error).splitlines()[0][-120:]
            raise RankLostError(
                f"rank {self.rank}: another of the {self.size} ranks has ended or was silent for "
                f"{self._timeout_s:g} s ({reason}); see its own message; the same command goes on "
                "from the last checkpoint that all ranks have"
            ) from error


@contextlib.contextmanager
def joined(config: ParallelConfig) -> Iterator[Ranks]:
    """Be one of the processes that torchrun started, while the context lasts.

    Raises:
        RankLostError: If the others do not come.
    """
    ranks = Ranks(config)
    timeout = timedelta(seconds=config.timeout_s)
    ranks.guarded(lambda: dist.init_process_group("gloo", timeout=timeout))
    try:
        yield ranks
    finally:
        dist.destroy_process_group()
