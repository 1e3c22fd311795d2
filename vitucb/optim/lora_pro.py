"""LoRA-Pro: adjust the factor gradients so that the low-rank step follows the full gradient.

Paper: Wang et al., "LoRA-Pro: Are Low-Rank Adapters Properly Optimized?" -
https://arxiv.org/abs/2407.18242 (Theorem 2.1, 2.3; Algorithm 1).
With G = dL/dW, the adjusted gradients minimise |s B gA' + s gB' A - G|_F:
    gA' = (1/s^2) (B^T B)^-1 gA + X A,
    gB' = (1/s^2) (I - P_B) gB (A A^T)^-1 - B X,      P_B = B (B^T B)^-1 B^T, X free (r x r).
For every X the equivalent gradient s (B gA' + gB' A) is the projection of G on the tangent space.
    zero       X = 0
    sylvester  B^T B X + X A A^T = -(1/s^2) (B^T B)^-1 gA A^T   (factor gradients change least)
    symmetric  X = -(1/2s^2) (B^T B)^-1 gA A^T (A A^T)^-1       (the overlap is shared equally)
Differs: the published code takes A A^T for its inverse in `symmetric`; the Sylvester equation is
solved in closed form from two symmetric eigendecompositions; inverses are damped relative to the
other factor or truncated, so that B = 0 and rank-deficient B are safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Parameter

from vitucb.models.lora import LoRAPair
from vitucb.optim.batched.adam import adam_direction
from vitucb.optim.batched.factor_batch import FactorBatch, Stacks
from vitucb.optim.batched.linear_algebra import (
    FLOAT32_RCOND,
    add_apply_,
    apply,
    from_eigen,
    gram,
    inverse_eigenvalues,
    scale_stacks_,
    solve_sylvester,
)
from vitucb.optim.batched.lora_optimizer import LoRAOptimizer, Work
from vitucb.optim.batched.trust_region import MAX_STEP, shortening

XMode = Literal["zero", "sylvester", "symmetric"]
_X_MODES = ("zero", "sylvester", "symmetric")
_DECAYS = ("adapter", "factor", "full")


class Adjustment:
    """The map from factor gradients to adjusted gradients at fixed factors.

    Grams and their eigendecompositions are computed once, in float64, for all factors.
    """

    def __init__(
        self, x: Stacks, batch: FactorBatch, *, damping: float, delta: float, rcond: float
    ) -> None:
        """Factorise the Gram matrices.

        Args:
            x: Wide factors.
            batch: Their batch.
            damping: Cross-scale damping rho: each Gram gets rho tr(Gram of the other factor) / r.
            delta: Absolute damping (the published code has 1e-8).
            rcond: Singular values below `rcond` times the largest are dropped.
        """
        self.x, self.batch = x, batch
        exact = damping == 0.0 and rcond < FLOAT32_RCOND
        values, vectors = torch.linalg.eigh(gram(x, exact=exact))
        self.values, self.vectors = values, vectors
        shift: Tensor | float = delta
        if damping:
            shift = delta + damping * values.clamp_min(0.0).mean(-1, keepdim=True)[batch.dual]
        self.inverse = from_eigen(vectors, inverse_eigenvalues(values, rcond, shift))

    def __call__(self, g: Stacks, x_mode: XMode) -> Stacks:
        """Adjusted wide gradients (s^2 S')^-1 (g - [B side] P_B g) + X x; overwrites `g`."""
        batch, a, b = self.batch, self.batch.index_A, self.batch.index_B
        overlap = gram(g, self.x)
        projection = -(overlap @ self.inverse)
        X = torch.empty_like(overlap)
        X[a] = self.choose_x(overlap[a], x_mode)
        X[b] = -X[a].mT
        left = self.inverse[batch.dual] / (batch.scaling**2)[:, None, None]
        # The projection is taken before the division: the other order loses digits when B is small.
        pieces = batch.only_B(batch.split(projection.to(batch.dtype)))
        sides = zip(batch.only_B(g), pieces, batch.only_B(self.x), strict=True)
        for normal, piece, factor in sides:
            normal.baddbmm_(piece, factor)
        result = apply(left, g, batch, out=batch.buffer("product"))
        return add_apply_(result, X, self.x, batch)

    def choose_x(self, overlap_A: Tensor, x_mode: XMode) -> Tensor:
        """X of every pair, (pairs, r, r), from gA A^T of the same shape."""
        a, b = self.batch.index_A, self.batch.index_B
        if x_mode == "zero":
            return torch.zeros_like(overlap_A)
        constant = -(self.inverse[b] @ overlap_A) / (self.batch.scaling[a] ** 2)[:, None, None]
        if x_mode == "symmetric":
            return 0.5 * constant @ self.inverse[a]
        eigen_B, eigen_A = (self.values[b], self.vectors[b]), (self.values[a], self.vectors[a])
        return solve_sylvester(eigen_B, eigen_A, constant)


class LoRAPro(LoRAOptimizer):
    """LoRA-Pro with SGD (Algorithm 1) or AdamW.

    `moments="factored"` adjusts first and runs AdamW on the adjusted gradients, with state of the
    size of the factors. `moments="full"` is the paper's AdamW: moments of the m x n equivalent
    gradient, whose Adam direction is adjusted again.
    """

    @staticmethod
    def changes_base(options: Mapping[str, Any]) -> bool:
        """Whether the decay is that of the whole weight."""
        return options.get("decay") == "full"

    def __init__(
        self,
        pairs: Sequence[LoRAPair],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        x_mode: XMode = "sylvester",
        moments: Literal["factored", "full"] = "factored",
        damping: float = 1e-2,
        *,
        base: Literal["adamw", "sgd"] = "adamw",
        decay: Literal["adapter", "factor", "full"] = "adapter",
        delta: float = 0.0,
        rcond: float = 0.0,
        guard: float | None = None,
        max_step: float | None = None,
        other_params: Iterable[Parameter] = (),
        other_lr: float | None = None,
    ) -> None:
        """Build the groups.

        Args:
            pairs: The LoRA pairs.
            lr: Learning rate.
            base: `adamw`, or `sgd` for Algorithm 1.
            x_mode: The free matrix X: `zero`, `sylvester` or `symmetric`.
            moments: `factored` or `full`; ignored by `sgd`.
            betas: Decay of the two moments.
            eps: Added to Adam's denominator.
            weight_decay: Strength of the decay.
            decay: `adapter` shrinks B A by 1 - lr wd, `factor` each factor by that, `full` also the
                base weight, which edits a frozen tensor: the pretrained one is kept beside it, and
                the state restores what it has come to.
            damping: Cross-scale damping of the inverses, relative to the other factor's scale.
            delta: Absolute damping.
            rcond: Truncation of the inverses, relative to the largest singular value.
            guard: Largest ratio of the second-order to the first-order change of W; 0 is off. None
                means 0.5 for `sgd` and `full`, off for `factored`, where Adam bounds the step.
            max_step: Longest step of W (see `trust_region`); 0 is off. None means 0.5 for `sgd` and
                `full`, unless `guard` is 0: then nothing is bounded, as published.
            other_params: Parameters outside the pairs, stepped by AdamW without decay.
            other_lr: Their learning rate; `lr` if None.

        Raises:
            ValueError: If a choice is unknown, or the base weight is needed and absent.
        """
        _check_choice("base", base, ("adamw", "sgd"))
        _check_choice("x_mode", x_mode, _X_MODES)
        _check_choice("moments", moments, ("factored", "full"))
        _check_choice("decay", decay, _DECAYS)
        if decay == "full" and any(pair.base is None for pair in pairs):
            raise ValueError("decay 'full' needs the base weight of every pair; use 'adapter'")
        is_bounded = (base, moments) == ("adamw", "factored")
        if guard is None:
            guard = 0.0 if is_bounded else 0.5
        if max_step is None:
            max_step = MAX_STEP if guard and not is_bounded else 0.0
        hyper = {
            "base": base, "x_mode": x_mode, "moments": moments, "betas": betas, "eps": eps,
            "weight_decay": weight_decay, "decay": decay, "damping": damping, "delta": delta,
            "rcond": rcond, "guard": guard, "max_step": max_step,
        }  # fmt: skip
        super().__init__(pairs, lr, hyper, other_params, other_lr)
        # By lora_B, the base weights that `full` has changed, as they were.
        self._pretrained: dict[Tensor, Tensor] = {}

    def update(self, group: dict[str, Any], works: list[Work]) -> None:
        """Adjust, decay, step."""
        for work in works:
            damping = {key: group[key] for key in ("damping", "delta", "rcond")}
            adjust = Adjustment(work.x, work.batch, **damping)
            if group["base"] == "sgd":
                _move(group, work, adjust(work.g, group["x_mode"]))
            elif group["moments"] == "full":
                _move(group, work, _full_direction(group, work, adjust))
            else:
                _factored(group, work, adjust(work.g, group["x_mode"]))

    def _step_pairs(self, group: dict[str, Any]) -> None:
        super()._step_pairs(group)
        if group["decay"] == "full":
            self._write_bases()

    def _write_bases(self) -> None:
        """Set base weights to what decay has left of the pretrained ones."""
        for pair in self._pairs.values():
            lost = self.state.get(pair.B, {}).get("base_lost")
            if lost is not None and pair.B not in self._pretrained:
                assert pair.base is not None
                self._pretrained[pair.B] = pair.base.detach().clone()
            if pair.base is not None and pair.B in self._pretrained:
                kept = 1.0 if lost is None else 1.0 - lost
                pair.base.copy_(self._pretrained[pair.B] * kept)

    def reset_state(self, parameters: Iterable[Parameter] | None = None) -> None:
        """As the base class; base weights stay as decay has left them."""
        super().reset_state(parameters)
        self._pretrained = {B: W for B, W in self._pretrained.items() if B in self.state}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`; base weights that `full` has changed are set too."""
        super().load_state_dict(state_dict)
        self._write_bases()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_pretrained": self._pretrained}


def _factored(group: dict[str, Any], work: Work, adjusted: Stacks) -> None:
    """AdamW on the adjusted gradients."""
    bounded = group["guard"] or group.get("max_step", 0.0)
    before = [x.clone() for x in work.x] if bounded else []
    _decay(group, work)
    work.adam_(adjusted, group, weight_decay=0.0)
    if before:
        moved = [new - old for new, old in zip(work.x, before, strict=True)]
        work.batch.freeze_missing(moved)
        scale = shortening(before, moved, work.batch, group)
        if scale is not None:
            scale_stacks_(moved, scale, work.batch)
            for x, old, move in zip(work.x, before, moved, strict=True):
                torch.add(old, move, out=x)


def _move(group: dict[str, Any], work: Work, directions: Stacks) -> None:
    """Step along directions, shortened to the trust region."""
    _decay(group, work)
    work.descend_(group, directions)


def _full_direction(group: dict[str, Any], work: Work, adjust: Adjustment) -> Stacks:
    """Adjusted s B^T U and s U A^T for the Adam direction U of the equivalent gradient E."""
    batch, x = work.batch, work.x
    adjusted = adjust(work.g, "zero")
    m, v = work.state.matrix("full_exp_avg"), work.state.matrix("full_exp_avg_sq")
    count = work.state.count_step()
    pulled = batch.buffer("gradient")
    for first, second, (shape, pairs) in zip(m, v, batch.shapes.items(), strict=True):
        b = batch.index_B[pairs]
        (A, wide_B), (gA, gB) = batch.gather(x, shape), batch.gather(adjusted, shape)
        s = batch.scaling[b].to(A.dtype)[:, None, None]
        E = s * (wide_B.mT @ gA + gB.mT @ A)
        hyper = {"betas": group["betas"], "eps": group["eps"]}
        U = adam_direction([E], [first], [second], [count[b]], **hyper)[0]
        batch.scatter(pulled, shape, s * (wide_B @ U), s * (A @ U.mT))
    return adjust(pulled, group["x_mode"])


def _check_choice(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{option} {value!r} must be one of {', '.join(known)}")


def _decay(group: dict[str, Any], work: Work) -> None:
    rate = group["lr"] * group["weight_decay"]
    if not rate:
        return
    if rate >= 1.0:
        raise ValueError(
            f"weight_decay {group['weight_decay']} times lr {group['lr']} must be below 1; lower "
            "one"
        )
    keep = 1.0 - rate if group["decay"] == "factor" else (1.0 - rate) ** 0.5
    torch._foreach_mul_(work.x, keep)
    if group["decay"] == "full":
        # As a share that is lost, since state starts at 0.
        lost = work.state.small("base_lost")
        lost += rate * (1.0 - lost)
