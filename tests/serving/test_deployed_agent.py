"""An agent in somebody else's loop: late rewards, lost rewards, threads, every agent."""

from __future__ import annotations

import copy
import json
import pickle
import re
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vitucb
from vitucb.agents import AGENTS
from vitucb.agents.expert_agent import ExpertAgent
from vitucb.serving.answers import Counts, Receipt
from vitucb.serving.deployed_agent import DeployedAgent
from vitucb.types import Decision, Observation, State

DOCS = Path(__file__).resolve().parents[2] / "docs"
SMALL: dict[str, dict[str, Any]] = {
    "vit-ucb": {"lora": {"rank": 1}, "training": {"batch_size": 4}},
    "neural-ucb": {"options": {"hidden": 8, "steps": 1}},
    "neural-ts": {"options": {"hidden": 8, "steps": 1}},
    "neural-linear": {"options": {"refresh_every": 3, "steps": 1}, "lora": {"rank": 1}},
    "full-finetune": {"training": {"batch_size": 2}},
    "prototype": {"options": {"rank": 1, "replay": 3}},
}
INFORMED = ("oracle", "best-fixed-arm")
PLAYABLE = [name for name in AGENTS if name not in INFORMED]


def pictures(seed: int, arms: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (arms, 8, 8, 3), np.uint8)


def deploy(name: str = "ucb1", **settings: Any) -> DeployedAgent:
    return vitucb.deploy(name, **({"num_arms": 3} | SMALL.get(name, {}) | settings))


class Lone:
    """An agent that notices when two threads are in it at once, and keeps what it is given."""

    def __init__(self) -> None:
        self.inside, self.met, self.seen = 0, False, [np.zeros(0)] * 0

    def _alone(self) -> None:
        self.inside += 1
        sum(range(300))  # long enough to be interrupted
        self.met |= self.inside != 1
        self.inside -= 1

    def select_action(self, obs: Observation) -> Decision:
        self._alone()
        zeros = np.zeros(len(obs["action_mask"]))
        return Decision(1, 1.0, zeros, zeros, None, 0, zeros)

    def update(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        self._alone()
        self.seen.append(obs["images"])
        return {}

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        pass


def build_lone(*_: object) -> Lone:
    return Lone()


def approx(metrics: dict[str, float], close: float) -> Any:
    return pytest.approx(metrics, rel=close, abs=0) if close else metrics


@pytest.mark.parametrize("name", PLAYABLE)
def test_what_is_kept_is_all_that_the_agent_learns_from(name: str) -> None:
    deployed = deploy(name, seed=2)
    agent = vitucb.make_agent(
        name, deployed.blueprint.stand_in(), seed=2, config=deployed.blueprint.config
    )
    # The image chosen is kept, and not those beside it: of a product of one row the last bits may,
    # on some processors, be others than in one of three.
    close = 1e-12 if name in ("kernel-ucb", "vit-ucb") else 0.0
    waiting: list[tuple[str, Observation, Decision]] = []
    for t in range(10):
        obs = {"images": pictures(t), "action_mask": np.array([1, 1, t % 2], np.int8)}
        ours, theirs = deployed.act(obs["images"], obs["action_mask"]), agent.select_action(obs)
        assert (ours.action, ours.propensity) == (theirs.action, theirs.propensity)
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=close, atol=0)
        np.testing.assert_allclose(ours.width, theirs.width, rtol=close, atol=0)
        waiting.append((ours.id, obs, theirs))
        if t % 3 == 2:  # the newest first, and every third reward is lost
            for name_, seen, decision in (waiting[-1], waiting[-2]):
                reward = float(decision.action == 1)
                expected = agent.update(seen, decision, reward)
                assert deployed.observe(name_, reward).metrics == approx(expected, close)


@pytest.mark.parametrize("name", INFORMED)
def test_agents_that_read_their_environment_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="needs an environment with expected_rewards"):
        deploy(name)


def test_one_image_may_be_the_context_of_all_arms() -> None:
    agent = deploy("lin-ucb", shares_image=True, num_arms=4)
    decision = agent.act(pictures(0)[0], [0, 1, 1, 0])
    assert decision.action in (1, 2)
    assert decision.mean.shape == (4,)
    assert agent.observe(decision.id, 1.0).is_learnt
    assert agent.act(pictures(1)[:1]).mean.any()


