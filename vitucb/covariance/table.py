"""The covariances by name, as text: listing them imports nothing."""

from __future__ import annotations

COVARIANCES = {
    "exact": "vitucb.covariance.handover:HandoverCovariance",
    "dense": "vitucb.covariance.dense:DenseCovariance",
    "diagonal": "vitucb.covariance.diagonal:DiagonalCovariance",
}
"""Name -> import path of a class called as `(dim, *, ridge, rank, seed, dtype, **options)`."""

DESCRIPTIONS = {
    "exact": "all rows and a small Cholesky factor, p of any size; a sketch takes over past 1 GiB",
    "dense": "the p x p matrix and its inverse in float64, for p up to about 4,000",
    "diagonal": "baseline: only the diagonal of A; bonuses are many times too wide",
}
"""Name -> one line for `vitucb list covariances`."""
