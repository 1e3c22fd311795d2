"""Off-policy evaluation of a saved agent on logged data: what `vitucb evaluate` does.

The agent is held still: it scores every logged round as it stood at its checkpoint, learns nothing
from the log, and counts none of its choices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitucb.assets import DEFAULT_BACKBONE
from vitucb.envs.data.obp import read_bandit_feedback
from vitucb.evaluation.advice import SUSPICIOUS_Z, Advice, advise
from vitucb.evaluation.comparison import PolicyEstimate, Probe, compare
from vitucb.evaluation.cross_fitting import cross_fitted_rewards
from vitucb.evaluation.estimators import (
    ESTIMATORS,
    Logged,
    effective_sample_size,
    estimator_terms,
)
from vitucb.evaluation.logs import (
    LoggedRounds,
    LogReport,
    estimate_propensities,
    inspect_log,
    open_log,
)
from vitucb.evaluation.reference_policies import best_fixed_action, uniform_play
from vitucb.evaluation.target_policy import PolicyFunction, load_policy
from vitucb.policies.choice import Array
from vitucb.seeding import numpy_generator
from vitucb.storage.limits import limit

_IMAGES_AT_ONCE = 64
# Below these, a handful of rounds decides the weighted estimates: see the coverage study.
SMALL_SHARE, SMALL_SIZE = 0.02, 30


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a log says about a policy.

    Attributes:
        estimates: One per estimator of `vitucb.evaluation.estimators.ESTIMATORS`.
        references: Uniform play and the best fixed action, by the advised estimator.
        advice: Which estimate to read, and why.
        log: The log.
        logged_value: Mean reward of the log itself, reward units per round.
        confidence: Nominal coverage of the intervals.
        true_value: Mean reward of the policy on these rounds where the log knows it, else None.
        facts: What the log looks like, and how the policy overlaps with it.
        warnings: What may make the estimates wrong, a sentence each.
    """

    estimates: tuple[PolicyEstimate, ...]
    references: tuple[PolicyEstimate, ...]
    advice: Advice
    log: str
    logged_value: float
    confidence: float
    true_value: float | None
    facts: dict[str, float | int | str]
    warnings: tuple[str, ...]

    @property
    def advised(self) -> PolicyEstimate:
        """The estimate to read."""
        return next(e for e in self.estimates if e.name == self.advice.estimator)

    def rows(self) -> list[dict[str, object]]:
        """The estimates as rows of a table."""
        return [
            {
                "estimator": e.name,
                **e.numbers(),
                "effective sample size": e.effective_sample_size,
                "largest weight": e.max_weight,
            }
            for e in self.estimates
        ]

    def policy_rows(self) -> list[dict[str, object]]:
        """The policy beside uniform play, the best fixed action and the log, as rows of a table."""
        rows = [{"policy": e.policy, **e.numbers()} for e in (self.advised, *self.references)]
        return [*rows, {"policy": "the log itself", "value": self.logged_value}]


