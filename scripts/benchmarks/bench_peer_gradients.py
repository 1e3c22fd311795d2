"""Per-arm LoRA gradients beside published ways to take per-sample gradients.

The gradient of every arm's score in all LoRA factors, float32 (K, p), of one model and the same
images: by `vitucb.learning.gradient_features`, by torch's `vmap(grad)` and its ExpandedWeights, by
Opacus' GradSampleModule, by BackPACK's BatchGrad, and by one backward per arm. First their largest
relative difference from gradients in float64, then CPU time of one thread in turn and peak memory
of tensors. Writes `peers-gradients.csv`.

    pip install --target PEERS --no-deps opacus opt-einsum backpack-for-pytorch einops unfoldNd
    PYTHONPATH=PEERS python scripts/benchmarks/bench_peer_gradients.py
    python scripts/benchmarks/bench_peer_gradients.py --rows vitucb "torch vmap(grad)"
"""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

import torch
from peer_tools import chosen_rows, cpu_times, machine, peak_mib, peer_parser, time_cells
from study_tools import out_folder, write_table
from torch import Tensor, nn

from vitucb.cli.bench.scoring import features_one_by_one, make_model, one_thread
from vitucb.learning.gradient_features import LoRAGradientFeatures
from vitucb.models.lora import lora_pairs
from vitucb.models.nano import ConvStem
from vitucb.models.onednn_linear import FastLinear

CASES: Final = {
    "vitucb-nano (32 px), K = 10": ("vitucb-nano", 32, 10),
    "vitucb-nano (32 px), K = 50": ("vitucb-nano", 32, 50),
    "ViT-S/14 (98 px), K = 10": ("vit_small_patch14_dinov2", 98, 10),
}
"""Label -> (backbone, image size, arms). Times do not depend on the weights."""
REFERENCE = "vitucb"
Gradients: TypeAlias = Callable[[], Tensor]


def ours(model: nn.Module, images: Tensor) -> Gradients:
    """One forward and one backward of functions that write each arm's gradient to its place."""
    features = LoRAGradientFeatures(model)
    return lambda: features(images)[1]


def ours_without_onednn(model: nn.Module, images: Tensor) -> Gradients:
    """The same, with every product taken by PyTorch's own library."""
    features = LoRAGradientFeatures(model)

    def call() -> Tensor:
        with torch.backends.mkldnn.flags(enabled=False):
            return features(images)[1]

    return call


def one_by_one(model: nn.Module, images: Tensor) -> Gradients:
    """A forward and a backward per arm."""
    return lambda: features_one_by_one(model, images)


def torch_vmap(model: nn.Module, images: Tensor) -> Gradients:
    """`torch.func.vmap` over `torch.func.grad` of the functional model, in torch's own layers."""
    for module in model.modules():
        if isinstance(module, FastLinear):  # vmap cannot see through a function of oneDNN's
            module.__dict__["forward"] = partial(nn.Linear.forward, module)
        if isinstance(module, ConvStem):  # vmap has no layout of channels last
            module.__dict__["forward"] = partial(_embed, module.convs)
    factors = named_factors(model)

    def score(values: dict[str, Tensor], image: Tensor) -> Tensor:
        scores: Tensor = torch.func.functional_call(model, values, (image[None],))
        return scores.squeeze(0)

    per_arm = torch.func.vmap(torch.func.grad(score), in_dims=(None, 0))
    values = {name: factor.detach() for name, factor in factors.items()}

    def call() -> Tensor:
        found = per_arm(values, images)
        return torch.cat([found[name].flatten(1) for name in factors], dim=1)

    return call


def _embed(convs: nn.Module, images: Tensor) -> Tensor:
    tokens: Tensor = convs(images)
    return tokens.flatten(2).mT


def expanded_weights(model: nn.Module, images: Tensor) -> Gradients:
    """`torch.nn.utils._per_sample_grad`, which torch has beside vmap."""
    sampled = importlib.import_module("torch.nn.utils._per_sample_grad")
    run = sampled.call_for_per_sample_grads(model, loss_reduction="sum")
    return lambda: collect(model, run(images), "grad_sample")


