"""The exact covariance of features in any dimension, from all rows and a small Cholesky factor.

With the weighted rows Phi (n, p) and G = ridge I + Phi Phi' = L L',

    phi' A^-1 phi = (|phi|^2 - |y|^2) / ridge,   y = L^-1 Phi phi                        (1)
                  = min_u |phi - Phi' u|^2 / ridge + |u|^2,   u = G^-1 Phi phi           (2)
    append phi:     L <- [L 0; y' d],   d^2 = ridge (1 + phi' A^-1 phi)                  (3)
    log det(A / ridge) = 2 sum_i log L_ii - n log ridge
    A^-1 v = (v - Phi' G^-1 Phi v) / ridge

(1) costs one product with the rows; its y makes the update (3) of a scored arm free. Where (1)
cancels, (2) takes over: it is a minimum, so errors enter squared and the result is never too
small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from vitucb.covariance.base import FeatureCovariance, State
from vitucb.covariance.cholesky import PANEL, GrowingCholesky, LowerPanels
from vitucb.covariance.guards import check_gamma, limit_weights
from vitucb.covariance.row_blocks import BLOCK_ROWS, RowBlocks
from vitucb.covariance.scored import Scored

# Below this share of |phi|^2 the difference in (1) has lost too many digits, by product type.
_CANCELLED = {torch.float32: 1e-3, torch.float64: 1e-5}
# With float32 products a pivot of less than |phi|^2 over this keeps fewer than three digits.
_FLOAT32_LIMIT = 1e4


class DualCovariance(FeatureCovariance):
    """Exact A in the dual form; memory n p for the rows and 8 n^2 bytes for the small algebra."""

    def __init__(
        self,
        dim: int,
        *,
        ridge: float = 1.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Start empty.

        Args:
            dim: Number of features p.
            ridge: Ridge of A.
            dtype: Type the rows are stored in: float64, float32, bfloat16 or float16; None means
                that of the first features.
        """
        super().__init__(dim, ridge=ridge)
        self._dtype = dtype
        self._start(dtype or torch.float32, torch.device("cpu"))

    def _start(self, dtype: torch.dtype, device: torch.device) -> None:
        self._rows = RowBlocks(self.dim, dtype, device)
        self._gram = LowerPanels(device)  # Of the rows without weights and ridge.
        self._factor = GrowingCholesky(device)  # May be shorter than the Gram matrix: then stale.
        self._weights = torch.empty(0, dtype=torch.float64, device=device)

    @property
    def size(self) -> int:
        """Number of rows n held."""
        return self._rows.size

    @property
    def memory_bytes(self) -> int:
        """Bytes of rows and small algebra in use."""
        return self.size * self.dim * self._rows.dtype.itemsize + 8 * self.size * (self.size + 1)

    @property
    def log_det(self) -> float:
        """Information gain log det(A / ridge), nats."""
        self._refresh_factor()
        return 2.0 * self._factor.log_diagonal() - self.size * math.log(self.ridge)

    def _adopt(self, phi: Tensor) -> None:
        """Before the first row: take over the type and the device of the features."""
        dtype = self.stored_type(phi)
        if self.size == 0 and (self._rows.dtype, self._rows.device) != (dtype, phi.device):
            self._start(dtype, phi.device)

    def stored_type(self, phi: Tensor) -> torch.dtype:
        """Type in which rows like `phi` would be stored now."""
        return self._rows.dtype if self.size else self._dtype or phi.dtype

    def _score(self, phi: Tensor) -> Scored:
        self._adopt(phi)
        self._refresh_factor()
        query = self._rows.query(phi)
        cross, gram = self._rows.products_and_gram(query)
        solved = self._factor.forward(self.root_weights * cross)
        scored = Scored(phi, torch.empty(0), gram, cross, solved)
        scored.squares = (gram.diagonal() - solved.square().sum(0)) / self.ridge
        weak = self._is_cancelled(scored)
        if phi.device.type != "cpu":
            # Asking whether it is needed would take longer than doing it.
            exact = self._exact_squares(query, solved)
            scored.squares = torch.where(weak, exact, scored.squares)
        elif bool(weak.any()):
            scored.squares[weak] = self._exact_squares(query[weak], solved[:, weak])
        return scored

    def _is_cancelled(self, scored: Scored) -> Tensor:
        assert scored.gram is not None
        share = _CANCELLED[self._rows.product_dtype]
        return scored.squares * self.ridge < share * scored.gram.diagonal()

    def _exact_squares(self, query: Tensor, solved: Tensor) -> Tensor:
        """Squares (b,), phi' A^-1 phi, where little of |phi|^2 is left outside of the rows."""
        residual, u = self._residual(query, solved)
        norms = torch.linalg.vector_norm(residual, dim=1, dtype=torch.float64)
        squares: Tensor = norms.square() / self.ridge + u.square().sum(0)
        return squares

    def _residual(self, query: Tensor, solved: Tensor) -> tuple[Tensor, Tensor]:
        """Residual phi - Phi' u, (b, p), and u = G^-1 Phi phi, (n, b), of (2)."""
        u = self._factor.backward(solved)
        return query - self._rows.combine(self.root_weights * u), u

    def _cov(self, scored: Scored) -> Tensor:
        assert scored.gram is not None
        assert scored.solved is not None
        if not bool(self._is_cancelled(scored).any()):
            return (scored.gram - scored.solved.mT @ scored.solved) / self.ridge
        query = torch.where(scored.squares[:, None] > 0, self._rows.query(scored.phi), 0.0)
        residual, u = self._residual(query, scored.solved)
        return (residual @ residual.mT).double() / self.ridge + u.mT @ u

    def _append(self, scored: Scored, weights: Tensor) -> None:
        assert scored.gram is not None
        assert scored.cross is not None
        is_coarse = self._is_coarse(weights * scored.tell()[1], self.ridge)
        norms = scored.gram.diagonal()
        weights = limit_weights(weights.to(norms), norms, scored.squares, self.ridge)
        self._rows.append(scored.phi)
        self._gram.write(torch.cat([scored.cross.mT, scored.gram], dim=1))
        self._weights = torch.cat([self._weights, weights])
        if is_coarse:
            self._promote()
        elif len(weights) == 1:
            assert scored.solved is not None
            pivot = (self.ridge * (1.0 + weights * scored.squares)).sqrt()
            left = scored.solved[:, 0] * weights.sqrt()
            self._factor.write(torch.cat([left, pivot])[None])
        else:
            self._refresh_factor()

    def _is_coarse(self, norms: Tensor, pivots: Tensor | float) -> bool:
        """Whether products in float32 leave pivots of rows with these |phi|^2 too few digits."""
        is_float32 = self._rows.product_dtype == torch.float32
        return is_float32 and bool((norms > _FLOAT32_LIMIT * pivots).any())

    def _promote(self) -> None:
        """From now on take products in float64: a float32 product is coarser than the ridge."""
        self._rows.product_dtype = torch.float64
        self._recompute_gram(torch.arange(self.size))

    def _recompute_gram(self, index: Tensor) -> None:
        """Rows and columns `index` of the Gram matrix, from the rows as they are now."""
        rows = self._rows.to_tensor() if len(index) == self.size else None
        full = self._gram.symmetric()
        for chunk in torch.split(index, PANEL):
            query = (
                torch.stack([self._rows[int(i)] for i in chunk]) if rows is None else rows[chunk]
            )
            cross = self._rows.products(query.to(self._rows.product_dtype))
            full[:, chunk], full[chunk] = cross, cross.mT
        self._gram = LowerPanels(self._gram.device)
        self._gram.write(full)
        self._factor.truncate(int(index.min()))

    def _refresh_factor(self) -> None:
        """Factor the rows of G that the factor does not hold."""
        while self._factor.size < self._gram.size:
            start = self._factor.size
            end = min(start + PANEL, self._gram.size)
            rows = self._gram.rows(start, end)
            rows *= self.root_weights[start:end] * self.root_weights[:end].mT
            rows[:, start:].diagonal().add_(self.ridge)
            norms = rows[:, start:].diagonal().clone()
            if self._is_coarse(norms, self._factor.append(rows, least_pivot=self.ridge)):
                self._promote()

    @property
    def root_weights(self) -> Tensor:
        """Roots of the weights, a column (n, 1)."""
        return self._weights.sqrt()[:, None]

    def _reset(self) -> None:
        self._start(self._rows.dtype, self._rows.device)

    def set_ridge(self, ridge: float) -> None:
        """Change the ridge of A; the rows stay."""
        if ridge != self.ridge:
            self.ridge = ridge
            self._scored = None
            self._factor.truncate(0)

    def solve(self, v: Tensor) -> Tensor:
        """A^-1 v for v (..., p): float64 (..., p)."""
        self._refresh_factor()
        right = self._as_rows(v).to(self._rows.device, torch.float64)
        cross = self._rows.products(right.to(self._rows.product_dtype))
        u = self._factor.backward(self._factor.forward(self.root_weights * cross))
        out = (right - self._rows.combine(self.root_weights * u)) / self.ridge
        return out.view(v.shape)

    def discount(self, gamma: float) -> None:
        """Forget: A <- gamma A + (1 - gamma) ridge I; costs one factorisation, n^3 / 3."""
        self._weights = self._weights * check_gamma(gamma)
        self._scored = None
        self._factor.truncate(0)

    def effective_gram(self) -> Tensor:
        """Phi Phi' of the weighted rows, float64 (n, n)."""
        return self._gram.symmetric() * self.root_weights * self.root_weights.mT

    def spectrum(self) -> Tensor:
        """Eigenvalues of the weighted Phi Phi', float64 (n,), ascending."""
        values: Tensor = torch.linalg.eigvalsh(self.effective_gram())
        return values

    def square_at_ridge(self, scored: Scored, ridge: float) -> Tensor:
        """Squared widths of scored arms at another ridge, float64 (b,)."""
        assert scored.gram is not None
        assert scored.cross is not None
        gram = self.effective_gram()
        gram.diagonal().add_(ridge)
        factor = GrowingCholesky(gram.device)
        factor.append(gram, least_pivot=ridge)
        solved = factor.forward(self.root_weights * scored.cross)
        squares: Tensor = scored.gram.diagonal() - solved.square().sum(0)
        return squares.clamp_min(0.0) / ridge

    def row_chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(features (b, p), weights (b,)) that together are all observations so far."""
        weights = torch.split(self._weights, BLOCK_ROWS)
        return zip(self._rows.row_chunks(), weights, strict=False)

    def set_rows(self, mixing: Tensor, squares: Tensor) -> None:
        """Replace the weighted rows by combinations of them that are orthogonal.

        They are stored in the type of the products: to the 16 bits of some features they would not
        be orthogonal, nor as long as they should be.

        Args:
            mixing: Coefficients (n, m) of the m new rows.
            squares: Their squared norms, float64 (m,).
        """
        rows = self._rows.combine(self.root_weights * mixing)
        if torch.finfo(self._rows.dtype).bits < 32:
            self._rows = RowBlocks(self.dim, rows.dtype, self._rows.device)
        self._rows.size = 0
        self._rows.append(rows)
        self._weights = torch.ones(len(rows), dtype=torch.float64, device=self._rows.device)
        self._gram = LowerPanels(self._rows.device)
        self._gram.write(squares.diag())
        self._factor.truncate(0)
        self._scored = None

    def state_dict(self) -> State:
        """Rows, weights, Gram matrix and factor (both packed), and the counters."""
        return {
            "rows": self._rows.to_tensor(),
            "weights": self._weights.clone(),
            "gram": self._gram.packed(),
            "factor": self._factor.packed(),
            "has_float64_products": self._rows.product_dtype == torch.float64,
            **self._counters(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._load_counters(state)
        rows = state["rows"]
        self._start(rows.dtype, rows.device)
        self._rows.append(rows)
        if state["has_float64_products"]:
            self._rows.product_dtype = torch.float64
        self._weights = state["weights"].clone()
        self._gram.unpack(state["gram"])
        self._factor.unpack(state["factor"])
