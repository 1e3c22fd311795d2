"""Frozen image backbones: any timm ViT, the embedded `vit_nano_patch8_32.vitucb`, and `Preprocess`.

Importing this module registers the embedded model with timm, so that
`timm.create_model("vit_nano_patch8_32.vitucb", pretrained=True)` works without a network.
"""

from __future__ import annotations

import difflib
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from vitucb.assets import EMBEDDED_BACKBONES
from vitucb.fast_linear import use_fast_linear
from vitucb.registry import import_path
from vitucb.vit_layers import call_every_layer, check_forward, find_layers

__all__ = ["ConvStem", "Preprocess", "create_backbone", "input_size", "preprocess_for"]

_ASSETS = Path(__file__).resolve().parent / "assets"
_OFFLINE_REMEDY = (
    "pass --agent.weights FILE.safetensors, a 'local-dir:FOLDER' backbone, or the embedded "
    "'vitucb-nano'"
)

default_cfgs = generate_default_cfgs(
    {
        "vit_nano_patch8_32.vitucb": {
            "file": str(_ASSETS / "vit_nano_patch8_32.safetensors"),
            "num_classes": 0,
            "input_size": (3, 32, 32),
            "pool_size": None,
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "patch_embed.convs.0",
            "classifier": "head",
        }
    }
)


