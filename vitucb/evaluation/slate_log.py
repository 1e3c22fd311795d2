"""Slates that were shown and what they paid, as off-policy evaluation needs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitucb.agents.slates import without
from vitucb.config import load_config
from vitucb.envs.data.logged_rounds import LoggedRounds
from vitucb.envs.wrappers.slate_arms import checked_examination
from vitucb.evaluation.logs import read_run_log
from vitucb.evaluation.target_policy import PolicyFunction
from vitucb.policies.choice import Array
from vitucb.types import Observation

# Products of decimals that a file rounded.
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class SlateLog:
    """A log of n slates of m positions.

    Attributes:
        rounds: A row for every position, slate after slate: what was on offer for it, the arm, its
            reward, and its propensity given the positions before it.
        slots: Positions of a slate, m.
        examination: Probability that each position is looked at, float64 (m,), where the log knows
            it; ones in a semi-bandit.
        position_propensities: Probability that the arm stands in its position, whatever stands
            before it, float64 (n, m); None if not known.
    """

    rounds: LoggedRounds
    slots: int
    examination: NDArray[np.float64]
    position_propensities: Array | None = None

    def __post_init__(self) -> None:
        """Refuse rows that are no whole slates, or have no propensities."""
        if not len(self.rounds) or len(self.rounds) % self.slots:
            raise ValueError(
                f"log {self.rounds.name}: {len(self.rounds)} rows are no slates of {self.slots}"
            )
        if self.rounds.propensities is None:
            raise ValueError(f"log {self.rounds.name}: slates need propensities; log them")

    def __len__(self) -> int:
        return len(self.rounds) // self.slots

    def by_slate(self, column: NDArray[np.float64]) -> Array:
        """A value for every row, (n m,), as (n, m)."""
        return np.asarray(column, np.float64).reshape(len(self), self.slots)

    @property
    def rewards(self) -> Array:
        """What every position paid, float64 (n, m)."""
        return self.by_slate(self.rounds.rewards)

    @property
    def propensities(self) -> Array:
        """Of every position given those before it, float64 (n, m)."""
        assert self.rounds.propensities is not None  # checked when made
        return self.by_slate(self.rounds.propensities)

    @property
    def actions(self) -> NDArray[np.int64]:
        """Arms shown, int64 (n, m)."""
        return self.rounds.actions.reshape(len(self), self.slots)

    def observation(self, index: int) -> Observation:
        """What slate `index` was chosen from."""
        return self.rounds.observation(index * self.slots)

    def known_position_propensities(self) -> Array | None:
        """`position_propensities`, or those of uniform play where every row was chosen so."""
        if self.position_propensities is not None or self.slots == 1:
            given = self.position_propensities
            return self.propensities if given is None else given
        offered = self.rounds.mask.sum(axis=1)
        if np.abs(self.propensities - 1 / self.by_slate(offered)).max() > _TOLERANCE:
            return None
        on_offer = self.by_slate(offered)[:, :1]
        return np.repeat(1 / on_offer, self.slots, axis=1)


def slots_of_run(folder: str | Path) -> int | None:
    """Positions of the slates that a run shows; None if it shows one arm, or is no run."""
    file = Path(folder) / "config.yaml"
    return load_config(file).env.slate.slots if file.is_file() else None


def read_slate_run(folder: str | Path, trust: tuple[str, ...] = ()) -> SlateLog:
    """The slates of a run with `env.slate.slots`; of an unfinished one the whole slates.

    Raises:
        ValueError: If the run shows none, or cannot be read.
    """
    slots = slots_of_run(folder)
    if slots is None:
        raise ValueError(f"{folder}: no run of slates; give the folder of one (env.slate.slots)")
    config = load_config(Path(folder) / "config.yaml")
    rounds = read_run_log(folder, trust)
    if len(rounds) < slots:
        raise ValueError(f"{folder}: no whole slate in it; play the run first")
    examination = checked_examination(config.env.slate.examination or None, slots)
    return SlateLog(rounds.first(len(rounds) // slots * slots), slots, examination)


def position_probabilities(policy: PolicyFunction, obs: Observation, slots: int) -> Array:
    """Probability that each arm stands in each position, float64 (m, K).

    The policy fills the positions one after the other from the arms that are left. It is asked once
    for every set of arms that may stand before a position: of 10 arms in 3 positions, 56 times.

    Args:
        policy: Probability of every arm in an observation, (K,).
        obs: What the slate is chosen from.
        slots: Number of positions m.
    """
    before: dict[tuple[int, ...], float] = {(): 1.0}
    positions = []
    for _ in range(slots):
        total = np.zeros(len(obs["action_mask"]))
        after: dict[tuple[int, ...], float] = {}
        for shown, probability in before.items():
            row = probability * np.asarray(policy(without(obs, shown)), np.float64)
            total += row
            for arm in np.flatnonzero(row).tolist():
                key = tuple(sorted((*shown, arm)))
                after[key] = after.get(key, 0.0) + float(row[arm])
        positions.append(total)
        before = after
    return np.stack(positions)


def estimated_examination(log: SlateLog) -> NDArray[np.float64]:
    """How often each position is looked at, relative to the first, float64 (m,), from a log.

    Arms weighted to stand everywhere equally often, what is left of the difference between
    positions is how often they are looked at: e_k / e_1 is the ratio of the weighted mean rewards
    (randomised positions; Joachims et al. 2017, section 5).

    Raises:
        ValueError: If the probabilities of the positions are not known, or nothing was earned.
    """
    propensities = log.known_position_propensities()
    if propensities is None:
        raise ValueError(
            f"log {log.rounds.name}: how often an arm stands in each position is not known; give "
            "position_propensities, or a log of the agent random"
        )
    earned = (log.rewards / propensities).mean(axis=0)
    if not (earned > 0).all():
        raise ValueError(f"log {log.rounds.name}: a position earned nothing; use a longer log")
    ratio: Array = np.minimum.accumulate(earned / earned[0])
    return ratio
