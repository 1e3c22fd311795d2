"""The covariances by name, as text: listing them imports nothing."""

from __future__ import annotations

COVARIANCES = {
    "exact": "vitucb.covariance.budgeted:BudgetedCovariance",
    "dense": "vitucb.covariance.dense:DenseCovariance",
    "low-rank": "vitucb.covariance.projected:low_rank",
    "frequent-directions": "vitucb.covariance.frequent_directions:FrequentDirections",
    "countsketch": "vitucb.covariance.projected:countsketch",
    "discounted": "vitucb.covariance.discounted:DiscountedCovariance",
    "diagonal": "vitucb.covariance.diagonal:DiagonalCovariance",
}
"""Name -> import path of what is called as `(dim, *, ridge, rank, seed, dtype, **options)`."""

DESCRIPTIONS = {
    "exact": "all rows and a small Cholesky factor, any p; a sketch takes over past 24 MiB",
    "dense": "the p x p matrix and its inverse in float64, for p up to about 4,000",
    "low-rank": "CountSketch, then frequent directions: memory and time independent of the horizon",
    "frequent-directions": "a sketch of the largest directions with a certain, two-sided error",
    "countsketch": "a random projection with its bias removed, exact in the projected space",
    "discounted": "as dense, with the second matrix that discounted observations need (D-LinUCB)",
    "diagonal": "baseline: only the diagonal of A; bonuses are many times too wide",
}
"""Name -> one line for `vitucb list covariances`."""
