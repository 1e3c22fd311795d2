"""What every agent must do: learn, spare masked arms, resume bit for bit, take late rewards."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import vitucb
from tests.agents.two_digits import two_digits, zeros_and_ones
from tests.covering import slow_but
from vitucb.agents import AGENTS
from vitucb.storage.state_files import load_state, save_state
from vitucb.types import Agent, Decision, Observation, UnusableRewardError

MLP = {"hidden": 16, "steps": 4, "batch_size": 32, "lr": 3e-3}
FEW = {"training": {"batch_size": 8}, "lora": {"rank": 1}, "policy": {"draws": 20}}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "lin-ucb": ("lin-ucb", {}),
    "lin-ts": ("lin-ts", {"policy": {"draws": 20}}),
    "greedy": ("greedy", {"policy": {"name": "greedy"}}),
    "neural-ucb": ("neural-ucb", {"options": MLP}),
    "kernel-ucb": ("kernel-ucb", {}),
    "neural-ts": ("neural-ts", {"options": MLP, "covariance": "diagonal"}),
    "neural-ucb-cnn": (
        "neural-ucb",
        {"options": {"network": "cnn", "hidden": 8, "steps": 2, "batch_size": 16, "lr": 1e-2}},
    ),
    "neural-linear": (
        "neural-linear",
        {"options": {"refresh_every": 10, "steps": 2, "b0": 0.5}, **FEW},
    ),
    "neural-linear-frozen": ("neural-linear", {"options": {"train": "none", "b0": 0.5}, **FEW}),
    "full-finetune": ("full-finetune", {"training": {"batch_size": 4}}),
    "prototype": ("prototype", {"options": {"rank": 1, "alpha": 5.0, "replay": 5, "lr": 1e-3}}),
    "prototype-diagonal": (
        "prototype",
        {
            "options": {
                "rank": 1,
                "alpha": 5.0,
                "replay": 5,
                "lr": 1e-3,
                "covariance": "diagonal",
                "gradients": "batched",
            }
        },
    ),
}
BLIND = {"ucb1", "kl-ucb", "gaussian-ts", "beta-ts", "random", "best-fixed-arm", "oracle"}
BLIND |= {"item-ucb"}  # which knows images again, and sees none of their pixels
EVERY = sorted(SETTINGS)
Modes = list[contextlib.AbstractContextManager[Any]]
# A variant whose state is that of another one is played for learning and masks only.
STATEFUL = [key for key in EVERY if key not in ("neural-linear-frozen", "prototype-diagonal")]
AGENTS_ONCE = [key for key in STATEFUL if key != "neural-ucb-cnn"]
CONTEXTUAL = ["lin-ucb", "lin-ts", "neural-ucb", "neural-ucb-cnn", "neural-linear-frozen"]


def make(key: str, env: gym.Env[Any, Any], seed: int = 0) -> Agent:
    name, overrides = SETTINGS.get(key, (key, {}))
    return vitucb.make_agent(name, env, seed=seed, **overrides)


def observation(seed: int, arms: int, mask: list[int]) -> tuple[Observation, list[int]]:
    """Arms with their digits, 0 or 1."""
    rng, digits = np.random.default_rng(seed), zeros_and_ones()
    items = rng.integers(len(digits.images), size=arms)
    obs = {"images": digits.images[items], "action_mask": np.array(mask, np.int8)}
    assert digits.labels is not None
    return obs, digits.labels[items].tolist()


def test_every_agent_is_tested() -> None:
    tested = {name for name, _ in SETTINGS.values()}
    assert tested | BLIND | {"vit-ucb"} == set(AGENTS)


@pytest.mark.parametrize("key", slow_but(AGENTS_ONCE, EVERY))
def test_solves_the_two_arm_identity_problem(key: str) -> None:
    rounds = 40
    env = two_digits(rounds)
    *_, last = vitucb.run(env, make(key, env), seed=0)
    assert last.cumulative_regret < 0.5 * rounds * 0.45  # a random choice loses 0.45 a round


@pytest.mark.parametrize("name", sorted((BLIND - {"oracle", "best-fixed-arm"}) | {"lin-ucb"}))
def test_a_round_without_an_arm_on_offer_is_refused(name: str) -> None:
    agent: Any = vitucb.make_agent(name, two_digits(30), seed=0)
    obs, _ = observation(0, 2, [0, 0])
    with pytest.raises(ValueError, match="action_mask has no allowed arm"):
        agent.select_action(obs)
    if hasattr(agent, "probabilities"):
        with pytest.raises(ValueError, match="action_mask has no allowed arm"):
            agent.probabilities(obs)


@pytest.mark.parametrize("key", slow_but(AGENTS_ONCE, STATEFUL))
def test_images_may_be_of_another_size_in_every_round(key: str, tmp_path: Path) -> None:
    agent, restored = make(key, two_digits(30)), make(key, two_digits(30), seed=9)
    after = []
    for t in range(24):  # the last layer is made anew at the sixteenth reward
        obs, values = observation(t, 2, [1, 1])
        if t % 3 == 1:
            obs = {**obs, "images": obs["images"].repeat(2, axis=1).repeat(3, axis=2)}
        if t == 18:
            save_state(agent.state_dict(), tmp_path)
            restored.load_state_dict(load_state(tmp_path))
        decision = agent.select_action(obs)
        agent.update(obs, decision, float(values[decision.action]))
        if t >= 18:
            again = restored.select_action(obs)
            restored.update(obs, again, float(values[again.action]))
            after.append((decision.action, again.action))
    assert [ours for ours, _ in after] == [theirs for _, theirs in after]


@pytest.mark.parametrize("key", slow_but(AGENTS_ONCE, STATEFUL))
def test_saved_and_restored_at_half_time_it_decides_as_if_never_stopped(
    key: str, tmp_path: Path
) -> None:
    env = two_digits(30)
    agent = make(key, env)
    whole = []
    for r in vitucb.run(env, agent, seed=0):
        whole.append(r)
        if r.index == 14:
            save_state(agent.state_dict(), tmp_path)
    restored = make(key, two_digits(30), seed=9)
    restored.load_state_dict(load_state(tmp_path))
    for r in whole[15:]:
        decision = restored.select_action(r.observation)
        assert (decision.action, decision.propensity) == (r.decision.action, r.decision.propensity)
        np.testing.assert_array_equal(decision.mean, r.decision.mean)
        np.testing.assert_array_equal(decision.width, r.decision.width)
        restored.update(r.observation, decision, r.reward)


@pytest.mark.parametrize(
    "key", slow_but(["lin-ts", "neural-ts", "prototype", "vit-ucb"], [*STATEFUL, "vit-ucb"])
)
def test_the_mode_of_autograd_around_it_changes_nothing(key: str) -> None:
    def played(modes: Modes) -> list[float]:
        env = two_digits(6)
        agent = make(key, env)
        obs, _ = env.reset(seed=0)
        given = []
        for mode in modes:
            with mode:
                decision = agent.select_action(obs)
                obs, reward, *_ = env.step(decision.action)
                agent.update(obs, decision, float(reward))
                given += [float(reward), *decision.mean.tolist()]
        return given

    modes: Modes = [torch.inference_mode(), torch.no_grad(), contextlib.nullcontext()]
    assert played(modes * 2) == played([contextlib.nullcontext()] * 6)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize(
    "key", slow_but(["lin-ts", "neural-ts", "vit-ucb"], [*STATEFUL, "vit-ucb"])
)
@pytest.mark.parametrize(
    "mode",
    [
        lambda: default_dtype(torch.float64),
        lambda: torch.device("meta"),  # stands for a GPU: what is made there is of no use here
        lambda: torch.autocast("cpu", torch.bfloat16),
        torch.inference_mode,
    ],
    ids=["float64", "device", "autocast", "inference"],
)
def test_built_and_played_in_any_mode_of_torch_it_is_the_same(key: str, mode: Any) -> None:
    def played(around: Any) -> list[float]:
        env, given = two_digits(6), []
        with around():
            agent = make(key, env)
            obs, _ = env.reset(seed=0)
            for _ in range(4):
                decision = agent.select_action(obs)
                obs, reward, *_ = env.step(decision.action)
                agent.update(obs, decision, float(reward))
                given += [decision.propensity, *decision.mean.tolist()]
        return given

    assert played(mode) == played(contextlib.nullcontext)


@pytest.mark.parametrize("key", slow_but(AGENTS_ONCE, STATEFUL))
def test_state_kept_in_memory_restores_the_start(key: str) -> None:
    env = two_digits(5)
    agent = make(key, env)
    start = agent.state_dict()
    first = [r.decision for r in vitucb.run(env, agent, seed=0)]
    agent.load_state_dict(start)
    again = [r.decision for r in vitucb.run(env, agent, seed=0)]
    for a, b in zip(first, again, strict=True):
        assert (a.action, a.propensity) == (b.action, b.propensity)
        np.testing.assert_array_equal(a.mean, b.mean)


@pytest.mark.parametrize("key", EVERY)
def test_masks_numbers_of_arms_and_late_rewards_in_any_order(key: str) -> None:
    agent = make(key, two_digits(5))
    waiting = []
    for t in range(9):
        arms = 2 + t % 4
        mask = [int(k == t % arms or k == (t + 1) % arms) for k in range(arms)]
        obs, digits = observation(t, arms, mask)
        decision = agent.select_action(obs)
        assert mask[decision.action] == 1
        assert 0 < decision.propensity <= 1
        assert decision.mean.shape == decision.width.shape == decision.bonus.shape == (arms,)
        assert decision.round == t
        waiting.append((obs, decision, float(digits[decision.action])))
    covariance = getattr(agent, "_covariance", None)
    if covariance is not None:
        assert covariance.count == 9  # every choice entered once, without its reward
    order = np.random.default_rng(0).permutation(7)  # two rewards are lost
    for i in order:
        metrics = agent.update(*waiting[i])
        assert all(np.isfinite(value) for value in metrics.values())
    assert covariance is None or covariance.count == 9


@pytest.mark.parametrize("key", slow_but(AGENTS_ONCE, STATEFUL))
def test_same_seed_same_actions_and_two_seeds_differ(key: str) -> None:
    def decisions(seed: int) -> list[Decision]:
        env = two_digits(5)
        return [r.decision for r in vitucb.run(env, make(key, env, seed), seed=0)]

    one, two = decisions(0), decisions(0)
    for a, b in zip(one, two, strict=True):
        assert (a.action, a.propensity) == (b.action, b.propensity)
        np.testing.assert_array_equal(a.mean, b.mean)
    if key not in ("lin-ucb", "greedy"):  # deterministic given the rewards, save for ties
        other = decisions(1)
        differ = [not np.array_equal(a.bonus, b.bonus) for a, b in zip(one, other, strict=True)]
        assert any(differ)


@pytest.mark.parametrize("key", ["lin-ts", "neural-ts", "neural-linear-frozen", "prototype"])
def test_probabilities_are_those_of_the_choice_and_change_nothing(key: str) -> None:
    env = two_digits(5)
    agent = make(key, env)
    for r in vitucb.run(env, agent, seed=0):
        last = r.observation
    told = agent.probabilities(last)  # type: ignore[attr-defined]
    decision = agent.select_action(last)
    assert told.sum() == pytest.approx(1.0)
    assert told[decision.action] == decision.propensity


@pytest.mark.parametrize("key", EVERY)
def test_probabilities_of_other_images_or_of_none_leave_a_new_agent_as_it_was(key: str) -> None:
    asked, agent = (make(key, two_digits(2)) for _ in range(2))
    obs = observation(0, 3, [1, 1, 1])[0]
    asked.probabilities(observation(1, 2, [1, 1])[0])  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="no allowed arm"):
        asked.probabilities(observation(1, 2, [0, 0])[0])  # type: ignore[attr-defined]
    one, two = asked.select_action(obs), agent.select_action(obs)
    assert (one.action, one.propensity) == (two.action, two.propensity)
    np.testing.assert_array_equal(one.width, two.width)


@pytest.mark.parametrize("name", ["gaussian-ts", "beta-ts"])
def test_slot_agents_tell_their_probabilities(name: str) -> None:
    env = two_digits(8)
    agent = vitucb.make_agent(name, env, seed=0)
    for r in vitucb.run(env, agent, seed=0):
        last = r.observation
    told = agent.probabilities(last)  # type: ignore[attr-defined]
    decision = agent.select_action(last)
    assert told.sum() == pytest.approx(1.0)
    assert told[decision.action] == pytest.approx(decision.propensity)


@pytest.mark.parametrize("key", CONTEXTUAL)
def test_one_image_may_be_the_context_of_all_arms(key: str) -> None:
    rounds = 40
    env = gym.make("vitucb/ImageContext-v0", dataset=zeros_and_ones(), max_episode_steps=rounds)
    *_, last = vitucb.run(env, make(key, env), seed=0)
    assert last.cumulative_regret < 0.6 * rounds * 0.5  # a random choice loses 0.5 a round


def test_agents_that_need_an_image_per_arm_say_so() -> None:
    env = gym.make("vitucb/ImageContext-v0", dataset=zeros_and_ones(), max_episode_steps=5)
    with pytest.raises(ValueError, match="'prototype' needs an image per arm"):
        make("prototype", env)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("neural-ucb", {"hiden": 3}, "'agent.options.hiden'; did you mean 'hidden'"),
        ("neural-ucb", {"network": "rnn"}, "agent.options.network: expected one of mlp, cnn"),
        ("neural-ucb", {"lr": -1.0}, "agent.options.lr -1.0 must be positive"),
        ("prototype", {"rank": 0}, "agent.options.rank 0 must be positive"),
        ("lin-ts", {"hidden": 1}, "agent.options hidden: agent 'lin-ts' has none"),
    ],
)
def test_bad_option_is_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vitucb.make_agent(name, two_digits(5), options=options)


def _odd_view(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same pixels, in memory from the last to the first, and not to be written to."""
    view = np.ascontiguousarray(images[:, ::-1, ::-1, ::-1])[:, ::-1, ::-1, ::-1]
    view.flags.writeable = False
    return view