def evaluate(
    log: str | Path | LoggedRounds | Mapping[str, Any],
    policy: str | Path | PolicyFunction,
    *,
    actions: Sequence[str] | None = None,
    num_resamples: int = 2_000,
    confidence: float = 0.95,
    max_weight: float | None = None,
    max_rounds: int | None = None,
    backbone: str = DEFAULT_BACKBONE,
    seed: int = 0,
    device: str = "cpu",
    trust: Sequence[str] = (),
) -> Evaluation:
    """Estimate the mean reward that a policy would have had on the contexts of a log.

    Args:
        log: A log file or run folder, see `vitucb.evaluation.logs.open_log`, its rounds, or a
            dictionary of bandit feedback as the Open Bandit Pipeline makes it.
        policy: A run folder with a checkpoint, or a function giving the probability of every arm.
        actions: What the log calls the policy's actions 0, 1, ..., for a log of contexts whose
            labels are not the policy's own names; see `match_actions`.
        num_resamples: Bootstrap resamples of the intervals.
        confidence: Nominal coverage of the intervals, in (0, 1).
        max_weight: Limit of `clipped-ips` and `switch-dr`; sqrt(n) if None.
        max_rounds: Use the first so many rounds only.
        backbone: Frozen ViT whose features the reward model (and, where needed, the propensity
            model) are linear in.
        seed: Seed of the folds and resamples.
        device: Torch device of the agent and the backbone.
        trust: Packages or modules that names in a folder may refer to; see `vitucb.load_agent`.

    Raises:
        ValueError: If the log or the policy cannot be used; says which and why.
    """
    rounds = _opened(log, trust)
    rounds = rounds if max_rounds is None else rounds.first(max_rounds)
    probabilities = policy if callable(policy) else load_policy(policy, device=device, trust=trust)
    _check_sees(rounds, probabilities)
    rounds = match_actions(rounds, probabilities, actions)
    target = target_probabilities(rounds, probabilities)
    features = image_features(rounds, backbone, device)
    chosen = rounds.propensities
    if chosen is None:
        chosen = estimate_propensities(rounds, features)[np.arange(len(rounds)), rounds.actions]
    q = _estimated_rewards(rounds, features, numpy_generator(seed, "folds"))
    probed = Probe(rounds, chosen, q)
    checked = probed.logged(target)
    report = inspect_log(rounds, chosen)
    overlap = _overlap(checked, target)
    advice = advise(checked, are_logged=rounds.propensities is not None)
    fixed, fixed_name = best_fixed_action(rounds, chosen, numpy_generator(seed, "halves"))
    name = str(getattr(probabilities, "name", "") or getattr(policy, "__name__", "policy"))
    entries = [(name, *each) for each in estimator_terms(checked, max_weight).items()]
    for label, played in (("uniform", uniform_play(rounds)), (fixed_name, fixed)):
        terms = estimator_terms(probed.logged(played), max_weight)
        entries.append((label, advice.estimator, terms[advice.estimator]))
    compared = compare(
        entries,
        rounds.rewards,
        numpy_generator(seed, "bootstrap"),
        num_resamples=num_resamples,
        confidence=confidence,
    )
    means, own = rounds.expected_rewards, warnings_of_itself(rounds.name, policy)
    return Evaluation(
        estimates=tuple(compared[: len(ESTIMATORS)]),
        references=tuple(compared[len(ESTIMATORS) :]),
        advice=advice,
        log=rounds.name,
        logged_value=float(rounds.rewards.mean()),
        confidence=confidence,
        true_value=None if means is None else float((target * means).sum(axis=1).mean()),
        facts=report.facts | overlap.facts,
        warnings=own + report.warnings + overlap.warnings,
    )


def warnings_of_itself(log: str, policy: str | Path | PolicyFunction) -> tuple[str, ...]:
    """What to say where the agent judged by the run in folder `log` is the one that played it."""
    if callable(policy) or Path(policy).resolve() != Path(log).resolve():
        return ()
    return (
        "the policy is the agent that wrote this log: it has learnt from these very rewards, and "
        "what the log says of it is too good; judge it by a log that it has not learnt from",
    )


def _opened(
    log: str | Path | LoggedRounds | Mapping[str, Any], trust: Sequence[str]
) -> LoggedRounds:
    if isinstance(log, LoggedRounds):
        return log
    return read_bandit_feedback(log) if isinstance(log, Mapping) else open_log(log, trust=trust)


def _check_sees(log: LoggedRounds, policy: PolicyFunction) -> None:
    """Refuse an agent of images for a log without, and one of numbers where these vary."""
    if log.contexts is not None and getattr(policy, "looks_at_images", False):
        raise ValueError(
            f"log {log.name}: it has no images, and the agent looks at them; add them to the log "
            "(see docs/off_policy_evaluation.md), or evaluate a function of obs['context']"
        )
    looks, fixed = getattr(policy, "looks_at_images", True), getattr(policy, "fixed_arms", None)
    if not (looks or fixed is None or log.action_names) and (log.items < 0).any():
        raise ValueError(
            f"log {log.name}: its rounds have different numbers of images, and the agent knows its "
            "arms by number: write all of them in every row, and those on offer as `offered`"
        )


def match_actions(
    log: LoggedRounds, policy: PolicyFunction, actions: Sequence[str] | None = None
) -> LoggedRounds:
    """A log of contexts with its actions in the order of the policy's; other logs as they are.

    A policy says with an attribute `action_names` what its actions are called, as agents do whose
    environment has class names. One that does not is taken to number them, if the log does. A
    function without names gets the actions in the order of `log.action_names`.

    Args:
        log: The log.
        policy: The policy.
        actions: What the log calls the policy's actions 0, 1, ..., whatever else they are called.

    Raises:
        ValueError: If names do not match, or none are known; says what to do.
    """
    known = tuple(map(str, getattr(policy, "action_names", ())))
    if actions is not None:
        if known and set(actions) == set(known) and tuple(actions) != known:
            raise ValueError(
                f"actions {', '.join(actions)}: the policy has these in another order, "
                f"{', '.join(known)}; leave them out, they are matched by name"
            )
        return log.with_actions(actions)
    fixed = getattr(policy, "fixed_arms", None)
    if not log.action_names or (not known and fixed is None):
        return log
    numbers = tuple(map(str, range(fixed or 0)))
    if not known and set(log.action_names) - set(numbers):
        raise ValueError(
            f"log {log.name}: its actions are called {', '.join(log.action_names[:20])}, and the "
            f"policy has no names for its {fixed}; give `actions` (--actions on the command line), "
            "what the log calls the policy's actions 0, 1, ..."
        )
    try:
        return log.with_actions(known or numbers)
    except ValueError as error:
        raise ValueError(
            f"{error}, the policy's actions; if the log has other names for them, give `actions` "
            "(--actions on the command line), what it calls the policy's actions 0, 1, ..."
        ) from error


