"""Do the intervals of off-policy evaluation cover the truth? Simulated logs whose value is known.

Contexts are K = 5 arms with 4 features each; the mean reward is a sigmoid of a quadratic, the
reward 0 or 1, so the linear model behind DM and DR is wrong on purpose. The policy evaluated
prefers good arms. Prints, and writes into docs/off_policy_evaluation.md, the share of logs whose
95 % interval holds the true value, the root mean squared error and the mean effective sample size.
A run of fewer logs than the page is about is printed only.

    python scripts/studies/study_ope.py --replications 400
    python scripts/studies/study_ope.py --digits 16  # the same for lin-ucb on logs of real digits
    python scripts/studies/study_ope.py --against-obp     # in an environment that has obp
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitucb.evaluation.cross_fitting import conditional_logit, cross_fitted_rewards
from vitucb.evaluation.estimators import ESTIMATORS, check_logged, estimate_values
from vitucb.models.threads import use_threads

Array = NDArray[np.float64]
ARMS, DIM = 5, 4
LOGS, SIZES, DIGIT_LOGS = 400, [200, 1_000, 5_000], 16
"""What the page's text is about; shorter runs are printed and not written."""
PAGE = Path(__file__).resolve().parents[2] / "docs" / "off_policy_evaluation.md"


def contexts(rounds: int, rng: np.random.Generator) -> Array:
    """Features of every arm, (n, K, d)."""
    return rng.normal(size=(rounds, ARMS, DIM))


def mean_rewards(z: Array) -> Array:
    """True mean rewards, (n, K)."""
    means: Array = 1 / (1 + np.exp(0.5 - z[..., 0] - 0.7 * z[..., 1] * z[..., 2]))
    return means


def softmax(score: Array) -> Array:
    """Probabilities proportional to exp(score), over the last axis."""
    p = np.exp(score - score.max(axis=-1, keepdims=True))
    probabilities: Array = p / p.sum(axis=-1, keepdims=True)
    return probabilities


def target_policy(z: Array) -> Array:
    """The policy evaluated: softly greedy in a linear score."""
    return softmax(2.5 * z[..., 0] + z[..., 1])


def uniform(z: Array) -> Array:
    """Uniform logging."""
    return np.full(z.shape[:2], 1 / ARMS)


def opposed(z: Array) -> Array:
    """Logging that prefers what the policy evaluated avoids: little overlap."""
    return 0.9 * softmax(-1.0 * z[..., 0]) + 0.1 / ARMS


