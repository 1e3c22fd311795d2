"""Bernoulli-LoRA: a coin decides which factor a random-sketch block trains.

Paper: Sokolov et al., "Bernoulli-LoRA: A Theoretical Framework for Randomized Low-Rank Adaptation",
https://arxiv.org/abs/2508.03820
    c_t ~ Bernoulli(p);  W <- W - lr H_B G (c_t = 1: B_S drawn, A trained) or W - lr G H_A (c_t = 0)
where G is an estimate of the gradient in W (see `estimators`). p = 1 is RAC-LoRA left, p = 0 right.
With `gd` or `sgd` only the factor's own gradient is needed and `step()` works as for any optimizer.
The others call the closures of `step` and keep matrices of the size of W. Convex non-smooth losses:
constant steps, or Polyak's lr (f(W) - f*) / |G|^2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Parameter

from vitucb.models.lora import LoRAPair
from vitucb.optim.batched.trust_region import MAX_STEP
from vitucb.optim.chains.chain import Chain
from vitucb.optim.chains.draws import Draws
from vitucb.optim.chains.estimators import (
    Gradients,
    Query,
    finite_or_before,
    make_estimator,
)
from vitucb.optim.chains.finite_sum import FiniteSum, check_finite_sum_options
from vitucb.optim.chains.full_gradients import Closure, FullGradients
from vitucb.optim.chains.rac_lora import mean_over_ranks


class BernoulliLoRA(Chain):
    """One projected step of an estimated gradient per block, on a random side."""

    def __init__(
        self,
        pairs: Sequence[LoRAPair],
        lr: float,
        *,
        p: float = 0.5,
        estimator: str = "sgd",
        step_size: Literal["constant", "polyak"] = "constant",
        f_star: float = 0.0,
        coin: Literal["layer", "model"] = "layer",
        q: float = 0.2,
        b: float = 0.2,
        k: int = 64,
        clients: int = 4,
        full_limit: int = 256,
        max_step: float = MAX_STEP,
        distributed: bool = False,
        seed: int = 0,
        draws: Draws | None = None,
        other_params: Iterable[Parameter] = (),
        other_lr: float | None = None,
    ) -> None:
        """Merge what the factors hold and draw the first sketches.

        Args:
            pairs: The LoRA pairs, with base weights.
            lr: Step size gamma; at most 1/L for an L-smooth loss. Multiplies Polyak's step.
            p: Probability that lora_A is trained.
            estimator: `sgd` or `gd` (the closure's gradient), `page`, `mvr`, `qgd`, `marina`,
                `ef21`, or `subgradient`.
            step_size: `constant`, or `polyak` for convex losses with known minimum.
            f_star: The minimum f* for Polyak's step.
            coin: One coin per `layer` or one for the whole `model`.
            q: Probability of a full gradient in `page` and `marina`.
            b: Momentum of `mvr`.
            k: Entries a client sends per layer in `ef21`.
            clients: Clients among whom `step_on` deals the terms, in `qgd`, `marina` and `ef21`.
            full_limit: Terms that `step_on` evaluates at most for a full gradient, or for all
                clients together.
            max_step: Longest step of W (see `trust_region`); 0 is off, the analysed method.
            distributed: Average estimates over the ranks of `torch.distributed`, each with its own
                clients; all ranks take the same seed.
            seed: Seed of coins, sketches and compressors.
            draws: Source of chance in place of `seed`.
            other_params: Parameters outside the pairs, stepped by AdamW without decay.
            other_lr: Their learning rate; `lr` if None.

        Raises:
            ValueError: If an option is out of range or a base weight cannot be merged into.
        """
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"p {p} must be a probability")
        for name, value, known in (
            ("coin", coin, ("layer", "model")),
            ("step_size", step_size, ("constant", "polyak")),
        ):
            if value not in known:
                raise ValueError(f"{name} {value!r} must be one of {', '.join(known)}")
        check_finite_sum_options(clients, full_limit)
        self.clients, self.full_limit = clients, full_limit
        self.p, self.shared_coin, self.distributed = p, coin == "model", distributed
        self.polyak, self.f_star = step_size == "polyak", f_star
        # The factor's own gradient is enough where G is the closure's gradient and lr is constant.
        self.needs_full = estimator not in ("gd", "sgd") or self.polyak
        self.needs_closures = estimator != "sgd" or self.polyak
        self.estimator = make_estimator(estimator, q=q, b=b, k=k)
        self.estimates: list[Gradients] = []
        self.previous_delta: Gradients = []
        self.previous_others: Gradients = []
        self._losses: list[float] = []
        self._other_grads: list[list[Tensor | None]] = []
        super().__init__(
            pairs,
            lr,
            inner="sgd",
            inner_options={"max_step": max_step},
            inner_steps=1,
            draws=draws or Draws(seed, _distributed_rank() if distributed else 0),
            other_params=other_params,
            other_lr=other_lr,
        )
        self.full_gradients = FullGradients(self.pairs)

    extra_attributes = (
        "p", "shared_coin", "distributed", "polyak", "f_star", "needs_full", "needs_closures",
        "estimator", "estimates", "previous_delta", "previous_others", "full_gradients", "_losses",
        "clients", "full_limit", "_other_grads",
    )  # fmt: skip

    def begin_pair(self, index: int, pair: LoRAPair) -> Parameter | None:
        """Toss the coin, draw the sketch, set the trained factor to 0."""
        if index == 0 or not self.shared_coin:
            self._side = self.draws.coin(self.p)
        return self.install_sketch(pair, self._side, 1.0 / pair.scaling)

    @torch.no_grad()
    def step(  # type: ignore[override]  # torch splits this signature into overloads
        self,
        closure: Callable[[], float] | None = None,
        *,
        full: Closure | None = None,
        clients: Sequence[Closure] = (),
    ) -> float | None:
        """One block: estimate, project, step, merge.

        Args:
            closure: Clears gradients, evaluates the current sample and returns its loss. Estimators
                that compare two points call it at both.
            full: The same on all data; where absent, full gradients come from the clients or from
                `closure`.
            clients: The clients' closures.

        Returns:
            The mean loss of the evaluations at the current weights, or None.

        Raises:
            ValueError: If the estimator needs a closure and none is given.
        """
        if not self.needs_full and full is None and not clients:
            return super().step(closure)
        query = Query(self, self.draws, closure, full, clients)
        before = [delta.clone() for delta in self.weights.delta]
        others = [p.detach().clone() for p in self._others()]
        self._losses = []
        fresh = self.estimator.refresh(query, self.estimates)
        loss = self._mean_loss()
        self._average_others()
        self._project(fresh[0], self._polyak_step(fresh[0], loss) if self.polyak else 1.0)
        self.inner_step()
        # A layer whose gradients were not finite was left out of the step, its estimate included.
        self.estimates = finite_or_before(fresh, self.estimates)
        if self.estimator.needs_previous:
            self.previous_delta, self.previous_others = before, others
        return loss

    def inner_step(self) -> None:
        """As every chain, with the mean gradients of the ranks where there are several."""
        if self.distributed and not self.needs_full:
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        (parameter.grad,) = self.average([parameter.grad])
        super().inner_step()

    def step_on(self, terms: FiniteSum) -> float:
        """One block on the terms of a finite sum; the loss of the last evaluation.

        Args:
            terms: What the estimator may evaluate.
        """
        uses = self.estimator.uses
        loss = self.step(
            terms.sample() if "sample" in uses else None,
            full=terms.full(self.full_limit) if "full" in uses else None,
            clients=terms.shards(self.clients, self.full_limit) if "clients" in uses else (),
        )
        assert loss is not None
        return loss

    def _others(self) -> list[Parameter]:
        """What is trained beside the pairs."""
        factors = {id(factor) for pair in self.pairs for factor in (pair.A, pair.B)}
        every = (p for group in self.param_groups for p in group["params"])
        return [p for p in every if id(p) not in factors]

    def _average_others(self) -> None:
        """Give the head the mean of its gradients over the evaluations at the current weights."""
        for index, parameter in enumerate(self._others()):
            per_evaluation = (grads[index] for grads in self._other_grads)
            known = [grad for grad in per_evaluation if grad is not None]
            if known:
                (parameter.grad,) = self.average([torch.stack(known).mean(0)])
        self._other_grads = []

    def _mean_loss(self) -> float:
        """Of the evaluations at the current weights, over clients and ranks."""
        mean = torch.tensor(self._losses, dtype=torch.float64).mean()
        return float(mean_over_ranks(mean.to(self.pairs[0].A.device), self.distributed))

    def _polyak_step(self, estimate: Gradients, loss: float) -> float:
        """(f(W) - f*) / |G|^2, and 0 at a stationary point or where a sample's f is below f*.

        It multiplies the gradient, not the rate: the trust region stays that of the rate, without
        which a step is endless where the gradient vanishes, as under a head of 0.
        """
        square = float(sum(g.double().square().sum() for g in estimate))
        return max(loss - self.f_star, 0.0) / square if square > 0.0 else 0.0

    def _project(self, estimate: Gradients, scale: float) -> None:
        """Set the trained factors' gradients to what G gives, s B_S^T G or s G A_S^T, scaled."""
        for pair, frozen, G in zip(self.pairs, self.frozen, estimate, strict=True):
            if frozen is pair.B:
                pair.A.grad = (scale * pair.scaling * pair.B.to(G).mT @ G).to(pair.A)
            else:
                pair.B.grad = (scale * pair.scaling * G @ pair.A.to(G).mT).to(pair.B)

    def current(self, closure: Closure) -> Gradients:
        """Full gradients at the current weights."""
        gradients, loss = self.full_gradients(closure)
        self._losses.append(loss)
        self._other_grads.append(
            [None if p.grad is None else p.grad.clone() for p in self._others()]
        )
        return gradients

    def previous(self, closure: Closure) -> Gradients:
        """Full gradients at the point of the previous step, head included; all is put back."""
        others = self._others()
        now = [p.detach().clone() for p in others]
        try:
            self._move_to(self.previous_delta, others, self.previous_others)
            return self.full_gradients(closure)[0]
        finally:
            self._move_to(self.weights.delta, others, now)

    def _move_to(self, deltas: Gradients, others: list[Parameter], values: Gradients) -> None:
        for i, delta in enumerate(deltas):
            self.weights.write(i, delta)
        for parameter, value in zip(others, values or others, strict=True):
            parameter.copy_(value)

    def average(self, gradients: Gradients) -> Gradients:
        """Mean over ranks."""
        return [mean_over_ranks(g, self.distributed) for g in gradients]

    def chain_state(self) -> list[dict[str, Tensor]]:
        """Adds the estimates and the previous point to what a chain saves."""
        saved = super().chain_state()
        for i, entry in enumerate(saved):
            for j, estimate in enumerate(self.estimates):
                entry[f"estimate{j}"] = estimate[i]
            if self.previous_delta:
                entry["previous_delta"] = self.previous_delta[i]
        for j, value in enumerate(self.previous_others):
            saved[0][f"previous_other{j}"] = value
        return saved

    def load_chain_state(self, saved: list[dict[str, Any]]) -> None:
        """Put estimates and the previous point back too."""
        super().load_chain_state(saved)
        like = self.weights.delta

        def matrices(name: str) -> Gradients:
            return [e[name].clone().to(d.device) for e, d in zip(saved, like, strict=True)]

        count = sum(name.startswith("estimate") for name in saved[0])
        self.estimates = [matrices(f"estimate{j}") for j in range(count)]
        self.previous_delta = matrices("previous_delta") if "previous_delta" in saved[0] else []
        names = [name for name in saved[0] if name.startswith("previous_other")]
        # States of earlier versions have none.
        others = self._others()[: len(names)]
        self.previous_others = [
            saved[0][f"previous_other{j}"].clone().to(p.device) for j, p in enumerate(others)
        ]


def _distributed_rank() -> int:
    return int(torch.distributed.get_rank())
