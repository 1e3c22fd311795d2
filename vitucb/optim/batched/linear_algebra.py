"""Batched algebra of r x r matrices and wide stacks: Grams, inverses, Sylvester, the guard."""

from __future__ import annotations

import torch
from torch import Tensor

from vitucb.optim.batched.factor_batch import FactorBatch, Stacks

# Below this relative singular value a float32 Gram no longer resolves a direction (its eigenvalue
# is the square, 1e-6, against a rounding error of about 1e-7): the Gram is formed in float64.
FLOAT32_RCOND = 1e-3


def gram(left: Stacks, right: Stacks | None = None, *, exact: bool = False) -> Tensor:
    """X Y^T of every factor, float64 (F, r, r).

    Args:
        left: Wide stacks X, each (f, r, d).
        right: Wide stacks Y; X if None.
        exact: Accumulate in float64 even where the stacks are float32.
    """
    if exact:
        left = [x.double() for x in left]
        right = None if right is None else [y.double() for y in right]
    products = [torch.bmm(x, y.mT) for x, y in zip(left, right or left, strict=True)]
    return torch.cat(products).double()


def apply(matrices: Tensor, stacks: Stacks, batch: FactorBatch, out: Stacks) -> Stacks:
    """K X of every factor for K (F, r, r), in the dtype of the stacks, written to `out`."""
    pieces = batch.split(matrices.to(batch.dtype))
    for k, x, result in zip(pieces, stacks, out, strict=True):
        torch.bmm(k, x, out=result)
    return out


def add_apply_(base: Stacks, matrices: Tensor, stacks: Stacks, batch: FactorBatch) -> Stacks:
    """Add K X to `base` in place, and return it."""
    pieces = batch.split(matrices.to(batch.dtype))
    for b, k, x in zip(base, pieces, stacks, strict=True):
        b.baddbmm_(k, x)
    return base


def squared_norms(stacks: Stacks) -> Tensor:
    """Squared Frobenius norm of every factor, float64 (F,)."""
    return torch.cat([torch.linalg.vector_norm(x.flatten(1), dim=1) for x in stacks]).double() ** 2


def inverse_eigenvalues(values: Tensor, rcond: float, damping: Tensor | float = 0.0) -> Tensor:
    """1 / (lambda + damping), and 0 for directions that do not count.

    Args:
        values: Eigenvalues of Gram matrices, ascending, (..., r).
        rcond: Singular values below `rcond` times the largest are dropped.
        damping: Added to the eigenvalues; where positive nothing is dropped for being tiny.
    """
    relative = max(rcond**2, values.shape[-1] * torch.finfo(values.dtype).eps)
    damped = values.clamp_min(0.0) + damping
    # With damping the sum is safely positive, so only an explicit rcond drops directions.
    reference = damped if rcond == 0.0 else values
    keep = (reference > relative * reference[..., -1:]) & (damped > 0.0)
    return torch.where(keep, damped.reciprocal(), 0.0)


def from_eigen(vectors: Tensor, values: Tensor) -> Tensor:
    """Q diag(values) Q^T, (..., r, r)."""
    return (vectors * values.unsqueeze(-2)) @ vectors.mT


def solve_sylvester(
    left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], constant: Tensor
) -> Tensor:
    """The minimum-norm X with L X + X R = C for symmetric positive semi-definite L and R.

    Args:
        left: Eigenvalues (..., r) and eigenvectors (..., r, r) of L.
        right: The same of R.
        constant: C, (..., r, r).
    """
    (values_l, vectors_l), (values_r, vectors_r) = left, right
    sums = values_l.clamp_min(0.0).unsqueeze(-1) + values_r.clamp_min(0.0).unsqueeze(-2)
    # The sum vanishes only where both factors are singular; C has no component there.
    floor = sums.shape[-1] * torch.finfo(sums.dtype).eps * sums.amax((-2, -1), keepdim=True)
    inverse = torch.where(sums > floor, sums.reciprocal(), 0.0)
    inner = (vectors_l.mT @ constant @ vectors_r) * inverse
    return vectors_l @ inner @ vectors_r.mT


