"""What an evaluation says, in a sentence and as plain data."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from vitucb.evaluation.comparison import PolicyEstimate
from vitucb.evaluation.evaluate import Evaluation


def short_name(policy: str) -> str:
    """A policy as tables name it: of a run's folder the agent, of another folder its last part."""
    return Path(policy).name.partition("__")[0] or policy


def headline(evaluation: Evaluation) -> str:
    """The gain of the policy over the log, its interval, and what follows."""
    read, share = evaluation.advised, 100 * evaluation.confidence
    name, earned = short_name(read.policy), f"the log earned {evaluation.logged_value:.4g}"
    if not math.isfinite(read.gain):
        return f"{name}: the log says nothing about it; {earned} a round."
    return (
        f"{name} would have earned {read.value:.4g} a round, {earned}: {read.gain:+.4g}, "
        f"{share:g} % interval {read.gain_low:+.4g} to {read.gain_high:+.4g}. "
        + (_decision(read) if evaluation.advice.is_covered else _GUESS)
    )


_GUESS = "That is a guess of the reward model: the log does not cover what it does."


def _decision(read: PolicyEstimate) -> str:
    if read.gain_low > 0:
        return "It is better than the log."
    if read.gain_high < 0:
        return "It is worse than the log."
    return "That does not tell it apart from the log."


def as_data(evaluation: Evaluation) -> dict[str, Any]:
    """Everything as JSON holds it: numbers that are not known are None."""
    read = evaluation.advised
    data: dict[str, Any] = _known(
        {
            "log": evaluation.log,
            "policy": read.policy,
            "headline": headline(evaluation),
            "read": dataclasses.asdict(evaluation.advice),
            "gain": {"value": read.gain, "low": read.gain_low, "high": read.gain_high},
            "value": {"value": read.value, "low": read.low, "high": read.high},
            "logged_value": evaluation.logged_value,
            "true_value": evaluation.true_value,
            "confidence": evaluation.confidence,
            "references": [dataclasses.asdict(each) for each in evaluation.references],
            "estimates": [dataclasses.asdict(each) for each in evaluation.estimates],
            "facts": evaluation.facts,
            "warnings": list(evaluation.warnings),
        }
    )
    return data


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _known(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_known(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
