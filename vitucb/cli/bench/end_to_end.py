"""Whole rounds, and where their time goes: agents on one model, side by side in one process.

CPU time of one thread, median of rounds that alternate between the agents and the bare forward. On
an accelerator time on the clock, not split into phases: each would have to wait for the device.
Rounds show 10 of 369 digits of the packaged set, resized to the model's input, which all have been
seen before: what the first sight of an image costs shows in the row without prefix cache. Batches
of training are full.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from vitucb.agents.baselines.frozen_features import FrozenFeatures
from vitucb.agents.factory import make_agent
from vitucb.agents.vit_ucb import ViTUCB
from vitucb.cli.bench.clock import clock_of, is_cpu
from vitucb.cli.bench.scoring import (
    ARMS,
    Row,
    fill_covariance,
    least_times,
    make_bare,
    make_images,
    one_thread,
)
from vitucb.envs.data.datasets import load_dataset
from vitucb.experiment.episode import run
from vitucb.types import Round

MODELS: dict[str, tuple[str, int | None, int]] = {
    "vitucb-nano (32 px)": ("vitucb-nano", None, 40),
    "ViT-Tiny/16 (224 px)": ("vit_tiny_patch16_224", 224, 3),
    "ViT-S/14 (98 px)": ("vit_small_patch14_dinov2", 98, 3),
}
"""Label -> (backbone, image size, rounds timed). Times do not depend on the weights."""
NEVER = 10**9
_SCORING_ONLY = {"update_every": NEVER, "rebuild": "none"}
_ALONE = {"experts": ("adapted",)}
_LATE = 10_000
_WARM_UP, _BATCH = 2, 16
AGENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit-ucb": ("vit-ucb", {}),
    "adapted alone": ("vit-ucb", _ALONE),
    "adapted alone, bfloat16": ("vit-ucb", {**_ALONE, "precision": "bfloat16"}),
    "adapted alone, no prefix cache": ("vit-ucb", {**_ALONE, "prefix_cache_mib": 0}),
    "adapted alone, no training": ("vit-ucb", {**_ALONE, "training": _SCORING_ONLY}),
    "adapted alone, no training, bfloat16": (
        "vit-ucb",
        {**_ALONE, "training": _SCORING_ONLY, "precision": "bfloat16"},
    ),
    "adapted alone, no training, last half": (
        "vit-ucb",
        {**_ALONE, "training": _SCORING_ONLY, "lora": {"blocks": "half"}},
    ),
    "adapted alone, no training, last layer": (
        "vit-ucb",
        {**_ALONE, "training": _SCORING_ONLY, "features": "last-layer", "covariance": "dense"},
    ),
    "adapted alone, no training, low-rank": (
        "vit-ucb",
        {**_ALONE, "training": _SCORING_ONLY, "covariance": "low-rank"},
    ),
    f"adapted alone, no training, low-rank, round {_LATE:,}": (
        "vit-ucb",
        {**_ALONE, "training": _SCORING_ONLY, "covariance": "low-rank"},
    ),
    "lin-ucb": ("lin-ucb", {}),
    "prototype": ("prototype", {}),
    "neural-ucb": ("neural-ucb", {}),
}
"""Label -> (agent, settings), where every arm has an image."""
OF_LABELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit-ucb, labels": ("vit-ucb", {}),
    "vit-ucb, labels, adapted asleep": ("vit-ucb", {}),
    "adapted alone, labels": ("vit-ucb", _ALONE),
    "lin-ucb, labels": ("lin-ucb", {}),
}
"""The same where one image is the context of ten labels."""
# By then `adapted` is awake and trains after every reward; until then it sleeps.
_UNTIL_TRAINED = 100
PEERS = ("prototype", "neural-ucb")
"""Played on the smallest model only: one's update takes p^3, the other has no backbone."""
_NETWORK = (
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::baddbmm",
    "aten::linear",
    "mkldnn::_linear_pointwise",
    "aten::convolution",
    "aten::gelu",
    "aten::native_layer_norm",
    "aten::_scaled_dot_product",
    "aten::_softmax",
)


