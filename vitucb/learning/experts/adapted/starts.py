"""Starts of LoRA factors that are taken from data: from images, or from gradients of rewards.

* `eva`: A is the leading principal directions of a layer's inputs, B is 0 (Paischer et al.,
  "Explained variance adaptation", https://arxiv.org/abs/2410.07170). PEFT's incremental PCA;
  ranks are not moved from layer to layer, rho = 1 in the paper, since optimizers hold the pairs.
  PEFT's own loop repeats the data until every direction stands still, which directions of equal
  variance never do; here every image is seen once.
* `corda`: the leading singular triplets of W C, for C the second moments of the inputs (Yang et
  al., "CorDA", https://arxiv.org/abs/2406.05223, instruction-previewed mode). PEFT's takes one
  example at a time and imports a package that PEFT does not require.
* `lora_ga`: A and B are the leading right, and the next left, singular vectors of the gradient G of
  W (Wang et al., "LoRA-GA", https://arxiv.org/abs/2407.05000), by PEFT, which scales B by the
  singular values where the paper does not.
* `lora_one`: s B A is the best step of rank r along -G (Zhang et al., "LoRA-One",
  https://arxiv.org/abs/2502.01235, algorithm 1), which PEFT does not have.

CorDA and LoRA-GA take their product out of the base weight: the function stays as it was. LoRA-One
means to take a step. All are made when W is still the pretrained weight and B is 0.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from vitucb.models.lora import LoRAPair

Factors: TypeAlias = list[tuple[Tensor, Tensor]]
"""A (r, in) and B (out, r) of every pair."""

# The step s B A of LoRA-One has the spectral norm s / 128: gamma of the authors' examples, and
# singular values in units of the largest, as their code has them.
_GAMMA = 128.0


@dataclass(frozen=True, slots=True)
class StartData:
    """What a start is made of.

    Attributes:
        model: Holds the adapted layers.
        pairs: Their factors, named as modules of `model`.
        forward: Runs the model over the images, without a graph.
        backward: Leaves the gradients of the mean loss of the rewards where they are asked for.
        seed: Of random projections.
    """

    model: nn.Module
    pairs: Sequence[LoRAPair]
    forward: Callable[[], None]
    backward: Callable[[], None]
    seed: int


@dataclass(frozen=True, slots=True)
class DataStart:
    """A way to start.

    Attributes:
        make: The factors. Adapters, base weights and what requires gradients may be left changed.
        vectors: Singular vectors of every layer that it takes, per rank.
        is_taken_out: Whether s B A is taken out of the base weight.
    """

    make: Callable[[StartData], Factors]
    vectors: int = 1
    is_taken_out: bool = False


def check_rank(name: str, pairs: Sequence[LoRAPair]) -> None:
    """Refuse ranks for which a layer has too few singular vectors.

    Raises:
        ValueError: Names the layer, and the largest rank.
    """
    for pair in pairs:
        rank, least = len(pair.A), min(pair.A.shape[1], len(pair.B))
        if (needed := DATA_STARTS[name].vectors * rank) > least:
            raise ValueError(
                f"agent.lora.rank {rank}: the start {name} takes {needed} singular vectors of a "
                f"layer, and {pair.name} has {least}; choose a rank of at most "
                f"{least // DATA_STARTS[name].vectors}"
            )


def eva_factors(data: StartData) -> Factors:
    """Leading principal directions of the inputs, and 0."""
    from peft.utils.incremental_pca import IncrementalPCA

    ranks = {pair.name: len(pair.A) for pair in data.pairs}
    fitted: dict[str, IncrementalPCA] = {}

    def fit(name: str, x: Tensor) -> None:
        if name not in fitted:
            # Twice as many as are wanted: what is cut off here is lost to later images.
            kept, width = (min(times * ranks[name], *x.shape) for times in (2, 4))
            fitted[name] = IncrementalPCA(kept, lowrank=True, lowrank_q=width)
        fitted[name].partial_fit(x.float())

    with _seeded(data):
        _watch_inputs(data, fit)
    leading = [fitted[pair.name].components_[: len(pair.A)] for pair in data.pairs]
    return [(a, torch.zeros_like(pair.B)) for a, pair in zip(leading, data.pairs, strict=True)]


def corda_factors(data: StartData) -> Factors:
    """Of the leading singular triplets of W C, those of W."""
    moments: dict[str, Tensor] = {}

    def add(name: str, x: Tensor) -> None:
        x = x.double()
        moments[name] = x.mT @ x + moments.get(name, 0.0)

    _watch_inputs(data, add)
    return [
        oriented_factors(_base(pair), moments[pair.name], len(pair.A), pair.scaling)
        for pair in data.pairs
    ]


def oriented_factors(
    weight: Tensor, moments: Tensor, rank: int, scaling: float
) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r) with s B A = U S V' C^-1 for the leading triplets U S V' of W C.

    Args:
        weight: W (out, in).
        moments: Sum of x x' over the inputs of the layer, float64 (in, in). C is this in units of
            its mean diagonal, so that no unit of the inputs decides how A and B share the product,
            plus 0.01 on the diagonal, the damping of the authors' code.
        rank: r.
        scaling: s.
    """
    unit = moments.diagonal().mean().clamp_min(torch.finfo(moments.dtype).tiny)
    c = moments / unit + 0.01 * torch.eye(len(moments)).to(moments)
    u, s, vh = torch.linalg.svd(weight.detach().double() @ c, full_matrices=False)
    root = (s[:rank] / scaling).sqrt()
    return root[:, None] * torch.linalg.solve(c, vh[:rank].mT).mT, u[:, :rank] * root


