"""The base class of the batched LoRA optimizers: everything but the update rule.

It stacks factors, leaves out pairs with missing or non-finite gradients, keeps a float32 master of
half-precision parameters, steps the head by AdamW, and makes the state a good torch citizen.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from vitucb.models.lora import LoRAPair
from vitucb.optim.batched.adam import adam_step_
from vitucb.optim.batched.factor_batch import FactorBatch, Stacks
from vitucb.optim.batched.factor_state import FactorState
from vitucb.optim.batched.state_dicts import copied, restore_dtypes
from vitucb.optim.batched.trust_region import shortening

_NOT_NEGATIVE = (
    "eps", "weight_decay", "damping", "delta", "guard", "max_step", "eig_floor_rel", "clip_norm",
    "skip_rms", "cap_rms",
)  # fmt: skip
_BELOW_ONE = ("momentum", "rcond", "basis_rcond")
_HEAD_DEFAULTS = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}


@dataclass
class Work:
    """What an update rule gets: state, wide factors (to change in place) and gradients."""

    batch: FactorBatch
    state: FactorState
    x: Stacks
    g: Stacks

    def adam_(self, g: Stacks, group: dict[str, Any], weight_decay: float) -> None:
        """AdamW on the factors with gradients `g` and the group's `lr`, `betas` and `eps`."""
        m, v = self.state.factor("exp_avg"), self.state.factor("exp_avg_sq")
        step = list(self.batch.split(self.state.count_step()))
        hyper = {key: group[key] for key in ("lr", "betas", "eps")}
        adam_step_(self.x, g, m, v, step, weight_decay=weight_decay, **hyper)

    def descend_(
        self, group: dict[str, Any], directions: Stacks, own: Tensor | None = None
    ) -> None:
        """Step by -`lr` times `directions`, shortened by the group's `guard` and `max_step`.

        Args:
            group: The parameter group; a bound that it lacks, or that is 0, is off.
            directions: Wide directions, left as they are.
            own: The Grams of the factors, if known.
        """
        batch, lr, steps = self.batch, group["lr"], directions
        if batch.missing:
            steps = [d.clone() for d in directions]
            batch.freeze_missing(steps)
        scale = shortening(self.x, steps, batch, group, rate=lr, own=own)
        if scale is None:
            torch._foreach_add_(self.x, steps, alpha=-lr)
            return
        pieces = batch.split((-lr * scale).to(batch.dtype))
        for x, d, piece in zip(self.x, steps, pieces, strict=True):
            x.addcmul_(d, piece[:, None, None])


