"""The agent that mixes experts: `linear` alone is lin-ucb; late rewards, masks, resume."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import vitucb
from vitucb.agents.baselines.frozen_features import FrozenFeatures
from vitucb.agents.baselines.linear import LinearAgent
from vitucb.agents.expert_agent import ExpertAgent
from vitucb.agents.expert_build import ExpertContext, build_experts
from vitucb.agents.table import EXPERTS
from vitucb.config import AgentConfig, override
from vitucb.covariance.label_blocks import ridge_covariance
from vitucb.learning.experts.adapted.expert import AdaptedExpert
from vitucb.learning.experts.expert import Expert, Offer, Prediction
from vitucb.learning.experts.linear import LinearExpert
from vitucb.learning.experts.softmax import LabelExpert
from vitucb.learning.experts.weights import WeightRule
from vitucb.models.lora import lora_pairs
from vitucb.models.preprocess import Preprocess
from vitucb.policies import make_policy
from vitucb.seeding import numpy_generator
from vitucb.storage.state_files import load_state, save_state
from vitucb.types import Decision, Observation, Round, decision_from_state, decision_state

POLICIES = ("ucb", "thompson", "greedy", "epsilon-greedy", "boltzmann", "igw")
ALL = ("linear", "softmax", "logistic")


def image_arms(rounds: int) -> gym.Env[Any, Any]:
    return gym.make("vitucb/ImageArms-v0", num_arms=4, max_episode_steps=rounds)


def labels(rounds: int) -> gym.Env[Any, Any]:
    return gym.make("vitucb/ImageContext-v0", num_arms=4, max_episode_steps=rounds)


def configured(**settings: Any) -> AgentConfig:
    return override(AgentConfig(), settings)


class Pixels(torch.nn.Module):
    """A backbone whose features are sums of pixels: quick, and a little informative."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(6, 3 * 8 * 8, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (n, 6) of images (n, 3, 8, 8)."""
        return x.flatten(1) @ self.weight.T


def pixels(arms: int) -> FrozenFeatures:
    preprocess = Preprocess((8, 8), (0.5,) * 3, (0.5,) * 3)
    return FrozenFeatures(Pixels(), preprocess, limit_mib=1, arms=arms)


def small(
    names: tuple[str, ...] = ALL,
    *,
    policy: str = "ucb",
    joint: bool = False,
    discount: float = 1.0,
    rule: WeightRule | None = None,
    more: dict[str, Expert] | None = None,
) -> ExpertAgent:
    """An agent for `small_labels`, put together by hand."""
    makers: dict[str, Any] = {
        "linear": lambda: LinearExpert(6, num_blocks=3, ridge=0.1, discount=discount),
        "softmax": lambda: LabelExpert(6, 3, discount=discount),
        "logistic": lambda: LabelExpert(6, 3, likelihood="logistic", discount=discount),
    }
    experts = {name: makers[name]() for name in names} | (more or {})
    config = configured(policy={"name": policy, "alpha": 1.0, "joint": joint, "draws": 50}).policy
    return ExpertAgent(
        pixels(1), experts, make_policy(config), rule=rule, is_discounted=discount < 1
    )


