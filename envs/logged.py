"""Replay of logged rounds by rejection sampling."""

from __future__ import annotations

import math
import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vitucb.envs.data.log_files import read_log
from vitucb.envs.data.logged_rounds import LoggedRounds
from vitucb.envs.data.sources import load_packaged_digits

_MADE_UP_ROUNDS, _MADE_UP_ARMS = 600, 4


class LoggedEnv(gymnasium.Env[dict[str, Any], np.int64]):
    """The rounds of a log, played again as far as the log knows what would have happened.

    ## Description
    Every round shows what was on offer in one logged round. If the agent chooses the logged action,
    the round is accepted with probability p_min / p, p being the logged propensity and p_min the
    smallest in the log, and pays the logged reward; any other round is rejected: its reward is
    unknown and must be ignored. Given true propensities and independent contexts, the accepted
    rounds are a sample of what the agent would have met online (Li et al., "Unbiased offline
    evaluation of contextual-bandit-based news article recommendation algorithms", WSDM 2011,
    https://arxiv.org/abs/1003.5956, for uniform logs; thinning by p_min / p makes any log uniform).
    About a share p_min of the rounds is accepted, 1/K if the log is uniform.

    A rejected round should leave no trace in the agent. One that counts its decisions when it makes
    them, as those with a feature covariance do, counts rejected ones too and explores less.

    ## Action Space
    `Discrete(K)`, K the largest number of arms on offer.

    ## Observation Space
    `Dict` of `images`, uint8 (K, H, W, 3), or (1, H, W, 3) where one image is the context of all
    actions, and `action_mask`, int8 (K,), 0 where the round had fewer arms.

    ## Rewards
    The logged reward if the round is accepted, else 0, which is no observation: `arrivals` is what
    may be learnt from.

    ## Episode End
    Truncated after the last round of the log.

    ## Info
    Always `expected_reward`, `optimal_reward`, `regret` (float) and `optimal_action` (int) of the
    round just played, NaN and -1 where the log does not know the mean rewards, and at reset;
    `accepted`, 1 or 0.

    ## Arguments
    - `dataset`: a log for `read_log`, a `LoggedRounds`, or `digits`: 600 made-up rounds with 4
      handwritten digits each, uniformly random actions and Bernoulli rewards.
    - `image_size`: side in pixels to resize images to; None keeps that of the first image.
    - `shuffle`: play the rounds in an order drawn at reset; False keeps the order of the log.
    - `assume_uniform`: take 1 / (number of arms on offer) for propensities that were not kept.
    - `skip_missing`: leave out rounds whose images are missing.
    - `render_mode`: `rgb_array` renders the images as one row.

    ## Version History
    - v0: first version.

    Attributes:
        log: The rounds.
        arrivals: `(round, reward)` of the round just played if it was accepted, else empty; rounds
            count from 0 at reset.
        lost: The round just played if it was rejected, else empty: its reward will never come.
        drawn_reward: What the last step returned.
        num_accepted: Accepted rounds since reset.
        num_played: Rounds since reset.

    Raises:
        ValueError: If the log cannot be used.
    """

    # gymnasium declares it as an instance attribute, so ClassVar would be an override error.
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        dataset: str | os.PathLike[str] | LoggedRounds = "digits",
        image_size: int | None = None,
        shuffle: bool = True,
        assume_uniform: bool = False,
        skip_missing: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"unknown render_mode {render_mode!r}; choose rgb_array or none")
        if not isinstance(dataset, LoggedRounds):
            dataset = (
                made_up_log()
                if dataset == "digits"
                else read_log(dataset, image_size=image_size, skip_missing=skip_missing)
            )
        if dataset.contexts is not None:
            raise ValueError(
                f"log {dataset.name}: it has no images to replay; evaluate policies on it with "
                "vitucb evaluate, or name the images in it"
            )
        self.log, self.shuffle, self.render_mode = dataset, shuffle, render_mode
        self._keep = _acceptance(dataset, assume_uniform)
        images = dataset.observation(0)["images"]
        parts: dict[str, spaces.Space[Any]] = {
            "images": spaces.Box(0, 255, images.shape, np.uint8),
            "action_mask": spaces.MultiBinary(dataset.num_arms),
        }
        self.observation_space = spaces.Dict(parts)
        self.action_space = spaces.Discrete(dataset.num_arms)
        self.arrivals: list[tuple[int, float]] = []
        self.lost: list[int] = []
        self.drawn_reward = math.nan
        self.num_accepted = self.num_played = 0
        self._order = np.arange(len(dataset))
        self._accepted_sum = 0.0

    @property
    def acceptance_rate(self) -> float:
        """Share of the rounds since reset that were accepted; NaN before the first."""
        return self.num_accepted / self.num_played if self.num_played else math.nan

    @property
    def accepted_mean_reward(self) -> float:
        """Mean reward of the accepted rounds since reset, reward units; NaN if there are none."""
        return self._accepted_sum / self.num_accepted if self.num_accepted else math.nan

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the K actions of a log of contexts; empty where every arm has its image."""
        return self.log.action_names

    @property
    def expected_rewards(self) -> NDArray[np.float64]:
        """Mean reward of every arm on offer now, float64 (K,); NaN where the log does not know."""
        if self.log.expected_rewards is None:
            return np.full(self.log.num_arms, np.nan)
        means: NDArray[np.float64] = self.log.expected_rewards[self._index].copy()
        return means

    @property
    def _index(self) -> int:
        """Row of the log on show; the last one stays when the log is over."""
        return int(self._order[min(self.num_played, len(self._order) - 1)])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Start over, in a new order if `shuffle`."""
        super().reset(seed=seed, options=options)
        if self.shuffle:
            self._order = self.np_random.permutation(len(self.log))
        # One number per round whatever happens: agents with one seed face the same thinning.
        self._coins = self.np_random.random(len(self.log))
        self.num_accepted = self.num_played = 0
        self._accepted_sum = 0.0
        self.arrivals, self.lost, self.drawn_reward = [], [], math.nan
        return self.log.observation(self._index), _info(np.full(1, np.nan), 0, accepted=False)

    def step(
        self, action: int | np.int64
    ) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Accept or reject the round, and show the next one.

        Raises:
            ValueError: If the action is not on offer, or the log is over.
        """
        index, played = self._index, self.num_played
        if played >= len(self.log):
            raise ValueError(f"log {self.log.name}: all {played} rounds are played; call reset")
        if not 0 <= action < self.log.num_arms or not self.log.mask[index, action]:
            raise ValueError(f"action {action} is not on offer; choose one that action_mask allows")
        is_accepted = bool(
            action == self.log.actions[index] and self._coins[played] < self._keep[index]
        )
        self.drawn_reward = float(self.log.rewards[index]) if is_accepted else 0.0
        self.arrivals = [(played, self.drawn_reward)] if is_accepted else []
        self.lost = [] if is_accepted else [played]
        means = np.where(self.log.mask[index], self.expected_rewards, -np.inf)
        info = _info(means, int(action), is_accepted)
        self.num_played += 1
        self.num_accepted += is_accepted
        self._accepted_sum += self.drawn_reward
        is_over = self.num_played == len(self.log)
        return self.log.observation(self._index), self.drawn_reward, False, is_over, info

    def render(self) -> NDArray[np.uint8] | None:
        """The current images side by side, uint8 (H, slots*W, 3); None without a render mode."""
        if self.render_mode is None:
            return None
        return np.concatenate(list(self.log.observation(self._index)["images"]), axis=1)


def made_up_log(rounds: int = _MADE_UP_ROUNDS, *, seed: int = 0) -> LoggedRounds:
    """A log made up from scikit-learn's handwritten digits, with known mean rewards.

    Args:
        rounds: Number of rounds.
        seed: Seed of the digits, the uniformly random actions and the rewards.

    Returns:
        4 digits a round; a digit d pays 1 with probability 0.1 + 0.8 d / 9, else 0.
    """
    digits = load_packaged_digits(None)
    assert digits.labels is not None
    rng = np.random.default_rng(seed)
    items = np.stack(
        [rng.choice(len(digits.labels), _MADE_UP_ARMS, replace=False) for _ in range(rounds)]
    )
    means = np.linspace(0.1, 0.9, digits.num_classes)[digits.labels[items]]
    actions = rng.integers(0, _MADE_UP_ARMS, rounds)
    rewards = rng.random(rounds) < means[np.arange(rounds), actions]
    return LoggedRounds(
        name="digits",
        images=digits.images,
        items=items,
        mask=np.ones(items.shape, np.int8),
        actions=actions,
        rewards=rewards.astype(np.float64),
        propensities=np.full(rounds, 1 / _MADE_UP_ARMS),
        expected_rewards=means,
    )


def _acceptance(log: LoggedRounds, assume_uniform: bool) -> NDArray[np.float64]:
    """Probability of accepting each round whose action matches, p_min / p."""
    propensities = log.propensities
    if propensities is None:
        if not assume_uniform:
            raise ValueError(
                f"log {log.name}: field 'propensity' is missing, and rejection sampling needs it; "
                "set assume_uniform if actions were drawn uniformly"
            )
        propensities = 1 / log.mask.sum(axis=1)
    keep: NDArray[np.float64] = propensities.min() / propensities
    return keep


def _info(means: NDArray[np.float64], action: int, accepted: bool) -> dict[str, Any]:
    known = not np.isnan(means).any()
    best = int(means.argmax()) if known else -1
    return {
        "expected_reward": float(means[action]) if known else math.nan,
        "optimal_reward": float(means[best]) if known else math.nan,
        "regret": float(means[best] - means[action]) if known else math.nan,
        "optimal_action": best,
        "accepted": int(accepted),
    }
