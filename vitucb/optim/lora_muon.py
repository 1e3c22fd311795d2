"""LoRA-Muon: steepest descent of W = W0 + s B A under the spectral norm, through its factors.

Paper: Cesista, Crowson, Simal and Biderman, "LoRA-Muon: Spectral Steepest Descent on the Low-Rank
Manifold" - https://arxiv.org/abs/2606.12921. Only its abstract and a public summary of its update
were at hand, no equation numbers and no settings. The step derived below is the summary's:
    m_A <- b m_A + (1 - b) g_A,  m_B likewise
    dA = -(lr / 2s) (B^T B)^-1/2 msign((B^T B)^-1/2 m_A)
    dB = -(lr / 2s) msign(m_B (A A^T)^-1/2) (A A^T)^-1/2
    c = sqrt(1 - lr weight_decay);  A <- c A + dA / c,  B <- c B + dB / c
where msign(X) = (X X^T)^-1/2 X sets all singular values to 1.

Derivation. The change s (dB A + B dA) of W, with |.|_2 at most lr, is given half of lr for each of
its parts. With P = (B^T B)^1/2 the singular values of B dA are those of P dA, and
    min tr(g_A^T dA)  subject to  s |P dA|_2 <= lr / 2
is solved by P dA = -(lr / 2s) msign(P^-1 g_A). Under (A, B) -> (R^-1 A, B R) the part B dA is the
same, momentum included: W follows one path in every gauge. Decay by c of both factors is decay by
1 - lr weight_decay of B A, and leaves the step of W alone.

LoRA-RITE without moments, D = U P' for the dual factor D, moves by g (g^T g)^-1/2 P'^-T with
g = g_D P'^-1: that is msign again, the same step, as the abstract says and a test here shows.
Momentum differs: LoRA-RITE carries its own from basis to basis, here gradients are averaged as
they are.

Differs. The division by s makes lr the largest change of W itself, whatever rank, width and scale;
the summary has W = B A. Inverse roots come from eigenvalues in float64, not from Newton-Schulz.
Directions of the dual factor below `basis_rcond` are dropped, singular values below
sqrt(`eig_floor_rel`) of the largest grow in proportion instead of to 1, a trust region keeps the
cross term dB dA small, and after the step A A^T = I / 3, momentum carried along: see `lora_rite`,
which needs the same for the same reasons. All four off is the step above.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from vitucb.models.lora import LoRAPair
from vitucb.optim.batched.linear_algebra import (
    apply,
    fix_gauge_,
    from_eigen,
    gram,
    inverse_eigenvalues,
)
from vitucb.optim.batched.lora_optimizer import LoRAOptimizer, Work

# Squared norm of a whitened moment below which there is none: without gradients it decays for ever.
_NOTHING = 1e-60


class LoRAMuon(LoRAOptimizer):
    """Orthogonalised steps of both factors, one moment and no second ones."""

    def __init__(
        self,
        pairs: Sequence[LoRAPair],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        basis_rcond: float = 1e-2,
        eig_floor_rel: float = 1e-4,
        guard: float = 0.5,
        fix_gauge: bool = True,
        other_params: Iterable[Parameter] = (),
        other_lr: float | None = None,
    ) -> None:
        """Build the groups.

        Args:
            pairs: The LoRA pairs.
            lr: Largest singular value by which a step changes W, to first order.
            momentum: Decay of the averages of the gradients.
            weight_decay: Decay of B A in units of `lr`.
            basis_rcond: Dual directions below `basis_rcond` times the largest singular value are
                dropped.
            eig_floor_rel: Floor of the squared singular values that are set to 1, relative to the
                largest.
            guard: Largest ratio of the second-order to the first-order change of W; 0 is off.
            fix_gauge: Rewrite B A after the step so that A A^T = I / 3, as at PEFT's start.
            other_params: Parameters outside the pairs, stepped by AdamW without decay.
            other_lr: Their learning rate; `lr` if None.

        Raises:
            ValueError: If a value is out of range.
        """
        _shrinkage(lr, weight_decay)
        hyper = {"momentum": momentum, "weight_decay": weight_decay, "basis_rcond": basis_rcond}
        hyper |= {"eig_floor_rel": eig_floor_rel, "guard": guard, "fix_gauge": fix_gauge}
        super().__init__(pairs, lr, hyper, other_params, other_lr)

    def update(self, group: dict[str, Any], works: list[Work]) -> None:
        """One step of every pair."""
        shrinkage = _shrinkage(group["lr"], group["weight_decay"])
        for work in works:
            batch, momentum = work.batch, work.state.factor("momentum")
            torch._foreach_lerp_(momentum, work.g, 1.0 - group["momentum"])
            own, whitening = _whitening(group, work, momentum)
            half = 0.5 / (shrinkage * batch.scaling)
            steps = apply(
                half[:, None, None] * whitening, momentum, batch, out=batch.buffer("product")
            )
            if shrinkage < 1.0:
                torch._foreach_mul_(work.x, shrinkage)
            work.descend_(group, steps, own=shrinkage**2 * own)
            if group["fix_gauge"] and group["lr"]:
                fix_gauge_(work.x, batch, momentum)


def _whitening(group: dict[str, Any], work: Work, momentum: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The Grams of the factors, and R (R M R)^-1/2 R with R = S'^-1/2 of every factor, (F, r, r).

    S' is the Gram of the other factor of the pair and M that of the momentum m, so that the product
    with m is S'^-1/2 msign(S'^-1/2 m).
    """
    # R M R has the condition of M times that of S': more than Grams in float32 resolve.
    own = gram(work.x, exact=True)
    values, vectors = torch.linalg.eigh(own[work.batch.dual])
    root = from_eigen(vectors, inverse_eigenvalues(values, group["basis_rcond"]).sqrt())
    values, vectors = torch.linalg.eigh(root @ gram(momentum, exact=True) @ root)
    floored = torch.maximum(values, group["eig_floor_rel"] * values[:, -1:])
    inverse = inverse_eigenvalues(floored, rcond=0.0).sqrt()
    inverse = torch.where(values[:, -1:] > _NOTHING, inverse, 0.0)
    return own, root @ from_eigen(vectors, inverse) @ root


def _shrinkage(lr: float, weight_decay: float) -> float:
    """The factor sqrt(1 - lr weight_decay) of both factors.

    Raises:
        ValueError: If it would be 0 or imaginary.
    """
    if not lr * weight_decay < 1.0:
        raise ValueError(f"weight_decay {weight_decay} times lr {lr} must be below 1; lower one")
    return math.sqrt(1.0 - lr * weight_decay)
