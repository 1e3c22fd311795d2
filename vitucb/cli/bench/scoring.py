"""What scoring K arms costs: bare forward, gradient features, and the prototype's arithmetic.

All times are CPU time of one thread, the minimum over repeats, milliseconds; on an accelerator time
on the clock. The repeats of everything compared are interleaved, so that a busy machine slows all
of it alike.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import scipy.linalg  # noqa: F401  only a BLAS that is loaded can be told
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from vitucb.assets import EMBEDDED_BACKBONES
from vitucb.cli.bench.clock import Clock, clock_of, is_cpu
from vitucb.config.lora import BlockNames
from vitucb.covariance import make_covariance
from vitucb.learning.feature_maps import LastLayerMap
from vitucb.learning.gradient_features import LoRAGradientFeatures
from vitucb.models.backbone import create_backbone
from vitucb.models.lora import add_lora, lora_pairs
from vitucb.models.reward_model import RewardModel

Row: TypeAlias = dict[str, str | float]

ARMS = 10
MODELS = {
    "vitucb-nano (32 px)": ("vitucb-nano", None, 15),
    "ViT-S/14 (98 px)": ("vit_small_patch14_dinov2", 98, 3),
}
"""Label -> (backbone, image size, repeats). Times do not depend on the weights."""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch, NumPy and SciPy inside, and a heap as runs have it.

    BLAS threads that wait for work spin, and a process is charged for them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # Until a large block was freed once, glibc hands memory back after every call and faults it in
    # again: up to a fifth of a forward. Runs have freed such blocks before their first round.
    torch.zeros(31, 2**18)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)


def least_times(
    calls: Mapping[str, Callable[[], object]], repeats: int, clock: Clock = time.process_time
) -> dict[str, float]:
    """Smallest time of each call over interleaved repeats, after one call to warm up, ms."""
    for call in calls.values():
        call()
    times = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            call()
            times[name] = min(times[name], 1e3 * (clock() - start))
    return times


def make_bare(backbone: str, img_size: int | None) -> nn.Module:
    """The backbone as timm runs it, without adapters, frozen."""
    import timm

    name = EMBEDDED_BACKBONES.get(backbone, (backbone, ""))[0]
    size = {} if img_size is None else {"img_size": img_size}
    model: nn.Module = timm.create_model(name, num_classes=0, **size)
    return model.eval().requires_grad_(False)


def make_frozen(backbone: str, img_size: int | None) -> nn.Module:
    """The backbone with `vitucb.models.onednn_linear`, without adapters, frozen."""
    model = create_backbone(backbone, img_size=img_size, pretrained=False)
    return model.requires_grad_(False)


def make_model(
    backbone: str, img_size: int | None, *, blocks: BlockNames | None = None, use_dora: bool = False
) -> RewardModel:
    """A reward model with rank-4 adapters on all blocks or the last half, B not zero."""
    frozen = make_frozen(backbone, img_size)
    width = frozen(make_images(img_size)[:1]).shape[-1]
    model = RewardModel(add_lora(frozen, rank=4, blocks=blocks, use_dora=use_dora), width).eval()
    generator = torch.Generator().manual_seed(0)
    for pair in lora_pairs(model):
        with torch.no_grad():
            pair.B.normal_(0.0, 0.02, generator=generator)
    return model


def make_images(img_size: int | None) -> Tensor:
    """K images (K, 3, H, W) of noise."""
    side = img_size or 32
    return torch.randn(ARMS, 3, side, side, generator=torch.Generator().manual_seed(0))


def dora_calls(
    backbone: str, img_size: int | None, images: Tensor
) -> dict[str, Callable[[], object]]:
    """Features of DoRA from one backward, and from one per arm through PEFT's layers."""
    model = make_model(backbone, img_size, use_dora=True).to(images.device)
    ours, slow = LoRAGradientFeatures(model), LoRAGradientFeatures(model)
    slow.is_fast = False
    phi = torch.empty(ARMS, ours.dim, device=images.device)
    return {
        "features, all blocks, DoRA": lambda: ours(images, out=phi),
        "the same with one backward per arm": lambda: slow(images, out=phi),
    }


def features_one_by_one(model: nn.Module, images: Tensor) -> Tensor:
    """Per-arm gradients by K batches of one image, as the prototype takes them: (K, p)."""
    factors = [factor for pair in lora_pairs(model) for factor in (pair.A, pair.B)]
    rows = []
    for image in images:
        grads = torch.autograd.grad(model(image[None]).sum(), factors)
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    return torch.stack(rows)