def lora_ga_factors(data: StartData) -> Factors:
    """Leading right singular vectors of the gradient, and the next left ones."""
    from peft.tuners.lora.config import LoraGAConfig

    config = _with_gradients(data)
    assert isinstance(config.lora_ga_config, LoraGAConfig)
    return _made_by_layers(data, lambda layer: layer.lora_ga_init("default", config.lora_ga_config))


def lora_one_factors(data: StartData) -> Factors:
    """The step of rank r along the negative gradient of every layer."""
    _with_gradients(data)
    factors = []
    for pair in data.pairs:
        layer: Any = data.model.get_submodule(pair.name)
        factors.append(descent_factors(layer.base_layer._peft_loraga_grad, len(pair.A)))
        del layer.base_layer._peft_loraga_grad
    return factors


def descent_factors(gradient: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r) with B A = -G_r / (128 |G|), the best approximation of rank r.

    A direction in which G has nothing gets a row of A and no column of B, as in an ordinary start:
    with both at 0 it could never be learnt.

    Args:
        gradient: G (out, in).
        rank: r.
    """
    u, s, vh = torch.linalg.svd(-gradient.float(), full_matrices=False)
    u, s, vh = u[:, :rank], s[:rank], vh[:rank]
    is_seen = s > torch.finfo(s.dtype).eps * s[0]
    size = torch.where(is_seen, s / s[0].clamp_min(torch.finfo(s.dtype).tiny), 1.0).sqrt()
    size = size / _GAMMA**0.5
    return size[:, None] * vh, u * torch.where(is_seen, size, 0.0)


def _watch_inputs(data: StartData, see: Callable[[str, Tensor], None]) -> None:
    """Run the model and show `see` the name of every layer with its inputs (n, in)."""
    with contextlib.ExitStack() as stack:
        for pair in data.pairs:

            def note(_: nn.Module, inputs: tuple[Tensor, ...], name: str = pair.name) -> None:
                see(name, inputs[0].flatten(0, -2))

            layer = data.model.get_submodule(pair.name)
            stack.callback(layer.register_forward_pre_hook(note).remove)
        data.forward()


def _with_gradients(data: StartData) -> Any:
    """Have PEFT leave the gradient of every base weight at its layer; its configuration."""
    from peft import LoraConfig
    from peft.tuners.lora.config import LoraGAConfig
    from peft.tuners.lora.loraga import preprocess_loraga

    config = LoraConfig(
        target_modules=_base_layers(data.pairs),
        init_lora_weights="lora_ga",
        lora_ga_config=LoraGAConfig(),
    )
    preprocess_loraga(data.model, config, data.backward)
    return config


def _made_by_layers(data: StartData, make: Callable[[Any], None]) -> Factors:
    """The factors that PEFT's layers give themselves in `make`."""
    with _seeded(data):
        for pair in data.pairs:
            make(data.model.get_submodule(pair.name))
    return [(pair.A.detach(), pair.B.detach()) for pair in data.pairs]


@contextlib.contextmanager
def _seeded(data: StartData) -> Iterator[None]:
    """Inside, the global generator, from which PEFT's decompositions draw, is that of the start."""
    device = data.pairs[0].A.device
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        (torch.manual_seed if on_gpu else torch.default_generator.manual_seed)(data.seed)
        yield


def _base_layers(pairs: Sequence[LoRAPair]) -> str:
    """The pattern of the names of the frozen layers inside the adapted ones."""
    return "|".join(re.escape(f"{pair.name}.base_layer") for pair in pairs)


def _base(pair: LoRAPair) -> Tensor:
    assert pair.base is not None
    return pair.base


DATA_STARTS = {
    "eva": DataStart(eva_factors),
    "corda": DataStart(corda_factors, is_taken_out=True),
    "lora_ga": DataStart(lora_ga_factors, vectors=2, is_taken_out=True),
    "lora_one": DataStart(lora_one_factors),
}
