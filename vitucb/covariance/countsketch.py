"""CountSketch: a random projection R^p -> R^d that costs one addition per coordinate.

Every coordinate is added, with a random sign, to one of d buckets: <S a, S b> = <a, b> on
average, with relative error about sqrt(2 / d). Buckets are balanced (coordinates are dealt out by
a random permutation), so that for p <= d nothing collides and S is an isometry.

Paper: Charikar, Chen, Farach-Colton, "Finding frequent items in data streams", 2002; as an
embedding of a subspace: Clarkson, Woodruff - https://arxiv.org/abs/1207.6365
"""

from __future__ import annotations

import torch
from torch import Tensor


class CountSketch:
    """z = S phi with S (d, p), one +-1 in each column.

    Attributes:
        dim: p.
        sketch_dim: d.
    """

    def __init__(self, dim: int, sketch_dim: int, *, seed: int = 0) -> None:
        """Draw the buckets and the signs.

        Raises:
            ValueError: If `sketch_dim` is below 1.
        """
        if sketch_dim < 1:
            raise ValueError(f"sketch_dim {sketch_dim} must be at least 1")
        self.dim = dim
        self.sketch_dim = sketch_dim
        generator = torch.Generator().manual_seed(seed)
        # int64: index_add_ with an int32 index is seven times slower on a CPU.
        self._order = torch.randperm(dim, generator=generator)
        self._bucket = torch.empty_like(self._order)
        self._bucket[self._order] = torch.arange(dim) % sketch_dim
        self._sign = torch.randint(0, 2, (dim,), generator=generator).float() * 2.0 - 1.0

    @property
    def memory_bytes(self) -> int:
        """Bytes of the tables."""
        return 20 * self.dim

    @property
    def is_isometry(self) -> bool:
        """Whether no two coordinates share a bucket."""
        return self.dim <= self.sketch_dim

    def __call__(self, phi: Tensor) -> Tensor:
        """S phi for phi (b, p): (b, d), float64 for float64, otherwise float32."""
        phi = phi if phi.dtype == torch.float64 else phi.float()
        self._to(phi.device)
        if phi.is_cuda:
            return self.by_gathering(phi)
        out = torch.zeros(len(phi), self.sketch_dim, dtype=phi.dtype, device=phi.device)
        self.add_block(out, 0, phi)
        return out

    def add_block(self, out: Tensor, offset: int, block: Tensor) -> None:
        """Add S of coordinates `offset`.. of the features, (b, m), to `out` (b, d)."""
        self._to(block.device)
        part = slice(offset, offset + block.shape[1])
        out.index_add_(1, self._bucket[part], block.to(out.dtype) * self._sign[part].to(out.dtype))

    def by_gathering(self, phi: Tensor) -> Tensor:
        """The same map without atomic additions: slower on a CPU, deterministic on a GPU."""
        dealt = (phi * self._sign.to(phi.dtype)).index_select(1, self._order)
        short = -self.dim % self.sketch_dim
        dealt = torch.nn.functional.pad(dealt, (0, short))
        return dealt.view(len(phi), -1, self.sketch_dim).sum(1)

    def _to(self, device: torch.device) -> None:
        if self._sign.device != device:
            self._order, self._bucket, self._sign = (
                table.to(device) for table in (self._order, self._bucket, self._sign)
            )
