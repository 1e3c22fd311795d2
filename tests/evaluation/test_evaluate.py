from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitucb
from vitucb.cli.main import main
from vitucb.config import RunConfig, override
from vitucb.envs.logged import LoggedEnv, made_up_log
from vitucb.evaluation.estimators import ESTIMATORS
from vitucb.evaluation.evaluate import Evaluation, evaluate, target_probabilities
from vitucb.evaluation.target_policy import frozen_policy, load_policy
from vitucb.experiment.playing import play
from vitucb.types import Observation

FEW = 100  # bootstrap resamples


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    out = tmp_path_factory.mktemp("runs")

    def finished(agent: str, rounds: int) -> Path:
        settings = {
            "out": str(out),
            "experiment": f"{rounds}-rounds",
            "agent": agent,
            "num_rounds": rounds,
            "tensorboard": False,
            "env": {"num_arms": 4},
        }
        return play(override(RunConfig(), settings)).folder

    return finished


def uniform(obs: Observation) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    mask = obs["action_mask"]
    share: np.ndarray[tuple[int], np.dtype[np.float64]] = mask / mask.sum()
    return share


def by_name(evaluation: Evaluation) -> dict[str, float]:
    return {estimate.name: estimate.value for estimate in evaluation.estimates}


def test_an_agent_is_evaluated_on_the_log_of_another(runs: Callable[..., Path]) -> None:
    evaluation = evaluate(runs("random", 300), runs("lin-ucb", 40), num_resamples=FEW)
    assert evaluation.true_value is not None
    assert evaluation.true_value > evaluation.logged_value + 0.05
    for estimate in evaluation.estimates:
        if estimate.name != "dm":
            assert estimate.low < evaluation.true_value < estimate.high, estimate
            assert estimate.effective_sample_size == pytest.approx(75, rel=0.4)
    assert evaluation.warnings == ()
    assert evaluation.rows()[1]["estimator"] == "ips"


def test_the_command_leads_with_the_gain_and_says_what_to_read(
    runs: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(runs("random", 30))
    out = tmp_path / "out"
    main(["evaluate", folder, "--policy", folder, "--resamples", "20", "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("random would have earned 0.")
    assert lines[2].startswith("read snips: with the logged propensities")
    first_cells = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert first_cells[:2] == ["policy", "random"]
    assert first_cells[2:5:2] == ["uniform", "the log itself"]
    assert first_cells[3].startswith("best fixed position: ")
    assert first_cells[5:] == ["estimator", *ESTIMATORS]
    assert "rounds: 30" in lines
    assert any(line.startswith("true value: ") for line in lines)
    assert lines[-2:] == [str(out / "evaluation.json"), str(out / "evaluation.html")]
    (Path(folder) / "checkpoint" / "state.json").unlink()
    with pytest.raises(SystemExit):
        main(["evaluate", folder, "--policy", folder])
    assert "has no whole checkpoint: there is none; let it finish" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--confidence", "1"], "--confidence 1.0 is out of range; give a share between 0 and 1"),
        (["--resamples", "0"], "--resamples 0 is out of range; give 1 to 1,000,000"),
        (["--resamples", "1000001"], "--resamples 1000001 is out of range; give 1 to 1,000,000"),
        (["--max-weight", "nan"], "--max-weight nan is out of range"),
        (["--max-rounds", "0"], "--max-rounds 0 is out of range"),
        (["--seed", "-1"], "--seed -1 is out of range"),
        (["--threads", "0"], "--threads 0 is out of range"),
        (["--policy", "nowhere"], "--policy nowhere: no such folder"),
        (["--out", "/dev/null/x"], "out '/dev/null/x' cannot be written: "),
    ],
)
def test_the_command_refuses_what_cannot_be_before_it_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    log = tmp_path / "log.csv"
    log.touch()
    policy = [] if "--policy" in words else ["--policy", str(tmp_path)]
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", str(log), *policy, *words])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_estimates_are_those_of_the_estimators_alone() -> None:
    log = made_up_log(60)
    evaluation = evaluate(log, uniform, num_resamples=FEW)
    for estimate in evaluation.estimates:
        assert estimate.gain == pytest.approx(estimate.value - evaluation.logged_value, abs=1e-12)
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.gain_low <= estimate.gain <= estimate.gain_high
    # The log was written by uniform play: what it would have gained is known to be nothing.
    by_itself = evaluation.advised
    assert (by_itself.gain, by_itself.gain_low, by_itself.gain_high) == (0, 0, 0)
    assert evaluation.references[0].policy == "uniform"
    assert evaluation.references[0].value == pytest.approx(evaluation.logged_value)


def bandit_feedback(rounds: int = 400) -> dict[str, object]:
    """Contexts of one number, whose sign says which of two actions pays."""
    rng = np.random.default_rng(0)
    context, actions = rng.normal(size=(rounds, 1)), rng.integers(0, 2, rounds)
    means = np.where((context > 0) == np.arange(2), 0.9, 0.1)
    return {
        "n_rounds": rounds,
        "n_actions": 2,
        "context": context,
        "action": actions,
        "position": None,
        "reward": (rng.random(rounds) < means[np.arange(rounds), actions]).astype(int),
        "expected_reward": means,
        "pscore": np.full(rounds, 0.5),
    }


def by_sign(obs: Observation) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    chosen: np.ndarray[tuple[int], np.dtype[np.float64]] = np.eye(2)[int(obs["context"][0] > 0)]
    return chosen


def test_a_dictionary_of_the_open_bandit_pipeline_is_evaluated() -> None:
    evaluation = evaluate(bandit_feedback(), by_sign, num_resamples=FEW)
    assert evaluation.true_value == pytest.approx(0.9)
    read = evaluation.advised
    assert read.policy == "by_sign"
    assert read.low < 0.9 < read.high
    assert read.gain_low > 0.3
    assert evaluation.references[1].gain < 0.2
    assert evaluation.facts["distinct contexts"] == 400


def test_agents_that_look_at_images_need_some(runs: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="it has no images, and the agent looks at them"):
        evaluate(bandit_feedback(), runs("lin-ucb", 40))
    wider = bandit_feedback() | {"n_actions": 4, "expected_reward": None}
    blind = evaluate(wider, runs("ucb1", 40), num_resamples=FEW)
    assert blind.advised.policy.endswith("s0")


def test_the_logging_policy_has_the_mean_reward_of_its_log() -> None:
    log = made_up_log(60)
    evaluation = evaluate(log, uniform, num_resamples=FEW)
    values = by_name(evaluation)
    assert values["ips"] == pytest.approx(log.rewards.mean())
    assert values["snips"] == pytest.approx(log.rewards.mean())
    assert evaluation.facts["mean weight"] == pytest.approx(1)


def test_fewer_rounds_can_be_used_and_the_seed_fixes_the_rest() -> None:
    log = made_up_log(60)
    first = evaluate(log, uniform, max_rounds=30, num_resamples=FEW)
    assert first.facts["rounds"] == 30
    assert first == evaluate(log.first(30), uniform, num_resamples=FEW)


def test_a_log_without_propensities_says_that_they_are_estimated() -> None:
    log = dataclasses.replace(made_up_log(60), propensities=None)
    evaluation = evaluate(log, uniform, num_resamples=FEW)
    assert evaluation.facts["propensities"] == "estimated"
    assert any("no propensities" in warning for warning in evaluation.warnings)
    assert by_name(evaluation)["snips"] == pytest.approx(log.rewards.mean(), abs=0.15)


def test_too_little_overlap_is_said() -> None:
    log = dataclasses.replace(made_up_log(60), propensities=np.full(60, 0.9))
    evaluation = evaluate(log, uniform, num_resamples=FEW)
    assert any("mean weight is 0.278 where 1 is expected" in w for w in evaluation.warnings)


def test_few_effective_rounds_are_said() -> None:
    evaluation = evaluate(made_up_log(20), uniform, num_resamples=FEW)
    assert any("effective sample size is 20 of 20 rounds" in w for w in evaluation.warnings)


def test_a_policy_of_another_number_of_arms_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\) where log digits has 4 arms"):
        target_probabilities(made_up_log(5), lambda obs: np.array([0.5, 0.5]))