class Phases:
    """CPU time of what methods do, exclusive of each other: the outermost counts.

    Attributes:
        seconds: Of each phase so far.
        phase: The one running now, None outside of all.
    """

    def __init__(self) -> None:
        """Watch nothing yet."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.phase: str | None = None

    def watch(self, owner: object, methods: Mapping[str, str]) -> None:
        """Count the time in `methods` of `owner`: name -> phase."""
        for name, phase in methods.items():
            setattr(owner, name, self._timed(getattr(owner, name), phase))

    def _timed(self, call: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def timed(*args: Any, **named: Any) -> Any:
            if self.phase is not None:
                return call(*args, **named)
            self.phase, start = phase, time.process_time()
            try:
                return call(*args, **named)
            finally:
                self.seconds[phase] += time.process_time() - start
                self.phase = None

        return timed


class NetworkTime(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base is untyped
    """CPU time of this thread in operations of the network: products, attention, norms, GELU."""

    def __init__(self, phases: Phases) -> None:
        """Count while `phases` is in scoring or training."""
        super().__init__()  # type: ignore[no-untyped-call]  # torch's base is untyped
        self.seconds, self._phases = 0.0, phases

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, and time it if it is one of the network's."""
        start = time.thread_time()
        result = func(*args, **(kwargs or {}))
        if self._phases.phase in ("scoring", "training") and func.name().startswith(_NETWORK):
            self.seconds += time.thread_time() - start
        return result


class Contestant:
    """An agent in an environment of its own, played round by round."""

    def __init__(
        self,
        name: str,
        settings: dict[str, Any],
        backbone: dict[str, Any],
        *,
        has_labels: bool = False,
        device: str = "cpu",
    ) -> None:
        """Build the agent.

        Args:
            name: Of the agent.
            settings: Its settings.
            backbone: Its settings of the model.
            has_labels: Whether one image is the context of ten labels, not every arm an image.
            device: Where the agent computes; its phases are told apart on the processor alone.
        """
        self._clock = clock_of(device)
        dataset = load_dataset("digits", split="tune")
        self._env = (
            gym.make("vitucb/ImageContext-v0", dataset=dataset, max_episode_steps=10**6)
            if has_labels
            else gym.make(
                "vitucb/ImageArms-v0", dataset=dataset, num_arms=ARMS, max_episode_steps=10**6
            )
        )
        self.agent = make_agent(name, self._env, seed=0, device=device, **backbone, **settings)
        self.phases = Phases()
        images = [dataset.images[i] for i in range(len(dataset.images))]
        frozen = getattr(self.agent, "_frozen", None)
        if isinstance(frozen, FrozenFeatures):
            frozen(np.stack(images))
        if isinstance(self.agent, ViTUCB):
            show_history(self.agent, images)
            if is_cpu(device):
                watch_agent(self.phases, self.agent)
        self._rounds: Iterator[Round] = run(self._env, self.agent, seed=0)
        self.seconds: list[float] = []
        self.network = 0.0

    def play(self) -> None:
        """Play a round, and count its time."""
        start = self._clock()
        next(self._rounds)
        self.seconds.append(self._clock() - start)

    def skip(self, rounds: int) -> None:
        """Play rounds whose time does not count."""
        for _ in range(rounds):
            next(self._rounds)

    def forget_times(self) -> None:
        """What was counted so far was for warming up."""
        self.seconds.clear()
        self.phases.seconds.clear()

    def measure_network(self, rounds: int = 3) -> None:
        """Play rounds and take the shortest time in the operations of the network."""
        kept = dict(self.phases.seconds)
        times = []
        for _ in range(rounds):
            with NetworkTime(self.phases) as network:
                next(self._rounds)
            times.append(network.seconds)
        self.network = min(times)
        self.phases.seconds = defaultdict(float, kept)


