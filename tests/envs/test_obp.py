from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitucb.envs.data.log_files import read_log
from vitucb.envs.data.obp import read_bandit_feedback

ROUNDS, ARMS = 6, 3


def feedback(**changes: Any) -> dict[str, Any]:
    """What `SyntheticBanditDataset.obtain_batch_bandit_feedback` of OBP 0.5 returns, in small."""
    rng = np.random.default_rng(0)
    given = {
        "n_rounds": ROUNDS,
        "n_actions": ARMS,
        "context": rng.normal(size=(ROUNDS, 2)),
        "action_context": np.eye(ARMS, dtype=int),
        "action": np.array([0, 2, 1, 1, 0, 2]),
        "position": None,
        "reward": np.array([0, 1, 1, 0, 0, 1]),
        "expected_reward": rng.random((ROUNDS, ARMS)),
        "pi_b": np.full((ROUNDS, ARMS, 1), 1 / ARMS),
        "pscore": np.full(ROUNDS, 1 / ARMS),
    }
    return {k: v for k, v in (given | changes).items() if v is not ...}


def test_a_dictionary_becomes_a_log_of_its_contexts() -> None:
    given = feedback()
    log = read_bandit_feedback(given)
    assert (len(log), log.num_arms, log.action_names) == (6, 3, ("0", "1", "2"))
    assert log.actions.tolist() == [0, 2, 1, 1, 0, 2]
    assert log.rewards.tolist() == [0, 1, 1, 0, 0, 1]
    assert log.propensities is not None
    assert log.propensities.tolist() == [1 / 3] * 6
    np.testing.assert_array_equal(log.expected_rewards, given["expected_reward"])
    for index in range(ROUNDS):
        np.testing.assert_allclose(
            log.observation(index)["context"], given["context"][index], rtol=1e-6
        )


def test_a_file_is_read_though_it_holds_a_pickled_none(tmp_path: Path) -> None:
    given = feedback()
    np.savez(tmp_path / "log.npz", **given)  # `position` is an object array there
    one, two = read_log(tmp_path / "log.npz"), read_bandit_feedback(given)
    for field in ("items", "mask", "actions", "rewards", "propensities", "contexts"):
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field))


def test_a_pickled_array_of_ours_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "log.npz", **feedback(reward=np.array([0, "a", None] * 2, object)))
    with pytest.raises(
        ValueError, match=r"log.npz: cannot be read: Object arrays cannot be loaded"
    ):
        read_log(tmp_path / "log.npz")


def test_without_scores_the_behaviour_policy_tells_and_without_both_nothing() -> None:
    table = np.array([[0.5, 0.2, 0.3]] * ROUNDS)
    log = read_bandit_feedback(feedback(pscore=..., pi_b=table))
    assert log.propensities is not None
    assert log.propensities.tolist() == [0.5, 0.3, 0.2, 0.2, 0.5, 0.3]
    assert read_bandit_feedback(feedback(pscore=..., pi_b=...)).propensities is None


@pytest.mark.parametrize("shape", [(ROUNDS, 5, 4), (ROUNDS, 5, 4, 1), (ROUNDS, 5, 4, 3)])
def test_pictures_of_the_rounds_are_the_context(shape: tuple[int, ...]) -> None:
    pixels = np.arange(np.prod(shape), dtype=np.uint32).astype(np.uint8).reshape(shape)
    log = read_bandit_feedback(feedback(images=pixels))
    assert log.contexts is None
    seen = log.observation(2)["images"]
    assert seen.shape == (1, 5, 4, 3)
    np.testing.assert_array_equal(seen[0, ..., 0], pixels[2].reshape(5, 4, -1)[..., 0])


@pytest.mark.parametrize("shape", [(ROUNDS, ARMS, 5, 4), (ROUNDS, ARMS, 5, 4, 3)])
def test_pictures_of_the_arms_make_it_a_log_of_image_arms(shape: tuple[int, ...]) -> None:
    pixels = np.zeros(shape, np.uint8)
    pixels[4, 1] = 9
    log = read_bandit_feedback(feedback(images=pixels))
    assert log.action_names == ()
    assert log.observation(4)["images"][:, 0, 0, 0].tolist() == [0, 9, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": ...}, "has no 'action', it holds n_rounds, n_actions"),
        ({"reward": np.zeros(5)}, r"reward is float64 \(5,\); give numbers \(6,\)"),
        ({"reward": np.full(6, np.nan)}, "reward holds NaN"),
        ({"n_rounds": 7}, "n_rounds is 7, but there are 6 actions"),
        ({"n_actions": 2}, "action 2 of 2 actions"),
        ({"action": np.array([0.5] * 6)}, "action is float64"),
        ({"action": np.array([-1] * 6)}, "action is int64"),
        ({"pscore": np.array([0.5] * 5 + [0])}, "pscore of round 5 is 0; give values in"),
        ({"pscore": ..., "pi_b": np.full((6, 3, 2), 1 / 3)}, "pi_b is of 2 positions; give pscore"),
        ({"expected_reward": np.zeros((6, 2))}, r"expected_reward is float64 \(6, 2\)"),
        ({"context": np.full((6, 2), "a")}, "context is <U1"),
        ({"images": np.zeros((5, 4, 4), np.uint8)}, r"images have shape \(5, 4, 4\)"),
        ({"images": np.zeros((6, 4, 4))}, "images are float64"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_bandit_feedback(feedback(**changes))


def test_one_mean_of_each_row_tells_no_number_of_actions(tmp_path: Path) -> None:
    path = tmp_path / "log.npz"
    np.savez(path, action=np.arange(3), reward=np.ones(3), expected_reward=np.ones(3))
    with pytest.raises(ValueError, match=r"expected_reward"):
        read_bandit_feedback(path)


def test_names_of_columns_are_not_for_arrays(tmp_path: Path) -> None:
    path = tmp_path / "log.npz"
    np.savez(path, action=np.zeros(2))
    with pytest.raises(ValueError, match="leave columns and skip_missing out"):
        read_log(path, columns={"reward": "r"})
