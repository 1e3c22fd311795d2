"""Which linear layers of a vision transformer can be adapted, found by structure.

A vision transformer is a stack of blocks of one width d. Every block holds an attention module (it
has `num_heads`) and usually an MLP; what reads the stream of tokens has d inputs, what writes to it
has d outputs. That settles the role of a linear layer, whatever its name:

| role   | module    | reads or writes  | timm's names, for example           |
|--------|-----------|------------------|-------------------------------------|
| `qkv`  | attention | reads            | attn.qkv; attn.q_proj, k_proj, v_proj |
| `proj` | attention | writes (last)    | attn.proj                           |
| `fc1`  | other     | reads            | mlp.fc1; mlp.fc1_g, fc1_x; mlp.w0, w1 |
| `fc2`  | other     | writes (last)    | mlp.fc2; mlp.w2                     |
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

Role: TypeAlias = Literal["qkv", "proj", "fc1", "fc2"]
ROLES: tuple[Role, ...] = ("qkv", "proj", "fc1", "fc2")


@dataclass(frozen=True, slots=True)
class ViTLayer:
    """A linear layer of a block.

    Attributes:
        name: Dotted module name.
        role: What it does in its block.
        block: 0-based number of the block.
    """

    name: str
    role: Role
    block: int


def find_layers(model: nn.Module) -> list[ViTLayer]:
    """The linear layers of the blocks of a vision transformer, in module order.

    Args:
        model: A timm model without adapters.

    Raises:
        ValueError: If it is no vision transformer of one width; the message starts with "it".
    """
    stacks = _find_stacks(model)
    if not stacks:
        raise ValueError(
            "it has no list of blocks that all hold multi-head attention, as convolutional and MLP "
            "networks"
        )
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        raise ValueError("it has batch normalisation, which mixes the images of a batch")
    width = _width(model)
    prefix, blocks = stacks[0]
    # Stacks of another kind read the tokens out, as the class attention of CaiT.
    if any(type(others[0]) is type(blocks[0]) for _, others in stacks[1:]):
        raise ValueError("it has several stacks of the same blocks: a multi-scale transformer")
    return _layers_of_stack(prefix, blocks, width)


def _find_stacks(model: nn.Module) -> list[tuple[str, list[nn.Module]]]:
    """Names and blocks of the outermost lists of modules that all hold attention."""
    stacks: list[tuple[str, list[nn.Module]]] = []
    for name, module in model.named_modules():
        is_inner = any(name.startswith(f"{outer}.") for outer, _ in stacks)
        if isinstance(module, nn.Sequential | nn.ModuleList) and len(module) and not is_inner:
            blocks = list(module)
            if all(any(_is_attention(m) for m in block.modules()) for block in blocks):
                stacks.append((name, blocks))
    return stacks


def _layers_of_stack(prefix: str, blocks: list[nn.Module], width: int) -> list[ViTLayer]:
    layers = []
    for number, block in enumerate(blocks):
        found = list(_layers_of_block(block, f"{prefix}.{number}", number, width))
        if not {"qkv", "proj"} <= {layer.role for layer in found}:
            raise ValueError(
                f"its block '{prefix}.{number}' has no attention that reads and writes tokens of "
                f"width {width}: a hierarchical transformer, whose width changes"
            )
        layers += found
    return layers


def _is_attention(module: nn.Module) -> bool:
    heads = getattr(module, "num_heads", None) or getattr(module, "heads", None)
    return isinstance(heads, int) and any(
        isinstance(child, nn.Linear) for child in module.children()
    )


def _width(model: nn.Module) -> int:
    width = getattr(model, "embed_dim", None)
    if not isinstance(width, int):
        width = getattr(model, "num_features", None)
    if not isinstance(width, int):
        raise ValueError("it has no single width 'embed_dim', as multi-scale transformers")
    return width


def _layers_of_block(block: nn.Module, prefix: str, number: int, d: int) -> Iterator[ViTLayer]:
    for parent_name, parent in block.named_modules(prefix=prefix):
        linears = [
            (f"{parent_name}.{name}", child)
            for name, child in parent.named_children()
            if isinstance(child, nn.Linear)
        ]
        writers = [name for name, layer in linears if layer.out_features == d]
        reads: Role = "qkv" if _is_attention(parent) else "fc1"
        writes: Role = "proj" if _is_attention(parent) else "fc2"
        for name, layer in linears:
            # A square layer both reads and writes; in a module the output comes last.
            if writers and name == writers[-1]:
                yield ViTLayer(name, writes, number)
            elif layer.in_features == d:
                yield ViTLayer(name, reads, number)
            elif layer.out_features == d:
                yield ViTLayer(name, writes, number)


def call_every_layer(model: nn.Module) -> None:
    """Make attention modules of timm call their `qkv` layer instead of reading its weight.

    BEiT and EVA add a bias of their own: `F.linear(x, self.qkv.weight, bias)`. An adapter around
    the layer would then never run, without any error. timm's `qkv_bias_separate` computes the same
    by calling the layer.
    """
    for module in model.modules():
        if hasattr(module, "qkv_bias_separate"):
            module.qkv_bias_separate = True  # type: ignore[assignment]  # a plain bool in timm


def check_forward(model: nn.Module, layers: list[ViTLayer], size: tuple[int, int]) -> None:
    """Run two images through a model without weights and see that every layer takes part.

    Args:
        model: The model on the meta device, in evaluation mode, without classifier.
        layers: Layers that must be called once each, with tokens that keep images apart.
        size: Input height and width, pixels.

    Raises:
        ValueError: If one is not called once, or the output is no feature vector per image; the
            message starts with "it".
    """
    calls: dict[str, list[tuple[int, ...]]] = {layer.name: [] for layer in layers}

    def hook(name: str) -> Any:
        return lambda module, inputs, output: calls[name].append(tuple(inputs[0].shape))

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(hook(name)) for name in calls]
    try:
        with torch.no_grad(), torch.device("meta"):
            output = model(torch.zeros(2, 3, *size))
    finally:
        for handle in handles:
            handle.remove()
    width = getattr(model, "num_features", None)
    if not isinstance(output, Tensor) or output.shape != (2, width):
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"it gives {shape} for two images, not (2, {width}) features")
    for name, shapes in calls.items():
        if len(shapes) != 1 or len(shapes[0]) < 3 or shapes[0][0] % 2:
            raise ValueError(
                f"it runs layer '{name}' on {shapes or 'nothing'} for two images; an adapter there "
                "needs one call with the images along the first axis"
            )


@contextlib.contextmanager
def forward_as(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, `module` runs `forward` in place of its own."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before
