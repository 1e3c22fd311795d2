"""Policies: how estimated means and confidence widths become an action and its propensity.

A policy is called as policy(mean, width, mask, round, rng) and returns a `Choice` with the
probability of every arm. Propensities are exact, save those of joint Thompson draws, whose
standard error is stated.
"""

from __future__ import annotations

from collections.abc import Callable

from vitucb.config import PolicyConfig
from vitucb.policies.choice import (
    Array,
    Choice,
    JointPolicy,
    Mask,
    Policy,
    argmax_probabilities,
    choose,
    draw,
)
from vitucb.policies.rules import boltzmann, epsilon_greedy, greedy, igw, ucb
from vitucb.policies.thompson import gaussian_win_probabilities, thompson
from vitucb.registry import lookup

__all__ = [
    "POLICIES",
    "SETTINGS",
    "Array",
    "Choice",
    "JointPolicy",
    "Mask",
    "Policy",
    "argmax_probabilities",
    "boltzmann",
    "choose",
    "draw",
    "epsilon_greedy",
    "gaussian_win_probabilities",
    "greedy",
    "igw",
    "make_policy",
    "thompson",
    "ucb",
]

POLICIES: dict[str, Callable[[PolicyConfig], Policy]] = {
    "ucb": ucb,
    "thompson": thompson,
    "greedy": greedy,
    "epsilon-greedy": epsilon_greedy,
    "boltzmann": boltzmann,
    "igw": igw,
}

SETTINGS: dict[str, tuple[str, ...]] = {
    "ucb": ("alpha",),
    "thompson": ("alpha", "joint", "optimistic", "draws"),
    "greedy": (),
    "epsilon-greedy": ("epsilon", "decay"),
    "boltzmann": ("temperature", "decay"),
    "igw": ("variant", "gamma", "growth"),
}
"""Name -> the fields of `PolicyConfig` that the policy reads."""


def make_policy(config: PolicyConfig) -> Policy:
    """The policy `config.name`, from the table or an import path of a factory.

    Raises:
        ValueError: If the name is unknown.
    """
    policy: Policy = lookup("policy", config.name, POLICIES)(config)
    return policy
