"""The words every part of the engine shares: observation, decision, round, agent.

Nothing here imports torch, so environments, the recorder, statistics and reports stay light.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on

Observation: TypeAlias = Mapping[str, NDArray[Any]]
"""`images` uint8 (K, H, W, C) and `action_mask` int8 (K,): 1 where the arm may be chosen."""

State: TypeAlias = dict[str, Any]
"""A state dict: nested str-keyed dicts of tensors, arrays and JSON scalars; never code."""

# Beyond it float32 models overflow, and beyond 1e154 squares in float64 do.
LARGEST_REWARD = 1e30


class UnusableRewardError(ValueError):
    """A reward that an agent cannot learn from; raised before anything of it was learnt."""


def require_usable(*rewards: float) -> tuple[float, ...]:
    """Rewards as Python's floats, of what anybody can learn from.

    NumPy's own numbers count differently: 0 - 1 is 255 in uint8, and no difference at all of bools.

    Raises:
        UnusableRewardError: If a reward is no number, not finite or above `LARGEST_REWARD` in size.
    """
    return tuple(map(_usable, rewards))


def _usable(reward: float) -> float:
    if isinstance(reward, str | bytes) or np.ndim(reward) > 0:
        raise UnusableRewardError(f"reward {reward!r}; give a number, one for each decision")
    try:
        value = float(reward)
    except (TypeError, ValueError):
        raise UnusableRewardError(f"reward {reward!r}; give a number") from None
    if not abs(value) <= LARGEST_REWARD:  # so, NaN is refused too
        raise UnusableRewardError(
            f"reward {value}; give finite numbers of size {LARGEST_REWARD:g} at most"
        )
    return value


PROBABILITY_TOLERANCE = 1e-6
"""How far sums of float64, and decimals that a file rounded, may be off 1."""


def sound_propensities(values: ArrayLike) -> NDArray[np.float64]:
    """Logged probabilities (...,): those above 1 by rounding alone are 1, NaN if not in (0, 1]."""
    p = np.asarray(values, np.float64)
    is_sound = (p > 0) & (p <= 1 + PROBABILITY_TOLERANCE)
    return np.where(is_sound, np.minimum(p, 1.0), np.nan)


def shares_image(num_images: int, num_arms: int) -> bool:
    """Whether one image is the context of all arms, rather than an image per arm."""
    return num_images == 1 < num_arms


def action_names(env: Any) -> tuple[str, ...]:
    """Names of the K actions of an environment where one image is the context of all of them.

    They are its attribute `action_names`; empty where it has none, or not K different ones.
    """
    names = tuple(map(str, getattr(env.unwrapped, "action_names", ())))
    is_sound = len(set(names)) == len(names) == getattr(env.action_space, "n", None)
    return names if is_sound else ()


@dataclass(frozen=True, slots=True, repr=False)
class Decision:
    """What an agent chose in one round, and why.

    Attributes:
        action: Index of the chosen arm, 0..K-1.
        propensity: Probability with which the policy chooses `action` here, in (0, 1].
        mean: Estimated mean reward of every arm, float64 (K,), reward units.
        width: Confidence width of every arm before the multiplier, float64 (K,); zeros where none.
        phi: Feature of the chosen arm, a float tensor (p,), or None for agents without features.
        round: 0-based round in which the decision was made.
        bonus: What the policy added to `mean` for every arm, float64 (K,), reward units.
    """

    action: int
    propensity: float
    mean: NDArray[np.float64]
    width: NDArray[np.float64]
    phi: Any
    round: int
    bonus: NDArray[np.float64]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._told()})"

    def _told(self) -> str:
        mean, bonus = float(self.mean[self.action]), float(self.bonus[self.action])
        return (
            f"arm {self.action} of {len(self.mean)}, mean {mean:.4g}, bonus {bonus:.4g}, "
            f"propensity {self.propensity:.4g}, round {self.round}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything but `phi` as JSON holds it; numbers that are not finite as text, "Infinity".

        Raises:
            TypeError: If a field of an agent's own class is of a kind that JSON lacks.
        """
        names = [f.name for f in dataclasses.fields(self) if f.name != "phi"]
        return {name: _as_json(name, getattr(self, name)) for name in names}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What `to_dict` returned, with `phi` None; keys that are no fields are ignored.

        Raises:
            ValueError: If a field is missing, or what it holds is not one's value.
        """
        names = [f.name for f in dataclasses.fields(cls) if f.name != "phi"]
        missing = [name for name in names if name not in data]
        if missing:
            raise ValueError(f"decision lacks {missing[0]!r}; give what to_dict returned")
        values: dict[str, Any] = {name: data[name] for name in names} | {"phi": None}
        try:
            for name in ("mean", "width", "bonus"):
                values[name] = np.array(data[name], np.float64)
            values["action"], values["round"] = int(data["action"]), int(data["round"])
            values["propensity"] = float(data["propensity"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"decision: {error}; give what to_dict returned") from error
        if not 0 <= values["action"] < values["mean"].size or values["mean"].ndim != 1:
            raise ValueError(f"decision: action {values['action']} is no arm of its mean")
        return cls(**values)


def _as_json(name: str, value: Any) -> Any:
    """Arrays as lists, numbers as Python's, those that JSON lacks as text that float() reads."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_as_json(name, each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}, which JSON has none of; leave it out")


