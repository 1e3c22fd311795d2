"""ViT-UCB: what is adapted and tracked, determinism, resume, masks, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import vitucb
from tests.covering import every_third
from vitucb.agents.ridges import covariance_ridge, head_ridge
from vitucb.agents.vit_ucb import ViTUCB
from vitucb.config import AgentConfig, CovarianceConfig
from vitucb.models.lora import lora_pairs
from vitucb.optim.chains.chain import Chain
from vitucb.storage.state_files import load_state, save_state
from vitucb.types import Round

SMALL = {"experts": ["adapted"], "training": {"batch_size": 4}, "lora": {"rank": 2}}


def make(env: gym.Env[Any, Any], seed: int = 0, **overrides: Any) -> ViTUCB:
    agent = vitucb.make_agent("vit-ucb", env, seed=seed, **(SMALL | overrides))
    assert isinstance(agent, ViTUCB)
    return agent


def arms(num_arms: int = 3, rounds: int = 18, **options: Any) -> gym.Env[Any, Any]:
    return gym.make("vitucb/ImageArms-v0", num_arms=num_arms, max_episode_steps=rounds, **options)


def played(rounds: int = 18, seed: int = 0, **overrides: Any) -> tuple[ViTUCB, list[Round]]:
    env = arms(rounds=rounds)
    agent = make(env, seed, **overrides)
    return agent, list(vitucb.run(env, agent, seed=seed))


def test_every_block_is_adapted_and_every_adapter_tracked() -> None:
    agent = make(arms())
    pairs = lora_pairs(agent.trainer.model)
    tracked = sum(pair.A.numel() + pair.B.numel() for pair in pairs)
    assert agent.parameters["adapted_tensors"] == 2 * len(pairs)
    assert agent.parameters["tracked_features"] == agent.covariance.dim == tracked
    layers = {".".join(pair.name.split(".")[-2:]) for pair in pairs}
    assert layers == {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}
    assert not any("patch_embed" in pair.name for pair in pairs)


def test_targets_and_blocks_restrict_the_adapters() -> None:
    agent = make(arms(), lora={"targets": ["qkv"], "blocks": [-1]})
    assert [pair.name.split("blocks.")[1] for pair in lora_pairs(agent.trainer.model)] == [
        "3.attn.qkv"
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"lora": {"targets": ["query"]}}, r"lora.targets\[0\]: expected one of qkv"),
        ({"lora": {"blocks": [7]}}, "lora.blocks"),
        ({"lora": {"rank": 0}}, "lora.rank 0"),
        ({"lora": {"init": "eva"}}, "lora.init 'eva' is taken from images"),
        ({"lora": {"init": "lora_ga"}}, "lora.init 'lora_ga' is taken from rewards"),
        ({"lora": {"init": "adalora"}}, "lora.init 'adalora' prunes ranks by a schedule"),
        ({"head_ridge": 0.0}, "agent.head_ridge 0.0"),
        ({"optimizer": "adamv"}, "did you mean 'adamw'"),
        ({"backbone": "vitucb-nona"}, "vitucb-nano"),
        ({"backbne": "vitucb-nano"}, "did you mean 'backbone'"),
    ],
)
def test_bad_setting_is_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(arms(), **overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        pytest.param({"head": "gradient"}, marks=pytest.mark.slow),
        pytest.param({"features": "last-layer"}, marks=pytest.mark.slow),
        {"optimizer": {"name": "lora-plus", "options": {"ratio": 4.0}}, "covariance": "diagonal"},
        {
            "training": {
                "batch_size": 4,
                "update_every": 3,
                "gradient_steps": 2,
                "replay_capacity": 10,
            }
        },
    ],
)
def test_same_seed_same_run_and_every_choice_enters_once(overrides: dict[str, Any]) -> None:
    agent, first = played(**overrides)
    _, second = played(**overrides)
    for one, two in zip(first, second, strict=True):
        assert one.decision.action == two.decision.action
        np.testing.assert_array_equal(one.decision.mean, two.decision.mean)
        np.testing.assert_array_equal(one.decision.width, two.decision.width)
    kept = min(16, agent.trainer.replay.capacity)
    assert agent.covariance.count == kept + 18 % 16
    assert all(np.isfinite(r.decision.mean).all() for r in first)
    assert all((r.decision.width > 0).all() for r in first)


def test_two_seeds_differ() -> None:
    one, two = (played(rounds=2, seed=seed)[1][0] for seed in (0, 1))
    assert not np.array_equal(one.decision.mean, two.decision.mean)


@pytest.mark.parametrize("policy", ["ucb", "thompson", "greedy", "boltzmann"])
def test_the_bonus_of_rewards_of_0_and_1_is_in_their_unit(policy: str) -> None:
    _, rounds = played(link="bernoulli", policy={"name": policy, "alpha": 2.0})
    for r in rounds:
        upper = r.decision.mean + r.decision.bonus
        assert ((upper > 0) & (upper < 1)).all()
    if policy == "ucb":
        assert all(
            r.decision.action == (r.decision.mean + r.decision.bonus).argmax() for r in rounds
        )


VARIANTS: list[dict[str, Any]] = [
    {},
    {"head": "gradient"},
    {"link": "bernoulli"},
    {"link": "bernoulli", "head": "gradient", "policy": "thompson"},
    {"readout": "head", "training": {"batch_size": 4, "rebuild": "doubling"}},
    {"features": "both", "policy": {"name": "thompson", "joint": True}},
    {"features": "last-layer", "covariance": "dense", "policy": {"radius": "oful"}},
    {"covariance": {"name": "low-rank", "rank": 16}, "policy": {"radius": "constant"}},
    {
        "training": {"batch_size": 4, "discount": 0.9, "replay": "window", "replay_capacity": 8},
        "policy": "igw",
    },
    {"training": {"batch_size": 4, "reset_on_drift": True}},
    {"precision": "bfloat16", "prefix_cache_mib": 0},
]


@pytest.mark.parametrize("overrides", every_third(VARIANTS, 2), ids=str)
def test_restored_agent_continues_identically(overrides: dict[str, Any], tmp_path: Path) -> None:
    env = arms(rounds=20)
    agent, tail = make(env, **overrides), []
    for r in vitucb.run(env, agent, seed=0):
        if r.index == 16:
            save_state(agent.state_dict(), tmp_path)
        elif r.index > 16:
            tail.append(r)
    # A projection comes from the seed; nothing else does.
    restored = make(arms(), seed=0 if "rank" in str(overrides) else 5, **overrides)
    restored.load_state_dict(load_state(tmp_path))
    assert len(tail) == 3
    for r in tail:
        decision = restored.select_action(r.observation)
        assert decision.action == r.decision.action
        np.testing.assert_array_equal(decision.mean, r.decision.mean)
        np.testing.assert_array_equal(decision.width, r.decision.width)
        restored.update(r.observation, decision, r.reward)


@pytest.mark.parametrize("overrides", VARIANTS, ids=str)
def test_probabilities_change_nothing_and_match_the_decision(overrides: dict[str, Any]) -> None:
    agent, rounds = played(rounds=3, **overrides)
    for r in rounds:
        obs = r.observation
        told = agent.probabilities(obs)
        np.testing.assert_array_equal(told, agent.probabilities(obs))
        decision = agent.select_action(obs)
        assert told[decision.action] == pytest.approx(decision.propensity, abs=0.1)
        assert told.sum() == pytest.approx(1.0)


def test_refused_probabilities_of_a_discounted_agent_change_nothing() -> None:
    agent, rounds = played(rounds=3, training={"discount": 0.8})
    obs, log_det = dict(rounds[-1].observation), agent.covariance.log_det
    obs["action_mask"] = np.zeros_like(obs["action_mask"])
    with pytest.raises(ValueError, match="no allowed arm"):
        agent.probabilities(obs)
    assert agent.covariance.log_det == log_det


def test_without_gradient_steps_the_head_in_closed_form_learns_and_adapters_stay() -> None:
    agent, rounds = played(rounds=12, training={"gradient_steps": 0, "batch_size": 4})
    fresh = make(arms())
    assert not torch.equal(agent.trainer.model.head.weight, fresh.trainer.model.head.weight)
    for now, start in zip(
        lora_pairs(agent.trainer.model), lora_pairs(fresh.trainer.model), strict=True
    ):
        assert torch.equal(now.A, start.A)
        assert torch.equal(now.B, start.B)
    assert rounds[-1].metrics["train/loss"] > 0


@pytest.mark.parametrize(
    "lora",
    [
        {"init": "pissa"},
        {"init": "olora"},
        {"init": "orthogonal", "rank": 4},
        {"use_rslora": True},
        {"use_dora": True, "blocks": [-1], "targets": ["qkv"]},
    ],
    ids=str,
)
def test_variants_of_lora_train(lora: dict[str, Any]) -> None:
    env = arms(rounds=2)
    agent = make(env, lora={"rank": 2} | lora)
    before = {n: p.clone() for n, p in agent.trainer.model.named_parameters() if p.requires_grad}
    list(vitucb.run(env, agent, seed=0))
    after = dict(agent.trainer.model.named_parameters())
    moved = {name for name, old in before.items() if not torch.equal(old, after[name])}
    assert {name for name in before if "lora_B" in name or "magnitude" in name} <= moved


def test_sketch_reports_its_error() -> None:
    _, rounds = played(covariance={"name": "low-rank", "rank": 16})
    found = rounds[15].metrics
    assert found["covariance/stale_ratio"] > 0
    assert found["covariance/certificate"] >= 0
    assert 0.8 < found["covariance/sketch_ratio_low"] <= found["covariance/sketch_ratio_high"] < 1.2


@pytest.mark.parametrize("overrides", every_third(VARIANTS), ids=str)
def test_one_image_can_be_the_context_of_all_arms(overrides: dict[str, Any]) -> None:
    env = gym.make("vitucb/ImageContext-v0", num_arms=3, max_episode_steps=18)
    agent = make(env, **overrides)
    rounds = list(vitucb.run(env, agent, seed=0))
    assert agent.trainer.model.head.out_features == 3
    assert all(r.decision.mean.shape == r.decision.width.shape == (3,) for r in rounds)
    assert all(np.isfinite(r.decision.mean).all() for r in rounds)
    actions = agent.trainer.replay.items(slice(None)).actions.tolist()
    assert actions == [r.decision.action for r in rounds][-len(actions) :] or len(actions) == 8


def test_actions_that_share_an_image_keep_intercepts_and_get_small_ridges() -> None:
    env = gym.make("vitucb/ImageContext-v0", num_arms=3, max_episode_steps=18)
    shared = make(env, features="last-layer")
    for played in vitucb.run(env, shared, seed=0):
        phi = played.decision.phi
    assert not shared.history.scale.is_centring  # not even after the rebuild at round 16
    assert phi is not None
    block = len(phi) // 3
    assert int((phi.view(3, block) != 0).any(dim=1).sum()) == 1  # no part of the others' means
    assert shared.covariance.ridge == pytest.approx(0.1)
    alone = make(gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=18))
    assert alone.history.scale.is_centring
    assert alone.covariance.ridge == pytest.approx(2.0)


@pytest.mark.parametrize(("env_id", "expected"), [("ImageArms", 1.0), ("ImageContext", 0.1)])
def test_ridges_are_those_of_the_family_unless_given(env_id: str, expected: float) -> None:
    env = gym.make(f"vitucb/{env_id}-v0", max_episode_steps=1)
    assert head_ridge(AgentConfig(), env) == expected
    assert head_ridge(AgentConfig(head_ridge=3.0), env) == 3.0
    given = AgentConfig(covariance=CovarianceConfig(ridge=5.0))
    assert covariance_ridge(given, env) == 5.0


def test_batch_of_contexts_equals_one_by_one_without_training() -> None:
    _, rounds = played(rounds=6)
    observations = [r.observation for r in rounds]
    together = make(arms()).select_actions(observations)
    agent = make(arms())
    single = [agent.select_action(obs) for obs in observations]
    for one, two in zip(together, single, strict=True):
        assert one.action == two.action
        np.testing.assert_allclose(one.mean, two.mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(one.width, two.width, rtol=1e-4)


def test_rewards_may_come_late_and_in_any_order() -> None:
    agent, rounds = played(rounds=3)
    decided = [(r.observation, agent.select_action(r.observation)) for r in rounds * 6]
    late = [(obs, decision, float(i % 2)) for i, (obs, decision) in enumerate(decided)]
    agent.update_batch(late[::-1])
    assert agent.covariance.count == 21
    assert len(agent.trainer.replay) == 21


def test_logistic_agent_refuses_other_rewards() -> None:
    env = arms(reward="gaussian")
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        list(vitucb.run(env, make(env, link="bernoulli"), seed=0))


def test_a_decision_keeps_the_features_of_its_own_arm_alone() -> None:
    env = arms()
    obs, _ = env.reset(seed=0)
    phi = make(env).select_action(obs).phi
    assert phi.untyped_storage().nbytes() == phi.nbytes


def test_of_a_batch_with_a_reward_that_the_link_refuses_none_is_learnt() -> None:
    env = arms()
    agent = make(env, link="bernoulli")
    obs, _ = env.reset(seed=0)
    decisions = agent.select_actions([obs, obs])
    with pytest.raises(ValueError, match=r"reward 2.0 is outside \[0, 1\]"):
        agent.update_batch([(obs, decisions[0], 1.0), (obs, decisions[1], 2.0)])
    assert len(agent.trainer.replay) == 0
    agent.update_batch([(obs, decision, 1.0) for decision in decisions])
    assert len(agent.trainer.replay) == 2


@pytest.mark.parametrize("name", ["rac-lora", "bernoulli-lora", "cola", "asymmetric-lora"])
def test_draws_of_the_optimizer_follow_the_seed_of_the_run_unless_given_one(name: str) -> None:
    def draws(of_run: int, **options: Any) -> torch.Tensor:
        agent = make(arms(), of_run, optimizer={"name": name, "options": options})
        chain = agent.trainer.optimizer
        assert isinstance(chain, Chain)
        return chain.draws.get_state()

    assert torch.equal(draws(0), draws(0))
    assert not torch.equal(draws(0), draws(1))
    assert torch.equal(draws(0, seed=7), draws(1, seed=7))


def test_a_discounted_window_weighs_every_reward_by_its_age() -> None:
    training = {"batch_size": 4, "discount": 0.9, "replay": "window", "replay_capacity": 8}
    trainer = make(arms(), training=training, lora={"rank": 2, "blocks": [-1]}).trainer
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    for round, image in enumerate(images):  # the reward in a slot is always the same
        trainer.observe(image, float(round % 2))
    weights = trainer.state_dict()["head"]["weights"]
    np.testing.assert_allclose(weights, 0.9 ** np.arange(7, -1, -1))


def test_masked_arms_are_never_chosen() -> None:
    agent, rounds = played(rounds=2)
    mask = np.array([1, 0, 0], np.int8)
    for r in rounds:
        obs = {"images": r.observation["images"], "action_mask": mask}
        assert agent.select_action(obs).action == 0


def test_number_of_arms_may_change() -> None:
    agent, rounds = played(rounds=3)
    obs = {
        "images": np.concatenate([rounds[0].observation["images"]] * 2),
        "action_mask": np.ones(6, np.int8),
    }
    decision = agent.select_action(obs)
    assert decision.mean.shape == decision.width.shape == (6,)
    agent.update(obs, decision, 1.0)


def test_frozen_weights_stay_frozen_and_adapters_move() -> None:
    env = arms(rounds=4)
    agent = make(env)
    before = {n: p.detach().clone() for n, p in agent.trainer.model.named_parameters()}
    for _ in vitucb.run(env, agent, seed=0):
        pass
    for name, parameter in agent.trainer.model.named_parameters():
        moved = not torch.equal(before[name], parameter)
        assert moved == ("lora_" in name or name.startswith("head")), name


def test_learns_which_of_two_digits_pays() -> None:
    env = arms(2, 100, class_rewards=[0.05, 0.95, *[0.5] * 8])
    regret = list(vitucb.run(env, make(env), seed=0))[-1].cumulative_regret
    env = arms(2, 100, class_rewards=[0.05, 0.95, *[0.5] * 8])
    random = list(vitucb.run(env, vitucb.make_agent("random", env), seed=0))[-1]
    assert regret < 0.7 * random.cumulative_regret
