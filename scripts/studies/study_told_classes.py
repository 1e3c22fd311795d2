"""What would an agent lose that is told the class of every image? A yardstick for image arms.

Ten arms, one of each class, in the laws of the digits: rewards of 0 and 1 with means 0.1 to 0.9, or
N(class, 9). The agent keeps a Gaussian posterior of the mean of every class, with the noise
estimated from one-step errors as the expert `kernel` does, and plays UCB with a multiplier of the
deviation. What it loses is the price of learning what classes are worth, and how often it takes the
second best for the best; what an agent that looks at pixels loses beyond it is the price of seeing.

    python scripts/studies/study_told_classes.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from study_tools import RESULTS, write_table

Array = NDArray[np.float64]
MULTIPLIERS = (0.6, 1.0, 1.5, 2.0, 2.5, 3.0)
PRIOR_VARIANCE = 0.6  # of the mean of a class, in units of the noise variance
LAWS = {"bernoulli": np.linspace(0.1, 0.9, 10), "normal": np.arange(10.0)}
NOISE = 3.0


def regrets(law: str, multiplier: float, rounds: int, runs: int) -> Array:
    """Regret after `rounds` of every run, (runs,)."""
    rng, means = np.random.default_rng(0), LAWS[law]
    counts, sums = np.zeros((2, runs, len(means)))
    errors, total, squares, regret = np.zeros((4, runs))
    every = np.arange(runs)
    for t in range(rounds):
        level = total / max(t, 1)
        spread = np.maximum(squares / t - level**2, 1e-6) if t > 1 else np.ones(runs)
        noise = np.sqrt((errors + spread) / (t + 2))
        precision = counts + 1 / PRIOR_VARIANCE
        expected = level[:, None] + (sums - counts * level[:, None]) / precision
        score = expected + multiplier * noise[:, None] / np.sqrt(precision)
        arm = (score + 1e-9 * rng.random(score.shape)).argmax(axis=1)
        if law == "bernoulli":
            reward = (rng.random(runs) < means[arm]).astype(np.float64)
        else:
            reward = means[arm] + NOISE * rng.standard_normal(runs)
        regret += means.max() - means[arm]
        errors += (reward - expected[every, arm]) ** 2 / (1 + 1 / precision[every, arm])
        total, squares = total + reward, squares + reward**2
        counts[every, arm] += 1
        sums[every, arm] += reward
    return regret


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=1_000)
    parser.add_argument("--simulated-runs", type=int, default=1_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    table = [["law", "multiplier", "mean", "median", "90 % quantile", "worst of ten, mean"]]
    for law in LAWS:
        for multiplier in MULTIPLIERS:
            ends = regrets(law, multiplier, options.rounds, options.simulated_runs)
            worst = ends[: len(ends) // 10 * 10].reshape(-1, 10).max(axis=1).mean()
            marks = (ends.mean(), np.median(ends), np.quantile(ends, 0.9), worst)
            table.append([law, f"{multiplier}", *(f"{mark:.1f}" for mark in marks)])
    write_table(options.out / "told-classes.csv", table)


if __name__ == "__main__":
    main()