@pytest.mark.parametrize("key", slow_but(AGENTS_ONCE, [*EVERY, *sorted(BLIND), "vit-ucb"]))
def test_how_images_lie_in_memory_changes_nothing(key: str) -> None:
    env = two_digits(30)
    env.reset(seed=0)
    told = []
    for view in (np.array, _odd_view):
        agent = make(key, env)
        decisions = []
        for seed in range(2):
            obs, _ = observation(seed, 2, [1, 1])
            obs = {"images": view(obs["images"]), "action_mask": obs["action_mask"]}
            decisions.append(agent.select_action(obs))
            agent.update(obs, decisions[-1], 1.0)
        told.append([(d.action, d.mean.tolist(), d.width.tolist()) for d in decisions])
    assert told[0] == told[1]


@pytest.mark.parametrize("key", slow_but(["lin-ucb", "neural-ucb-cnn", "full-finetune"], EVERY))
def test_building_an_agent_draws_nothing_from_the_global_generator(key: str) -> None:
    before = torch.get_rng_state()
    make(key, two_digits(5))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -1e31])
@pytest.mark.parametrize(
    "name", ["vit-ucb", "kernel-ucb", "lin-ucb", "item-ucb", "ucb1", "adapted"]
)
def test_a_reward_that_is_none_is_refused_and_changes_nothing(name: str, reward: float) -> None:
    env = gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=9)
    settings: dict[str, Any] = {"experts": ["adapted"]} if name == "adapted" else {}
    agent = vitucb.make_agent("vit-ucb" if settings else name, env, seed=0, **settings)
    obs, _ = env.reset(seed=0)
    decision = agent.select_action(obs)
    with pytest.raises(UnusableRewardError, match=re.escape(f"reward {reward}; give finite")):
        agent.update(obs, decision, reward)
    agent.update(obs, decision, 1.0)
    assert np.isfinite(agent.select_action(obs).mean).all()


