"""CUDA graphs and `torch.compile` where they might pay, beside the passes as they are.

Experiments of `on_a_gpu.py`: no agent takes these ways. Frozen blocks are compiled, not the layers
with adapters, which run as functions that Dynamo does not look into; a graph is captured of that
pass, and of the one that scores arms with their gradient features.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import torch
from gpu_players import Device
from time_budget import LEFT_OUT, Budget, Row, in_turn, out_of_time
from torch import Tensor

from vitucb.cli.bench.clock import clock_of, is_cpu
from vitucb.cli.bench.end_to_end import MODELS
from vitucb.cli.bench.scoring import least_times, make_frozen, make_images, make_model
from vitucb.learning.gradient_features import LoRAGradientFeatures

Pass: TypeAlias = Callable[[], Tensor]
Ways: TypeAlias = Mapping[str, Callable[[], Pass]]
"""Name -> sets the pass up in that way; `USUAL` is the first."""
USUAL, COMPILED, GRAPH = "as it is", "torch.compile", "CUDA graph"
COMPILER = "inductor"
_REPEATS = 20


def frozen_ways(label: str, device: str) -> Ways:
    """Ways to the features of ten images by the backbone without adapters."""
    backbone, img_size, _ = MODELS[label]
    model, images = make_frozen(backbone, img_size).to(device), make_images(img_size).to(device)
    usual = partial(_features, model, images)
    return {
        USUAL: lambda: usual,
        COMPILED: lambda: partial(_features, torch.compile(model, backend=COMPILER), images),
        GRAPH: partial(captured, usual, device),
    }


def scoring_ways(label: str, device: str) -> Ways:
    """Ways to the gradient features of ten images, with adapters on all blocks."""
    backbone, img_size, _ = MODELS[label]
    features = LoRAGradientFeatures(make_model(backbone, img_size).to(device))
    images = make_images(img_size).to(device)
    phi = torch.empty(len(images), features.dim, device=device)

    def usual() -> Tensor:
        return features(images, out=phi)[1]

    return {USUAL: lambda: usual, GRAPH: partial(captured, usual, device)}


def _features(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


def captured(call: Pass, device: str) -> Pass:
    """`call` as a CUDA graph: its kernels are launched at once, on the same memory."""
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's has no types
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):  # memory and libraries are set up before the capture
        for _ in range(3):
            call()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = call()

    def replay() -> Tensor:
        graph.replay()
        return made

    return replay


def pass_rows(device: Device, models: Sequence[str], budget: Budget) -> Iterator[Row]:
    """A row per model, pass and way; those that fail say why."""
    passes = {"frozen backbone": frozen_ways, "scoring with adapters": scoring_ways}
    cases = [(model, what) for model in models for what in passes]
    for (model, what), part in in_turn(cases, budget):
        case: Row = {"model": model, "pass": what}
        if part is None:
            yield case | out_of_time(budget)
            continue
        ways = passes[what](model, device.name)
        usual = ways[USUAL]()
        usual_ms = least_times({"": usual}, _REPEATS, clock_of(device.name))[""]
        for way, set_up in ways.items():
            yield case | {"way": way} | _figures(way, set_up, usual, usual_ms, device, part)


def _figures(
    way: str,
    set_up: Callable[[], Pass],
    usual: Pass,
    usual_ms: float,
    device: Device,
    budget: Budget,
) -> Row:
    if way == USUAL:
        return {"ms": usual_ms, "x as it is": 1.0}
    if not device.is_cuda and (way == GRAPH or not is_cpu(device.name)):
        return {LEFT_OUT: f"not for {device.name}"}
    if budget.left() <= 0:
        return out_of_time(budget)
    try:
        return _beside(set_up, usual, usual_ms, device.name)
    except RuntimeError as error:  # an experiment: no compiler, an operation that no graph holds
        return {LEFT_OUT: f"failed: {str(error).strip().splitlines()[0]}"}


def _beside(set_up: Callable[[], Pass], usual: Pass, usual_ms: float, device: str) -> Row:
    """Time of another way to the same features, and how far they are from the usual ones."""
    start = time.perf_counter()
    call = set_up()
    features = call().clone()  # both may write to the same memory
    far = float((features - usual()).abs().max())
    set_up_s = time.perf_counter() - start
    ms = least_times({"": call}, _REPEATS, clock_of(device))[""]
    return {"ms": ms, "x as it is": ms / usual_ms, "set-up, s": set_up_s, "difference": far}