def prototype_times(dim: int) -> dict[str, float]:
    """CPU time of K quadratic forms and of one update on a dense p x p inverse S, ms.

    The update `S -= S @ v @ v.T @ S / (1 + v.T @ S @ v)` as written runs from the left: it forms
    the p x p product S v v' and multiplies that with S, 2 p^3 operations. Corrected, with u = S
    v, it is `S -= u u' / (1 + v'u)`, 4 p^2. The cubic product is timed on 250 of its p rows, and
    past p = 5,000 everything on 1,000 columns of S, then scaled: whole it takes minutes and
    gigabytes.
    """
    width, rows = (dim if dim <= 5000 else 1000), 250
    slab, phi = torch.full((width, dim), 1e-3), torch.full((dim,), 1e-3)
    product = torch.full((rows, dim), 1e-3)

    def quadratic_forms() -> None:
        for _ in range(ARMS):
            slab @ phi

    times = least_times(
        {
            "score": quadratic_forms,
            "corrected": lambda: slab.addr_(slab @ phi, phi, alpha=-1e-9),
            "as written": lambda: product @ slab.mT,
        },
        repeats=3,
    )
    times["as written"] *= dim / rows
    return {name: ms * dim / width for name, ms in times.items()}


def model_rows(label: str, device: str = "cpu", repeats: int | None = None) -> list[Row]:
    """Bare forward, features and a round, ours and the prototype's, of one model.

    The prototype's rows are left out where `device` is not the processor.
    """
    backbone, img_size, usual = MODELS[label]
    bare, frozen = (make(backbone, img_size).to(device) for make in (make_bare, make_frozen))
    images = make_images(img_size).to(device)
    model = make_model(backbone, img_size).to(device)
    half = make_model(backbone, img_size, blocks="last-half").to(device)
    features, half_features = LoRAGradientFeatures(model), LoRAGradientFeatures(half)
    last_layer, first = LastLayerMap(model), torch.zeros(ARMS, dtype=torch.int64, device=device)
    phi, half_phi = (torch.empty(ARMS, f.dim, device=device) for f in (features, half_features))
    covariance = make_covariance("low-rank", features.dim)
    features.scale = 1.0 / float(features(images)[1].norm(dim=1).mean())
    fill_covariance(covariance, 600, device)

    def our_round() -> None:
        covariance.width(features(images, out=phi)[1])
        covariance.update(index=0)

    def adapted_forward() -> None:
        with torch.no_grad():
            model(images)

    def bare_forward() -> None:
        with torch.no_grad():
            bare(images)

    def frozen_forward() -> None:
        with torch.no_grad():
            frozen(images)

    times = least_times(
        {
            "bare forward": bare_forward,
            "bare forward, our products": frozen_forward,
            "forward with adapters": adapted_forward,
            "features, last layer": lambda: last_layer(images, first),
            "features, last half of the blocks": lambda: half_features(images, out=half_phi),
            "features, all blocks": lambda: features(images, out=phi),
            **dora_calls(backbone, img_size, images),
            "features one arm at a time": lambda: features_one_by_one(model, images),
            "one gradient": lambda: features_one_by_one(model, images[:1]),
            "round: features, low-rank score and update": our_round,
        },
        repeats or usual,
        clock_of(device),
    )
    one = times.pop("one gradient")
    rows = [_row(label, what, ms, times) for what, ms in times.items()]
    return rows + (_prototype_rows(label, times, one) if is_cpu(device) else [])


def fill_covariance(covariance: object, count: int, device: str = "cpu") -> None:
    """Bring a low-rank covariance to `count` observations with a decaying spectrum."""
    from vitucb.covariance.projected import ProjectedCovariance

    assert isinstance(covariance, ProjectedCovariance)
    dim = covariance.sketch_dim
    generator = torch.Generator().manual_seed(1)
    scales = torch.arange(1, dim + 1, dtype=torch.float32) ** -1.0
    for start in range(0, count, 50):
        z = torch.randn(min(50, count - start), dim, generator=generator) * scales
        covariance.update((z / scales.norm()).to(device))


def _prototype_rows(label: str, times: Mapping[str, float], one_gradient: float) -> list[Row]:
    rows = []
    forward = times["forward with adapters"]
    network = times["features one arm at a time"] + forward + one_gradient
    for size in (5000, 20_000):
        parts = prototype_times(size)
        for way in ("as written", "corrected"):
            ms = network + parts["score"] + parts[way]
            what = f"prototype's round, p = {size}, update {way}"
            rows.append(_row(label, what, ms, times))
    return rows


def _row(label: str, what: str, ms: float, times: Mapping[str, float]) -> Row:
    return {
        "model": label,
        "what": what,
        "ms": ms,
        "x bare forward": ms / times["bare forward"],
        "x with our products": ms / times["bare forward, our products"],
        "x our round": ms / times["round: features, low-rank score and update"],
    }


def run_suite(device: str = "cpu") -> list[Row]:
    """The table of `vitucb bench --suite scoring`; about two minutes on one thread."""
    with one_thread():
        return [row for label in MODELS for row in model_rows(label, device)]