class ConvStem(nn.Module):
    """Patch embedding by 3x3 convolutions, a drop-in for timm's `PatchEmbed`.

    On 32 px images a few strided convolutions learn far more per unit of compute than one large
    patch projection (Xiao et al., "Early Convolutions Help Transformers See Better",
    https://arxiv.org/abs/2106.14881). There is no normalisation inside, so rows of a batch never
    mix; the batch norm used in pretraining is folded into the convolutions.

    Args:
        layers: (channels, stride) of each convolution before the last one.
        img_size: Input height and width, pixels.
        patch_size: Total stride; the last convolution makes up what `layers` leaves.
        in_chans: Input channels.
        embed_dim: Output channels.
        bias: Whether the last convolution has a bias.
        dynamic_img_pad: Must be False; accepted because timm passes it.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: If `img_size` is not a multiple of `patch_size`, or padding is asked for.
    """

    def __init__(
        self,
        layers: tuple[tuple[int, int], ...] = ((48, 2), (64, 1), (128, 2), (128, 1)),
        img_size: int | tuple[int, int] = 32,
        patch_size: int = 8,
        in_chans: int = 3,
        embed_dim: int = 192,
        bias: bool = True,
        dynamic_img_pad: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        if dynamic_img_pad or any(side % patch_size for side in self.img_size):
            raise ValueError(
                f"img_size {self.img_size} is not a multiple of {patch_size}; choose one that is"
            )
        self.patch_size = (patch_size, patch_size)
        self.grid_size = tuple(side // patch_size for side in self.img_size)
        self.num_patches = math.prod(self.grid_size)
        convolution = partial(nn.Conv2d, kernel_size=3, padding=1, device=device, dtype=dtype)
        modules: list[nn.Module] = []
        for channels, stride in layers:
            modules += [convolution(in_chans, channels, stride=stride), nn.GELU()]
            in_chans, patch_size = channels, patch_size // stride
        modules.append(convolution(in_chans, embed_dim, stride=patch_size, bias=bias))
        self.convs = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        """Embed images (B, in_chans, H, W) as tokens (B, num_patches, embed_dim), row-major."""
        if tuple(x.shape[-2:]) != self.img_size:
            raise ValueError(f"input is {tuple(x.shape[-2:])} px, the model takes {self.img_size}")
        x = x.contiguous(memory_format=torch.channels_last)  # convolves 1.7 times faster on a CPU
        return self.convs(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


@register_model  # type: ignore[untyped-decorator,unused-ignore]
def vit_nano_patch8_32(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Embedded ViT: convolutional stem to 16 tokens, width 192, depth 4, 3 heads, mean pooling.

    Args:
        pretrained: Load the packaged weights.
        **kwargs: Overrides of timm's `VisionTransformer` arguments.

    Returns:
        The model; without `num_classes` it has no classifier and returns features (B, 192).
    """
    arguments: dict[str, Any] = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 192,
        "depth": 4,
        "num_heads": 3,
        "class_token": False,
        "global_pool": "avg",
        "num_classes": 0,
        "embed_layer": ConvStem,
    }
    model = build_model_with_cfg(
        VisionTransformer,
        "vit_nano_patch8_32",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        **{**arguments, **kwargs},
    )
    assert isinstance(model, VisionTransformer)
    return model


_TIMM_SOURCES = ("timm", "hf-hub", "hf_hub", "local-dir")


def create_backbone(
    name: str = "vitucb-nano",
    *,
    weights: str | Path | None = None,
    img_size: int | None = None,
    pretrained: bool = True,
    **timm_options: Any,
) -> nn.Module:
    """Create a timm ViT without a classifier, in evaluation mode.

    Args:
        name: An alias of `vitucb.assets.EMBEDDED_BACKBONES`, any timm ViT name with or without a
            tag, timm's `local-dir:FOLDER` and `hf-hub:OWNER/MODEL`, or `module:name` of a function
            that the module registers with timm.
        weights: A .safetensors file to load strictly (classifier tensors are dropped, the position
            embedding is resampled to `img_size`); overrides `pretrained`.
        img_size: Input height and width in pixels; the model's own by default.
        pretrained: Load the model's pretrained weights; else they are random.
        **timm_options: Further arguments of the timm model, e.g. `dynamic_img_size=True`.

    Returns:
        A timm model that maps float32 (B, 3, H, W) to features (B, num_features).

    Raises:
        ValueError: If the name is unknown, the architecture is no vision transformer of one width
            (see `vitucb.vit_layers`), the file is missing or does not fit, or the weights cannot be
            downloaded.
    """
    name = EMBEDDED_BACKBONES.get(name, (name, ""))[0]
    if ":" in name and name.partition(":")[0] not in _TIMM_SOURCES:
        import_path(name)  # which registers it
        name = name.partition(":")[2]
    _check_name(name)
    options: dict[str, Any] = {**timm_options, "num_classes": 0}
    if img_size is not None:
        options["img_size"] = img_size
    _check_architecture(name, options)
    if weights is not None:
        return _with_weights_file(name, Path(weights), options)
    if not pretrained:
        return _build(name, pretrained=False, **options)
    return _with_own_weights(name, options)


def _build(name: str, **options: Any) -> nn.Module:
    model: nn.Module = timm.create_model(name, **options)
    use_fast_linear(model)
    return model.eval()


def _check_name(name: str) -> None:
    """Raise ValueError unless timm knows the name; folders must exist."""
    source, _, location = name.partition(":")
    if source == "local-dir" and not (Path(location) / "config.json").is_file():
        raise ValueError(
            f"backbone '{name}': no config.json in '{location}'; name a folder saved by timm"
        )
    if location:
        return
    architecture, _, tag = name.partition(".")
    known = [*EMBEDDED_BACKBONES, *timm.list_models()]
    if architecture not in known:
        raise ValueError(f"unknown backbone '{name}'; {_nearest(architecture, known)}")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tagged:
        raise ValueError(f"unknown weights '{tag}' of {architecture}; {_nearest(name, tagged)}")


def _nearest(name: str, known: list[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known[:3]
    return f"nearest: {', '.join(matches)}; see 'vitucb list backbones'"


def _check_architecture(name: str, options: dict[str, Any]) -> None:
    """Raise ValueError unless it is a vision transformer that LoRA can adapt; costs no weights."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False, **options).eval()
    except (TypeError, AssertionError, ValueError) as error:
        raise ValueError(f"backbone '{name}' cannot be built with {options}: {error}") from error
    except (OSError, RuntimeError) as error:  # hf-hub: names fetch their config here
        raise ValueError(f"backbone '{name}' is out of reach; {_OFFLINE_REMEDY}") from error
    try:
        layers = find_layers(model)
        call_every_layer(model)
        check_forward(model, layers, input_size(model))
    except ValueError as error:
        raise ValueError(
            f"backbone '{name}' ({type(model).__name__}) cannot be adapted: {error}; choose a "
            "vision transformer of one width such as 'vitucb-nano' or 'vit_small_patch16_224'"
        ) from error


def _with_weights_file(name: str, path: Path, options: dict[str, Any]) -> nn.Module:
    if path.suffix != ".safetensors" or not path.is_file():
        raise ValueError(f"weights '{path}': no such .safetensors file")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"weights '{path}' cannot be read: {error}") from error
    classifier = timm.get_pretrained_cfg_value(name, "classifier") or "head"
    prefixes = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    state = {
        key: value
        for key, value in state.items()
        if not any(key.startswith(f"{prefix}.") for prefix in prefixes)
    }
    # num_classes=0 on both sides keeps timm's load strict; it relaxes it when they differ.
    overlay = {"state_dict": state, "num_classes": 0, "custom_load": False}
    try:
        model = _build(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except (RuntimeError, KeyError, AssertionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"weights '{path}' do not fit backbone '{name}': {reason}") from error
    # Or every copy of the cfg would hold all the weights.
    cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]  # set by timm
    cfg.update(state_dict=None, file=str(path))
    return model


def _with_own_weights(name: str, options: dict[str, Any]) -> nn.Module:
    try:
        return _build(name, pretrained=True, **options)
    except Exception as error:  # the hub client's errors share no base class
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(
            f"backbone '{name}': its weights cannot be loaded ({reason}); {_OFFLINE_REMEDY}"
        ) from error


class Preprocess(nn.Module):
    """Turns uint8 images into a model's normalised float32 input, on the module's device.

    The whole image is resized to the input size (antialiased, aspect ratio not kept): a centre
    crop could cut off what an arm shows.

    Args:
        size: Output height and width, pixels.
        mean: Channel means, subtracted, in units of full intensity.
        std: Channel standard deviations, divided by, in units of full intensity.
        interpolation: "bicubic" or "bilinear".

    Raises:
        ValueError: If the interpolation is another one.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: tuple[int, int],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        interpolation: str = "bicubic",
    ) -> None:
        super().__init__()
        if interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"interpolation '{interpolation}' is not 'bicubic' or 'bilinear'")
        self.size = size
        self.interpolation = interpolation
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, images: npt.NDArray[np.uint8] | Tensor) -> Tensor:
        """Convert images.

        Args:
            images: uint8 (..., H, W, C) with C = 1 (gray), 3 (RGB) or 4 (RGBA, laid over white).

        Returns:
            float32 (..., 3, height, width) on the module's device.

        Raises:
            TypeError: If the images are not uint8.
            ValueError: If the shape is not (..., H, W, 1|3|4).
        """
        pixels = torch.as_tensor(images)
        if pixels.dtype != torch.uint8:
            raise TypeError(f"images are {pixels.dtype}; give uint8 values from 0 to 255")
        if pixels.ndim < 3 or pixels.shape[-1] not in (1, 3, 4):
            raise ValueError(f"images have shape {tuple(pixels.shape)}; give (..., H, W, 1|3|4)")
        x = pixels.to(self.mean.device).movedim(-1, -3).float() / 255
        if x.shape[-3] == 4:
            x = x[..., :3, :, :] * x[..., 3:, :, :] + (1 - x[..., 3:, :, :])
        if x.shape[-2:] != self.size:
            x = self._resize(x)
        return (x - self.mean) / self.std  # broadcasting turns gray into RGB

    def _resize(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, *x.shape[-3:])
        flat = nn.functional.interpolate(
            flat, self.size, mode=self.interpolation, align_corners=False, antialias=True
        )
        return flat.clamp_(0, 1).reshape(*x.shape[:-2], *self.size)  # bicubic overshoots


def input_size(model: nn.Module) -> tuple[int, int]:
    """Input height and width of a timm model, pixels: as built, else that of its pretrained cfg."""
    cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]  # set by timm
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or cfg["input_size"][1:]
    return int(size[0]), int(size[1])


def preprocess_for(model: nn.Module, device: torch.device | str = "cpu") -> Preprocess:
    """Build the `Preprocess` of a timm model from its pretrained cfg and actual input size.

    Args:
        model: A timm model.
        device: Device of the outputs.

    Returns:
        The preprocessing module, on the device.
    """
    cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    interpolation = "bilinear" if cfg["interpolation"] == "bilinear" else "bicubic"
    return Preprocess(input_size(model), tuple(cfg["mean"]), tuple(cfg["std"]), interpolation).to(
        device
    )
