"""Pretrain the embedded `vit_nano_patch8_32` from scratch; see vitucb/assets/MODEL_CARD.md.

    python scripts/pretrain/pretrain_nano.py --data cifar10_train50k_jpeg.npz --out nano.safetensors

A run that is cut off resumes from `--checkpoint` and ends with the same weights. The stem trains
with batch norm, which is folded into its convolutions on export, so the exported model has none.
"""

from __future__ import annotations

import argparse
import io
import math
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from PIL import Image
from pretrain_augmentation import augment, uniform
from pretrain_glyphs import GLYPH_CLASSES, SIDE, draw_glyphs, glyph_prototypes
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


def load_images(path: Path) -> tuple[Tensor, Tensor]:
    """Read an .npz of `images` or of `jpeg` + `offsets`, with `labels`.

    Args:
        path: The file.

    Returns:
        uint8 (N, 3, 32, 32) and int64 (N,) labels.
    """
    with np.load(path, allow_pickle=False) as archive:
        labels = torch.from_numpy(archive["labels"].astype(np.int64))
        if "images" in archive:
            pictures = [Image.fromarray(image) for image in archive["images"]]
        else:
            stream, offsets = archive["jpeg"], archive["offsets"]
            ends = pairwise(offsets)
            pictures = [Image.open(io.BytesIO(stream[a:b].tobytes())) for a, b in ends]
    images = np.stack([_as_array(picture) for picture in pictures])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels


def _as_array(picture: Image.Image) -> npt.NDArray[np.uint8]:
    picture = picture.convert("RGB")
    if picture.size != (SIDE, SIDE):
        picture = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def contrast_loss(views: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """Supervised contrastive loss (Khosla et al., https://arxiv.org/abs/2004.11362, eq. 2).

    With every image its own label it is SimCLR's loss.

    Args:
        views: Projections (B, d).
        labels: Class of each row (B,).
        temperature: Softmax temperature.

    Returns:
        The mean loss over rows.
    """
    z = nn.functional.normalize(views.float(), dim=1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    log_p = (z @ z.T / temperature).masked_fill(itself, -torch.inf).log_softmax(1)
    positive = (labels[:, None] == labels) & ~itself
    return -(log_p.masked_fill(~positive, 0).sum(1) / positive.sum(1).clamp_min(1)).mean()


class Pretrainer(nn.Module):
    """The backbone with batch norm in its stem and the throw-away heads of all the tasks."""

    def __init__(self, architecture: str, num_classes: int) -> None:
        super().__init__()
        self.backbone = timm.create_model("vit_nano_patch8_32", **ARCHITECTURES[architecture])
        width = self.backbone.num_features
        for block in self.backbone.blocks:
            block.attn.fused_attn = False  # at 16 tokens the fused CPU backward is 4 times slower
        self.backbone.patch_embed.convs = _with_batch_norm(self.backbone.patch_embed.convs)
        self.classify = nn.Linear(width, num_classes)
        self.name_glyph = nn.Linear(width, GLYPH_CLASSES)
        self.name_turn = nn.Linear(width, 4)
        self.project = nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, 128))

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


