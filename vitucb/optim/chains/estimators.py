"""Gradient estimators of Bernoulli-LoRA: how G_{t+1} comes from the gradients at W_{t+1} and W_t.

    GD, SGD    G = g(W_{t+1})
    PAGE       with probability q the full gradient, else G + g_I(W_{t+1}) - g_I(W_t)
    MVR        g_xi(W_{t+1}) + (1 - b) (G - g_xi(W_t))
    QGD        mean_l Q(grad f_l(W_{t+1}))
    MARINA     with probability q mean_l grad f_l,
               else G + mean_l Q(grad f_l(W_{t+1}) - grad f_l(W_t))
    EF21       G_l <- G_l + C(grad f_l(W_{t+1}) - G_l),  G = mean_l G_l
Q is unbiased dithering, C keeps the k largest entries. All take lists of matrices, one per layer.
Papers: PAGE 2008.10898, STORM/MVR 1905.10018, MARINA 2102.07845, EF21 2106.05203.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vitucb.optim.chains.draws import Draws
from vitucb.optim.chains.full_gradients import Closure

Gradients = list[Tensor]


class Oracle(Protocol):
    """Full gradients at the current and at the previous weights."""

    def current(self, closure: Closure) -> Gradients:
        """At W_{t+1}."""

    def previous(self, closure: Closure) -> Gradients:
        """At W_t."""

    def average(self, gradients: Gradients) -> Gradients:
        """Mean over the ranks, if there are several."""


@dataclass
class Query:
    """What one refresh may ask: the sample's closure, the full one, and the clients'."""

    oracle: Oracle
    draws: Draws
    sample: Closure | None
    full: Closure | None
    clients: Sequence[Closure]

    def full_gradient(self) -> Gradients:
        """The exact gradient: of the full closure, or the mean over clients."""
        if self.full is not None:
            return self.oracle.average(self.oracle.current(self.full))
        return self.mean([self.oracle.current(client) for client in self.local()])

    def at_both(self, closure: Closure) -> tuple[Gradients, Gradients]:
        """A closure's gradients at the previous and at the current weights, means over ranks."""
        old = self.oracle.average(self.oracle.previous(closure))
        return old, self.oracle.average(self.oracle.current(closure))

    def local(self) -> Sequence[Closure]:
        """The clients; the sample's closure is the only one where none are given."""
        return self.clients or [self.needed_sample()]

    def needed_sample(self) -> Closure:
        """The sample's closure.

        Raises:
            ValueError: If step() got none.
        """
        if self.sample is None:
            raise ValueError("this estimator evaluates gradients itself: call step(closure)")
        return self.sample

    def mean(self, per_client: Sequence[Gradients]) -> Gradients:
        """Mean over clients and ranks."""
        stacked = [torch.stack(list(layer)).mean(0) for layer in zip(*per_client, strict=True)]
        return self.oracle.average(stacked)


def dither(gradients: Gradients, draws: Draws, client: int) -> Gradients:
    """Unbiased one-level quantisation |x| sign(x) 1[u < |x_i| / |x|], per layer."""
    result = []
    for x in gradients:
        norm = torch.linalg.vector_norm(x)
        noise = draws.noise(x.shape, client).to(x)
        result.append(norm * x.sign() * (noise * norm < x.abs()))
    return result


def top_k(gradients: Gradients, k: int) -> Gradients:
    """Keep the k largest entries in absolute value of every layer."""
    result = []
    for x in gradients:
        kept = torch.zeros_like(x).flatten()
        index = x.flatten().abs().topk(min(k, x.numel())).indices
        kept[index] = x.flatten()[index]
        result.append(kept.view_as(x))
    return result


def _combine(a: Gradients, b: Gradients, weight: float) -> Gradients:
    return [x + weight * y for x, y in zip(a, b, strict=True)]


class Estimator:
    """GD, SGD and subgradients: the gradient of the closure that `step` gets.

    Attributes:
        needs_previous: Whether gradients at the weights of the last step are asked for.
        uses: What of a finite sum is asked for: its `sample`, the `full` sum, the `clients`.
    """

    needs_previous = False
    uses: tuple[str, ...] = ("full",)

    def refresh(self, query: Query, estimates: list[Gradients]) -> list[Gradients]:
        """The new state; its first entry is the estimate G.

        Args:
            query: Gradients on demand, and draws.
            estimates: The old state, empty at the start.
        """
        return [query.full_gradient()]


class SGD(Estimator):
    """The gradient of a sample."""

    uses = ("sample",)


