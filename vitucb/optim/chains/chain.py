"""Chains of low-rank updates: train a block, merge it into the base weight, restart.

The frame of RAC-LoRA, Bernoulli-LoRA, COLA and Asymmetric LoRA. A block starts with W = base,
trains one or both factors with any inner optimizer for `inner_steps` steps, and ends with
    base <- base + s B A,   new factors with B A = 0,   fresh optimizer state.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from vitucb.models.lora import LoRAPair
from vitucb.optim.batched.lora_optimizer import LoRAOptimizer
from vitucb.optim.batched.trust_region import MAX_STEP
from vitucb.optim.chains.draws import Draws, orthonormal_columns
from vitucb.optim.chains.merging import BaseWeights
from vitucb.optim.factory import changes_base, create_optimizer

_MARK = "chain/"
# After a restart their first steps are as long as Adam's very first, four times those of a settled
# Adam on noise: in a chain they get the trust region.
_RESTARTED = ("adamw", "lora-plus")


class Chain(Optimizer):
    """Base class; a subclass says how a block begins.

    The parameter groups and the state are those of the inner optimizer. What the chain adds (delta
    to the pretrained weight, factors, draws, position in the block) is saved under `chain/...`.

    Attributes:
        weights: Base weights; `weights.delta` is the sum of all merges.
        inner: The inner optimizer.
        frozen: Per pair the factor that the current block does not train, or None.
        merges: Number of merges so far.
    """

    @staticmethod
    def changes_base(options: Mapping[str, Any]) -> bool:
        """Every chain merges into the base weights."""
        return True

    def __init__(
        self,
        pairs: Sequence[LoRAPair],
        lr: float,
        *,
        inner: str,
        inner_options: Mapping[str, Any] | None,
        inner_steps: int | None,
        draws: Draws,
        other_params: Iterable[Parameter],
        other_lr: float | None,
    ) -> None:
        """Build the inner optimizer, merge what the factors hold, and begin the first block.

        Args:
            pairs: The LoRA pairs, with base weights.
            lr: Learning rate of the inner optimizer.
            inner: Name or import path of the inner optimizer.
            inner_options: Its options; `max_step` 0 is the published chain.
            inner_steps: Steps per block; None never merges.
            draws: Source of chance.
            other_params: Parameters outside the pairs, stepped by AdamW without decay.
            other_lr: Their learning rate; `lr` if None.

        Raises:
            ValueError: If a base weight cannot be merged into, `inner_steps` is below 1, or the
                inner optimizer changes base weights too, or never moves what the chain trains.
        """
        if inner_steps is not None and inner_steps < 1:
            raise ValueError(f"inner_steps {inner_steps} must be at least 1")
        options = dict(inner_options or {})
        if taken := {"lr", "other_lr", "other_params"} & options.keys():
            raise ValueError(
                f"inner_options {', '.join(sorted(taken))}: the inner optimizer has those of the "
                "chain; remove it"
            )
        if changes_base(inner, options):
            raise ValueError(
                f"inner {inner!r} with options {options} changes the base weights that the chain "
                "merges into; choose an inner optimizer, or a decay, that leaves them alone"
            )
        if inner_steps is not None and inner in _RESTARTED:
            options.setdefault("max_step", MAX_STEP)
        self.weights = BaseWeights(pairs)
        self.inner = create_optimizer(
            inner, pairs, lr=lr, other_params=other_params, other_lr=other_lr, **options
        )
        super().__init__(self.inner.param_groups, {"lr": lr})
        self.param_groups, self.state = self.inner.param_groups, self.inner.state
        self.defaults = self.inner.defaults
        self.pairs, self.draws, self.inner_steps = list(pairs), draws, inner_steps
        self.frozen: list[Parameter | None] = [None] * len(self.pairs)
        self.block_step = 0
        self.merges = 0
        self._merge()
        self._begin()
        trains_a = all(b is pair.B for b, pair in zip(self.frozen, self.pairs, strict=True))
        if trains_a and getattr(self.inner, "moves_b_alone", False):
            raise ValueError(
                f"inner {inner!r} never moves lora_A, the one factor that this chain trains: "
                "choose another inner optimizer, or train lora_B"
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters outside the pairs; see the inner optimizer."""
        if "pairs" in self.__dict__:  # else torch adds the first groups while it is built
            self.inner.add_param_group(param_group)
        else:
            super().add_param_group(param_group)

    @abstractmethod
    def begin_pair(self, index: int, pair: LoRAPair) -> Parameter | None:
        """Set the factors of a pair so that B A = 0; return the factor to freeze, if any."""

    @property
    def nonfinite_skips(self) -> int:
        """How often a pair was left out of a step for a non-finite gradient."""
        return int(getattr(self.inner, "nonfinite_skips", 0))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch splits this signature into overloads
        """One inner step, and a merge when the block is complete.

        Args:
            closure: Re-evaluates the model and returns the loss; called with gradients enabled.

        Returns:
            The closure's loss, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.inner_step()
        return loss

    def inner_step(self) -> None:
        """Step the trained factors and the head, and count."""
        hidden = [(p, p.grad) for p in self.frozen if p is not None]
        for parameter, _ in hidden:
            parameter.grad = None
        self.inner.step()
        for parameter, grad in hidden:
            parameter.grad = grad
        self.block_step += 1
        if self.inner_steps is not None and self.block_step >= self.inner_steps:
            self.end_block()

    @torch.no_grad()
    def end_block(self) -> None:
        """Merge now and begin the next block; the function the model computes does not change."""
        self._merge()
        self.merges += 1
        self._begin()

    def _merge(self) -> None:
        for index, pair in enumerate(self.pairs):
            delta = self.weights.delta[index]
            self.weights.add(
                index, pair.scaling * pair.B.detach().to(delta) @ pair.A.detach().to(delta)
            )

    def _begin(self) -> None:
        self.block_step = 0
        with torch.no_grad():
            self.frozen = [self.begin_pair(i, pair) for i, pair in enumerate(self.pairs)]
        self.reset_inner()

    def reset_inner(self) -> None:
        """Forget the inner optimizer's state of all factors; the head's stays."""
        factors = [p for pair in self.pairs for p in (pair.A, pair.B)]
        if isinstance(self.inner, LoRAOptimizer):
            self.inner.reset_state(factors)
        for parameter in factors:
            self.inner.state.pop(parameter, None)

    def install_sketch(self, pair: LoRAPair, left: bool, scale: float) -> Parameter:
        """Freeze one factor at `scale` times an orthonormal sketch and set the other to 0.

        With scale 1/s one plain SGD step of the other factor and a merge are W <- W - lr H G for
        the orthogonal projector H on the sketch.

        Raises:
            ValueError: If the rank is above the length of the sketched side.
        """
        rank, length = len(pair.A), len(pair.B) if left else pair.A.shape[1]
        if rank > length:
            raise ValueError(
                f"lora.rank {rank} is above {length}, a side of the weight of {pair.name!r}, which "
                "has no more orthonormal columns; lower the rank"
            )
        if left:
            gaussian = self.draws.gaussian(pair.B.shape)
            pair.B.copy_(orthonormal_columns(gaussian) * scale)
            pair.A.zero_()
            return pair.B
        gaussian = self.draws.gaussian(pair.A.shape)
        pair.A.copy_(orthonormal_columns(gaussian.mT).mT * scale)
        pair.B.zero_()
        return pair.A

    def chain_state(self) -> list[dict[str, Tensor]]:
        """What the chain saves for each pair beside the inner state."""
        saved = []
        for i, pair in enumerate(self.pairs):
            frozen = self.frozen[i]
            side = 0 if frozen is None else (1 if frozen is pair.B else 2)
            saved.append(
                {
                    "delta": self.weights.delta[i],
                    "pretrained": self.weights.fingerprint(i),
                    "A": pair.A.detach(),
                    "B": pair.B.detach(),
                    "position": torch.tensor([self.block_step, self.merges, side]),
                }
            )
        saved[0]["draws"] = self.draws.get_state()
        return saved

    def load_chain_state(self, saved: list[dict[str, Tensor]]) -> None:
        """Put factors, base weights and draws back.

        Raises:
            ValueError: If the base weights are not those that the state began with.
        """
        for i, (pair, entry) in enumerate(zip(self.pairs, saved, strict=True)):
            if "pretrained" in entry:  # states of earlier versions do not tell
                self.weights.check_same(i, pair.name, entry["pretrained"])
        with torch.no_grad():
            for i, (pair, entry) in enumerate(zip(self.pairs, saved, strict=True)):
                self.weights.delta[i].copy_(entry["delta"])
                self.weights.write(i, self.weights.delta[i])
                pair.A.copy_(entry["A"])
                pair.B.copy_(entry["B"])
                self.block_step, self.merges, side = entry["position"].tolist()
                self.frozen[i] = (None, pair.B, pair.A)[side]
        self.draws.set_state(saved[0]["draws"])

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state with the chain's own under `chain/...` of every lora_B."""
        packed = self.inner.state_dict()
        keys = self._keys(packed)
        for pair, saved in zip(self.pairs, self.chain_state(), strict=True):
            entries = {_MARK + name: value.clone() for name, value in saved.items()}
            inner_entries = packed["state"].get(keys[id(pair.B)], {})
            packed["state"][keys[id(pair.B)]] = {**inner_entries, **entries}
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`: factors and base weights are set too."""
        keys = self._keys(state_dict)
        saved = [
            {
                name.removeprefix(_MARK): value
                for name, value in state_dict["state"][keys[id(pair.B)]].items()
                if name.startswith(_MARK)
            }
            for pair in self.pairs
        ]
        inner: dict[Any, dict[str, Any]] = {}
        for key, entries in state_dict["state"].items():
            kept = {k: v for k, v in entries.items() if not k.startswith(_MARK)}
            if kept:
                inner[key] = kept
        self.inner.load_state_dict({**state_dict, "state": inner})
        self.param_groups, self.state = self.inner.param_groups, self.inner.state
        self.load_chain_state(saved)

    def _keys(self, state_dict: dict[str, Any]) -> dict[int, Any]:
        parameters = [p for group in self.inner.param_groups for p in group["params"]]
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        return {id(p): key for p, key in zip(parameters, keys, strict=True)}

    def __getstate__(self) -> dict[str, Any]:
        names = ("weights", "inner", "pairs", "draws", "inner_steps", "frozen", "block_step")
        own = {name: self.__dict__[name] for name in (*names, "merges", *self.extra_attributes)}
        return {**super().__getstate__(), **own}

    extra_attributes: tuple[str, ...] = ()