def watch_agent(phases: Phases, agent: ViTUCB) -> None:
    """Count the time of every phase of a round of `agent`."""
    phases.watch(agent.history, {"score": "scoring", "refresh": "rebuild"})
    phases.watch(agent.trainer, {"train": "training"})
    phases.watch(agent.covariance, dict.fromkeys(("width", "update", "cov"), "covariance"))


def show_history(agent: ViTUCB, images: list[NDArray[np.uint8]]) -> None:
    """Every image is seen once, and a batch of them has been rewarded."""
    agent.trainer.inputs(images)
    for i, image in enumerate(images[:_BATCH]):
        slot = agent.trainer.remember(image, float(i % 2))
        agent.history.rewarded(i - _BATCH, slot)


def model_settings(backbone: str, img_size: int | None, folder: Path) -> dict[str, Any]:
    """Settings of an agent for a backbone with random weights, kept in a file in `folder`."""
    if backbone == "vitucb-nano":
        return {"backbone": backbone}
    import timm

    file = folder / "weights.safetensors"
    model = timm.create_model(backbone, num_classes=0, img_size=img_size)
    save_file(model.state_dict(), file)
    return {"backbone": backbone, "img_size": img_size, "weights": str(file)}


def contestants(label: str, folder: Path, device: str) -> dict[str, Contestant]:
    """All agents on one model, as far as they are played on it."""
    backbone, img_size, _ = MODELS[label]
    model = model_settings(backbone, img_size, folder)
    made = {}
    for who, (name, settings) in AGENTS.items():
        if name in PEERS and backbone != "vitucb-nano":
            continue
        lora = settings.get("lora", {})
        if lora.get("blocks") == "half":
            depth = 4 if backbone == "vitucb-nano" else 12
            settings = settings | {"lora": {"blocks": list(range(depth // 2, depth))}}
        network = model if name != "neural-ucb" else {}
        made[who] = Contestant(name, settings, network, device=device)
        agent = made[who].agent
        if str(_LATE) in who.replace(",", "") and isinstance(agent, ViTUCB):
            fill_covariance(agent.covariance, _LATE, device)
    for who, (name, settings) in OF_LABELS.items():
        made[who] = Contestant(name, settings, model, has_labels=True, device=device)
        if who == "vit-ucb, labels":
            made[who].skip(_UNTIL_TRAINED)
    return made


def model_rows(label: str, device: str) -> list[Row]:
    """A row per agent on one model."""
    backbone, img_size, rounds = MODELS[label]
    bare, images = make_bare(backbone, img_size).to(device), make_images(img_size).to(device)

    def forward() -> None:
        with torch.no_grad():
            bare(images)

    with tempfile.TemporaryDirectory() as folder:
        agents = contestants(label, Path(folder), device)
    forwards: list[float] = []
    for played in range(_WARM_UP + rounds):
        for contestant in agents.values():
            if played == _WARM_UP:
                contestant.forget_times()
            contestant.play()
        forwards.append(least_times({"": forward}, 1, clock_of(device))[""])
    for contestant in agents.values():
        if is_cpu(device):
            contestant.measure_network()
    return [_row(label, who, c, statistics.median(forwards)) for who, c in agents.items()]


def _row(label: str, who: str, contestant: Contestant, forward: float) -> Row:
    ms, total = 1e3 * statistics.median(contestant.seconds), sum(contestant.seconds)
    parts = {phase: ms * s / total for phase, s in contestant.phases.seconds.items()}

    def share(part: float) -> str | float:
        return 100.0 * part / ms if parts else "-"

    return {
        "model": label,
        "agent": who,
        "ms": ms,
        "rounds/s": 1e3 / ms,
        "x bare forward": ms / forward,
        **{
            f"{phase} %": share(parts.get(phase, 0.0))
            for phase in ("scoring", "covariance", "training", "rebuild")
        },
        "rest %": share(ms - sum(parts.values())),
        "ViT arithmetic %": share(1e3 * contestant.network),
    }


def run_suite(device: str = "cpu") -> list[Row]:
    """The table of `vitucb bench --suite end-to-end`; about five minutes on one thread."""
    with one_thread():
        return [row for label in MODELS for row in model_rows(label, device)]
