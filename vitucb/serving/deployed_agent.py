"""An agent outside of experiments: it decides and learns inside somebody else's loop.

agent = vitucb.load_agent("my-agent")
decision = agent.act(images)
...
agent.observe(decision.id, reward)    # at any time, in any order, from any thread
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, overload

import numpy as np
from numpy.typing import ArrayLike

from vitucb.agents import AGENTS
from vitucb.agents.context import is_image_context, why_unfit
from vitucb.agents.saving import Blueprint, save_agent
from vitucb.agents.slates import Slate, check_offer, chosen_slate
from vitucb.serving.answers import (
    Counts,
    NumberedDecision,
    Receipt,
    ReceiptOutcome,
    decision_id,
)
from vitucb.serving.checks import check_images, checked_range, number, pixels_of
from vitucb.serving.pending import PendingDecision, PendingDecisions
from vitucb.types import Agent, Decision, Observation, State, UnusableRewardError

_logger = logging.getLogger(__name__)

MAX_UNANSWERED = 1_000
"""Decisions that may wait for their reward; agents remember no more in their covariance either."""


class DeployedAgent:
    """An agent that decides and learns on demand; every method may be called from any thread.

    One lock: calls take turns. Decisions wait for their reward in a bounded table; past its cap
    the oldest is forgotten, counted, and its reward acknowledged as such. A process forked from
    the one that made it is refused: two copies would draw the same numbers, give out the same ids
    and part unnoticed; a server that forks loads its agent in every worker.

    Attributes:
        agent: The agent itself; not to be used beside the methods here.
        blueprint: What it was built from.
        reward_range: Least and largest reward that is learnt.
    """

    def __init__(
        self,
        agent: Agent,
        blueprint: Blueprint,
        *,
        max_unanswered: int = MAX_UNANSWERED,
        reward_range: tuple[float, float] | None = None,
    ) -> None:
        """Deploy `agent`, built from `blueprint`.

        Args:
            agent: The agent.
            blueprint: What it was built from.
            max_unanswered: Most decisions that wait for their reward.
            reward_range: Least and largest reward that is learnt; any up to 1e30 in size if None.

        Raises:
            ValueError: If `max_unanswered` is less than 1, or the range is none.
        """
        self.agent, self.blueprint = agent, blueprint
        self._table = PendingDecisions(max_unanswered)
        self.reward_range = checked_range(reward_range)
        self._learnt = self._not_learnt = self._refused = 0
        self._lock, self._process = threading.Lock(), os.getpid()
        name = blueprint.config.name
        # Of agents that are not ours nobody knows what they look at when a reward comes.
        entry = AGENTS.get(name)
        needs_phi = getattr(agent, "needs_phi", entry is None or entry.needs_phi)
        self._keeps_whole, self._keeps_phi = entry is None, needs_phi
        self._knows_numbers = entry is not None and entry.knows_arms_by_number
        self._has_fixed_arms = blueprint.shares_image or self._knows_numbers

    def __repr__(self) -> str:
        learnt, waiting = self._learnt, len(self._table)  # no lock: a look may not wait
        done = f"decided {self._table.decided}, learnt {learnt}, waiting {waiting}"
        return f"DeployedAgent({self.blueprint}; {done})"

    def __deepcopy__(self, memo: dict[int, Any]) -> DeployedAgent:
        """An agent of its own that goes on from here: the same numbers drawn, the same ids."""
        with self._turn():
            made = memo[id(self)] = object.__new__(type(self))
            for name, value in vars(self).items():
                if name != "_lock":
                    setattr(made, name, copy.deepcopy(value, memo))
        made._lock = threading.Lock()
        return made

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a deployed agent is not pickled, since what is unpickled may run code: "
            "copy.deepcopy copies it here, save and vitucb.load_agent take it elsewhere"
        )

    @property
    def fixed_arms(self) -> int | None:
        """Number of the arms it knows by their number; None if it looks at an image of each."""
        return self.blueprint.num_arms if self._has_fixed_arms else None

    @property
    def looks_at_images(self) -> bool:
        """Whether its choices depend on images, rather than on the numbers of arms only."""
        return not self._knows_numbers

    def why_unfit(self, obs: Observation) -> str | None:
        """Why the agent cannot choose in `obs`, made for other contexts or arms; None if it can."""
        made = self.blueprint
        arms, shares = len(obs["action_mask"]), is_image_context(obs)
        name, of = made.config.name, made.num_arms
        problem = why_unfit(name, of, made.shares_image, arms=arms, shares_one=shares)
        return None if problem is None else f"its agent was made for {problem}"

    @overload
    def act(
        self, images: ArrayLike, action_mask: ArrayLike | None = None, *, slots: None = None
    ) -> NumberedDecision: ...

    @overload
    def act(
        self, images: ArrayLike, action_mask: ArrayLike | None = None, *, slots: int
    ) -> Slate[NumberedDecision]: ...

    def act(
        self, images: ArrayLike, action_mask: ArrayLike | None = None, *, slots: int | None = None
    ) -> NumberedDecision | Slate[NumberedDecision]:
        """Choose an arm, or a slate of arms.

        Args:
            images: uint8 (K, H, W, C), an image per arm; K may be another one at every call, unless
                the agent knows its arms by their number (`fixed_arms`). (H, W, C) or (1, H, W, C)
                where one image is the context of all arms, whose number is fixed.
            action_mask: 1 or True where the arm may be chosen, (K,); everywhere by default.
            slots: Fill so many positions, first to last, with different arms: a decision for each,
                with its own id and reward, chosen as if those before it still awaited theirs.

        Raises:
            TypeError: If the images are not uint8.
            ValueError: If a shape does not fit, or fewer arms may be chosen than are wanted.
        """
        obs = self._observation(images, action_mask, 1 if slots is None else slots)
        with self._turn():
            if slots is None:
                return self._keep(obs, self.agent.select_action(obs))
            return Slate(tuple(self._keep(*each) for each in chosen_slate(self.agent, obs, slots)))

    def act_batch(
        self, images: Sequence[ArrayLike], action_masks: Sequence[ArrayLike | None] | None = None
    ) -> list[NumberedDecision]:
        """Choose an arm in each of several contexts, as `act` does, none of them after a reward.

        Agents that can score all contexts in one pass do.
        """
        masks = [None] * len(images) if action_masks is None else action_masks
        contexts = [self._observation(i, m) for i, m in zip(images, masks, strict=True)]
        select = getattr(self.agent, "select_actions", None)
        with self._turn():
            if select is not None and contexts:
                decisions = select(contexts)
            else:
                decisions = [self.agent.select_action(obs) for obs in contexts]
            return [self._keep(obs, d) for obs, d in zip(contexts, decisions, strict=True)]

    def observe(self, decision: str | NumberedDecision, reward: float) -> Receipt:
        """Learn from the reward of a decision, given by itself or its id; say what became of it.

        Raises:
            TypeError: If the reward is no number, or the decision has no id.
        """
        return self.observe_batch([(decision, reward)])[0]

    def observe_batch(
        self, answers: Iterable[tuple[str | NumberedDecision, float]]
    ) -> list[Receipt]:
        """Learn from the rewards of several decisions, in this order; a receipt for each.

        Raises:
            TypeError: If a reward is no number or a decision has no id; nothing is learnt then.
        """
        with self._counting_refusals():
            named = [(decision_id(given), number(reward)) for given, reward in answers]
        with self._turn():
            return [self._counted(self._learn(name, reward)) for name, reward in named]

    @property
    def counts(self) -> Counts:
        """How many decisions were made, answered, forgotten and so on."""
        with self._lock:
            return Counts(
                self._table.decided,
                self._learnt,
                len(self._table),
                self._table.forgotten,
                self._not_learnt,
                self._refused,
            )

    @property
    def num_held(self) -> int:
        """Decisions that wait and ids remembered: at most twice `max_unanswered`."""
        with self._lock:
            return self._table.num_held

    def save(self, folder: str | Path) -> Path:
        """Write the agent and the decisions that wait; `load_agent` goes on from here.

        Raises:
            ValueError: If the folder holds anything but a saved agent.
        """
        with self._turn():
            more = {
                "table": self._table.state_dict(),
                "learnt": self._learnt,
                "not_learnt": self._not_learnt,
                "refused": self._refused,
                "reward_range": list(self.reward_range),
            }
            return save_agent(self.agent, self.blueprint, folder, more)

    def restore(self, state: State) -> None:
        """Take up what `save` wrote, or the state of a run's agent."""
        self.agent.load_state_dict(state["agent"])
        if "table" in state:
            self._table.load_state_dict(state["table"], self.agent)
            self._learnt, self._not_learnt = int(state["learnt"]), int(state["not_learnt"])
            self._refused = int(state.get("refused", 0))  # older folders do not tell

    def _keep(self, obs: Observation, decision: Decision) -> NumberedDecision:
        waiting = PendingDecision.of(
            obs, decision, whole=self._keeps_whole, with_phi=self._keeps_phi
        )
        forgotten = self._table.forgotten
        name = self._table.add(waiting)
        if self._table.forgotten > forgotten == 0:
            _logger.warning(
                "more than max_unanswered %d decisions, or VITUCB_LIMIT_WAITING_MIB, wait for "
                "their reward: from now on the oldest is forgotten, see counts.forgotten",
                self._table.capacity,
            )
        values = {f.name: getattr(decision, f.name) for f in dataclasses.fields(Decision)}
        # Else whoever keeps decisions would keep megabytes of features with each.
        return NumberedDecision(**(values | {"phi": None}), id=name)

    def _counted(self, receipt: Receipt) -> Receipt:
        # One by one: should a later reward of the batch fail, those before it are learnt.
        self._learnt += receipt.is_learnt
        self._not_learnt += not receipt.is_learnt
        return receipt

    def _learn(self, name: str, reward: float) -> Receipt:
        waiting = self._table.find(name)
        if waiting is None:
            return Receipt(name, *self._why_closed(name))
        low, high = self.reward_range
        if not low <= reward <= high:
            self._refused += 1
            limit = f"not in [{low:g}, {high:g}]"
            return Receipt(name, "refused", f"reward {reward} is not finite or {limit}; rescale it")
        try:
            metrics = self.agent.update(waiting.observation, waiting.decision, reward)
        except UnusableRewardError as error:
            self._refused += 1
            return Receipt(name, "refused", str(error))
        except Exception:
            # It may be half learnt, and must not be learnt twice.
            self._table.answer(name)
            raise
        self._table.answer(name)
        return Receipt(name, "learnt", metrics=metrics)

    def _why_closed(self, name: str) -> tuple[ReceiptOutcome, str]:
        end = self._table.end_of(name)
        if end == "answered":
            return end, f"decision {name} was answered before; each reward counts once"
        cap = self._table.capacity
        if end == "forgotten":
            reason = f"more than max_unanswered {cap}, or VITUCB_LIMIT_WAITING_MIB, waited"
            return end, f"decision {name} was forgotten: {reason}"
        return "unknown", (
            f"no decision {name!r} waits here: it is of another agent, or was closed more than "
            f"{cap} decisions ago"
        )

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        if os.getpid() != self._process:
            raise RuntimeError(
                f"this agent belongs to process {self._process}, from which {os.getpid()} was "
                "forked; load it in every worker, after the fork"
            )
        with self._lock:
            yield

    @contextlib.contextmanager
    def _counting_refusals(self) -> Iterator[None]:
        try:
            yield
        except (TypeError, ValueError):
            with self._lock:
                self._refused += 1
            raise

    def _observation(
        self, images: ArrayLike, action_mask: ArrayLike | None, slots: int = 1
    ) -> Observation:
        with self._counting_refusals():
            obs = self._checked_observation(images, action_mask)
            check_offer(obs, slots)
            return obs

    def _checked_observation(self, images: ArrayLike, action_mask: ArrayLike | None) -> Observation:
        pixels, shares = pixels_of(images), self.blueprint.shares_image
        if shares and pixels.ndim == 3:
            pixels = pixels[None]
        check_images(pixels, shares)
        arms = self.blueprint.num_arms if self._has_fixed_arms else len(pixels)
        if not shares and len(pixels) != arms:
            raise ValueError(f"{len(pixels)} images for an agent of {arms} arms; give {arms}")
        mask = np.ones(arms) if action_mask is None else np.asarray(action_mask)
        if mask.shape != (arms,) or not np.isin(mask, (0, 1)).all() or not mask.any():
            raise ValueError(
                f"action_mask {mask.tolist()} must have {arms} values 0 or 1, one per arm, and "
                "allow at least one"
            )
        return {"images": pixels, "action_mask": mask.astype(np.int8)}