def draw(probabilities: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    """One action per row."""
    cut = rng.random((len(probabilities), 1))
    actions: NDArray[np.int64] = (probabilities.cumsum(axis=1) < cut).sum(axis=1)
    return actions.clip(max=ARMS - 1)


def true_value(rng: np.random.Generator) -> float:
    """Value of the target policy, from 2,000,000 contexts."""
    values = []
    for _ in range(20):
        z = contexts(100_000, rng)
        values.append((target_policy(z) * mean_rewards(z)).sum(axis=1).mean())
    return float(np.mean(values))


def log_of(rounds: int, logging: Callable[[Array], Array], rng: np.random.Generator) -> Any:
    """Features, actions, rewards and logging probabilities (n, K) of one simulated log."""
    z = contexts(rounds, rng)
    p = logging(z)
    actions = draw(p, rng)
    rewards = rng.random(rounds) < mean_rewards(z)[np.arange(rounds), actions]
    return z, actions, rewards.astype(np.float64), p


def adaptive_log(rounds: int, rng: np.random.Generator) -> Any:
    """A log by epsilon-greedy (0.2) on ridge regression, refitted after every tenth of the log."""
    parts: list[Any] = []
    theta = np.zeros(DIM)
    for count in np.diff(np.linspace(0, rounds, 11).astype(int)):
        parts.append(
            log_of(count, lambda z: 0.8 * softmax(50 * z @ theta) + 0.2 / ARMS, rng)  # noqa: B023
        )
        x = np.concatenate([z[np.arange(len(a)), a] for z, a, _, _ in parts])
        y = np.concatenate([r for _, _, r, _ in parts])
        theta = np.linalg.solve(x.T @ x + np.eye(DIM), x.T @ (y - y.mean()))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def estimated_logging(z: Array, actions: NDArray[np.int64]) -> Array:
    """Logging probabilities estimated from the log, (n, K)."""
    return conditional_logit(z, actions, np.ones(z.shape[:2], np.int8))


def replicate(kind: str, rounds: int, seed: int) -> list[Any]:
    """The estimates from one log."""
    rng = np.random.default_rng([seed, rounds])
    if kind == "adaptive":
        z, actions, rewards, p = adaptive_log(rounds, rng)
    else:
        z, actions, rewards, p = log_of(rounds, uniform if kind == "uniform" else opposed, rng)
    if kind == "opposed, estimated p":
        p = estimated_logging(z, actions)
    q = cross_fitted_rewards(z, actions, rewards, rng, ridge=1e-3)
    chosen = p[np.arange(rounds), actions]
    log = check_logged(rewards, actions, chosen, target_policy(z), q)
    return estimate_values(log, rng, num_resamples=400)


def table(replications: int, sizes: list[int]) -> str:
    """The coverage table as Markdown."""
    truth = true_value(np.random.default_rng(0))
    lines = [
        f"True value {truth:.4f}; {replications} logs per row; each cell: coverage of the 95 % "
        "interval (%) / root mean squared error.",
        "",
        "| logging policy | n | ESS of w | " + " | ".join(ESTIMATORS) + " |",
        "|---|---|---|" + "---|" * len(ESTIMATORS),
    ]
    for kind in ("uniform", "opposed", "opposed, estimated p", "adaptive"):
        for rounds in sizes:
            logs = [replicate(kind, rounds, seed) for seed in range(replications)]
            low, high, value, size = (
                np.array([[getattr(e, f) for e in log] for log in logs])
                for f in ("low", "high", "value", "effective_sample_size")
            )
            covered = 100 * ((low <= truth) & (truth <= high)).mean(axis=0)
            rmse = np.sqrt(np.square(value - truth).mean(axis=0))
            cells = [f"{c:.0f} / {e:.3f}" for c, e in zip(covered, rmse, strict=True)]
            lines.append(f"| {kind} | {rounds:,} | {size[:, 1].mean():.0f} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def digits_table(replications: int, rounds: int = 300) -> str:
    """Coverage on made-up logs of handwritten digits, for a saved lin-ucb agent, as Markdown."""
    import vitucb
    from vitucb.config import EnvConfig
    from vitucb.envs.logged import made_up_log
    from vitucb.evaluation.evaluate import evaluate
    from vitucb.evaluation.target_policy import frozen_policy
    from vitucb.experiment.environments import make_env

    use_threads(1)
    env = make_env(EnvConfig(num_arms=4), 100)
    agent = vitucb.make_agent("lin-ucb", env, seed=0)
    for _ in vitucb.run(env, agent, seed=0):
        pass
    policy = frozen_policy(agent)
    logs = [
        evaluate(made_up_log(rounds, seed=seed), policy, num_resamples=1_000, seed=seed)
        for seed in range(replications)
    ]
    truth = np.array([log.true_value for log in logs])[:, None]
    low, high, value = (
        np.array([[getattr(e, f) for e in log.estimates] for log in logs])
        for f in ("low", "high", "value")
    )
    covered = 100 * ((low <= truth) & (truth <= high)).mean(axis=0)
    rmse = np.sqrt(np.square(value - truth).mean(axis=0))
    width = (high - low).mean(axis=0)
    lines = [
        f"{replications} logs of {rounds} rounds; the log earned "
        f"{np.mean([log.logged_value for log in logs]):.3f} a round, the agent would have earned "
        f"{truth.mean():.3f}.",
        "",
        "| | " + " | ".join(ESTIMATORS) + " |",
        "|---|" + "---|" * len(ESTIMATORS),
    ]
    for name, row, form in (
        ("coverage (%)", covered, "{:.0f}"),
        ("root mean squared error", rmse, "{:.3f}"),
        ("mean width of the interval", width, "{:.3f}"),
    ):
        lines.append(f"| {name} | {' | '.join(form.format(cell) for cell in row)} |")
    return "\n".join(lines)


def write(section: str, text: str, *, is_short: bool) -> None:
    """Print the text; replace a marked section of the page, unless it is from a short run."""
    print(text)
    if is_short:
        print(
            f"{PAGE.name} is left as it is: its text cites {LOGS} logs a row of sizes "
            f"{', '.join(map(str, SIZES))}, and of digits {DIGIT_LOGS}",
            file=sys.stderr,
        )
        return
    begin, end = f"<!-- {section} begins -->", f"<!-- {section} ends -->"
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    tail = rest.partition(end)[2]
    PAGE.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")


def compare_with_obp() -> None:
    """Largest difference from Open Bandit Pipeline's estimators on one log."""
    import obp.ope as obp  # type: ignore[import-not-found,unused-ignore]

    rng = np.random.default_rng(0)
    z, actions, rewards, p = log_of(2_000, opposed, rng)
    q, pi = cross_fitted_rewards(z, actions, rewards, rng), target_policy(z)
    ours = check_logged(rewards, actions, p[np.arange(2_000), actions], pi, q)
    given = {
        "reward": rewards,
        "action": actions,
        "pscore": p[np.arange(2_000), actions],
        "action_dist": pi[:, :, None],
        "estimated_rewards_by_reg_model": q[:, :, None],
        "position": np.zeros(2_000, int),
    }
    limit = 2.0
    theirs = {
        "dm": obp.DirectMethod(),
        "ips": obp.InverseProbabilityWeighting(),
        "clipped-ips": obp.InverseProbabilityWeighting(lambda_=limit),
        "snips": obp.SelfNormalizedInverseProbabilityWeighting(),
        "dr": obp.DoublyRobust(),
        "sndr": obp.SelfNormalizedDoublyRobust(),
        "switch-dr": obp.SwitchDoublyRobust(lambda_=limit),
    }
    for name, estimator in theirs.items():
        terms = ESTIMATORS[name](ours, *([limit] if name in ("clipped-ips", "switch-dr") else []))
        other = float(estimator.estimate_policy_value(**given))
        print(f"{name:12s} {terms.value:.12f} obp {other:.12f} diff {terms.value - other:.1e}")


def main() -> None:
    """Read the arguments, run the study, write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--replications", type=int, default=LOGS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--digits", type=int, default=0, metavar="LOGS")
    parser.add_argument("--against-obp", action="store_true")
    arguments = parser.parse_args()
    if arguments.against_obp:
        if importlib.util.find_spec("obp") is None:
            parser.error("--against-obp needs Open Bandit Pipeline; pip install obp")
        compare_with_obp()
        return
    if arguments.digits:
        is_short = arguments.digits < DIGIT_LOGS
        write("study_ope digits", digits_table(arguments.digits), is_short=is_short)
        return
    is_short = arguments.replications < LOGS or not {*SIZES} <= {*arguments.sizes}
    write("study_ope", table(arguments.replications, arguments.sizes), is_short=is_short)


if __name__ == "__main__":
    main()