def test_every_answer_has_its_receipt() -> None:
    agent = deploy("beta-ts", max_unanswered=2)
    first, second, third = (agent.act(pictures(t)).id for t in range(3))
    receipts = agent.observe_batch(
        [(first, 1.0), (second, 7.0), (second, float("nan")), (second, 1), (second, 0.0), ("x", 1)]
    )
    outcomes = ["forgotten", "refused", "refused", "learnt", "answered", "unknown"]
    assert [receipt.outcome for receipt in receipts] == outcomes
    for receipt, words in zip(
        receipts,
        ["max_unanswered 2", "not in [0, 1]", "not finite", "", "counts once", "another agent"],
        strict=True,
    ):
        assert words in receipt.reason
    assert agent.observe(third, True) == Receipt(third, "learnt")
    assert agent.counts == Counts(3, learnt=2, waiting=0, forgotten=1, not_learnt=5, refused=2)
    fourth = agent.act(pictures(3)).id
    with pytest.raises(TypeError, match="reward '1' is no number"):
        agent.observe_batch([(fourth, 1.0), (fourth, "1")])  # type: ignore[list-item]  # on purpose
    assert agent.counts.waiting == 1


def test_out_of_order_and_half_never_answered_nothing_is_lost_and_memory_is_flat(
    caplog: pytest.LogCaptureFixture,
) -> None:
    agent, rng, cap = deploy("ucb1", max_unanswered=40), np.random.default_rng(0), 40
    on_their_way: list[str] = []
    sent, held = 0, []
    for t in range(600):
        decision = agent.act(pictures(t))
        if rng.random() < 0.5:
            on_their_way.append(decision.id)
        if t % 20 == 19:  # late, but before more than 40 decisions wait
            for index in rng.permutation(len(on_their_way)):
                assert agent.observe(on_their_way[index], 1.0).is_learnt
            sent += len(on_their_way)
            on_their_way.clear()
        held.append(agent.num_held)
    counts = agent.counts
    assert counts.learnt == sent
    assert agent.agent.state_dict()["pulls"].sum() == sent
    assert sent > 200
    assert max(held) <= 2 * cap
    assert counts.waiting <= cap
    assert counts.decided == 600 == counts.learnt + counts.waiting + counts.forgotten
    assert caplog.text.count("max_unanswered 40") == 1  # told once, not 300 times


def test_threads_take_turns_and_no_reward_is_lost() -> None:
    agent = vitucb.deploy(f"{__name__}:build_lone", num_arms=3)
    lone = agent.agent
    assert isinstance(lone, Lone)
    names: list[str] = []

    def work(seed: int) -> None:
        mine = [agent.act(pictures(seed)).id for _ in range(50)]
        mine += [d.id for d in agent.act_batch([pictures(seed)] * 10)]
        names.extend(mine)
        agent.observe_batch([(name, 1.0) for name in mine[1::2]])
        for name in mine[::2]:
            agent.observe(name, 0.0)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not lone.met
    assert len(set(names)) == 240
    assert agent.counts == Counts(240, 240, 0, 0, 0)
    # An agent that is not ours gets the whole observation back.
    assert all(any(np.array_equal(s, pictures(k)) for k in range(4)) for s in lone.seen)