@pytest.mark.parametrize(
    "kind",
    [np.bool_, np.uint8, np.float16, torch.tensor],
    ids=["bool", "uint8", "float16", "torch"],
)
@pytest.mark.parametrize("name", ["kernel-ucb", "lin-ucb", "item-ucb", "ucb1", "beta-ts"])
def test_rewards_may_be_numbers_of_any_kind(name: str, kind: Any) -> None:
    def means(number: Any) -> list[float]:
        agent = vitucb.make_agent(name, two_digits(9), seed=0)
        found = []
        for t in range(6):
            obs, digits = observation(t, 2, [1, 1])
            decision = agent.select_action(obs)
            found += decision.mean.tolist()
            agent.update(obs, decision, number(1 - digits[decision.action]))
        return found

    assert means(kind) == means(float)


@pytest.mark.parametrize("reward", [np.ones(1), None, "1.0"])
def test_what_is_no_number_is_refused_as_a_reward(reward: Any) -> None:
    agent = vitucb.make_agent("lin-ucb", two_digits(9), seed=0)
    obs, _ = observation(0, 2, [1, 1])
    decision = agent.select_action(obs)
    with pytest.raises(UnusableRewardError, match=r"reward .* give a number"):
        agent.update(obs, decision, reward)
    assert agent.update(obs, decision, 1.0)["score/noise"] == 1.0