def target_probabilities(log: LoggedRounds, policy: PolicyFunction) -> Array:
    """Probability of every arm in every round of a log, float64 (n, K).

    Raises:
        ValueError: If the policy gives another number of probabilities than the log has arms, or
            chooses an arm that was not on offer.
    """
    rows = []
    for index in range(len(log)):
        row = np.asarray(policy(log.observation(index)), np.float64)
        if row.shape != (log.num_arms,):
            raise ValueError(
                f"policy: probabilities of shape {row.shape} where log {log.name} has "
                f"{log.num_arms} arms; evaluate an agent of an environment with as many"
            )
        masked = np.flatnonzero((row > 0) & (log.mask[index] == 0))
        if len(masked):
            raise ValueError(
                f"policy: probability {row[masked[0]]:g} in round {index} for arm {masked[0]}, "
                "which was not on offer; give 0 where action_mask is 0"
            )
        rows.append(row)
    return np.stack(rows)


def image_features(log: LoggedRounds, backbone: str, device: str = "cpu") -> NDArray[np.float32]:
    """Frozen last-layer features of a log's images, float32 (N, d); 0 if no round has it.

    Where a log has contexts instead of images, these, scaled to variance 1.
    """
    if log.contexts is not None:
        scale = np.maximum(log.contexts.std(axis=0), 1e-12)
        scaled: NDArray[np.float32] = (log.contexts - log.contexts.mean(axis=0)) / scale
        return scaled
    import torch

    from vitucb.models.backbone import create_backbone
    from vitucb.models.preprocess import preprocess_for

    model = create_backbone(backbone).to(device)
    preprocess = preprocess_for(model, device)
    used = np.unique(log.items[log.items >= 0])
    fitting = (limit("batch_mib") << 20) // math.prod(log.images.shape[1:])
    at_once = max(1, min(_IMAGES_AT_ONCE, fitting))
    features = np.zeros((log.images.shape[0], int(model.num_features)), np.float32)  # type: ignore[arg-type]  # timm sets an int
    with torch.inference_mode():
        for start in range(0, len(used), at_once):
            batch = used[start : start + at_once]
            features[batch] = model(preprocess(log.images[batch])).float().cpu().numpy()
    return features


def _estimated_rewards(
    log: LoggedRounds, features: NDArray[np.float32], rng: np.random.Generator
) -> Array:
    if log.action_names:
        context = features[log.items[:, 0]]
        return cross_fitted_rewards(
            context, log.actions, log.rewards, rng, num_arms=log.num_arms, ridge=0.1
        )
    return cross_fitted_rewards(features[log.items], log.actions, log.rewards, rng, ridge=0.1)


def _overlap(checked: Logged, target: Array) -> LogReport:
    """How much of what the policy does the log has seen."""
    w = checked.weights
    error = float(w.std()) / math.sqrt(len(w))
    mean = float(w.mean())
    facts: dict[str, float | int | str] = {
        "mean weight": mean,
        "rounds with weight 0 (%)": 100 * float((w == 0).mean()),
        "mean largest probability": float(target.max(axis=1).mean()),
    }
    size = effective_sample_size(w)
    warnings = []
    if abs(mean - 1) > max(SUSPICIOUS_Z * error, 1e-6):
        warnings.append(
            f"the mean weight is {mean:.3g} where 1 is expected: the log does not "
            "cover what the policy does, or the propensities are wrong; ips and dr are biased"
        )
    if size < max(SMALL_SHARE * len(w), SMALL_SIZE):
        warnings.append(
            f"the effective sample size is {size:.0f} of {len(w)} rounds: few rounds decide the "
            "weighted estimates, and their intervals are too short"
        )
    return LogReport(facts, tuple(warnings))