def test_a_policy_may_give_a_list_but_no_arm_that_was_not_on_offer() -> None:
    log = made_up_log(5)
    assert target_probabilities(log, lambda obs: [0.25] * 4).shape == (5, 4)  # type: ignore[arg-type, return-value]  # as users write it
    mask = log.mask.copy()
    mask[3, (log.actions[3] + 1) % 4] = 0
    masked = dataclasses.replace(log, mask=mask)
    with pytest.raises(ValueError, match=r"probability 0\.25 in round 3 for arm \d, which was not"):
        target_probabilities(masked, lambda obs: np.full(4, 0.25))
    assert target_probabilities(masked, uniform)[3].max() == pytest.approx(1 / 3)


@pytest.mark.parametrize("agent_name", ["ucb1", "random", "lin-ts", "vit-ucb"])
def test_an_agent_frozen_policy_answers_the_observation_and_nothing_else(agent_name: str) -> None:
    env = LoggedEnv(made_up_log(40))
    agent = vitucb.make_agent(agent_name, env, policy={"name": "epsilon-greedy", "epsilon": 0.2})
    for _ in vitucb.run(env, agent, num_rounds=8):
        pass
    log = made_up_log(4, seed=1)
    policy = frozen_policy(agent)
    forward = target_probabilities(log, policy)
    backward = np.stack([policy(log.observation(i)) for i in range(3, -1, -1)])[::-1]
    np.testing.assert_allclose(forward, backward, atol=1e-12)
    np.testing.assert_allclose(forward.sum(axis=1), 1)


def test_an_agent_that_does_not_tell_its_probabilities_is_refused() -> None:
    env = LoggedEnv(made_up_log(40))
    agent = vitucb.make_agent("ucb1", env)

    class Secretive:
        def select_action(self, obs: Observation) -> vitucb.Decision:
            return dataclasses.replace(agent.select_action(obs), propensity=0.7)

        def update(
            self, obs: Observation, decision: vitucb.Decision, reward: float
        ) -> dict[str, float]:
            return {}

        def state_dict(self) -> dict[str, object]:
            return {}

        def load_state_dict(self, state: dict[str, object]) -> None:
            pass

    with pytest.raises(ValueError, match="does not tell the probability of every arm"):
        frozen_policy(Secretive())(env.reset(seed=0)[0])


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a saved agent"):
        load_policy(tmp_path)


def test_a_log_file_of_a_shared_context_is_evaluated(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.new("RGB", (8, 8), (90 * i, 0, 0)).save(tmp_path / f"{i}.png")
    rows = [
        {
            "context_image": f"{i}.png",
            "action": f"a{a}",
            "reward": float(i == a),
            "propensity": 1 / 3,
        }
        for i, a in rng.integers(0, 3, (90, 2)).tolist()
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    evaluation = evaluate(path, uniform, num_resamples=FEW)
    values = by_name(evaluation)
    assert values["dr"] == pytest.approx(1 / 3, abs=0.1)
    assert values["dm"] == pytest.approx(1 / 3, abs=0.1)
