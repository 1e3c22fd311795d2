"""RAC-LoRA: a chain of LoRA blocks with one factor a fresh random sketch; converges to the optimum.

Paper: Malinovsky et al., "Randomized Asymmetric Chain of LoRA" - https://arxiv.org/abs/2410.08305
(Algorithms 1 and 2). A block freezes B_S (left) or A_S (right), trains the other factor from 0, and
merges. With one gradient step per block
    left:  W <- W - lr H_B G,   H_B = B_S (B_S^T B_S)^+ B_S^T
    right: W <- W - lr G H_A,   H_A = A_S^T (A_S A_S^T)^+ A_S
and E H = (r/m) I or (r/n) I: gradient descent that needs m/r or n/r times the steps. Here the
sketch is orthonormal over s, so that the factor's own SGD step is this projected step exactly.
Differs: the inner optimizer's state is reset at a merge (the published code keeps Adam's).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch.nn import Parameter

from vitucb.models.lora import LoRAPair
from vitucb.optim.chains.chain import Chain
from vitucb.optim.chains.draws import Draws
from vitucb.optim.chains.finite_sum import FiniteSum, check_finite_sum_options, mean_loss


class RACLoRA(Chain):
    """Random sketch on one side, any inner optimizer on the other, merge every `inner_steps`."""

    def __init__(
        self,
        pairs: Sequence[LoRAPair],
        lr: float,
        *,
        side: Literal["left", "right"] = "left",
        inner: str = "adamw",
        inner_options: Mapping[str, Any] | None = None,
        inner_steps: int = 50,
        data: Literal["steps", "reshuffling", "federated"] = "steps",
        clients: int = 4,
        full_limit: int = 256,
        seed: int = 0,
        draws: Draws | None = None,
        other_params: Iterable[Parameter] = (),
        other_lr: float | None = None,
    ) -> None:
        """Merge what the factors hold and draw the first sketch.

        Args:
            pairs: The LoRA pairs, with base weights.
            lr: Learning rate of the inner optimizer.
            side: `left` freezes lora_B and trains lora_A, `right` the other way round.
            inner: Name or import path of the inner optimizer; `sgd` is the analysed one.
            inner_options: Its options.
            inner_steps: Steps per block; 1 is the analysed case. For random reshuffling, the number
                of minibatches (see `epoch`).
            data: What `step_on` makes of a finite sum: `steps` leaves it to `step`, `reshuffling`
                is one `epoch` over it, `federated` one `federated_round`.
            clients: Clients of a `federated_round` of `step_on`.
            full_limit: Terms that `step_on` passes over at most.
            seed: Seed of the sketches.
            draws: Source of chance in place of `seed`.
            other_params: Parameters outside the pairs, stepped by AdamW without decay.
            other_lr: Their learning rate; `lr` if None.

        Raises:
            ValueError: If an option is unknown or a base weight cannot be merged into.
        """
        if data not in ("steps", "reshuffling", "federated"):
            raise ValueError(f"data {data!r} must be 'steps', 'reshuffling' or 'federated'")
        check_finite_sum_options(clients, full_limit)
        self.federated, self.needs_closures = data == "federated", data != "steps"
        self.clients, self.full_limit = clients, full_limit
        if side not in ("left", "right"):
            raise ValueError(f"side {side!r} must be 'left' or 'right'")
        self.left = side == "left"
        super().__init__(
            pairs,
            lr,
            inner=inner,
            inner_options=inner_options,
            inner_steps=inner_steps,
            draws=draws or Draws(seed),
            other_params=other_params,
            other_lr=other_lr,
        )

    extra_attributes = ("left", "federated", "needs_closures", "clients", "full_limit")

    def begin_pair(self, index: int, pair: LoRAPair) -> Parameter | None:
        """Draw a sketch for one side; the other starts at 0."""
        return self.install_sketch(pair, self.left, 1.0 / pair.scaling)

    def step_on(self, terms: FiniteSum) -> float:
        """One whole block on the terms of a finite sum; the mean loss on the way.

        Args:
            terms: What is passed over.
        """
        if self.federated:
            return mean_loss(self.federated_round(terms.passes(self.clients, self.full_limit)))
        (batches,) = terms.passes(1, self.full_limit)
        return mean_loss(self.epoch(batches))

    def epoch(self, closures: Sequence[Callable[[], float]]) -> list[float]:
        """Random reshuffling: one sketch, one pass over the minibatches in random order, one merge.

        Args:
            closures: One per minibatch; clears the gradients, computes them, returns the loss.

        Returns:
            The losses in the order of the pass.
        """
        with self._whole_block():
            losses = []
            for index in self.draws.permutation(len(closures)):
                loss = self.step(closures[index])
                assert loss is not None
                losses.append(loss)
        return losses

    def federated_round(
        self, clients: Sequence[Sequence[Callable[[], float]]], distributed: bool = False
    ) -> list[float]:
        """Algorithm 2: clients train the same block separately, the server averages and merges.

        As the sketch is shared, averaging the trained factors averages the updates of W exactly.
        Parameters outside the pairs are no part of the algorithm: clients step them in turn.

        Args:
            clients: Per client the closures of its local steps.
            distributed: Average over the ranks of `torch.distributed` too; ranks share the seed.

        Returns:
            The losses of all steps.
        """
        losses = []
        with self._whole_block():
            trained = [pair.A if self.left else pair.B for pair in self.pairs]
            total = [torch.zeros_like(p) for p in trained]
            for closures in clients:
                for parameter in trained:
                    parameter.data.zero_()
                self.reset_inner()
                for closure in closures:
                    loss = self.step(closure)
                    assert loss is not None
                    losses.append(loss)
                torch._foreach_add_(total, [p.detach() for p in trained])
            for parameter, value in zip(trained, total, strict=True):
                parameter.data.copy_(mean_over_ranks(value / len(clients), distributed))
        return losses

    def _whole_block(self) -> _WholeBlock:
        return _WholeBlock(self)


class _WholeBlock:
    """Steps inside do not merge; leaving it does. What was begun before is merged first."""

    def __init__(self, chain: Chain) -> None:
        self._chain, self._inner_steps = chain, chain.inner_steps

    def __enter__(self) -> None:
        if self._chain.block_step:
            self._chain.end_block()
        self._chain.inner_steps = None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._chain.inner_steps = self._inner_steps
        if kind is None:
            self._chain.end_block()


def mean_over_ranks(value: torch.Tensor, distributed: bool) -> torch.Tensor:
    """The mean of `value` over the ranks of `torch.distributed`, or `value` itself."""
    if distributed:
        torch.distributed.all_reduce(value)
        value /= torch.distributed.get_world_size()
    return value
