"""Runs of one setting and several seeds in one process, their models in one pass of the backbone.

Every run is a thread that plays by itself: environment, policy, covariance, optimizer, replay,
checkpoints and run folder are its own. Only when it scores arms or trains does it wait for the
others, and goes through the frozen weights with them (`vitucb.adapter_stack`). The seed settles
the place: seed s is at place s mod `parallel.seeds`, whoever else plays. So config and seed
reproduce a run to the last bit, alone too, and a run that is taken up again goes on as if it had
never stopped. Rebuilds of the covariance, which are due at other rounds in every run, stay apart.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from vitucb.config import RunConfig
from vitucb.lockstep import Lockstep
from vitucb.types import Agent

if TYPE_CHECKING:
    from torch import Tensor

    from vitucb.adapter_stack import AdapterStack, Objective, Readout


def why_alone(config: RunConfig) -> str | None:
    """Why runs of these settings cannot share passes; None if they can.

    Raises:
        ValueError: If the optimizer is unknown.
    """
    agent = config.agent
    if agent.name != "vit-ucb":
        return f"agent {agent.name} has no adapters to stack"
    # Imported here: the class tells, and brings torch along.
    from vitucb.optim.factory import changes_base

    name, options = agent.optimizer.name, agent.optimizer.options
    optimizer = f"optimizer {name} with {options}" if options else f"optimizer {name}"
    reasons = {
        f"{optimizer} changes frozen weights, which all seeds share": changes_base(name, options),
        "DoRA is more than a product of two factors": agent.lora.use_dora,
        "training.rebuild replay has a pass of its own": agent.training.rebuild == "replay",
        "its ranks share a batch already": config.parallel.ranks > 1,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def together(jobs: Iterable[RunConfig]) -> list[list[RunConfig]]:
    """`jobs` in the order given, those that share passes in one list."""
    groups: dict[str, list[RunConfig]] = {}
    for job in jobs:
        size = job.parallel.seeds
        same = job if size == 1 else dataclasses.replace(job, seed=job.seed // size)
        groups.setdefault(repr(same), []).append(job)
    return list(groups.values())


class Seat:
    """One run's access to the passes that it shares: a `vitucb.adapter_stack.SharedPass`.

    Attributes:
        stop: Set when the run shall write a checkpoint and end.
    """

    def __init__(self, table: Table, place: int, stop: threading.Event) -> None:
        """Take `place` at `table`."""
        self._table, self._place, self.stop = table, place, stop

    def take(self, agent: Agent, config: RunConfig) -> None:
        """Let `agent` score and train from here.

        Raises:
            ValueError: If it cannot.
        """
        from vitucb.agents.vit_ucb import ViTUCB

        reason = why_alone(config)
        if reason is None and not isinstance(agent, ViTUCB):
            reason = f"agent {config.agent.name} has no adapters to stack"
        if reason is not None:
            raise ValueError(f"parallel.seeds {config.parallel.seeds}: {reason}; leave it 1")
        assert isinstance(agent, ViTUCB)
        with self._table.lock:
            self._table.stack.put(self._place, agent.trainer.model)
        agent.share(self)

    def leave(self) -> None:
        """Be waited for no longer."""
        self._table.lockstep.leave(self._place)

    def features(self, inputs: Tensor) -> Tensor:
        """See `SharedPass`."""
        return self._ask("features", inputs, inputs)

    def gradients(self, inputs: Tensor, readout: Readout) -> Tensor:
        """See `SharedPass`."""
        return self._ask("gradients", inputs, (inputs, readout))

    def train(self, inputs: Tensor, objective: Objective) -> Tensor:
        """See `SharedPass`."""
        return self._ask("train", inputs, (inputs, objective))

    def _ask(self, what: str, inputs: Tensor, request: Any) -> Tensor:
        kind = (what, tuple(inputs.shape))
        answer: Tensor = self._table.lockstep.ask(self._place, kind, request)
        return answer


class Table:
    """Where runs that share passes sit.

    Attributes:
        stack: Their models.
        lockstep: Brings their requests together.
        lock: Held by who changes the stack.
    """

    def __init__(self, jobs: Sequence[RunConfig]) -> None:
        """Set the table for `jobs`, which differ in their place alone."""
        from vitucb.adapter_stack import AdapterStack

        size = jobs[0].parallel.seeds
        self._places = [job.seed % size for job in jobs]
        self.stack: AdapterStack = AdapterStack(size)
        self.lockstep = Lockstep(self.stack.answer, self._places)
        self.lock = threading.Lock()

    def seats(self, stop: threading.Event) -> list[Seat]:
        """A seat for every job, in the order given."""
        return [Seat(self, place, stop) for place in self._places]