def total_loss(
    model: Pretrainer,
    images: Tensor,
    labels: Tensor,
    prototypes: Tensor,
    options: argparse.Namespace,
    rng: torch.Generator,
) -> Tensor:
    """One minibatch's loss, summed over the tasks that the options switch on.

    Args:
        model: The model in training mode.
        images: uint8 (B, 3, 32, 32).
        labels: Class labels (B,).
        prototypes: Control points of the glyphs.
        options: The command line.
        rng: Source of the augmentations.

    Returns:
        The scalar loss.
    """
    glyph_count = round(options.glyphs * len(images))
    images, labels = images[glyph_count:], labels[glyph_count:]
    if options.method != "supervised":  # two views of half as many images: equal compute
        half = (len(images) + 1) // 2
        images, labels = images[:half].repeat(2, 1, 1, 1), labels[:half].repeat(2)
    x = augment(images, rng, strong=options.augment == "strong")
    turns = torch.zeros(len(x), dtype=torch.long, device=x.device)
    if options.rotation:
        turns = torch.randint(4, (len(x),), generator=rng, device=rng.device)
        turns = turns * (uniform((len(x),), 0, 1, rng) < 0.4)
        x = torch.stack(
            [torch.rot90(image, int(k), (1, 2)) for image, k in zip(x, turns, strict=True)]
        )
    drawn, figures = draw_glyphs(prototypes, glyph_count, rng)
    features = model.backbone(torch.cat([x, drawn]).contiguous(memory_format=torch.channels_last))
    real, glyph = features[: len(x)], features[len(x) :]
    cross_entropy = partial(nn.functional.cross_entropy, label_smoothing=0.1)
    loss = torch.zeros((), device=x.device)
    if options.method != "simclr":
        loss = loss + cross_entropy(model.classify(real).float(), labels)
    if options.method == "simclr":
        loss = loss + contrast_loss(model.project(real), torch.arange(len(x)) % (len(x) // 2))
    elif options.method == "supcon":
        loss = loss + 0.5 * contrast_loss(model.project(real), labels)
    if options.rotation:
        loss = loss + 0.3 * cross_entropy(model.name_turn(real).float(), turns)
    if glyph_count:
        loss = loss + 0.35 * cross_entropy(model.name_glyph(glyph).float(), figures)
    return loss


def make_optimizers(model: nn.Module, options: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest; or AdamW for everything."""
    matrices, others, plain = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or "pos_embed" in name:
            plain.append(parameter)
        elif ".blocks." in name and options.optimizer == "muon":
            matrices.append(parameter)
        else:
            others.append(parameter)
    groups: list[dict[str, Any]] = [{"params": others}, {"params": plain, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98), weight_decay=0.05)
    ]
    if matrices:
        optimizers.append(
            torch.optim.Muon(
                matrices, lr=options.lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
            )
        )
    return optimizers


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


class Run:
    """All the state of one pretraining run, so that it can stop and resume."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        device = options.device
        loaded = [load_images(path) for path in options.data]
        self.images = torch.cat([images for images, _ in loaded]).to(device)
        classes = np.cumsum([0, *(int(labels.max()) + 1 for _, labels in loaded)])
        labels = [part + int(first) for (_, part), first in zip(loaded, classes, strict=False)]
        self.labels = torch.cat(labels).to(device)
        torch.manual_seed(options.seed)  # timm's and torch's initialisers take no generator
        make = partial(Pretrainer, options.arch, int(classes[-1]))
        self.model = make().to(device).to(memory_format=torch.channels_last).train()
        self.ema = make().to(device).eval().requires_grad_(False)
        self.ema.load_state_dict(self.model.state_dict())
        self.optimizers = make_optimizers(self.model, options)
        self.rng = torch.Generator(device).manual_seed(options.seed)
        self.prototypes = glyph_prototypes(torch.Generator(device).manual_seed(options.seed + 1))
        self.step = 0

    def advance(self) -> float:
        """Take one optimizer step; returns the loss."""
        options = self.options
        size = (options.batch_size,)
        rows = torch.randint(len(self.images), size, generator=self.rng, device=self.rng.device)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.step, options)
        with torch.autocast(self.rng.device.type, torch.bfloat16, enabled=options.bfloat16):
            loss = total_loss(
                self.model, self.images[rows], self.labels[rows], self.prototypes, options, self.rng
            )
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        average(self.ema, self.model, min(options.ema, (1 + self.step) / (10 + self.step)))
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
        device = self.rng.device
        state = torch.load(self.options.checkpoint, map_location=device, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.rng.set_state(state["rng"].cpu())


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, nargs="+", required=True, help=".npz files with images and labels")
    add("--out", type=Path, required=True, help="float16 .safetensors to write")
    add("--checkpoint", type=Path, help="resumable state; OUT with suffix .checkpoint by default")
    add("--arch", choices=sorted(ARCHITECTURES), default="nano")
    add("--method", choices=["supervised", "supcon", "simclr"], default="supervised")
    add("--augment", choices=["weak", "strong"], default="strong")
    add("--rotation", action="store_true", help="also name quarter turns of some images")
    add("--glyphs", type=float, default=0.0, help="share of the batch that is random pen strokes")
    add("--optimizer", choices=["muon", "adamw"], default="muon")
    add("--lr", type=float, default=2e-3)
    add("--ema", type=float, default=0.998)
    add("--steps", type=int, default=6000)
    add("--stop-after", type=int, help="end this call at a step, to resume later")
    add("--batch-size", type=int, default=256)
    add("--save-every", type=int, default=500)
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1)
    add("--float32", dest="bfloat16", action="store_false")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    if options.checkpoint is None:
        options.checkpoint = options.out.with_suffix(".checkpoint")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Pretrain, or continue, up to `--steps`."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    run = Run(options)
    run.resume()
    start, first = time.monotonic(), run.step
    last = min(options.steps, options.stop_after or options.steps)
    while run.step < last:
        loss = run.advance()
        if run.step % 50 == 0 or run.step == last:
            rate = (run.step - first) * options.batch_size / (time.monotonic() - start)
            print(
                f"step {run.step}/{options.steps} loss {loss:.3f} {rate:.0f} images/s", flush=True
            )
        if run.step % options.save_every == 0:
            run.save()
    run.save()


if __name__ == "__main__":
    main()