def test_a_vision_transformer_learns_from_two_threads() -> None:
    agent = deploy("vit-ucb")
    failed: list[Exception] = []

    def work(seed: int) -> None:
        try:
            names = [d.id for d in agent.act_batch([pictures(seed), pictures(seed + 1, arms=2)])]
            names += [agent.act(pictures(seed + t)).id for t in range(5)]
            for name in reversed(names):
                assert np.isfinite(agent.observe(name, 1.0).metrics["score/noise"])
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(10 * k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert agent.counts.learnt == 14


def test_rewards_learnt_before_one_that_fails_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = deploy()
    ids = [agent.act(pictures(seed)).id for seed in range(3)]
    learn = agent.agent.update

    def fails_later(obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        if reward == 2:
            raise RuntimeError("out of memory")
        return learn(obs, decision, reward)

    monkeypatch.setattr(agent.agent, "update", fails_later)
    with pytest.raises(RuntimeError, match="out of memory"):
        agent.observe_batch(zip(ids, (1.0, 2.0, 1.0), strict=True))
    # The one that failed may be half learnt, and does not wait on.
    assert agent.counts == Counts(decided=3, learnt=1, waiting=1, forgotten=0, not_learnt=0)


def test_decisions_carry_no_features() -> None:
    agent = deploy("vit-ucb")
    decisions = [agent.act(pictures(0)), *agent.act_batch([pictures(1)])]
    assert [decision.phi for decision in decisions] == [None, None]
    assert agent.act_batch([]) == []


@pytest.mark.parametrize(
    ("images", "mask", "kind", "words"),
    [
        (pictures(0).astype(np.float32), None, TypeError, "images are float32; give uint8"),
        (pictures(0)[0], None, ValueError, r"shape \(8, 8, 3\); give \(K, H, W, C\)"),
        (pictures(0, arms=4), None, ValueError, "4 images for an agent of 3 arms"),
        (pictures(0, arms=0), None, ValueError, "shape"),
        ([*pictures(0)[:2], np.zeros((4, 4, 3))], None, ValueError, r"in shape: \(4, 4, 3\), \(8"),
        (pictures(0), [1, 1], ValueError, "must have 3 values 0 or 1"),
        (pictures(0), [0, 0, 0], ValueError, "allow at least one"),
        (pictures(0), [1, 2, 0], ValueError, "must have 3 values 0 or 1"),
    ],
)
def test_input_that_does_not_fit_is_named(
    images: Any, mask: list[int] | None, kind: type[Exception], words: str
) -> None:
    agent = deploy()
    with pytest.raises(kind, match=words):
        agent.act(images, mask)
    with pytest.raises(kind, match=words):
        agent.act_batch([pictures(0), images], [None, mask])
    assert agent.counts.decided == 0


def test_the_context_of_all_arms_is_one_image() -> None:
    agent = deploy("lin-ucb", shares_image=True)
    with pytest.raises(ValueError, match="the context of all arms"):
        agent.act(pictures(0))


def test_one_arm_cannot_share_an_image() -> None:
    with pytest.raises(ValueError, match="num_arms 1 is too few"):
        deploy("lin-ucb", shares_image=True, num_arms=1)


def test_example_of_the_docs_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (DOCS / "take_away.md").read_text(encoding="utf-8")
    loop, slates, logged, adapters, sharing = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in loop.splitlines() if line.strip()]) <= 20
    monkeypatch.chdir(tmp_path)
    exec(loop, {})
    printed = capsys.readouterr().out
    assert printed.startswith("Counts(decided=20, learnt=10, waiting=10, forgotten=0")
    names: dict[str, Any] = {}
    exec(slates, names)
    assert capsys.readouterr().out.endswith(" 60\n")
    exec(logged, names)
    lines = [json.loads(line) for line in Path("slates.jsonl").read_text().splitlines()]
    assert [len(line.get("offered", range(10))) for line in lines] == [10, 9, 8]
    exec(adapters, {})
    monkeypatch.chdir(tmp_path.parent)
    exec(sharing, {})


