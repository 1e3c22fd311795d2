"""Features that were scored, kept for the update that follows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Scored:
    """Arms that were scored against the present A, kept so that updating with one of them is free.

    Attributes:
        phi: Features (b, p).
        squares: phi' A^-1 phi, float64 (b,).
        gram: Phi Phi' of these arms, float64 (b, b), where the representation needs it.
        cross: What the representation knows of each arm, columns (..., b), e.g. Phi_rows phi.
        solved: The same after a solve, columns (..., b), e.g. L^-1 Phi_rows phi.
        source: Features (b, p) before a projection.
        is_finite: Which arms are finite, (b,); None means all.
        parts: Scores by group of features.
        told: What `tell` has read from the device.
    """

    phi: Tensor
    squares: Tensor
    gram: Tensor | None = None
    cross: Tensor | None = None
    solved: Tensor | None = None
    source: Tensor | None = None
    is_finite: Tensor | None = None
    parts: list[Scored] | None = None
    told: Tensor | None = None

    def tell(self, *also: Tensor) -> Tensor:
        """Squares, and |phi|^2 where there is a Gram matrix, on the CPU: float64 (rows, b).

        Read once, so that the host waits for a device once; what is asked of one square may be
        asked of all.

        Args:
            also: Further rows float64 (b,), the last ones; with them all is read anew.
        """
        if self.told is None or also:
            norms = [] if self.gram is None else [self.gram.diagonal()]
            rows = [self.squares, *norms, *also]
            self.told = (torch.stack(rows) if len(rows) > 1 else self.squares[None]).cpu()
        return self.told

    def take(self, which: Tensor | slice) -> Scored:
        """The chosen arms, by index or mask (b,), or a stretch of them as views."""
        return Scored(
            self.phi[which],
            self.squares[which],
            None if self.gram is None else self.gram[which][:, which],
            None if self.cross is None else self.cross[..., which],
            None if self.solved is None else self.solved[..., which],
            None if self.source is None else self.source[which],
            None if self.is_finite is None else self.is_finite[which],
            None if self.parts is None else [part.take(which) for part in self.parts],
            self.told[:, which] if self.told is not None and isinstance(which, slice) else None,
        )