def observations(count: int, seed: int = 0) -> list[tuple[Observation, int]]:
    """One image with three labels, and which of them is right."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (12, 1, 8, 8, 3), dtype=np.uint8)
    which, mask = rng.integers(0, 12, count), np.ones(3, np.int8)
    return [({"images": images[i], "action_mask": mask}, int(i) % 3) for i in which]


def play(agent: ExpertAgent, rounds: list[tuple[Observation, int]]) -> list[Decision]:
    decisions = []
    for obs, label in rounds:
        decisions.append(agent.select_action(obs))
        agent.update(obs, decisions[-1], float(decisions[-1].action == label))
    return decisions


def assert_same(one: Decision, two: Decision) -> None:
    assert (one.action, one.propensity, one.round) == (two.action, two.propensity, two.round)
    np.testing.assert_array_equal(one.mean, two.mean)
    np.testing.assert_array_equal(one.width, two.width)
    np.testing.assert_array_equal(one.bonus, two.bonus)
    np.testing.assert_array_equal(one.phi, two.phi)


def assert_same_play(ours: Iterable[Round], theirs: Iterable[Round]) -> None:
    for one, two in zip(ours, theirs, strict=True):
        assert one.decision.action == two.decision.action
        assert one.metrics["score/noise"] == two.metrics["score/noise"]
        assert one.metrics["covariance/log_det"] == two.metrics["covariance/log_det"]
        for name in ("mean", "width", "bonus"):
            np.testing.assert_array_equal(getattr(one.decision, name), getattr(two.decision, name))


@pytest.mark.parametrize("family", [image_arms, labels])
def test_linear_alone_is_lin_ucb_bit_for_bit(family: Any) -> None:
    alone = build_experts(AgentConfig(), family(12), 3, "cpu", experts=("linear",))
    lin_ucb = vitucb.make_agent("lin-ucb", family(12), seed=3)
    ours = vitucb.run(family(12), alone, seed=3)
    assert_same_play(ours, vitucb.run(family(12), lin_ucb, seed=3))


@pytest.mark.parametrize("family", [image_arms, labels])
@pytest.mark.parametrize("discount", [1.0, 0.97])
def test_linear_alone_is_the_linear_agent_over_many_rounds(family: Any, discount: float) -> None:
    blocks = 4 if family is labels else 1
    covariance = ridge_covariance(7, blocks, ridge=0.1, discount=discount)
    policy, rng = make_policy(configured().policy), numpy_generator(3, "policy")
    agent = LinearAgent(pixels(4 // blocks), covariance, policy, rng, discount)
    expert = LinearExpert(6, num_blocks=blocks, ridge=0.1, discount=discount)
    plain = make_policy(configured(policy={"alpha": 1.0}).policy)
    alone = ExpertAgent(pixels(4 // blocks), {"linear": expert}, plain, seed=3)
    ours = vitucb.run(family(200), alone, seed=3)
    assert_same_play(ours, vitucb.run(family(200), agent, seed=3))


@pytest.mark.parametrize("policy", POLICIES)
def test_propensities_sum_to_one_and_are_those_told_before(policy: str) -> None:
    agent = small(policy=policy)
    for obs, label in observations(25):
        told = agent.probabilities(obs)
        decision = agent.select_action(obs)
        assert told.sum() == pytest.approx(1.0)
        assert told[decision.action] == decision.propensity > 0
        agent.update(obs, decision, float(decision.action == label))


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_telling_probabilities_changes_nothing(discount: float) -> None:
    asked, other = small(discount=discount), small(discount=discount)
    for obs, label in observations(15):
        asked.probabilities(obs)
        one, two = asked.select_action(obs), other.select_action(obs)
        assert_same(one, two)
        for agent in (asked, other):
            agent.update(obs, one, float(one.action == label))


def test_joint_draws_without_a_correlation_are_as_independent_ones() -> None:
    agent = small(("softmax",), policy="thompson", joint=True)
    obs, _ = observations(1)[0]
    # No width at all: the largest mean, and all alike at first.
    np.testing.assert_allclose(agent.probabilities(obs), 1 / 3, atol=0.3)


def test_joint_draws_use_the_correlation_of_linear() -> None:
    agent = small(("linear", "softmax"), policy="thompson", joint=True)
    play(agent, observations(20))
    obs, _ = observations(1)[0]
    assert agent.probabilities(obs).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("policy", POLICIES)
def test_masked_arms_are_never_chosen(policy: str) -> None:
    agent = small(policy=policy)
    for t, (obs, label) in enumerate(observations(30)):
        mask = np.roll(np.array([1, 1, 0], np.int8), t)
        decision = agent.select_action({"images": obs["images"], "action_mask": mask})
        assert mask[decision.action] == 1
        agent.update(obs, decision, float(decision.action == label))


@pytest.mark.parametrize("discount", [1.0, 0.95])
def test_restored_agent_continues_identically_with_decisions_that_wait(
    tmp_path: Path, discount: float
) -> None:
    agent, restored = small(discount=discount), small(discount=discount)
    play(agent, observations(30))
    waiting = [(obs, agent.select_action(obs), label) for obs, label in observations(4, seed=1)]
    save_state(agent.state_dict(), tmp_path)
    restored.load_state_dict(load_state(tmp_path))
    for obs, decision, label in (waiting[i] for i in (2, 0, 3)):
        saved = decision_from_state(decision_state(decision), agent)
        agent.update(obs, decision, float(decision.action == label))
        restored.update(obs, saved, float(decision.action == label))
    more = observations(30, seed=2)
    for one, two in zip(play(agent, more), play(restored, more), strict=True):
        assert_same(one, two)
    assert agent.weights.metrics() == restored.weights.metrics()


def test_late_rewards_judge_what_was_expected_at_the_choice() -> None:
    agent = small(("linear", "softmax"), rule=WeightRule(discount=1.0))
    first = observations(1)[0][0]
    decision = agent.select_action(first)
    play(agent, observations(20))
    losses, scale = agent.weights.losses, 1.0
    agent.update(first, decision, 1.0)
    # Untrained, linear expected 0 and softmax 1/3 of a reward of 1.
    gained = [agent.weights.losses[name] - losses[name] for name in ("linear", "softmax")]
    assert gained[0] / gained[1] == pytest.approx((scale / (1 - 1 / 3)) ** 2)


def test_lost_rewards_and_any_order_do_no_harm() -> None:
    agent = small()
    waiting = [(obs, agent.select_action(obs), label) for obs, label in observations(30)]
    for i in np.random.default_rng(0).permutation(30)[:20].tolist():
        obs, decision, label = waiting[i]
        metrics = agent.update(obs, decision, float(decision.action == label))
    weights = [value for key, value in metrics.items() if key.startswith("expert/weight/")]
    assert sum(weights) == pytest.approx(1.0)
    assert np.isfinite(list(metrics.values())).all()


def test_a_batch_of_rewards_is_as_one_after_the_other() -> None:
    one, two = small(), small()
    waiting = [(obs, one.select_action(obs), label) for obs, label in observations(6)]
    two.select_actions([obs for obs, _, _ in waiting])
    feedback = [(obs, d, float(d.action == label)) for obs, d, label in waiting]
    for part in feedback:
        last = one.update(*part)
    assert two.update_batch(feedback) == last
    assert two.update_batch([]) == {}


def test_a_batch_of_contexts_is_as_one_after_the_other() -> None:
    one, two = small(), small()
    play(one, observations(10))
    play(two, observations(10))
    contexts = [obs for obs, _ in observations(5, seed=1)]
    for a, b in zip(
        [one.select_action(obs) for obs in contexts], two.select_actions(contexts), strict=True
    ):
        assert_same(a, b)


class Sleepyhead:
    """Always wrong until it has been woken; counts what it is asked."""

    def __init__(self) -> None:
        self.asked, self.naps, self.awakenings = 0, 0, 0

    def predict(self, offer: Offer) -> Prediction:
        self.asked += 1
        wild = np.full(offer.num_arms, 1.0 if self.asked % 2 else 0.0)
        return Prediction(wild, np.zeros_like(wild), np.zeros_like(wild))

    def choose(self, offer: Offer, action: int) -> None:
        pass

    def observe(self, offer: Offer, action: int, reward: float, age: int) -> dict[str, float]:
        return {}

    def sleep(self) -> None:
        self.naps += 1

    def wake(self) -> None:
        self.awakenings += 1

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.asked = int(state["asked"])


def test_an_expert_asleep_is_not_asked_and_is_told_when_it_sleeps_and_wakes() -> None:
    sleeper = Sleepyhead()
    rule = WeightRule(eta=2.0, patience=30)
    agent = small(("linear",), rule=rule, more={"sleepyhead": sleeper})
    decisions = play(agent, observations(300))
    expected = np.stack([decision.phi.numpy() for decision in decisions])
    assert sleeper.naps >= 1
    assert sleeper.awakenings >= 1
    assert sleeper.asked == np.isfinite(expected[:, 1]).sum() < 300
    assert np.isfinite(expected[:, 0]).all()


def test_the_state_of_other_experts_is_refused() -> None:
    with pytest.raises(ValueError, match="the state is of the experts linear; this agent has"):
        small().load_state_dict(small(("linear",)).state_dict())


def test_metrics_tell_weight_loss_and_sleep_of_every_expert() -> None:
    agent = small()
    obs, _ = observations(1)[0]
    metrics = agent.update(obs, agent.select_action(obs), 0.0)
    wanted = {f"expert/{what}/{name}" for what in ("weight", "loss", "asleep") for name in ALL}
    assert wanted <= set(metrics)


@pytest.mark.parametrize("policy", ["ucb", "thompson"])
def test_labels_are_learnt(policy: str) -> None:
    rounds = observations(150)
    decisions = play(small(("linear", "softmax"), policy=policy), rounds)
    hits = [d.action == label for d, (_, label) in zip(decisions, rounds, strict=True)]
    assert np.mean(hits[-75:]) > 0.5  # a random choice has a third


def fixed_expert(context: ExpertContext) -> LinearExpert:
    """A factory to be found by import path."""
    return LinearExpert(context.num_features, num_blocks=4, alpha=2.0)


def test_experts_are_found_by_import_path() -> None:
    path = f"{__name__}:fixed_expert"
    agent = build_experts(AgentConfig(), labels(3), 0, "cpu", experts=("linear", path))
    assert list(agent.experts) == ["linear", path]
    assert [r.index for r in vitucb.run(labels(3), agent, seed=0)] == [0, 1, 2]


def test_unknown_experts_are_named() -> None:
    with pytest.raises(ValueError, match="unknown expert 'lienar'; did you mean 'linear'"):
        build_experts(AgentConfig(), labels(3), 0, "cpu", experts=("lienar",))


@pytest.mark.parametrize("experts", [(), ("linear", "linear")])
def test_experts_are_named_once_each(experts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="name at least one, each once"):
        build_experts(AgentConfig(), labels(3), 0, "cpu", experts=experts)


def test_label_experts_are_refused_where_every_arm_has_an_image() -> None:
    with pytest.raises(ValueError, match="'softmax' is for one image with K labels"):
        build_experts(AgentConfig(), image_arms(3), 0, "cpu", experts=("softmax",))


def test_the_discount_must_be_in_range() -> None:
    with pytest.raises(ValueError, match=r"agent.training.discount 2.0 must be in"):
        configured(training={"discount": 2.0})


def test_every_expert_of_the_table_can_be_built() -> None:
    names = tuple(name for name in EXPERTS if name != "kernel")
    assert set(build_experts(AgentConfig(), labels(3), 0, "cpu", names).experts) == set(names)
    both = build_experts(AgentConfig(), image_arms(3), 0, "cpu", ("kernel", "adapted"))
    assert list(both.experts) == ["kernel", "adapted"]


@pytest.mark.parametrize(
    ("family", "experts"),
    [
        (image_arms, ["kernel", "linear"]),
        (labels, ["linear", "softmax", "kernel-softmax", "adapted"]),
    ],
)
def test_experts_follow_from_whether_arms_share_an_image(family: Any, experts: list[str]) -> None:
    agent = vitucb.make_agent("vit-ucb", family(3), lora={"rank": 1})
    assert isinstance(agent, ExpertAgent)
    assert list(agent.experts) == experts


@pytest.mark.parametrize(
    ("settings", "rank", "layers"),
    [
        ({}, 8, 16),
        ({"use_dora": True}, 8, 16),
        ({"blocks": [-1]}, 8, 4),
        ({"blocks": "last-half", "targets": ["qkv"]}, 8, 2),
        ({"rank": 4}, 4, 16),
        ({"rank": 16}, 16, 16),
    ],
    ids=str,
)
def test_adapters_keep_what_is_not_given_where_other_settings_are(
    settings: dict[str, Any], rank: int, layers: int
) -> None:
    agent = vitucb.make_agent("vit-ucb", labels(3), lora=settings)
    assert isinstance(agent, ExpertAgent)
    adapted = agent.experts["adapted"]
    assert isinstance(adapted, AdaptedExpert)
    pairs = lora_pairs(adapted.network.model)
    assert [(len(pair.A), pair.scaling) for pair in pairs] == [(rank, 2.0)] * layers


def test_settings_of_training_that_nobody_uses_are_told_or_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    vitucb.make_agent("vit-ucb", image_arms(3), optimizer="lora-rite", lora={"rank": 1})
    assert "setting agent.lora and agent.optimizer has no effect; add adapted" in caplog.text
    with pytest.raises(ValueError, match="did you mean 'lora-rite'"):
        vitucb.make_agent("vit-ucb", image_arms(3), optimizer="lora-rit")


def test_state_of_the_network_alone_is_refused_with_the_remedy() -> None:
    alone = vitucb.make_agent("vit-ucb", image_arms(3), experts=["adapted"], lora={"rank": 1})
    mixed = vitucb.make_agent("vit-ucb", image_arms(3))
    with pytest.raises(ValueError, match=r"set agent\.experts adapted"):
        mixed.load_state_dict(alone.state_dict())


def test_a_buffer_that_the_caller_fills_again_is_not_learnt_from() -> None:
    env = labels(5)
    agent = build_experts(configured(), env, 0, "cpu", ("linear", "adapted"))
    obs, _ = env.reset(seed=0)
    buffer = {name: np.array(values) for name, values in obs.items()}
    decision = agent.select_action(buffer)
    shown = buffer["images"].copy()
    buffer["images"][:] = 7
    agent.update(buffer, decision, 1.0)
    adapted = agent.experts["adapted"]
    assert isinstance(adapted, AdaptedExpert)
    np.testing.assert_array_equal(adapted.replay.items(np.array([0])).images[0], shown[0])


def test_the_state_of_experts_in_another_order_is_refused_and_changes_nothing() -> None:
    env = image_arms(5)
    one, two = (
        build_experts(configured(), env, 0, "cpu", names)
        for names in (("kernel", "linear"), ("linear", "kernel"))
    )
    before = two.state_dict()
    with pytest.raises(ValueError, match="in this order"):
        two.load_state_dict(one.state_dict())
    assert two.weights.losses == dict.fromkeys(before["experts"], 0.0)
