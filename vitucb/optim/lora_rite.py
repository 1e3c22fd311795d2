"""LoRA-RITE: transformation-invariant adaptive updates of LoRA factors.

Paper: Yen et al., "LoRA Done RITE: Robust Invariant Transformation Equilibration for LoRA
Optimization" - https://arxiv.org/abs/2410.20625 (Algorithm 1).
For the tall factor L (n x r or m x r) with gradient g_L and dual factor D = U R (U orthonormal):
    unmagnified gradient   g = g_L R^-1
    transport              P = U_t^T U_{t-1},  Vt = P V P^T
    second moment          V = b2 Vt + (1 - b2) g^T g
    escaped mass           rho = b2 (rho + max_i |lambda_i(V_old) - lambda_i(Vt)|)
    direction              S = g (V + rho I)^-1/2,  M = b1 M P^T + (1 - b1) S
    step                   L <- L - lr M R^-T
with Adam's bias correction through decays b_t = b (1 - b^(t-1)) / (1 - b^t). Both sides use the
factors before the step. W follows the same path in every gauge (A, B) -> (R^-1 A, B R).

Differs. Bases come from D^T D = Q Lambda Q^T as R^-1 = Q Lambda^-1/2, with directions below
`basis_rcond` dropped: they are grown first by the factor they belong to, where dividing by them
would blow the step up by 1 / noise. Eigenvalues of V are floored relative to the largest, and a
trust region that no gauge can change keeps the cross term dB dA small. After the step the pair is
written in the gauge A A^T = I / 3 (`fix_gauge`), for a step of A is divided by B: where B stays
small A would grow without bound, and with it the gradient in B, which features of a bonus consist
of. W, and by the transport below the state, do not notice.
Neither U nor its predecessor is kept: P = R_t^-T (D_t^T D_{t-1}) R_{t-1}^-1 needs an r x r matrix
only, and the momentum is kept as N = M R^-T in the frame of the parameters, so that a step is
    N <- b1 (D^T D)^+ (D_t^T D_{t-1}) N + (1 - b1) R^-1 (V + rho I)^-1/2 R^-T g_L^T   (wide form),
two products of r x r with r x d. `compat="official"` is the published PyTorch code, `"paper"` is
Algorithm 1 to the letter (sums in place of averages).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Parameter

from vitucb.models.lora import LoRAPair
from vitucb.optim.batched.factor_batch import Stacks
from vitucb.optim.batched.linear_algebra import (
    FLOAT32_RCOND,
    apply,
    both_move,
    fix_gauge_,
    gram,
    inverse_eigenvalues,
    scale_stacks_,
    squared_norms,
)
from vitucb.optim.batched.lora_optimizer import LoRAOptimizer, Work

_SAFE: dict[str, Any] = {
    "escaped_mass": True, "basis_rcond": 1e-2, "eig_floor_rel": 1e-4, "eps": 1e-6,
    "clip_norm": 0.0, "skip_rms": 0.0, "per_row": True, "average": True, "guard": 0.5,
    "fix_gauge": True,
}  # fmt: skip
_PRESETS: dict[str | None, dict[str, Any]] = {
    None: _SAFE,
    "official": {
        **_SAFE, "escaped_mass": False, "basis_rcond": 0.0, "eig_floor_rel": 0.0,
        "clip_norm": 1.0, "skip_rms": 1.0, "guard": 0.0, "fix_gauge": False,
    },
    "paper": {
        **_SAFE, "basis_rcond": 0.0, "eig_floor_rel": 0.0, "eps": 0.0, "per_row": False,
        "average": False, "guard": 0.0, "fix_gauge": False,
    },
}  # fmt: skip


class _Frame:
    """Everything r x r of one batch in one step, in float64."""

    def __init__(self, work: Work, rcond: float, per_row: bool) -> None:
        batch = self.batch = work.batch
        exact = self.exact = rcond < FLOAT32_RCOND
        self.gram = gram(work.x, exact=exact)
        values, vectors = torch.linalg.eigh(self.gram[batch.dual])
        inverse = inverse_eigenvalues(values, rcond)
        # R^-1 of the dual; zero columns stand for dropped directions.
        self.basis = vectors * inverse.sqrt().unsqueeze(-2)
        self.dual_inverse = self.basis @ self.basis.mT
        self.squares = self.basis.mT @ gram(work.g, exact=exact) @ self.basis
        self.rows = batch.rows if per_row else torch.ones_like(batch.rows)
        self.keep: Tensor | None = None

    def scale_gradient(self, factors: Tensor) -> None:
        """Multiply the unmagnified gradient of every factor by its own number."""
        self.keep = factors if self.keep is None else self.keep * factors
        self.squares = self.squares * (factors**2)[:, None, None]

    def mean_square(self) -> Tensor:
        """Mean square entry of the unmagnified gradient, (F,)."""
        return _trace(self.squares) / (self.batch.rows * self.batch.rank)


class LoRARITE(LoRAOptimizer):
    """LoRA-RITE with safe defaults for one-sample-at-a-time streams."""

    def __init__(
        self,
        pairs: Sequence[LoRAPair],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = None,
        *,
        weight_decay: float = 0.0,
        escaped_mass: bool | None = None,
        basis_rcond: float | None = None,
        eig_floor_rel: float | None = None,
        per_row: bool | None = None,
        average: bool | None = None,
        clip_norm: float | None = None,
        skip_rms: float | None = None,
        cap_rms: float = 0.0,
        balance: bool = False,
        guard: float | None = None,
        fix_gauge: bool | None = None,
        compat: Literal["official", "paper"] | None = None,
        other_params: Iterable[Parameter] = (),
        other_lr: float | None = None,
    ) -> None:
        """Build the groups; None takes the default of `compat`.

        Args:
            pairs: The LoRA pairs.
            lr: Learning rate; with `per_row` an entry moves by about `lr`, as with Adam.
            betas: Decay of the two moments.
            eps: Added to the root of the second moment (1e-6; 0 for `paper`).
            weight_decay: Decoupled decay of each factor.
            escaped_mass: Whether rho collects the mass that leaves the basis (on; `official` off).
            basis_rcond: Dual directions below `basis_rcond` times the largest singular value are
                dropped (1e-2; 0 in both compatible modes).
            eig_floor_rel: Floor of the eigenvalues of V relative to the largest (1e-4; else 0).
            per_row: Divide g^T g by the number of rows (on; off for `paper`).
            average: Averages with bias correction, against the paper's sums (on; off for `paper`).
            clip_norm: Clip the norm of all unmagnified gradients together (off; `official` 1).
            skip_rms: Zero a factor's gradient when its root mean square exceeds this (off;
                `official` 1, which freezes training under large losses).
            cap_rms: Clip the root mean square of a factor's direction; 0 is off.
            balance: Rescale so that |A|_F = |B|_F after the step.
            guard: Largest ratio of the second-order to the first-order change of W (0.5; 0, off, in
                both compatible modes).
            fix_gauge: Rewrite B A after the step so that A A^T = I / 3, as at PEFT's start (on; off
                in both compatible modes).
            compat: None (safe), `official` or `paper`.
            other_params: Parameters outside the pairs, stepped by AdamW without decay.
            other_lr: Their learning rate; `lr` if None.

        Raises:
            ValueError: If `compat` is unknown or a learning rate is negative.
        """
        if compat not in _PRESETS:
            raise ValueError(f"compat {compat!r} must be None, 'official' or 'paper'")
        given = {
            "eps": eps, "escaped_mass": escaped_mass, "basis_rcond": basis_rcond,
            "eig_floor_rel": eig_floor_rel, "per_row": per_row, "average": average,
            "clip_norm": clip_norm, "skip_rms": skip_rms, "guard": guard,
            "fix_gauge": fix_gauge,
        }  # fmt: skip
        chosen = {k: _PRESETS[compat][k] if v is None else v for k, v in given.items()}
        hyper = {"betas": betas, "weight_decay": weight_decay, "cap_rms": cap_rms}
        hyper |= {"balance": balance, **chosen}
        super().__init__(pairs, lr, hyper, other_params, other_lr)

    def update(self, group: dict[str, Any], works: list[Work]) -> None:
        """Algorithm 1 for all pairs; the norm for clipping spans all of them."""
        frames = [_Frame(work, group["basis_rcond"], group["per_row"]) for work in works]
        if group["skip_rms"]:
            for frame in frames:
                frame.scale_gradient((frame.mean_square() <= group["skip_rms"] ** 2).double())
        if group["clip_norm"]:
            norm = torch.stack([_trace(frame.squares).sum() for frame in frames]).sum().sqrt()
            for frame in frames:
                clip = (group["clip_norm"] / norm).clamp_max(1.0)
                frame.scale_gradient(clip.expand_as(frame.rows))
        for work, frame in zip(works, frames, strict=True):
            self._update(group, work, frame)

    def _update(self, group: dict[str, Any], work: Work, frame: _Frame) -> None:
        r, dual = work.batch.rank, work.batch.dual
        cross, basis = (work.state.small(name, r, r) for name in ("cross_gram", "basis"))
        decays = _decays(group, work.state.count_step().double())
        root = _second_moment(group, work, frame, cross[dual], basis, decays[1])
        steps = _momentum(work, frame, cross[dual], root, decays[0])
        if group["cap_rms"]:
            steps = _cap(frame, steps, group["cap_rms"])
        old = work.batch.buffer("product")
        torch._foreach_copy_(old, work.x)
        _move(group, work, frame, steps)
        cross.copy_(gram(work.x, old, exact=frame.exact))
        basis.copy_(frame.basis)


def _second_moment(
    group: dict[str, Any], work: Work, frame: _Frame, cross: Tensor, basis: Tensor, beta2: Tensor
) -> Tensor:
    """Update V and rho; the r x r matrix R^-1 (V + rho I)^-1/2 R^-T of every factor."""
    r = work.batch.rank
    V, old_values = work.state.small("second_moment", r, r), work.state.small("values", r)
    rho = work.state.small("escaped_mass")
    transport = frame.basis.mT @ cross @ basis
    carried = transport @ V @ transport.mT
    square = frame.squares / frame.rows[:, None, None]
    if group["escaped_mass"]:
        # |P| <= 1, so each sorted eigenvalue can only shrink; the largest loss is d_lambda.
        rho.add_((old_values - torch.linalg.eigvalsh(carried)).amax(-1).clamp_min(0.0))
    if group["average"]:
        rho.mul_(beta2)
        V.copy_(torch.lerp(square, carried, beta2[:, None, None]))
    else:
        V.copy_(carried + square)
    values, vectors = torch.linalg.eigh(V)
    old_values.copy_(values)
    floor = group["eig_floor_rel"] * values[:, -1:]
    root = (torch.maximum(values, floor).clamp_min(0.0) + rho[:, None]).sqrt() + group["eps"]
    half = frame.basis @ vectors
    inverse: Tensor = torch.where(root > 0.0, 1.0 / root, 0.0)
    result: Tensor = (half * inverse[:, None, :]) @ half.mT
    return result


def _momentum(work: Work, frame: _Frame, cross: Tensor, root: Tensor, beta1: Tensor) -> Stacks:
    """N <- b1 (D^T D)^+ (D_t^T D_{t-1}) N + (1 - b1) root g, in place."""
    batch, N = work.batch, work.state.factor("momentum")
    beta1 = beta1[:, None, None]
    transport = beta1 * (frame.dual_inverse @ cross)
    carried = apply(transport, N, batch, out=batch.buffer("product"))
    fresh = (1.0 - beta1) * root
    if frame.keep is not None:
        fresh = fresh * frame.keep[:, None, None]
    for n, c, k, g in zip(N, carried, batch.split(fresh.to(batch.dtype)), work.g, strict=True):
        torch.baddbmm(c, k, g, out=n)
    return N


def _move(group: dict[str, Any], work: Work, frame: _Frame, directions: Stacks) -> None:
    keep = 1.0 - group["lr"] * group["weight_decay"]
    if group["weight_decay"]:
        torch._foreach_mul_(work.x, keep)
    work.descend_(group, directions, own=keep**2 * frame.gram)
    # A group that was saved before there was a gauge has none; a rate of 0 moves nothing.
    if group.get("fix_gauge", False) and group["lr"]:
        fix_gauge_(work.x, work.batch)
    if group["balance"]:
        # 1e-6 as in the published code, for a factor that is still zero; B A keeps its value.
        norms = squared_norms(work.x).sqrt() + 1e-6
        scales = (norms[work.batch.dual] / norms).sqrt()
        if work.batch.missing:  # a factor without gradient stays where it is
            scales = scales.where(both_move(work.batch), 1.0)
        scale_stacks_(work.x, scales, work.batch)


def _cap(frame: _Frame, N: Stacks, cap: float) -> Stacks:
    """Scale the directions M = N R^T whose root mean square exceeds `cap`."""
    square = (frame.gram[frame.batch.dual] * gram(N, exact=frame.exact)).sum((-2, -1))
    rms = (square / (frame.batch.rows * frame.batch.rank)).sqrt()
    capped = [n.clone() for n in N]
    scale_stacks_(capped, (cap / rms).clamp_max(1.0), frame.batch)
    return capped


def _decays(group: dict[str, Any], count: Tensor) -> Tensor:
    """Decays (2, F) that make running averages averages of what they saw in steps 1, 2, ..."""
    betas = torch.stack([torch.full_like(count, beta) for beta in group["betas"]])
    if not group["average"]:
        return betas
    power = betas ** (count - 1.0)
    return betas * (1.0 - power) / (1.0 - betas * power)


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(0, -2, -1).sum(-1)
