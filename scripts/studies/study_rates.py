"""At which rate does each LoRA optimizer learn most from rewards, in the steps it is given?

All learn from the same rounds: those that `lin-ucb` played, one image with ten labels and the
reward of one of them, on training images and a tuning seed. The expert `adapted` remembers them
asleep; awake it takes 250 steps on them, as it does within `vit-ucb`. Then it says what it expects
of all labels of the images of the next 300 rounds, none of which it has seen; judged is the squared
error of that, over that of the frozen expert `softmax` that learned from the same rounds.

From the rate in `vitucb/optim/table.py` it walks on a grid of half decades until a rate is better
than both its neighbours, in the mean over sets and seeds. A study that is stopped goes on.

    python scripts/studies/study_rates.py --data DATA
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from study_tools import data_file, study_options, study_parser, suffix, write_table

from vitucb.agents.baselines.frozen_features import build_frozen_features
from vitucb.agents.factory import make_agent
from vitucb.config import AgentConfig, EnvConfig, LoRAConfig
from vitucb.config.lora import BlockNames
from vitucb.experiment.environments import make_env
from vitucb.experiment.episode import Episode
from vitucb.learning.experts.adapted.build import build_adapted_expert
from vitucb.learning.experts.adapted.expert import AdaptedExpert
from vitucb.learning.experts.adapted.settings import AdaptedSettings
from vitucb.learning.experts.expert import Offer, Sleeper
from vitucb.learning.experts.softmax import LabelExpert
from vitucb.models.backbone import create_backbone
from vitucb.models.preprocess import preprocess_for
from vitucb.models.threads import use_threads
from vitucb.optim import ENTRIES
from vitucb.storage.atomic_files import write_durably

SETS = ("fashion_mnist", "mnist")
FIRST_TUNING_SEED = 100
CHOOSER = "vitucb-nano"
"""Backbone of the agent whose rounds all learn from."""
LABELS = 10
AHEAD = 300
MOST_STEPS = 6
# A rate that is so much worse than another of its optimizer on one set is not tried on the next.
HOPELESS = 1.05


@dataclass(frozen=True)
class Network:
    """What is adapted: a backbone as in `AgentConfig`, with adapters of a rank, at scale 2.

    Steps leave out the share `patch_drop_rate` of the patches.
    """

    backbone: str = AgentConfig.backbone
    weights: str | None = None
    img_size: int | None = None
    rank: int = 8
    blocks: tuple[int, ...] | BlockNames | None = None
    patch_drop_rate: float = 0.0


DEFAULT = Network()


def kind_of(network: Network) -> str:
    """What tells results of one backbone apart in names of files: its tag, size and weights."""
    tag, size, weights = network.backbone.partition(".")[2], network.img_size, network.weights
    given = (tag, size and f"{size}px", weights and Path(weights).stem)
    return "".join(f"-{part}" for part in given if part)


@dataclass(frozen=True)
class Log:
    """Rounds of one seed: offers, arms chosen, rewards, and the right labels."""

    offers: Sequence[Offer]
    actions: Sequence[int]
    rewards: Sequence[float]
    labels: Sequence[int]


def play_log(path: Path, rounds: int, seed: int, network: Network = DEFAULT) -> Log:
    """What `lin-ucb` chose, and was paid, on images of a set in random order, each once.

    It chooses by `CHOOSER`, whichever backbone the features of the offers are of.
    """
    config = EnvConfig(
        id="vitucb/ImageContext-v0", dataset=str(path), options={"with_replacement": False}
    )
    env = make_env(config, rounds)
    chooser = make_agent("lin-ucb", env, seed=seed, backbone=CHOOSER)
    episode = Episode(env, chooser, seed=seed)
    backbone = AgentConfig(
        backbone=network.backbone, weights=network.weights, img_size=network.img_size
    )
    features = build_frozen_features(backbone, env, "cpu")
    played = [episode.play_round() for _ in range(rounds)]
    images = [one.observation["images"] for one in played]
    return Log(
        [Offer(one, features(one), LABELS) for one in images],
        [one.decision.action for one in played],
        [one.reward for one in played],
        [one.optimal_action for one in played],
    )


def judge(expert: Sleeper, log: Log) -> list[float]:
    """`ahead` of an expert that learned from all rounds but those."""
    remember(expert, log)
    expert.wake()
    return ahead(expert, log)


def remember(expert: Sleeper, log: Log) -> None:
    """Let the expert see all rounds but the last `AHEAD`, asleep."""
    expert.sleep()
    learnt = slice(len(log.offers) - AHEAD)
    for offer, action, reward in zip(
        log.offers[learnt], log.actions[learnt], log.rewards[learnt], strict=True
    ):
        expert.choose(offer, action)
        expert.observe(offer, action, reward, 0)


def ahead(expert: Sleeper, log: Log) -> list[float]:
    """Mean squared error of expected rewards, share of wrong labels named: last `AHEAD` rounds."""
    means = np.stack([expert.predict(offer).mean for offer in log.offers[-AHEAD:]])
    rights = np.array(log.labels[-AHEAD:])
    error = np.square(means - np.eye(LABELS)[rights]).mean()
    return [float(error), float((means.argmax(1) != rights).mean())]


def adapted(
    name: str, lr: float | None, seed: int, steps: int, network: Network = DEFAULT
) -> AdaptedExpert:
    """The expert `adapted` with its defaults, but for optimizer, rate, backbone and adapters."""
    backbone = create_backbone(network.backbone, weights=network.weights, img_size=network.img_size)
    preprocess = preprocess_for(backbone, "cpu")
    return build_adapted_expert(
        backbone,
        preprocess,
        num_labels=LABELS,
        seed=seed,
        settings=AdaptedSettings(width="none", catch_up_steps=steps),
        optimizer=name,
        lr=lr,
        lora=LoRAConfig(rank=network.rank, blocks=network.blocks),
        patch_drop_rate=network.patch_drop_rate,
    )


class Scores:
    """Scores by set, seed, optimizer and rate, kept in a file."""

    def __init__(
        self,
        options: argparse.Namespace,
        network: Network = DEFAULT,
        label: str = "",
        logs: dict[tuple[str, int], Log] | None = None,
    ) -> None:
        """Read what earlier calls found for `network`, which a label other than "" stands for.

        Networks of one backbone may share `logs`, which fills by set and seed.
        """
        self._options, self._network = options, network
        name = f"rates-{options.rounds}-{options.steps}{label}.json"
        self._file = Path(options.runs) / name
        self._file.parent.mkdir(parents=True, exist_ok=True)
        text = self._file.read_text(encoding="utf-8") if self._file.is_file() else "{}"
        self._known: dict[str, list[float]] = json.loads(text)
        self._logs = {} if logs is None else logs

    def relative(self, data: str, seed: int, name: str, lr: float) -> float:
        """Squared error over that of `softmax`."""

        def softmax(log: Log) -> Sleeper:
            return LabelExpert(log.offers[0].features.shape[1], LABELS, seed=seed)

        frozen = self._look_up(f"{data} {seed} softmax", data, seed, softmax)
        key, steps = f"{data} {seed} {name} {lr:g}", self._options.steps
        network = self._network
        own = self._look_up(key, data, seed, lambda _: adapted(name, lr, seed, steps, network))
        return own[0] / frozen[0]

    def _look_up(
        self, key: str, data: str, seed: int, build: Callable[[Log], Sleeper]
    ) -> list[float]:
        if key not in self._known:
            if (data, seed) not in self._logs:
                path = data_file(self._options.data, f"{data}_train10k.npz")
                rounds = self._options.rounds + AHEAD
                self._logs[data, seed] = play_log(path, rounds, seed, self._network)
            log = self._logs[data, seed]
            self._known[key] = judge(build(log), log)
            error, wrong = self._known[key]
            print(f"{key}: squared error {error:.4f}, wrong {wrong:.3f}", flush=True)
            write_durably(self._file, json.dumps(self._known, indent=1))
        return self._known[key]


def rate(step: int) -> float:
    """The grid of half decades: ..., 6e-4, 2e-3, 6e-3, ...; step 0 is 2e-3."""
    decade, half = divmod(step, 2)
    return float(f"{(2, 6)[half]}e{decade - 3}")


def walk(start: float, loss: Callable[[float], float]) -> dict[float, float]:
    """Losses by rate, from that next to `start` to one better than both its neighbours."""
    first = round(2 * math.log10(start / rate(0)))
    found = {first: loss(rate(first))}
    for _ in range(MOST_STEPS):
        best = min(found, key=lambda step: found[step])
        unknown = [step for step in (best - 1, best + 1) if step not in found]
        if not unknown:
            break
        found[unknown[0]] = loss(rate(unknown[0]))
    return {rate(step): found[step] for step in sorted(found)}


def errors_by_set(
    scores: Scores, name: str, lr: float, seeds: range, least: dict[str, float]
) -> list[float]:
    """Relative error on each set up to one where it is `HOPELESS` times that in `least`."""
    errors: list[float] = []
    for data in SETS:
        errors.append(float(np.mean([scores.relative(data, s, name, lr) for s in seeds])))
        least[data] = min(least.get(data, math.inf), errors[-1])
        if errors[-1] > HOPELESS * least[data]:
            break
    return errors


def tune(scores: Scores, name: str, seeds: range) -> list[list[str]]:
    """A row for every rate of an optimizer; the best is marked."""
    errors: dict[float, list[float]] = {}
    least: dict[str, float] = {}

    def loss(lr: float) -> float:
        errors[lr] = errors_by_set(scores, name, lr, seeds, least)
        return float(np.mean(errors[lr])) if len(errors[lr]) == len(SETS) else math.inf

    found = walk(ENTRIES[name].lr, loss)
    best, rows = min(found, key=found.__getitem__), []
    for lr, mean in found.items():
        cells = [f"{error:.3f}" for error in (*errors[lr], mean) if error < math.inf]
        cells += ["-"] * (len(SETS) + 1 - len(cells))
        rows.append([name, f"{lr:g}", *cells, "*" * (lr == best)])
    return rows


def main() -> None:
    """Run the study."""
    parser = study_parser(__doc__, rounds=1_500, seeds=1)
    parser.add_argument("--steps", type=int, default=250, help="of training")
    parser.add_argument("--only", nargs="+", choices=ENTRIES, default=list(ENTRIES))
    options = study_options(parser)
    use_threads(1)
    seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + options.seeds)
    scores = Scores(options, Network(options.backbone), suffix(options.backbone))
    rows = [["optimizer", "lr", *SETS, "mean", "best"]]
    for name in options.only:
        rows += tune(scores, name, seeds)
    write_table(options.out / "rates.csv", rows)


if __name__ == "__main__":
    main()