def guard_scale(
    x: Stacks,
    directions: Stacks,
    batch: FactorBatch,
    kappa: float,
    *,
    rate: float = 1.0,
    own: Tensor | None = None,
    radius: Tensor | None = None,
) -> Tensor:
    """The factor a <= 1 of each factor's pair that keeps a step in its trust region, float64 (F,).

    a |B dA + dB A| + a^2 |dB dA| <= radius, and a |dB dA| <= kappa |B dA + dB A|. The norms come
    from r x r Grams and do not depend on the gauge (A, B) -> (R^-1 A, B R).

    Args:
        x: Wide factors.
        directions: Wide directions dA, dB^T over `rate`.
        batch: The batch they belong to.
        kappa: Largest allowed ratio of the cross term to the first-order change; 0 is no bound.
        rate: The step is `rate` times the direction.
        own: The Grams of `x`, if known.
        radius: Largest allowed change of B A, (F,); no bound if None.
    """
    own = gram(x) if own is None else own
    square, mixed = gram(directions), gram(x, directions)
    square_dual = square[batch.dual]
    # |dB dA| has rate^2, the first-order change has rate. Rounding can make either negative.
    cross = (rate**2 * _trace(square, square_dual)).clamp_min(0.0)
    half = _trace(own, square_dual)
    first = (half + half[batch.dual] + 2.0 * _trace(mixed, mixed[batch.dual])).clamp_min(0.0)
    tiny = torch.finfo(cross.dtype).tiny
    scale = torch.ones_like(cross)
    if kappa:
        scale = (kappa * (first / cross.clamp_min(tiny)).sqrt()).clamp_max(1.0)
    if radius is not None:
        # The positive root of a f + a^2 c = radius, in the form that does not cancel.
        f, c = rate * first.sqrt(), rate * cross.sqrt()
        root = 2.0 * radius / (f + (f * f + 4.0 * radius * c).sqrt()).clamp_min(tiny)
        scale = torch.minimum(scale, root)
    # A change beyond the range of float32 has no known length: it is not taken.
    return scale.nan_to_num(nan=0.0)


def _trace(left: Tensor, right: Tensor) -> Tensor:
    return (left * right.mT).sum((-2, -1))


def scale_stacks_(stacks: Stacks, factors: Tensor, batch: FactorBatch) -> None:
    """Multiply every factor by its own number, in place."""
    for stack, piece in zip(stacks, batch.split(factors.to(batch.dtype)), strict=True):
        stack.mul_(piece[:, None, None])


def both_move(batch: FactorBatch) -> Tensor:
    """Whether a factor and the other one of its pair have gradients, bool (F,)."""
    moves = torch.ones(len(batch.parameters), dtype=torch.bool, device=batch.device)
    moves[batch.missing] = False
    return moves & moves[batch.dual]


def fix_gauge_(x: Stacks, batch: FactorBatch, gradients: Stacks | None = None) -> None:
    """Write every B A as (B R^-1)(R A) with R A A^T R = I / 3, as at PEFT's start, in place.

    R = (3 A A^T)^-1/2 moves A least. A pair stays as it is where a factor has no gradient, or where
    A has directions that are all but 0: B has room there which B R^-1 would not have.

    Args:
        x: Wide factors.
        batch: Their batch.
        gradients: Wide gradients or averages of them, made those of the new factors in place.
    """
    a, b = batch.index_A, batch.index_B
    values, vectors = torch.linalg.eigh(gram(x)[a])
    free = values[:, 0] > FLOAT32_RCOND**2 * values[:, -1]
    if batch.missing:
        free = free & both_move(batch)[a]
    root = torch.where(free[:, None], 3.0 * values, 1.0).sqrt()
    maps = torch.empty(
        len(batch.parameters), *vectors.shape[1:], dtype=root.dtype, device=batch.device
    )
    maps[a], maps[b] = from_eigen(vectors, root.reciprocal()), from_eigen(vectors, root)
    torch._foreach_copy_(x, apply(maps, x, batch, out=batch.buffer("fixed")))
    if gradients is not None:
        # g_A = s B^T G goes with B, and g_B with A.
        moved = apply(maps[batch.dual], gradients, batch, out=batch.buffer("fixed"))
        torch._foreach_copy_(gradients, moved)
