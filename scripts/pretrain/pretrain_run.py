"""One resumable pretraining run of the embedded backbone, for the scripts of this folder."""

from __future__ import annotations

import abc
import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vitucb.models.nano import ConvStem

# Same forward cost, four times the tokens: the alternative the patch size was chosen against.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "nano": {},
    "deep": {"depth": 6},
    "stride4": {
        "patch_size": 4,
        "embed_dim": 128,
        "depth": 3,
        "num_heads": 2,
        "embed_layer": partial(ConvStem, ((48, 2), (64, 1))),
    },
}


class Pretrainer(nn.Module):
    """The backbone with batch norm in its stem, and throw-away heads.

    Args:
        architecture: A name of `ARCHITECTURES`.
        heads: Name -> number of outputs of a linear map of the features.
    """

    def __init__(self, architecture: str, heads: dict[str, int]) -> None:
        super().__init__()
        self.backbone = timm.create_model("vit_nano_patch8_32", **ARCHITECTURES[architecture])
        for block in self.backbone.blocks:
            block.attn.fused_attn = False  # at 16 tokens the fused CPU backward is 4 times slower
        self.backbone.patch_embed.convs = _with_batch_norm(self.backbone.patch_embed.convs)
        width = self.backbone.num_features
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in heads.items()})

    def exported(self) -> dict[str, Tensor]:
        """Tensors of `vit_nano_patch8_32`, float32, batch norm folded into the convolutions."""
        state = {
            key: value
            for key, value in self.backbone.state_dict().items()
            if not key.startswith("patch_embed.")
        }
        for index, module in enumerate(self.backbone.patch_embed.convs):
            if isinstance(module, nn.Sequential):
                convolution, norm = module
                assert isinstance(convolution, nn.Conv2d)
                assert isinstance(norm, nn.BatchNorm2d)
                module = fuse_conv_bn_eval(convolution, norm)
            for key, value in module.state_dict().items():
                state[f"patch_embed.convs.{index}.{key}"] = value
        return {key: value.detach().float().contiguous().cpu() for key, value in state.items()}


def _with_batch_norm(convs: nn.Sequential) -> nn.Sequential:
    """Follow every convolution but the last by batch norm."""
    return nn.Sequential(
        *(
            nn.Sequential(module, nn.BatchNorm2d(module.out_channels))
            if isinstance(module, nn.Conv2d) and index < len(convs) - 1
            else module
            for index, module in enumerate(convs)
        )
    )


def make_optimizers(model: nn.Module, options: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    matrices, others, plain = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or "pos_embed" in name:
            plain.append(parameter)
        elif ".blocks." in name:
            matrices.append(parameter)
        else:
            others.append(parameter)
    groups: list[dict[str, Any]] = [{"params": others}, {"params": plain, "weight_decay": 0.0}]
    return [
        torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98), weight_decay=0.05),
        torch.optim.Muon(
            matrices, lr=options.lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
        ),
    ]


def learning_rate(step: int, options: argparse.Namespace) -> float:
    """Linear warm-up over 4 % of the steps, then cosine to zero."""
    warmup = max(1, round(0.04 * options.steps))
    if step < warmup:
        return float(options.lr * (step + 1) / warmup)
    progress = (step - warmup) / max(1, options.steps - warmup)
    return float(options.lr * 0.5 * (1 + math.cos(math.pi * progress)))


@torch.no_grad()
def average(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights and batch-norm statistics towards the model's."""
    for mean, new in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(new, 1 - decay)


class Run(abc.ABC):
    """All the state of one pretraining run, so that it can stop and resume."""

    def __init__(self, options: argparse.Namespace, make: Callable[[], Pretrainer]) -> None:
        """Start with new weights.

        Args:
            options: The command line.
            make: Makes the model, with weights by chance.
        """
        self.options = options
        torch.manual_seed(options.seed)  # timm's and torch's initialisers take no generator
        self.model = make().to(memory_format=torch.channels_last).train()
        self.ema = make().eval().requires_grad_(False)
        self.ema.load_state_dict(self.model.state_dict())
        self.optimizers = make_optimizers(self.model, options)
        self.rng = torch.Generator().manual_seed(options.seed)
        self.step = 0

    @abc.abstractmethod
    def loss(self) -> Tensor:
        """The loss of a new minibatch, drawn by `self.rng`."""

    def mixed(self) -> torch.autocast:
        """Products in bfloat16, unless `--float32`."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.options.bfloat16)

    def features(self, pictures: Tensor) -> Tensor:
        """What the backbone makes of images, (B, d)."""
        features: Tensor = self.model.backbone(
            pictures.contiguous(memory_format=torch.channels_last)
        )
        return features

    def advance(self) -> float:
        """Take one optimizer step; returns the loss."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.step, self.options)
        loss = self.loss()
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        average(self.ema, self.model, min(self.options.ema, (1 + self.step) / (10 + self.step)))
        return loss.item()

    def save(self) -> None:
        """Write the checkpoint and the exported weights, each in one rename."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "rng": self.rng.get_state(),
        }
        partial_path = self.options.checkpoint.with_suffix(".partial")
        torch.save(state, partial_path)
        partial_path.replace(self.options.checkpoint)
        halves = {key: value.half() for key, value in self.ema.exported().items()}
        partial_path = self.options.out.with_suffix(".partial")
        save_file(halves, partial_path)
        partial_path.replace(self.options.out)

    def resume(self) -> None:
        """Continue from the checkpoint if there is one."""
        if not self.options.checkpoint.is_file():
            return
        state = torch.load(self.options.checkpoint, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.rng.set_state(state["rng"])

    def play(self) -> None:
        """Resume, train up to `--steps` or `--stop-after`, and save on the way."""
        options = self.options
        self.resume()
        start, first = time.monotonic(), self.step
        last = min(options.steps, options.stop_after or options.steps)
        while self.step < last:
            loss = self.advance()
            if self.step % 50 == 0 or self.step == last:
                rate = (self.step - first) * options.batch_size / (time.monotonic() - start)
                print(
                    f"step {self.step}/{options.steps} loss {loss:.3f} {rate:.0f} images/s",
                    flush=True,
                )
            if self.step % options.save_every == 0:
                self.save()
        self.save()


def run_parser(description: str | None, steps: int) -> argparse.ArgumentParser:
    """The options that every run has.

    Args:
        description: What the script does.
        steps: How many by default.

    Returns:
        A parser, to add those of the script to.
    """
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="float16 .safetensors to write")
    add("--checkpoint", type=Path, help="resumable state; OUT with suffix .checkpoint by default")
    add("--lr", type=float, default=2e-3)
    add("--ema", type=float, default=0.998)
    add("--steps", type=int, default=steps)
    add("--stop-after", type=int, help="end this call at a step, to resume later")
    add("--batch-size", type=int, default=256)
    add("--save-every", type=int, default=500)
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1)
    add("--float32", dest="bfloat16", action="store_false")
    return parser


def parsed(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """The command line; the number of threads is set."""
    options = parser.parse_args(arguments)
    if options.checkpoint is None:
        options.checkpoint = options.out.with_suffix(".checkpoint")
    torch.set_num_threads(options.threads)
    return options