def opacus_hooks(model: nn.Module, images: Tensor) -> Gradients:
    """`opacus.grad_sample.GradSampleModule`, whose hooks watch modules in training mode alone."""
    wrapper = importlib.import_module("opacus.grad_sample").GradSampleModule
    sampled = wrapper(model.train(), loss_reduction="sum", strict=False)
    return lambda: collect(model, sampled(images), "grad_sample")


def backpack_hooks(model: nn.Module, images: Tensor) -> Gradients:
    """`BatchGrad` of BackPACK on the linear layers of the factors."""
    backpack = importlib.import_module("backpack")
    extension = importlib.import_module("backpack.extensions").BatchGrad()
    for module in model.modules():
        for factor in ("lora_A", "lora_B"):
            for layer in (getattr(module, factor, None) or nn.ModuleDict()).values():
                backpack.extend(layer)

    def call() -> Tensor:
        with backpack.backpack(extension):
            return collect(model, model(images), "grad_batch")

    return call


def collect(model: nn.Module, scores: Tensor, attribute: str) -> Tensor:
    """Backward of the sum of `scores`; per-arm gradients (K, p) that lie at the parameters."""
    torch.autograd.backward(scores.sum())
    factors = named_factors(model).values()
    gradients = torch.cat([getattr(factor, attribute).flatten(1) for factor in factors], dim=1)
    for factor in factors:
        setattr(factor, attribute, None)  # what Opacus expects to find
        factor.grad = None
    return gradients


def named_factors(model: nn.Module) -> dict[str, nn.Parameter]:
    """The LoRA factors by name, pair by pair."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(f)]: f for pair in lora_pairs(model) for f in (pair.A, pair.B)}


Make: TypeAlias = Callable[[nn.Module, Tensor], Gradients]
WAYS: Final[dict[str, tuple[Make, str | None]]] = {
    REFERENCE: (ours, None),
    "vitucb, products by PyTorch": (ours_without_onednn, None),
    "one arm at a time": (one_by_one, None),
    "torch vmap(grad)": (torch_vmap, None),
    "torch ExpandedWeights": (expanded_weights, None),
    "Opacus GradSampleModule": (opacus_hooks, "opacus"),
    "BackPACK BatchGrad": (backpack_hooks, "backpack"),
}
"""Row -> how to make it, and the peer's module."""


def largest_difference(gradients: Tensor, exact: Tensor) -> float:
    """Largest norm of an arm's difference, over that of its exact gradient."""
    gradients = gradients.detach()
    return float(((gradients - exact).norm(dim=1) / exact.norm(dim=1)).max())


def rows_of(label: str, ways: Sequence[str], repeats: int) -> list[list[str]]:
    """One row per way for one model and number of arms."""
    backbone, side, arms = CASES[label]
    model = make_model(backbone, side)
    images = torch.randn(arms, 3, side, side, generator=torch.Generator().manual_seed(0))
    model(images)  # compares its last block once, which vmap could not
    exact = features_one_by_one(copy.deepcopy(model).double(), images.double())
    calls = {way: WAYS[way][0](copy.deepcopy(model), images) for way in ways}
    differences = {way: largest_difference(call(), exact) for way, call in calls.items()}
    memory = {way: peak_mib(call) for way, call in calls.items()}
    times = cpu_times(calls, repeats)
    reference = REFERENCE if REFERENCE in ways else ways[0]
    return [
        [
            label,
            way,
            f"{differences[way]:.1e}",
            *time_cells(times, way, reference),
            f"{memory[way]:.1f}",
        ]
        for way in ways
    ]


def main() -> None:
    """Measure, and write the table."""
    parser = peer_parser(__doc__, WAYS, repeats=7)
    options = parser.parse_args()
    ways = chosen_rows(parser, options, {way: module for way, (_, module) in WAYS.items()})
    cases = list(CASES)[: 1 if options.quick else None]
    repeats = 2 if options.quick else options.repeats
    header = ["model", "way", "difference", "ms", f"x {REFERENCE}", "peak MiB"]
    print(machine())
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the peers
        rows = [row for label in cases for row in rows_of(label, ways, repeats)]
    write_table(out_folder(options) / "peers-gradients.csv", [header, *rows])


if __name__ == "__main__":
    main()
