"""Rows of features in tiles that are allocated as they are needed, and products with them.

A tile is 256 rows by at most 4,096 columns. Products are summed over tiles in float64: a float32
sum over all columns would lose a digit to its own length.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from vitucb.fast_linear import fast_linear

BLOCK_ROWS = 256
_TILE_COLUMNS = 4096


class RowBlocks:
    """A growing (n, p) matrix Phi; growing it moves no row.

    Attributes:
        size: Number of rows n.
        dtype: Stored type: float64, float32, bfloat16 or float16.
        product_dtype: Type in which products are taken, float32 or float64.
        blocks: For every 256 rows the tiles (256, columns) that side by side hold them.
    """

    def __init__(self, dim: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        """Start with no rows."""
        self.dim = dim
        self.dtype = dtype
        self.device = torch.device(device)
        self.product_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self.size = 0
        self.blocks: list[list[Tensor]] = []
        count = max(-(-dim // _TILE_COLUMNS), 1)
        # Equal widths: a narrow tile at the end would be a slow product of its own.
        ends = [dim * i // count for i in range(count + 1)]
        self._spans = [slice(a, b) for a, b in pairwise(ends)]

    def append(self, rows: Tensor) -> None:
        """Store rows (b, p) at the end."""
        while len(rows):
            number, first = divmod(self.size, BLOCK_ROWS)
            if number == len(self.blocks):
                self.blocks.append([self._new_tile(span) for span in self._spans])
            now, rows = rows[: BLOCK_ROWS - first], rows[BLOCK_ROWS - first :]
            self._write(number, slice(first, first + len(now)), now)
            self.size += len(now)

    def _new_tile(self, span: slice) -> Tensor:
        # Not zeroed: pages of a tile cost nothing before a row is written there.
        shape = (BLOCK_ROWS, span.stop - span.start)
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def _write(self, number: int, where: slice, rows: Tensor) -> None:
        for tile, span in zip(self.blocks[number], self._spans, strict=True):
            tile[where] = rows[:, span]

    def __getitem__(self, index: int) -> Tensor:
        """Row `index`, (p,): a copy."""
        number, row = divmod(index, BLOCK_ROWS)
        return torch.cat([tile[row] for tile in self.blocks[number]])

    def write(self, index: int, row: Tensor) -> None:
        """Overwrite one row with `row` (p,)."""
        number, first = divmod(index, BLOCK_ROWS)
        self._write(number, slice(first, first + 1), row[None])

    def query(self, phi: Tensor) -> Tensor:
        """`phi` rounded as a stored row would be, in the product type.

        Rounding queries like rows makes A the exact covariance of slightly rounded features;
        without it the products would not belong to one positive-definite matrix.
        """
        return phi.to(self.device, self.dtype).to(self.product_dtype)

    def products(self, query: Tensor) -> Tensor:
        """Phi query' for a query (b, p) in the product type: float64 (n, b)."""
        out = torch.zeros(self.size, len(query), dtype=torch.float64, device=self.device)
        for span in self._spans:
            part = query[:, span].contiguous()
            for start, rows in self._tiles(span):
                # (b, p) x (p, m) runs 1.6 times faster on a CPU than (m, p) x (p, b).
                out[start : start + len(rows)] += fast_linear(part, rows).mT
        return out

    def gram(self, query: Tensor) -> Tensor:
        """Inner products of a query (b, p) in the product type: float64 (b, b)."""
        out = torch.zeros(len(query), len(query), dtype=torch.float64, device=self.device)
        for span in self._spans:
            out += query[:, span] @ query[:, span].mT
        return out

    def combine(self, weights: Tensor) -> Tensor:
        """The product weights' Phi for weights (n, c): (c, p) in the product type."""
        shape = (weights.shape[1], self.dim)
        out = torch.zeros(shape, dtype=self.product_dtype, device=self.device)
        for span in self._spans:
            for start, rows in self._tiles(span):
                part = weights[start : start + len(rows)].mT.to(self.product_dtype)
                out[:, span].addmm_(part, rows)
        return out

    def to_tensor(self) -> Tensor:
        """All rows, (n, p): a copy."""
        empty = torch.empty(0, self.dim, dtype=self.dtype, device=self.device)
        return torch.cat([empty, *self.row_chunks()])

    def row_chunks(self) -> Iterator[Tensor]:
        """Rows (b, p), at most 256 at a time, together all: copies."""
        size = self.size
        for number in range(-(-size // BLOCK_ROWS)):
            held = min(size - number * BLOCK_ROWS, BLOCK_ROWS)
            yield torch.cat([tile[:held] for tile in self.blocks[number]], dim=1)

    def _tiles(self, span: slice) -> Iterator[tuple[int, Tensor]]:
        """(number of the first row, columns `span` of rows in the product type), all rows."""
        column = self._spans.index(span)
        for number in range(-(-self.size // BLOCK_ROWS)):
            start = number * BLOCK_ROWS
            held = min(self.size - start, BLOCK_ROWS)
            yield start, self.blocks[number][column][:held].to(self.product_dtype)