@pytest.mark.parametrize("name", ["kernel-ucb", "vit-ucb"])
def test_a_reward_right_after_a_restart_is_learnt_to_the_bit_as_without(
    name: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    agent = vitucb.deploy(name, num_arms=4, image_shape=(8, 8, 3), seed=3)
    for round in range(14):
        images = rng.integers(0, 256, (3 + round % 5, 8, 8, 3), np.uint8)
        decision = agent.act(images)
        agent.save(tmp_path / "agent")
        again = vitucb.load_agent(tmp_path / "agent")
        reward = float(rng.random() < 0.5)
        agent.observe(decision.id, reward)
        again.observe(decision.id, reward)
        one, two = agent.act(images), again.act(images)
        np.testing.assert_array_equal(one.mean, two.mean)
        np.testing.assert_array_equal(one.width, two.width)
        agent.observe(one.id, reward)


def test_what_a_reward_is_learnt_from_does_not_depend_on_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offered: list[object] = []
    make = ExpertAgent.offer

    def offer(self: ExpertAgent, obs: Any) -> Any:
        offered.append(obs["images"])
        return make(self, obs)

    monkeypatch.setattr(ExpertAgent, "offer", offer)
    agent = vitucb.deploy("kernel-ucb", num_arms=3)
    decision = agent.act(pictures(0))
    agent.observe(decision.id, 1.0)
    assert len(offered) == 2  # from the image kept, as after a restart
    obs = {"images": pictures(0), "action_mask": np.ones(3, np.int8)}
    raw: Any = agent.agent
    raw.update(obs, raw.select_action(obs), 1.0)
    assert len(offered) == 3


@pytest.mark.parametrize("reward", [1e31, -1e200, float("inf"), 10**400, -(10**400)])
def test_a_reward_past_all_bounds_is_refused_and_changes_nothing(reward: float) -> None:
    agent = deploy("ucb1")
    decision = agent.act(pictures(0))
    before = str(agent.agent.state_dict())
    assert agent.observe(decision.id, reward).outcome == "refused"
    assert str(agent.agent.state_dict()) == before
    assert agent.observe(decision.id, 1.0).is_learnt


@pytest.mark.parametrize("name", PLAYABLE)
def test_a_deep_copy_goes_on_like_the_agent_and_on_its_own(name: str) -> None:
    agent = deploy(name)
    waiting = agent.act(pictures(0))
    agent.observe(agent.act(pictures(1)).id, 1.0)
    copies = [copy.deepcopy(agent) for _ in range(2)]
    chosen = []
    for one in (agent, *copies):
        assert one.observe(waiting.id, 0.5).is_learnt
        decisions = [one.act(pictures(seed)) for seed in (2, 3)]
        chosen.append([(d.id, d.action, d.mean.tolist()) for d in decisions])
    assert chosen[1:] == chosen[:1] * 2
    assert copies[0].counts == agent.counts


@pytest.mark.slow
def test_a_copy_trains_adapters_of_its_own() -> None:
    settings = {"experts": ("adapted",), "shares_image": True}
    agent = deploy("vit-ucb", **settings)
    for seed in range(3):
        agent.observe(agent.act(pictures(seed)[:1]).id, 1.0)
    other = copy.deepcopy(agent)
    told = []
    for one in (agent, other):
        for seed in range(3, 6):
            one.observe(one.act(pictures(seed)[:1]).id, 1.0)
        told.append(one.act(pictures(9)[:1]).mean.tolist())
    assert told[0] == told[1]


def test_an_agent_is_not_pickled_and_says_what_to_do() -> None:
    agent = deploy()
    for act in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match=r"copy\.deepcopy .* save and vitucb\.load_agent"):
            act(agent)


@pytest.mark.parametrize("reward", [np.bool_(True), np.float32(1), np.int64(1), True])
def test_numbers_of_numpy_are_numbers(reward: Any) -> None:
    three: Any = np.int64(3)
    agent = vitucb.deploy("random", num_arms=three, image_shape=tuple(np.array([8, 8, 3])))
    decision = agent.act(np.zeros((3, 8, 8, 3), np.uint8))
    assert agent.observe(decision, reward).outcome == "learnt"


def test_counts_and_seeds_that_are_no_integers_are_named() -> None:
    with pytest.raises(TypeError, match=r"^num_arms 2\.5 is no whole number; give an integer"):
        vitucb.deploy("random", num_arms=2.5)  # type: ignore[arg-type]  # what is refused
    with pytest.raises(TypeError, match=r"^image_shape 8\.0 is no whole number"):
        vitucb.deploy("random", num_arms=2, image_shape=(8.0, 8, 3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^seed '1' is no integer; choose one >= 0"):
        vitucb.deploy("random", num_arms=2, seed="1")  # type: ignore[arg-type]  # what is refused


def test_a_reward_that_fails_half_learnt_is_told_and_not_learnt_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = deploy("lin-ucb")
    decision = agent.act(pictures(0))

    def update(*_: Any) -> dict[str, float]:
        raise ValueError("in the middle of it")

    monkeypatch.setattr(agent.agent, "update", update)
    with pytest.raises(ValueError, match="in the middle of it"):
        agent.observe(decision.id, 1.0)
    monkeypatch.undo()
    assert agent.observe(decision.id, 1.0).outcome == "answered"
    assert agent.counts.refused == 0