class LoRAOptimizer(Optimizer):
    """Optimizer over LoRA pairs; a subclass implements `update`.

    The first parameter group holds the factors A1, B1, A2, B2, ... and every hyper-parameter; the
    second, if there are `other_params`, the head. Further pair groups with own hyper-parameters are
    added by `add_pairs`. The state of a parameter is a dict of views into stacks.

    A pair whose gradients are both missing, or not finite (or so large that their norm is not), is
    left as it is, state included. A factor without a gradient counts as having a zero gradient and
    is not moved.

    Attributes:
        sync_free: Decide about non-finite gradients without reading data back to the host. True on
            accelerators; on a processor reading is free and the step runs on the good pairs only.
    """

    def __init__(
        self,
        pairs: Sequence[LoRAPair],
        lr: float,
        hyper: dict[str, Any],
        other_params: Iterable[Parameter] = (),
        other_lr: float | None = None,
    ) -> None:
        """Build the groups.

        Args:
            pairs: The LoRA pairs.
            lr: Learning rate of the factors.
            hyper: The rule's other hyper-parameters.
            other_params: Parameters outside the pairs, stepped by AdamW without decay.
            other_lr: Their learning rate; `lr` if None.

        Raises:
            ValueError: If there is no pair, or a hyper-parameter is out of range.
        """
        if not pairs:
            raise ValueError("the optimizer got no LoRA pair; call add_lora on the model first")
        for name, value in (("lr", lr), ("other_lr", other_lr)):
            if value is not None and not value >= 0.0:
                raise ValueError(f"{name} {value} must not be negative")
        _check_hyper(hyper)
        self._init_caches()
        self._hyper = {"maximize": False, **hyper}
        self._pairs: dict[int, LoRAPair] = {}
        super().__init__([self._pair_group(pairs, lr=lr)], {"lr": lr})
        if others := list(other_params):
            head_lr = lr if other_lr is None else other_lr
            self.add_param_group({"params": others, "lr": head_lr})
        # Schedulers that cycle momentum look here for it. Set last: not meant for the head's group.
        self.defaults.update(self._hyper)

    def _init_caches(self) -> None:
        self._batches: dict[tuple[int, ...], FactorState] = {}
        self._kinds: dict[tuple[int, ...], list[list[LoRAPair]]] = {}
        self._skips: Tensor | None = None
        self.sync_free: bool | None = None

    def _pair_group(self, pairs: Sequence[LoRAPair], **hyper: Any) -> dict[str, Any]:
        _check_pairs([*self._pairs.values(), *pairs])
        self._pairs |= {id(pair.A): pair for pair in pairs}
        parameters = [p for pair in pairs for p in (pair.A, pair.B)]
        return {"params": parameters, "kind": "pairs", **self._hyper, **hyper}

    def add_pairs(self, pairs: Sequence[LoRAPair], **hyper: Any) -> None:
        """Add a group of pairs with its own hyper-parameters, e.g. `lr`.

        Raises:
            ValueError: If a hyper-parameter is unknown or out of range, or a pair shares a factor.
        """
        known = {"lr", *self._hyper}
        if unknown := sorted(hyper.keys() - known):
            raise ValueError(f"{unknown[0]} is no option; choose from {', '.join(sorted(known))}")
        if not hyper.get("lr", 0.0) >= 0.0:
            raise ValueError(f"lr {hyper['lr']} must not be negative")
        _check_hyper(hyper)
        self.add_param_group(self._pair_group(pairs, **hyper))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; without `kind` it is a head group, stepped by AdamW."""
        if param_group.setdefault("kind", "head") == "head":
            for key, value in _HEAD_DEFAULTS.items():
                param_group.setdefault(key, value)
        super().add_param_group(param_group)

    @property
    def nonfinite_skips(self) -> int:
        """How often a pair was left out of a step for a non-finite gradient."""
        return 0 if self._skips is None else int(self._skips)

    @abstractmethod
    def update(self, group: dict[str, Any], works: list[Work]) -> None:
        """Change the wide factors `work.x` in place.

        Args:
            group: The parameter group with its hyper-parameters.
            works: One entry per rank: its batch, factors and gradients.
        """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch splits this signature into overloads
        """One step of all pairs and of the head.

        Args:
            closure: Re-evaluates the model and returns the loss; called with gradients enabled.

        Returns:
            The closure's loss, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["kind"] == "pairs":
                self._step_pairs(group)
            else:
                _step_head(group, self.state)
        return loss

    def _step_pairs(self, group: dict[str, Any]) -> None:
        loaded = []
        for pairs in self._alike(group):
            present = [p for p in pairs if p.A.grad is not None or p.B.grad is not None]
            if present and (entry := self._load(group, present)):
                loaded.append(entry)
        if not loaded:
            return
        works = [work for work, _ in loaded]
        undo = [work.state.snapshot(work.x, mask) for work, mask in loaded if mask is not None]
        self.update(group, works)
        for restore in undo:
            restore()
        for work in works:
            work.batch.store(work.x)

    def _alike(self, group: dict[str, Any]) -> list[list[LoRAPair]]:
        """The group's pairs by rank, device and dtype."""
        key = tuple(map(id, group["params"][::2]))
        if key not in self._kinds:
            kinds: dict[object, list[LoRAPair]] = {}
            for A in group["params"][::2]:
                kinds.setdefault((A.shape[0], A.device, A.dtype), []).append(self._pairs[id(A)])
            self._kinds[key] = list(kinds.values())
        return self._kinds[key]

    def _load(
        self, group: dict[str, Any], pairs: list[LoRAPair]
    ) -> tuple[Work, Tensor | None] | None:
        """The stacks of the pairs that can step, and a mask (F,) where the device decides that."""
        state = self._factor_state(pairs)
        batch = state.batch
        g = batch.gradients(group["maximize"])
        if batch.device.type != "cpu" if self.sync_free is None else self.sync_free:
            finite = batch.finite(g)
            self._count((~finite).sum() // 2)
            for stack, ok in zip(g, batch.split(finite), strict=True):
                stack.copy_(torch.where(ok[:, None, None], stack, 0.0))
            return Work(batch, state, _factors(state), g), finite
        if not batch.all_finite(g):
            finite = batch.finite(g)
            good = [p for p, ok in zip(pairs, finite[batch.index_A].tolist(), strict=True) if ok]
            self._count(torch.tensor(len(pairs) - len(good)))
            if not good:
                return None
            state = self._factor_state(good)
            g = state.batch.gradients(group["maximize"])
        return Work(state.batch, state, _factors(state), g), None

    def _count(self, skipped: Tensor) -> None:
        self._skips = skipped if self._skips is None else self._skips.to(skipped.device) + skipped

    def _factor_state(self, pairs: list[LoRAPair]) -> FactorState:
        key = tuple(id(pair.A) for pair in pairs)
        state = self._batches.get(key)
        if state is None:
            # Another selection of these pairs holds the state in its own stacks: let it go.
            wanted = set(key)
            self._batches = {k: s for k, s in self._batches.items() if wanted.isdisjoint(k)}
            state = self._batches[key] = FactorState(FactorBatch(pairs), self.state)
        return state

    def reset_state(self, parameters: Iterable[Parameter] | None = None) -> None:
        """Forget the state of `parameters` (all of them if None), as after a merge and restart."""
        wanted = self.state.keys() if parameters is None else parameters
        for parameter in list(wanted):
            self.state.pop(parameter, None)
        self._batches.clear()
        self._kinds.clear()

    def state_dict(self) -> dict[str, Any]:
        """The state as torch defines it, with tensors that share no memory with this optimizer."""
        packed = super().state_dict()
        packed["state"] = copied(packed["state"])
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`; the state keeps its own dtypes."""
        super().load_state_dict(state_dict)
        restore_dtypes(self, state_dict)
        self._batches.clear()
        self._kinds.clear()

    def __getstate__(self) -> dict[str, Any]:
        own = {key: self.__dict__[key] for key in ("_hyper", "_skips", "sync_free")}
        return {**super().__getstate__(), **own, "pair_list": list(self._pairs.values())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "pair_list" in state:
            self._init_caches()
            self._pairs = {id(pair.A): pair for pair in state.pop("pair_list")}
        super().__setstate__(state)


def _check_pairs(pairs: Sequence[LoRAPair]) -> None:
    owners: dict[int, str] = {}
    for pair in pairs:
        if pair.A.ndim != 2 or pair.B.ndim != 2:
            raise ValueError(
                f"pair {pair.name!r}: lora_A {tuple(pair.A.shape)} and lora_B {tuple(pair.B.shape)}"
                " are no matrices; adapt linear layers, not convolutions"
            )
        for factor in (pair.A, pair.B):
            owner = owners.setdefault(id(factor), pair.name)
            if owner != pair.name:
                raise ValueError(f"pairs {owner!r} and {pair.name!r} share a factor; untie them")


def _check_hyper(hyper: dict[str, Any]) -> None:
    for beta in hyper.get("betas", ()):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"betas {tuple(hyper['betas'])} must be in [0, 1)")
    for name in _NOT_NEGATIVE:
        if not hyper.get(name, 0.0) >= 0.0:
            raise ValueError(f"{name} {hyper[name]} must not be negative")
    for name in _BELOW_ONE:
        if not 0.0 <= hyper.get(name, 0.0) < 1.0:
            raise ValueError(f"{name} {hyper[name]} must be in [0, 1)")


def _factors(state: FactorState) -> Stacks:
    """The wide factors, or their float32 master where the parameters are of half precision."""
    batch = state.batch
    x = batch.stack(batch.parameters, out=batch.buffer("factor"))
    if batch.parameter_dtype in (torch.float32, torch.float64):
        return x
    master = state.factor("master")
    for low, high in zip(x, master, strict=True):
        # Where the parameter is not the rounded master, somebody else wrote it: take it over.
        stale = high.to(batch.parameter_dtype).to(high.dtype) != low
        high.copy_(torch.where(stale, low, high))
    return master


def _step_head(group: dict[str, Any], state: dict[Tensor, Any]) -> None:
    """AdamW on the head; a non-finite gradient anywhere in it makes the kernel skip the step."""
    parameters = [p for p in group["params"] if p.grad is not None]
    if not parameters:
        return
    for p in parameters:
        if not state[p]:
            state[p] = {
                "step": torch.zeros((), dtype=torch.float32, device=p.device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }
    columns = [[state[p][key] for p in parameters] for key in ("exp_avg", "exp_avg_sq", "step")]
    grads = [p.grad for p in parameters]
    norms = torch.stack([torch.linalg.vector_norm(g.float()) for g in grads])
    adamw(
        parameters, grads, columns[0], columns[1], [], columns[2], fused=True,
        found_inf=(~norms.isfinite().all()).float(), amsgrad=False,
        maximize=group.get("maximize", False), lr=group["lr"],
        beta1=group["betas"][0], beta2=group["betas"][1], eps=group["eps"],
        weight_decay=group["weight_decay"],
    )  # fmt: skip