class PAGE(Estimator):
    """Probabilistic gradient estimator."""

    needs_previous = True
    uses = ("sample", "full")

    def __init__(self, q: float) -> None:
        self.q = q

    def refresh(self, query: Query, estimates: list[Gradients]) -> list[Gradients]:
        """Full gradient with probability q, else the recursive correction."""
        if not estimates or query.draws.estimator_coin(self.q):
            return [query.full_gradient()]
        old, new = query.at_both(query.needed_sample())
        return [_combine(_combine(estimates[0], old, -1.0), new, 1.0)]


class MVR(Estimator):
    """Momentum variance reduction (STORM)."""

    needs_previous = True
    uses = ("sample",)

    def __init__(self, b: float) -> None:
        self.b = b

    def refresh(self, query: Query, estimates: list[Gradients]) -> list[Gradients]:
        """g(W+) + (1 - b) (G - g(W)) on one sample."""
        sample = query.needed_sample()
        if not estimates or self.b == 1.0:  # nothing of the past is kept: SGD
            return [query.oracle.average(query.oracle.current(sample))]
        old, new = query.at_both(sample)
        return [_combine(new, _combine(estimates[0], old, -1.0), 1.0 - self.b)]


class QGD(Estimator):
    """Mean of dithered client gradients."""

    uses = ("clients",)

    def refresh(self, query: Query, estimates: list[Gradients]) -> list[Gradients]:
        """Mean of Q(grad f_l)."""
        quantised = [
            dither(query.oracle.current(client), query.draws, i)
            for i, client in enumerate(query.local())
        ]
        return [query.mean(quantised)]


class MARINA(Estimator):
    """Dithered gradient differences, full gradients now and then."""

    needs_previous = True
    uses = ("clients",)

    def __init__(self, q: float) -> None:
        self.q = q

    def refresh(self, query: Query, estimates: list[Gradients]) -> list[Gradients]:
        """Mean of client gradients with probability q, else add dithered differences."""
        if not estimates or query.draws.estimator_coin(self.q):
            return [query.mean([query.oracle.current(client) for client in query.local()])]
        differences = []
        for i, client in enumerate(query.local()):
            old = query.oracle.previous(client)
            change = _combine(query.oracle.current(client), old, -1.0)
            differences.append(dither(change, query.draws, i))
        return [_combine(estimates[0], query.mean(differences), 1.0)]


class EF21(Estimator):
    """Error feedback: each client sends the k largest entries of its error."""

    uses = ("clients",)

    def __init__(self, k: int) -> None:
        self.k = k

    def refresh(self, query: Query, estimates: list[Gradients]) -> list[Gradients]:
        """State: the mean, then one G_l per client."""
        fresh = [query.oracle.current(client) for client in query.local()]
        if estimates:
            own = [
                _combine(old, top_k(_combine(new, old, -1.0), self.k), 1.0)
                for new, old in zip(fresh, estimates[1:], strict=True)
            ]
        else:
            own = fresh
        return [query.mean(own), *own]


def finite_or_before(fresh: list[Gradients], before: list[Gradients]) -> list[Gradients]:
    """The new state, for layers with a value that is not finite the old one; none without one."""
    sums = torch.stack([torch.stack([x.sum() for x in gradients]) for gradients in fresh])
    is_sound = sums.isfinite().all(dim=0).tolist()
    if all(is_sound):
        return fresh
    if len(before) != len(fresh):
        return []
    return [
        [x if ok else y for x, y, ok in zip(new, old, is_sound, strict=True)]
        for new, old in zip(fresh, before, strict=True)
    ]


def make_estimator(name: str, *, q: float, b: float, k: int) -> Estimator:
    """The estimator `name` with its constants.

    Raises:
        ValueError: If the name is unknown or a constant is out of range.
    """
    for option, value in (("q", q), ("b", b)):
        if not 0.0 < value <= 1.0:
            raise ValueError(f"{option} {value} must be in (0, 1]")
    if k < 1:
        raise ValueError(f"k {k} must be at least 1")
    known: dict[str, Estimator] = {
        "gd": Estimator(), "sgd": SGD(), "page": PAGE(q), "mvr": MVR(b), "qgd": QGD(),
        "marina": MARINA(q), "ef21": EF21(k), "subgradient": Estimator(),
    }  # fmt: skip
    if name not in known:
        raise ValueError(f"estimator {name!r} must be one of {', '.join(known)}")
    return known[name]
