"""Any torch optimizer on LoRA pairs: SGD, AdamW, or a class given by import path.

The class below adds to the base what every optimizer here has: head parameters stepped by AdamW in
the same call, pairs with a non-finite gradient skipped and counted, and, where asked for, the trust
region on W.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import LBFGS, AdamW, Optimizer

from vitucb.models.lora import LoRAPair
from vitucb.optim.batched.state_dicts import copied
from vitucb.optim.batched.trust_region import MAX_STEP, MoveLimit
from vitucb.optim.nonfinite import left_alone
from vitucb.optim.options import check_options


class PlainOptimizer(Optimizer):
    """A torch optimizer over the factors of LoRA pairs, and AdamW over the head.

    The parameter groups are those of the base optimizer followed by the head's. The base sees the
    same gradients in the same order as it would alone: its trajectory is its own, bit for bit.

    Attributes:
        sync_free: Whether the device decides which pairs are left out, so that the host need not
            wait for it; None leaves that to where the parameters are.
    """

    def __init__(
        self,
        pairs: Sequence[LoRAPair],
        lr: float,
        base_class: Callable[..., Optimizer],
        *,
        ratio: float | None = None,
        max_step: float = 0.0,
        other_params: Iterable[Parameter] = (),
        other_lr: float | None = None,
        **options: Any,
    ) -> None:
        """Build the base optimizer and the head's.

        Args:
            pairs: The LoRA pairs.
            lr: Learning rate of lora_A, and of lora_B unless `ratio` is given.
            base_class: A `torch.optim.Optimizer` class.
            ratio: If given, lora_B gets its own group with learning rate `ratio * lr`.
            max_step: Longest step of W (see `trust_region`) at the rate of lora_A; 0 is off.
            other_params: Parameters outside the pairs, stepped by AdamW without decay.
            other_lr: Their learning rate; `lr` if None.
            **options: Passed to `base_class`.

        Raises:
            ValueError: If there is no pair, an option is unknown, or the base needs a closure.
        """
        if not pairs:
            raise ValueError("the optimizer got no LoRA pair; call add_lora on the model first")
        if base_class is LBFGS:
            raise ValueError("LBFGS re-evaluates the loss within a step; choose another optimizer")
        if not max_step >= 0.0:
            raise ValueError(f"max_step {max_step} must not be negative; 0 is off")
        check_options(getattr(base_class, "__name__", "base"), base_class, options)
        options = _at_once(base_class, pairs, options) | options
        children = [base_class(_groups(pairs, lr, ratio, max_step), lr=lr, **options)]
        if others := list(other_params):
            head_lr = lr if other_lr is None else other_lr
            children.append(AdamW(others, lr=head_lr, weight_decay=0.0))
        super().__init__([g for child in children for g in child.param_groups], {"lr": lr})
        # Schedulers that cycle momentum look here for it.
        self.defaults = {**children[0].defaults, "lr": lr}
        self._pairs = list(pairs)
        self._children = children
        self.sync_free: bool | None = None
        self._skips = torch.zeros((), dtype=torch.int64)
        self._limit: MoveLimit | None = None
        self._share()

    @property
    def nonfinite_skips(self) -> int:
        """How often a pair was left out of a step for a non-finite gradient."""
        return int(self._skips)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters outside the pairs; AdamW steps them, without decay unless it is given."""
        if "_children" not in self.__dict__:  # torch adds the first groups while it is built
            super().add_param_group(param_group)
            return
        settings = {"lr": self.defaults["lr"], "weight_decay": 0.0, **param_group}
        child = AdamW([settings])
        super().add_param_group(child.param_groups[0])
        self._children.append(child)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch splits this signature into overloads
        """One step of the base and of the head.

        Args:
            closure: Re-evaluates the model and returns the loss; called with gradients enabled.

        Returns:
            The closure's loss, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # A group that was saved before there was a bound has none.
        max_step = self.param_groups[0].get("max_step", 0.0)
        if max_step and self._limit is None:
            self._limit = MoveLimit(self._pairs)
        if max_step and self._limit is not None:
            with self._limit.region(self.param_groups[0]["lr"], max_step):
                self._step_children()
        else:
            self._step_children()
        return loss

    def _step_children(self) -> None:
        on_device = self._pairs[0].A.device.type != "cpu"
        if on_device if self.sync_free is None else self.sync_free:
            with left_alone(self._units(), self.state) as good:
                for child in self._children:
                    child.step()
            self._skips = self._skips.to(good.device) + (~good[: len(self._pairs)]).sum()
            return
        hidden = self._hide_nonfinite()
        try:
            for child in self._children:
                child.step()
        finally:
            for parameter, grad in hidden:
                parameter.grad = grad

    def _hide_nonfinite(self) -> list[tuple[Parameter, Tensor]]:
        """Hide the gradients of bad pairs and of a bad head: torch then leaves these alone."""
        units = self._units()
        if not _suspicious([p.grad for unit in units for p in unit if p.grad is not None]):
            return []
        hidden = []
        for number, unit in enumerate(units):
            owned = [(p, p.grad) for p in unit if p.grad is not None]
            if all(bool(grad.isfinite().all()) for _, grad in owned):
                continue
            self._skips += number < len(self._pairs)
            hidden += owned
            for parameter, _ in owned:
                parameter.grad = None
        return hidden

    def _units(self) -> list[list[Parameter]]:
        """What steps together or not at all: the factors of each pair, and last the head."""
        head = [p for child in self._children[1:] for g in child.param_groups for p in g["params"]]
        return [*([pair.A, pair.B] for pair in self._pairs), head]

    def _share(self) -> None:
        """Make the children work on this optimizer's own groups and state."""
        start = 0
        for child in self._children:
            end = start + len(child.param_groups)
            child.__setstate__({"state": self.state, "param_groups": self.param_groups[start:end]})
            start = end

    def state_dict(self) -> dict[str, Any]:
        """The state as torch defines it, with tensors that share no memory with this optimizer."""
        packed = super().state_dict()
        packed["state"] = copied(packed["state"])
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`, which stays as it is whatever this optimizer does next."""
        # torch keeps tensors that need no cast: the next step would write into the caller's.
        # By where the parameters are, not by where they were.
        own = [{k: group[k] for k in ("foreach",) if k in group} for group in self.param_groups]
        super().load_state_dict({**state_dict, "state": copied(state_dict["state"])})
        for group, kept in zip(self.param_groups, own, strict=True):
            group.update(kept)

    def __getstate__(self) -> dict[str, Any]:
        own = {k: self.__dict__[k] for k in ("_pairs", "_children", "sync_free", "_skips")}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._limit = None
        if "_children" in self.__dict__:
            self._share()


class SGD(PlainOptimizer):
    """`torch.optim.SGD` with steps of W in a trust region; `max_step=0` is torch's, bit for bit."""

    def __init__(
        self,
        pairs: Sequence[LoRAPair],
        lr: float,
        *,
        max_step: float = MAX_STEP,
        other_params: Iterable[Parameter] = (),
        other_lr: float | None = None,
        **options: Any,
    ) -> None:
        """Build torch's SGD over the factors.

        Args:
            pairs: The LoRA pairs.
            lr: Learning rate of the factors.
            max_step: Longest step of W (see `trust_region`); 0 is off.
            other_params: Parameters outside the pairs, stepped by AdamW without decay.
            other_lr: Their learning rate; `lr` if None.
            **options: Passed to `torch.optim.SGD`, e.g. `momentum`.

        Raises:
            ValueError: If an option is unknown or out of range.
        """
        super().__init__(
            pairs,
            lr,
            torch.optim.SGD,
            max_step=max_step,
            other_params=other_params,
            other_lr=other_lr,
            **options,
        )


def _groups(
    pairs: Sequence[LoRAPair], lr: float, ratio: float | None, max_step: float
) -> list[dict[str, Any]]:
    first: dict[str, Any] = {"lr": lr, **({"max_step": max_step} if max_step else {})}
    if ratio is None:
        return [{"params": [p for pair in pairs for p in (pair.A, pair.B)], **first}]
    return [
        {"params": [pair.A for pair in pairs], **first},
        {"params": [pair.B for pair in pairs], "lr": lr * ratio},
    ]


def _at_once(
    base_class: Callable[..., Optimizer], pairs: Sequence[LoRAPair], options: dict[str, Any]
) -> dict[str, Any]:
    """What makes torch step all factors together on a processor; left alone it takes each in turn.

    The same bits with a seventh of the calls; on accelerators torch does so by itself.
    """
    is_known = base_class in (AdamW, torch.optim.Adam, torch.optim.SGD)
    is_told = bool(options.keys() & {"foreach", "fused", "differentiable"})
    is_on_cpu = pairs[0].A.device.type == "cpu"
    return {"foreach": True} if is_known and is_on_cpu and not is_told else {}


def _suspicious(grads: list[Tensor]) -> bool:
    """Whether the squared norm of all gradients together is not finite, or overflows."""
    devices: dict[torch.device, list[Tensor]] = {}
    for grad in grads:
        devices.setdefault(grad.device, []).append(grad.reshape(-1))
    # One long tensor: a reduction per gradient would cost more than the fused AdamW step.
    long = [torch.cat(flat) for flat in devices.values()]
    long = [x.float() if x.dtype.itemsize < 4 else x for x in long]
    return not all(bool(torch.dot(x, x).isfinite()) for x in long)
