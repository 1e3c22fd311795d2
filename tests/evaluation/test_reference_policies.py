from __future__ import annotations

import dataclasses

import numpy as np

from vitucb.envs.data.logged_rounds import LoggedRounds, rounds_without_images
from vitucb.evaluation.reference_policies import best_fixed_action, uniform_play


def make_log(actions: list[int], rewards: list[float], arms: int = 3) -> LoggedRounds:
    return rounds_without_images(
        "log",
        np.zeros((len(actions), 1)),
        np.ones((len(actions), arms), np.int8),
        actions=np.array(actions),
        rewards=np.array(rewards, float),
        propensities=np.full(len(actions), 1 / arms),
        action_names=tuple("abc"[:arms]),
    )


def best(log: LoggedRounds) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float64]], str]:
    return best_fixed_action(log, np.full(len(log), 1 / 3), np.random.default_rng(0))


def test_the_action_that_pays_most_is_played_in_every_round() -> None:
    actions = list(range(3)) * 40
    target, name = best(make_log(actions, [float(a == 1) for a in actions]))
    assert name == "best fixed action: b"
    assert target.tolist() == [[0, 1, 0]] * 120


def test_an_action_tried_once_with_luck_is_not_it() -> None:
    actions = [0] * 60 + [1] * 60 + [2, 2]
    target, name = best(make_log(actions, [0.5] * 60 + [0.4] * 60 + [1.0, 1.0]))
    assert name == "best fixed action: a"
    assert (target[:, 0] == 1).all()


def test_rewards_of_pure_noise_are_not_flattered() -> None:
    """Chosen and valued on the same rounds, the best of many equal actions would seem better."""
    gains = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        actions = rng.integers(0, 3, 90)
        log = make_log(actions.tolist(), rng.normal(size=90).tolist())
        target, _ = best(log)
        weight = 3 * target[np.arange(90), actions]
        gains.append((weight * log.rewards).sum() / weight.sum())
    assert abs(np.mean(gains)) < 3 * np.std(gains) / 60**0.5
    assert np.mean(gains) < 0.1


def test_where_it_is_not_on_offer_the_others_are_played_alike() -> None:
    actions = list(range(3)) * 20
    log = make_log(actions, [float(a == 1) for a in actions])
    mask = log.mask.copy()
    mask[0, 1] = 0
    masked = dataclasses.replace(log, mask=mask)
    target, _ = best(masked)
    assert target[0].tolist() == [0.5, 0, 0.5]
    assert uniform_play(masked)[:2].tolist() == [[0.5, 0, 0.5], [1 / 3] * 3]
