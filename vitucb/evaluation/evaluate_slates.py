"""Off-policy evaluation of a policy that fills slates, on slates that another filled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitucb.evaluation.advice import is_uncovered
from vitucb.evaluation.evaluate import (
    SMALL_SHARE,
    SMALL_SIZE,
    match_actions,
    target_probabilities,
    warnings_of_itself,
)
from vitucb.evaluation.slate_estimators import (
    ITEM_POSITION,
    NORMALISED,
    SEQUENTIAL,
    SlateEstimate,
    slate_estimates,
    slate_weights,
)
from vitucb.evaluation.slate_log import SlateLog, position_probabilities, read_slate_run
from vitucb.evaluation.target_policy import PolicyFunction, load_policy
from vitucb.policies.choice import Array
from vitucb.seeding import numpy_generator


@dataclass(frozen=True, slots=True)
class SlateEvaluation:
    """What a log of slates says about a policy.

    Attributes:
        policy: Its name.
        log: That of the log.
        slates: Their number.
        slots: Positions of each.
        estimates: Reward of a slate by every estimator.
        advised: The estimate to read.
        advice: Why.
        warnings: What may make it wrong, a sentence each.
        logged_value: Mean reward of the slates of the log.
        true_value: Mean reward of the policy's slates where the log knows it, else None.
    """

    policy: str
    log: str
    slates: int
    slots: int
    estimates: tuple[SlateEstimate, ...]
    advised: SlateEstimate
    advice: str
    warnings: tuple[str, ...]
    logged_value: float
    true_value: float | None

    def rows(self) -> list[dict[str, object]]:
        """The estimates as rows of a table."""
        return [
            {
                "estimator": e.name,
                "value": e.value,
                "low": e.low,
                "high": e.high,
                "effective sample size": e.effective_sample_size,
                "largest weight": e.max_weight,
            }
            for e in self.estimates
        ]

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON holds it: None for numbers that are not known."""
        known: dict[str, Any] = _known(asdict(self))
        return known


def evaluate_slates(
    log: str | Path | SlateLog,
    policy: str | Path | PolicyFunction,
    *,
    num_resamples: int = 2_000,
    confidence: float = 0.95,
    seed: int = 0,
    device: str = "cpu",
    trust: Sequence[str] = (),
) -> SlateEvaluation:
    """Estimate the mean reward that a policy's slates would have had in a log.

    The policy is held still, and fills the positions one after the other from the arms left.

    Args:
        log: The folder of a run of slates, or its log.
        policy: A run folder with a checkpoint, a saved agent, or a function giving the probability
            of every arm.
        num_resamples: Bootstrap resamples of the intervals.
        confidence: Nominal coverage of the intervals, in (0, 1).
        seed: Seed of the resamples.
        device: Torch device of the agent.
        trust: Packages or modules that names in a folder may refer to; see `vitucb.load_agent`.

    Raises:
        ValueError: If the log or the policy cannot be used; says which and why.
    """
    slates = log if isinstance(log, SlateLog) else read_slate_run(log, tuple(trust))
    asked = policy if callable(policy) else load_policy(policy, device=device, trust=trust)
    rounds = match_actions(slates.rounds, asked)
    slates = SlateLog(rounds, slates.slots, slates.examination, slates.position_propensities)
    rows = np.arange(len(rounds))
    target = slates.by_slate(target_probabilities(rounds, asked)[rows, rounds.actions])
    logged_positions, means = slates.known_position_propensities(), rounds.expected_rewards
    positions = None
    if logged_positions is not None or means is not None:
        found = [position_probabilities(asked, o, slates.slots) for o in _observations(slates)]
        positions = np.stack(found)
    standing = None if positions is None else _of_arms(positions, slates.actions)
    weights = slate_weights(target, slates.propensities, standing, logged_positions)
    estimates = slate_estimates(
        slates.rewards,
        weights,
        numpy_generator(seed, "bootstrap"),
        num_resamples=num_resamples,
        confidence=confidence,
    )
    advised, advice = _advised(estimates)
    return SlateEvaluation(
        policy=str(getattr(asked, "name", "") or getattr(asked, "__name__", "policy")),
        log=rounds.name,
        slates=len(slates),
        slots=slates.slots,
        estimates=tuple(estimates),
        advised=advised,
        advice=advice,
        warnings=warnings_of_itself(rounds.name, policy) + _warnings(advised, slates, weights),
        logged_value=float(slates.rewards.sum(axis=1).mean()),
        true_value=None if means is None or positions is None else _true(slates, positions, means),
    )


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _known(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_known(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _observations(slates: SlateLog) -> list[Any]:
    return [slates.observation(index) for index in range(len(slates))]


def _of_arms(positions: Array, actions: np.ndarray[Any, np.dtype[np.int64]]) -> Array:
    """Entries (n, m) of (n, m, K) at the arms shown."""
    taken: Array = np.take_along_axis(positions, actions[..., None], axis=2)[..., 0]
    return taken


def _true(slates: SlateLog, positions: Array, means: Array) -> float:
    """Mean reward of a slate: sum over positions and arms of e_k pi_k(a) mu(a)."""
    mu = means[:: slates.slots]
    return float((slates.examination * np.einsum("nmk,nk->nm", positions, mu)).sum(axis=1).mean())


def _warnings(
    read: SlateEstimate, slates: SlateLog, weights: Mapping[str, Array]
) -> tuple[str, ...]:
    count, size = len(slates), read.effective_sample_size
    has_choice = slates.by_slate(slates.rounds.mask.sum(axis=1)) > 1
    certain = float((slates.propensities[has_choice] == 1).mean()) if has_choice.any() else 0.0
    mass = weights[read.name.removeprefix(NORMALISED)]
    missing = [float(column.mean()) for column in mass.T if is_uncovered(column)]
    found = []
    if missing:
        found.append(
            f"the mean weight is {min(missing):.3g} in one position, where 1 is expected: the log "
            "does not cover what the policy does, and no estimate is right"
        )
    if certain > 0:
        found.append(
            f"in {100 * certain:.0f} % of the positions the logging policy could choose one arm "
            "only (propensity 1): there the log says nothing about other arms, and weighting "
            "cannot repair that"
        )
    if size < max(SMALL_SHARE * count, SMALL_SIZE):
        found.append(
            f"few slates decide it, effective sample size {size:.0f} of {count}: its interval is "
            "too short"
        )
    return tuple(found)


def _advised(estimates: Sequence[SlateEstimate]) -> tuple[SlateEstimate, str]:
    by_name = {estimate.name: estimate for estimate in estimates}
    if NORMALISED + ITEM_POSITION in by_name:
        return by_name[NORMALISED + ITEM_POSITION], (
            "right where what a position pays depends on the arm in it alone, with the least "
            "variance; reward-interaction if arms above it matter, too"
        )
    return by_name[NORMALISED + SEQUENTIAL], (
        "right where what a position pays depends on the arms down to it; item-position, of less "
        "variance, needs a log that tells how often an arm stands in each position, as one of the "
        "agent random does"
    )
