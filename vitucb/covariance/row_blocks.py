"""Rows of features in blocks that are allocated as they are needed, and products with them.

A block is 256 rows cut into tiles of at most 4,096 columns. Products are summed over tiles in
float64: a float32 sum over all columns would lose a digit to its own length.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from vitucb.models.onednn_linear import fast_linear

BLOCK_ROWS = 256
_TILE_COLUMNS = 4096


class RowBlocks:
    """A growing (n, p) matrix Phi; growing it moves no row.

    Attributes:
        size: Number of rows n.
        dtype: Stored type: float64, float32, bfloat16 or float16.
        product_dtype: Type in which products are taken, float32 or float64.
        blocks: Tiles (tiles, 256, columns) of every 256 rows; zeros fill up the last tile.
    """

    def __init__(self, dim: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        """Start with no rows."""
        self.dim = dim
        self.dtype = dtype
        self.device = torch.device(device)
        self.product_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self.size = 0
        self.blocks: list[Tensor] = []
        self._tiles = max(-(-dim // _TILE_COLUMNS), 1)
        self._columns = -(-dim // self._tiles)

    def append(self, rows: Tensor) -> None:
        """Store rows (b, p) at the end."""
        while len(rows):
            number, first = divmod(self.size, BLOCK_ROWS)
            if number == len(self.blocks):
                # Not zeroed: pages of a block cost nothing before a row is written there.
                shape = (self._tiles, BLOCK_ROWS, self._columns)
                self.blocks.append(torch.empty(shape, dtype=self.dtype, device=self.device))
            now, rows = rows[: BLOCK_ROWS - first], rows[BLOCK_ROWS - first :]
            self.blocks[number][:, first : first + len(now)] = self._cut(now)
            self.size += len(now)

    def _cut(self, rows: Tensor) -> Tensor:
        """Rows (b, p) as tiles (tiles, b, columns)."""
        missing = self._tiles * self._columns - self.dim
        rows = pad(rows, (0, missing)) if missing else rows
        return rows.reshape(-1, self._tiles, self._columns).transpose(0, 1)

    def _join(self, tiles: Tensor) -> Tensor:
        """Tiles (tiles, b, columns) as rows (b, p)."""
        return tiles.transpose(0, 1).flatten(1)[:, : self.dim]

    def __getitem__(self, index: int) -> Tensor:
        """Row `index`, (p,)."""
        number, row = divmod(index, BLOCK_ROWS)
        return self._join(self.blocks[number][:, row : row + 1])[0]

    def write(self, index: int, row: Tensor) -> None:
        """Overwrite one row with `row` (p,)."""
        number, first = divmod(index, BLOCK_ROWS)
        self.blocks[number][:, first : first + 1] = self._cut(row[None])

    def query(self, phi: Tensor) -> Tensor:
        """`phi` rounded as a stored row would be, in the product type.

        Rounding queries like rows makes A the exact covariance of slightly rounded features;
        without it the products would not belong to one positive-definite matrix.
        """
        return phi.to(self.device, self.dtype).to(self.product_dtype)

    def products(self, query: Tensor) -> Tensor:
        """Phi query' for a query (b, p) in the product type: float64 (n, b)."""
        return self._products(self._cut(query).contiguous())

    def products_and_gram(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Phi query', float64 (n, b), and query query', float64 (b, b)."""
        parts = self._cut(query).contiguous()
        gram = torch.bmm(parts, parts.mT).sum(0, dtype=torch.float64)
        return self._products(parts), gram

    def _products(self, parts: Tensor) -> Tensor:
        columns = [torch.empty(parts.shape[1], 0, dtype=torch.float64, device=self.device)]
        for _, tiles in self._blocks():
            pairs = zip(parts.unbind(), tiles.unbind(), strict=True)
            # (b, p) x (p, m) runs 1.6 times faster on a CPU than (m, p) x (p, b).
            found = [fast_linear(part, tile.to(self.product_dtype)) for part, tile in pairs]
            columns.append(torch.stack(found).sum(0, dtype=torch.float64))
        return torch.cat(columns, dim=1).mT

    def combine(self, weights: Tensor) -> Tensor:
        """The product weights' Phi for weights (n, c): (c, p) in the product type."""
        shape = (self._tiles, weights.shape[1], self._columns)
        out = torch.zeros(shape, dtype=self.product_dtype, device=self.device)
        for start, tiles in self._blocks():
            part = weights[start : start + tiles.shape[1]].mT.to(self.product_dtype)
            for number, tile in enumerate(tiles.unbind()):
                out[number].addmm_(part, tile.to(self.product_dtype))
        return self._join(out)

    def to_tensor(self) -> Tensor:
        """All rows, (n, p): a copy."""
        empty = torch.empty(0, self.dim, dtype=self.dtype, device=self.device)
        return torch.cat([empty, *self.row_chunks()])

    def row_chunks(self) -> Iterator[Tensor]:
        """Rows (b, p), at most 256 at a time, together all there are now."""
        return (self._join(tiles) for _, tiles in list(self._blocks()))

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        """(number of the first row, tiles (tiles, b, columns) of rows held), together all."""
        for number, start in enumerate(range(0, self.size, BLOCK_ROWS)):
            held = min(self.size - start, BLOCK_ROWS)
            yield start, self.blocks[number].narrow(1, 0, held)
