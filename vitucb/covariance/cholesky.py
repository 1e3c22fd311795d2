"""A Cholesky factor that grows by rows, stored in panels so that growing copies nothing.

Row i of a lower triangle lives in panel i // 256, which is as wide as it needs to be. Solves go
panel by panel: one matrix product with everything to the left, one small triangular solve.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PANEL = 256


class LowerPanels:
    """A growing float64 lower triangle of size n; a symmetric matrix is held by its lower half."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Start with no rows."""
        self.size = 0
        self.device = torch.device(device)
        self.panels: list[Tensor] = []

    def write(self, rows: Tensor, start: int | None = None) -> None:
        """Write rows (b, start + b), whose last b columns hold the diagonal block.

        Args:
            rows: Lower-triangular rows; what lies above the diagonal is kept but never read.
            start: Number of the first row; None appends.
        """
        start = self.size if start is None else start
        end = start + len(rows)
        for first in range(start // PANEL * PANEL, end, PANEL):
            low, high = max(first, start), min(first + PANEL, end)
            panel = self._panel(first // PANEL)
            panel[low - first : high - first, :high] = rows[low - start : high - start, :high]
        self.size = max(self.size, end)

    def rows(self, start: int, end: int) -> Tensor:
        """Rows start..end - 1, columns 0..end - 1, entries above the diagonal undefined: a copy."""
        out = torch.zeros(end - start, end, dtype=torch.float64, device=self.device)
        for first in range(start // PANEL * PANEL, end, PANEL):
            low, high = max(first, start), min(first + PANEL, end)
            panel = self.panels[first // PANEL][low - first : high - first, :high]
            out[low - start : high - start, :high] = panel
        return out

    def symmetric(self) -> Tensor:
        """The full symmetric matrix (n, n) of which this is the lower half."""
        lower = self.rows(0, self.size).tril()
        return lower + lower.tril(-1).mT

    def lower(self) -> Tensor:
        """The lower triangle (n, n), zeros above."""
        return self.rows(0, self.size).tril()

    def packed(self) -> Tensor:
        """The lower triangle, row after row: float64 (n (n + 1) / 2,)."""
        full = self.rows(0, self.size)
        return full[torch.ones_like(full, dtype=torch.bool).tril()]

    def unpack(self, values: Tensor) -> None:
        """Replace everything by what `packed` returned."""
        self.truncate(0)
        size = (math.isqrt(8 * len(values) + 1) - 1) // 2
        full = torch.zeros(size, size, dtype=torch.float64, device=self.device)
        full[torch.ones_like(full, dtype=torch.bool).tril()] = values
        self.write(full)

    def truncate(self, size: int) -> None:
        """Forget the rows from `size` on."""
        self.size = min(self.size, size)
        del self.panels[-(-self.size // PANEL) :]

    def _panel(self, number: int) -> Tensor:
        while len(self.panels) <= number:
            width = (len(self.panels) + 1) * PANEL
            self.panels.append(torch.zeros(PANEL, width, dtype=torch.float64, device=self.device))
        return self.panels[number]


class GrowingCholesky(LowerPanels):
    """L with L L' = G, for a positive-definite G that gains rows at its end."""

    def forward(self, rhs: Tensor) -> Tensor:
        """L^-1 rhs for rhs (n, c) float64."""
        out = torch.empty_like(rhs)
        for start in range(0, self.size, PANEL):
            end = min(start + PANEL, self.size)
            panel = self.panels[start // PANEL][: end - start]
            right = rhs[start:end]
            if start:
                right = right - panel[:, :start] @ out[:start]
            out[start:end] = torch.linalg.solve_triangular(panel[:, start:end], right, upper=False)
        return out

    def backward(self, rhs: Tensor) -> Tensor:
        """L'^-1 rhs for rhs (n, c) float64."""
        out = rhs.clone()
        for start in reversed(range(0, self.size, PANEL)):
            end = min(start + PANEL, self.size)
            panel = self.panels[start // PANEL][: end - start]
            out[start:end] = torch.linalg.solve_triangular(
                panel[:, start:end].mT, out[start:end], upper=True
            )
            if start:
                out[:start] -= panel[:, :start].mT @ out[start:end]
        return out

    def append(self, rows: Tensor, least_pivot: float) -> Tensor:
        """Factor b more rows of G, given as (b, n + b) with their diagonal block last.

        Args:
            rows: The new rows; above the diagonal they are not read.
            least_pivot: The ridge in G, below which no squared pivot of ridge I + K, K >= 0, is.
                Where rounding leaves less, the pivot is raised to it; nothing is added to G.

        Returns:
            The new squared pivots, (b,).
        """
        old = self.size
        left = self.forward(rows[:, :old].mT.contiguous()).mT
        corner = rows[:, old:] - left @ left.mT
        lower, failed = torch.linalg.cholesky_ex(corner)
        if int(failed) or bool((lower.diagonal().square() < least_pivot).any()):
            lower = _guarded_cholesky(corner, least_pivot)
        self.write(torch.cat([left, lower], dim=1))
        pivots: Tensor = lower.diagonal().square()
        return pivots

    def log_diagonal(self) -> float:
        """sum_i log L_ii."""
        total = 0.0
        for start in range(0, self.size, PANEL):
            end = min(start + PANEL, self.size)
            total += float(
                self.panels[start // PANEL][:, start:end].diagonal()[: end - start].log().sum()
            )
        return total


def _guarded_cholesky(matrix: Tensor, least_pivot: float) -> Tensor:
    """Cholesky factor (b, b) whose squared pivots are at least `least_pivot`."""
    lower = torch.zeros_like(matrix)
    for i in range(len(matrix)):
        pivot = (matrix[i, i] - lower[i, :i].square().sum()).clamp_min(least_pivot).sqrt()
        lower[i, i] = pivot
        lower[i + 1 :, i] = (matrix[i + 1 :, i] - lower[i + 1 :, :i] @ lower[i, :i]) / pivot
    return lower
