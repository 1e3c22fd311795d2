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
from vitucb.optim.chains.estimators import Gradients, Query, make_estimator
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
        self.p, self.shared_coin, self.distributed = p, coin == "model", distributed
        self.polyak, self.f_star = step_size == "polyak", f_star
        # The factor's own gradient is enough where G is the closure's gradient and lr is constant.
        self.needs_full = estimator not in ("gd", "sgd") or self.polyak
        self.estimator = make_estimator(estimator, q=q, b=b, k=k)
        self.estimates: list[Gradients] = []
        self.previous_delta: Gradients = []
        self._last_loss = 0.0
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
        "p", "shared_coin", "distributed", "polyak", "f_star", "needs_full", "estimator",
        "estimates", "previous_delta", "full_gradients", "_last_loss",
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
            The loss of the last evaluation at the current weights, or None.

        Raises:
            ValueError: If the estimator needs a closure and none is given.
        """
        if not self.needs_full and full is None and not clients:
            return super().step(closure)
        query = Query(self, self.draws, closure, full, clients)
        before = [delta.clone() for delta in self.weights.delta]
        self.estimates = self.estimator.refresh(query, self.estimates)
        self._project(self.estimates[0])
        rates = [group["lr"] for group in self.param_groups]
        if self.polyak:
            square = sum((g.double().square().sum() for g in self.estimates[0]), torch.zeros(()))
            self.param_groups[0]["lr"] = rates[0] * float(
                (self._last_loss - self.f_star) / square.clamp_min(1e-300)
            )
        self.inner_step()
        self.param_groups[0]["lr"] = rates[0]
        self.previous_delta = before if self.estimator.needs_previous else []
        return self._last_loss

    def _project(self, estimate: Gradients) -> None:
        """Set the trained factors' gradients to what G would give: s B_S^T G or s G A_S^T."""
        for pair, frozen, G in zip(self.pairs, self.frozen, estimate, strict=True):
            if frozen is pair.B:
                pair.A.grad = (pair.scaling * pair.B.to(G).mT @ G).to(pair.A)
            else:
                pair.B.grad = (pair.scaling * G @ pair.A.to(G).mT).to(pair.B)

    def current(self, closure: Closure) -> Gradients:
        """Full gradients at the current weights."""
        gradients, self._last_loss = self.full_gradients(closure)
        return gradients

    def previous(self, closure: Closure) -> Gradients:
        """Full gradients at the weights of the previous step; the weights are put back."""
        try:
            for i, delta in enumerate(self.previous_delta):
                self.weights.write(i, delta)
            return self.full_gradients(closure)[0]
        finally:
            for i, delta in enumerate(self.weights.delta):
                self.weights.write(i, delta)

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
        return saved

    def load_chain_state(self, saved: list[dict[str, Any]]) -> None:
        """Put estimates and the previous point back too."""
        super().load_chain_state(saved)
        count = sum(name.startswith("estimate") for name in saved[0])
        self.estimates = [[e[f"estimate{j}"].clone() for e in saved] for j in range(count)]
        has_previous = "previous_delta" in saved[0]
        self.previous_delta = [e["previous_delta"].clone() for e in saved] if has_previous else []


def _distributed_rank() -> int:
    return int(torch.distributed.get_rank())