@pytest.mark.parametrize("name", ["lin-ucb", "vit-ucb", "adapted", "neural-linear"])
def test_a_raw_agent_says_for_which_arms_it_was_made(name: str) -> None:
    def made(env_id: str) -> Any:
        env = gym.make(f"vitucb/{env_id}-v0", dataset="digits", num_arms=None)
        if name == "adapted":
            return vitucb.make_agent("vit-ucb", env, seed=0, experts=["adapted"])
        return vitucb.make_agent(name, env, seed=0)

    own, _ = observation(0, 3, [1, 1, 1])
    shared = {**own, "images": own["images"][:1]}
    agent = made("ImageContext")
    with pytest.raises(ValueError, match=r"made for 10 arms, not for 3; .* or mask those"):
        agent.select_action(shared)
    with pytest.raises(ValueError, match="made for one image for all arms, not for an image per"):
        agent.probabilities(own)
    agent = made("ImageArms")
    with pytest.raises(ValueError, match="made for an image per arm, not for one image for all"):
        agent.select_action(shared)
    with pytest.raises(ValueError, match="images: 2 of them where action_mask has 3 arms; give"):
        agent.select_action({**own, "images": own["images"][:2]})
    assert agent.select_action(own).round == 0


@pytest.mark.parametrize("name", ["lin-ucb", "item-ucb", "vit-ucb"])
def test_a_round_that_is_refused_is_no_round(name: str) -> None:
    agent: Any = vitucb.make_agent(name, two_digits(9), seed=0, training={"discount": 0.5})
    obs, digits = observation(0, 2, [1, 1])
    agent.update(obs, decision := agent.select_action(obs), float(digits[decision.action]))
    before = str(agent.state_dict())
    refused = {**obs, "action_mask": np.zeros(2, np.int8)}
    with pytest.raises(ValueError, match="no allowed arm"):
        agent.select_action(refused)
    if hasattr(agent, "select_actions"):
        with pytest.raises(ValueError, match="no allowed arm"):
            agent.select_actions([obs, refused])
    assert str(agent.state_dict()) == before
