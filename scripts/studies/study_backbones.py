"""Which timm models can be adapted, with how many parameters, and how fast a round is scored.

Every model is built with random weights, which is all that shapes and speed depend on. A round is
one call of the gradient features with K = 5 images on one thread: scores and features of all arms,
without covariance and training. Times are of the processor, not of the clock. Writes the tables of
docs/backbones.md.

    python scripts/studies/study_backbones.py            # a quarter of an hour of one core
    python scripts/studies/study_backbones.py --only vit_tiny_patch16_224 eva02_tiny_patch14_224
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from vitucb.learning.gradient_features import LoRAGradientFeatures
from vitucb.models.backbone import create_backbone
from vitucb.models.lora import add_lora, lora_pairs
from vitucb.models.preprocess import input_size
from vitucb.models.reward_model import RewardModel
from vitucb.models.threads import use_threads

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backbones.md"
ARMS, RANK, TRIALS = 5, 4, 2

# name -> what it stands for, image size (None: its own)
MODELS: dict[str, tuple[str, int | None]] = {
    "vitucb-nano": ("embedded", None),
    "vit_tiny_patch16_224": ("plain ViT", None),
    "vit_small_patch16_224": ("plain ViT", None),
    "deit_tiny_distilled_patch16_224": ("DeiT, distilled", None),
    "deit3_small_patch16_224": ("DeiT III, LayerScale", None),
    "vit_small_patch14_dinov2": ("DINOv2", 224),
    "vit_small_patch14_reg4_dinov2": ("DINOv2 with registers", 98),
    "vit_small_patch16_dinov3": ("DINOv3, rotary", 224),
    "vit_small_plus_patch16_dinov3": ("DINOv3, SwiGLU", 224),
    "vit_base_patch16_clip_224": ("CLIP tower", None),
    "vit_base_patch16_siglip_224": ("SigLIP tower, attention pooling", None),
    "vit_pe_core_tiny_patch16_384": ("Perception Encoder", 224),
    "eva02_tiny_patch14_224": ("EVA-02, qkv in one", None),
    "eva02_base_patch14_224": ("EVA-02, q k v apart, SwiGLU", None),
    "beit_base_patch16_224": ("BEiT, relative position", None),
    "vit_medium_patch16_rope_reg1_gap_256": ("rotary, register", None),
    "flexivit_small": ("FlexiViT", None),
    "cait_xxs24_224": ("CaiT, talking heads", None),
    "vit_relpos_small_patch16_224": ("relative position", None),
    "vit_small_patch16_18x2_224": ("parallel branches", 112),
    "naflexvit_base_patch16_gap": ("NaFlexViT", None),
}
REFUSED = (
    "resnet18",
    "convnext_atto",
    "mixer_s16_224",
    "swin_tiny_patch4_window7_224",
    "hiera_tiny_224",
    "pvt_v2_b0",
    "coat_tiny",
    "xcit_nano_12_p16_224",
    "maxvit_nano_rw_256",
)


def measure(name: str, kind: str, img_size: int | None) -> str:
    """One row of the table of models."""
    backbone = create_backbone(name, img_size=img_size, pretrained=name == "vitucb-nano")
    size, frozen = input_size(backbone)[0], sum(p.numel() for p in backbone.parameters())
    width = int(backbone.num_features)  # type: ignore[arg-type]  # timm sets an int
    model = RewardModel(add_lora(backbone, rank=RANK), width)
    features = LoRAGradientFeatures(model)
    images = torch.randn(ARMS, 3, size, size, generator=torch.Generator().manual_seed(0))
    features(images)
    seconds = []
    for _ in range(TRIALS):
        started = time.process_time()
        features(images)
        seconds.append(time.process_time() - started)
    pairs = len(lora_pairs(model))
    way = "one backward" if features.is_fast else f"{ARMS} backwards"
    rate = 1 / statistics.median(seconds)
    return (
        f"| `{name}` | {kind} | {size} | {frozen / 1e6:.1f} M | {pairs} | {features.dim:,} | "
        f"{way} | {rate:.2g} |"
    )


def models_table(names: list[str]) -> str:
    """The table of models that work, as Markdown."""
    lines = [
        f"| model | kind | px | frozen | adapted layers | p (rank {RANK}) | features from | "
        f"rounds per CPU second (K = {ARMS}) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        lines.append(measure(name, *MODELS[name]))
        print(lines[-1], flush=True)
    return "\n".join(lines)


def refusals_table() -> str:
    """The table of models that are refused, with the reasons, as Markdown."""
    lines = ["| model | refused because |", "|---|---|"]
    for name in REFUSED:
        try:
            create_backbone(name, pretrained=False)
        except ValueError as error:
            reason = str(error).partition("cannot be adapted: ")[2].partition("; choose")[0]
            lines.append(f"| `{name}` | {reason} |")
        else:
            raise RuntimeError(f"{name} was not refused")
    return "\n".join(lines)


def write(section: str, text: str) -> None:
    """Replace a marked section of the page."""
    begin, end = f"<!-- {section} begins -->", f"<!-- {section} ends -->"
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    tail = rest.partition(end)[2]
    PAGE.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")


def main() -> None:
    """Read the arguments, measure, write the page unless only some models were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(MODELS), metavar="MODEL")
    arguments = parser.parse_args()
    use_threads(1)
    models = models_table(arguments.only or list(MODELS))
    if not arguments.only:
        write("models", models)
        write("refused", refusals_table())


if __name__ == "__main__":
    main()
