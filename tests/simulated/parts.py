"""Parts of agents on a device, for the process that has the simulated accelerator."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter

from tests.optim.problems import Quadratic
from tests.simulated import accelerator
from vitucb.config import LoRAConfig
from vitucb.covariance import FeatureCovariance, make_covariance
from vitucb.learning.experts.adapted.build import build_adapted_expert
from vitucb.learning.experts.adapted.schedule import Schedule
from vitucb.learning.experts.adapted.settings import AdaptedSettings
from vitucb.learning.experts.expert import Offer
from vitucb.models.backbone import create_backbone
from vitucb.models.lora import LoRAPair
from vitucb.models.preprocess import preprocess_for
from vitucb.optim import create_optimizer

Array = NDArray[np.float64]
ROWS, DIM = 14, 24
LABELS = 3
# Two layers have all that can go wrong.
SMALL_LORA: dict[str, Any] = {"rank": 2, "targets": ("qkv", "fc2"), "blocks": (-1,)}


@dataclass(frozen=True, slots=True)
class Trained:
    """What an optimizer did.

    Attributes:
        parameters: Factors, head and base weights after the last step.
        waits: Times the host waited for the device in the last step, by place.
    """

    parameters: list[Array]
    waits: Counter[str]


def train(name: str, options: dict[str, Any], device: str) -> Trained:
    """Four steps; half way a new optimizer takes the state of the first one over."""
    problem = _on(Quadratic.make(dtype=torch.float32), device)
    bases = [pair.base for pair in problem.pairs if pair.base is not None]
    pretrained = [base.detach().clone() for base in bases]

    def make() -> torch.optim.Optimizer:
        # On pretrained weights: the state of a chain brings its merges along.
        with torch.no_grad():
            for base, value in zip(bases, pretrained, strict=True):
                base.copy_(value)
        return create_optimizer(
            name, problem.pairs, lr=1e-2, other_params=[problem.head], **options
        )

    optimizer, waits = make(), Counter[str]()
    for step in range(4):
        if step == 2:
            state, optimizer = optimizer.state_dict(), make()
            optimizer.load_state_dict(state)
        problem.closure()
        accelerator.take_waits()
        optimizer.step(problem.closure if getattr(optimizer, "needs_full", False) else None)
        waits = accelerator.take_waits()
    return Trained([_array(p) for p in (*problem.parameters(), *bases)], waits)


def _on(problem: Quadratic, device: str) -> Quadratic:
    def moved(value: Tensor) -> Parameter:
        return Parameter(value.detach().to(device), requires_grad=value.requires_grad)

    pairs = []
    for pair in problem.pairs:
        assert pair.base is not None
        factors = moved(pair.A), moved(pair.B)
        pairs.append(LoRAPair(pair.name, *factors, pair.scaling, moved(pair.base)))
    targets = [target.to(device) for target in problem.targets]
    return Quadratic(pairs, targets, moved(problem.head))


def query(name: str, options: dict[str, Any], device: str) -> dict[str, Array]:
    """What a covariance answers after every kind of change, by the change."""
    generator = torch.Generator().manual_seed(0)
    phi = torch.randn(ROWS, DIM, generator=generator).to(device)
    arms = torch.randn(3, DIM, generator=generator).to(device)
    covariance = make_covariance(name, DIM, ridge=0.5, **options)
    covariance.update(phi)
    answers = _answers("update", covariance, arms)
    covariance.quad_form(arms)
    covariance.update(index=1)
    answers |= _answers("index", covariance, arms)
    covariance.update(phi[:3], torch.tensor([0.5, 0.0, 2.0], device=device))
    covariance.update(phi[4], 0.25)
    answers |= _answers("weights", covariance, arms)
    covariance.update(torch.full((1, DIM), torch.nan, device=device))
    assert covariance.rejected == 1
    again = make_covariance(name, DIM, ridge=0.5, **options)
    again.load_state_dict(covariance.state_dict())
    again.discount(0.9)
    answers |= _answers("discount", again, arms)
    again.rebuild([phi[:5], phi[5:]])
    return answers | _answers("rebuild", again, arms)


def _answers(after: str, covariance: FeatureCovariance, arms: Tensor) -> dict[str, Array]:
    generator = torch.Generator().manual_seed(1)
    told = {
        "width": covariance.width(arms),
        "cov": covariance.cov(arms),
        "sample": covariance.sample(arms, generator),
        "low": covariance.interval(arms)[0],
        "log_det": torch.tensor(covariance.log_det),
    }
    with suppress(NotImplementedError):  # sketches have no A^-1 v
        told["solve"] = covariance.solve(arms)
    return {f"{after}: {question}": _array(answer) for question, answer in told.items()}


def _array(value: Tensor) -> Array:
    array: Array = value.detach().cpu().double().numpy()
    return array


@dataclass(frozen=True, slots=True)
class Learnt:
    """What the expert `adapted` expected, by round.

    Attributes:
        means: Expected rewards (T, K).
        widths: Confidence widths (T, K).
        waits: Times the host waited for the device, by place.
    """

    means: Array
    widths: Array
    waits: list[Counter[str]]


def learn(
    optimizer: str, device: str, init: str = "default", patch_drop_rate: float | None = None
) -> Learnt:
    """Six rounds of the expert `adapted` on labels, which takes a step after every reward.

    One whose adapters start from data takes the first after the second reward.
    """
    backbone = create_backbone("vitucb-nano").to(device)
    expert = build_adapted_expert(
        backbone,
        preprocess_for(backbone, device),
        num_labels=LABELS,
        settings=AdaptedSettings(
            width="adapted", batch_size=4, read_every=3, schedule=Schedule(start=1, warm_up=1)
        ),
        optimizer=optimizer,
        lora=LoRAConfig(**SMALL_LORA, init=init, init_samples=2),
        patch_drop_rate=patch_drop_rate,
    )
    dim = int(backbone.num_features)  # type: ignore[arg-type]  # timm sets an int
    rng, predictions, waits = np.random.default_rng(0), [], []
    for t in range(6):
        image = rng.integers(0, 256, (1, 32, 32, 3), np.uint8)
        offer = Offer(image, torch.as_tensor(rng.normal(size=(1, dim))), LABELS)
        accelerator.take_waits()
        predictions.append(expert.predict(offer))
        expert.choose(offer, t % LABELS)
        expert.observe(offer, t % LABELS, float(t % 2), 0)
        waits.append(accelerator.take_waits())
    means, widths = ([getattr(p, name) for p in predictions] for name in ("mean", "width"))
    return Learnt(np.array(means), np.array(widths), waits)