_CLASS = "class"  # no field can be called so


def decision_state(decision: Decision) -> State:
    """The fields of a decision, and where to find its class if that is an agent's own."""
    kind = type(decision)
    state = {f.name: getattr(decision, f.name) for f in dataclasses.fields(decision) if f.init}
    if kind is not Decision:
        state[_CLASS] = f"{kind.__module__}:{kind.__qualname__}"
    return state


def decision_from_state(state: State, agent: object) -> Decision:
    """What `decision_state` described.

    Args:
        state: What `decision_state` returned.
        agent: Who made it: a class of its own is looked up in the module of the agent's class,
            never imported.

    Raises:
        ValueError: If the class of the decision is not found there.
    """
    fields, path = dict(state), state.get(_CLASS)
    kind: Any = Decision
    if path is not None:
        del fields[_CLASS]
        home = type(agent).__module__
        kind = vars(sys.modules[home]).get(str(path).partition(":")[2])
        if not (isinstance(kind, type) and issubclass(kind, Decision)):
            raise ValueError(
                f"a decision that waits for its reward is a {path}, and the agent's module {home} "
                "has no Decision of that name; define or import it there, at the top level"
            )
    made: Decision = kind(**fields)
    return made


@dataclass(frozen=True, slots=True, repr=False)
class Round:
    """One finished round of an experiment.

    Attributes:
        index: 0-based round number.
        observation: What the agent saw.
        decision: What it chose.
        reward: Observed reward.
        expected_reward: Mean reward of the chosen arm, known to the environment only.
        optimal_reward: Largest mean reward among the arms on offer.
        optimal_action: Index of that arm.
        expected_rewards: Mean reward of every arm, float64 (K,), or None if the environment
            hides it.
        regret: Pseudo-regret of the round, `optimal_reward - expected_reward`, >= 0.
        cumulative_regret: Sum of `regret` up to and including this round.
        metrics: What the agent reported of its update, e.g. `train/loss`.
        seconds: Wall-clock time of choosing and updating, without the environment.
        arm_classes: Class of the image of every arm, int64 (K,), or None if the environment does
            not tell.
    """

    index: int
    observation: Observation
    decision: Decision
    reward: float
    expected_reward: float
    optimal_reward: float
    optimal_action: int
    expected_rewards: NDArray[np.float64] | None
    regret: float
    cumulative_regret: float
    metrics: Mapping[str, float]
    seconds: float
    arm_classes: NDArray[np.int64] | None = None

    def __repr__(self) -> str:
        arms = len(self.decision.mean)
        return (
            f"Round({self.index}: arm {self.decision.action} of {arms}, reward {self.reward:.4g}, "
            f"regret {self.regret:.4g}, cumulative regret {self.cumulative_regret:.4g})"
        )


@runtime_checkable
class TellsProbabilities(Protocol):
    """What an agent may do beside: tell how it would choose."""

    def probabilities(self, obs: Observation) -> NDArray[np.float64]:
        """Probability of choosing each arm now, float64 (K,); changes nothing."""
        ...


@runtime_checkable
class Agent(Protocol):
    """A bandit algorithm: chooses an arm, then learns from its reward."""

    def select_action(self, obs: Observation) -> Decision:
        """Choose one of the unmasked arms of `obs`."""
        ...

    def update(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        """Learn from the reward of an earlier decision; returns metrics as `group/name: value`.

        Raises:
            UnusableRewardError: If it cannot; nothing has changed then, and another may come.
        """
        ...

    def state_dict(self) -> State:
        """Everything needed to continue as if never stopped."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        ...
