"""Frozen image backbones: any timm ViT, or the embedded `vit_nano_patch8_32.vitucb`.

Importing this module registers the embedded model with timm, so that
`timm.create_model("vit_nano_patch8_32.vitucb", pretrained=True)` works without a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from vitucb.assets import DEFAULT_BACKBONE, EMBEDDED_BACKBONES
from vitucb.models import nano as nano  # registers the embedded model with timm
from vitucb.models.hub import asked_if_it_answers
from vitucb.models.onednn_linear import use_fast_linear
from vitucb.models.preprocess import input_size
from vitucb.models.timm_names import nearest
from vitucb.models.vit_layers import call_every_layer, check_forward, find_layers
from vitucb.registry import HUB, check_trusted, import_path
from vitucb.storage.foreign_files import read_json
from vitucb.storage.limits import check_limit

_OFFLINE_REMEDY = (
    "pass --agent.weights FILE.safetensors, a 'local-dir:FOLDER' backbone, or the embedded "
    f"'{DEFAULT_BACKBONE}'"
)


_HUBS = ("hf-hub", "hf_hub")
_TIMM_SOURCES = ("timm", *_HUBS, "local-dir")


def create_backbone(
    name: str = DEFAULT_BACKBONE,
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
            (see `vitucb.models.vit_layers`), the file is missing or does not fit, or the weights
            cannot be downloaded.
    """
    name = EMBEDDED_BACKBONES.get(name, (name, ""))[0]
    if ":" in name and name.partition(":")[0] not in _TIMM_SOURCES:
        import_path(name)  # which registers it
        name = name.partition(":")[2]
    if name.partition(":")[0] in _HUBS:
        check_trusted(HUB, name)  # which is asked for the architecture already
    _check_name(name)
    options: dict[str, Any] = {**timm_options, "num_classes": 0}
    if img_size is not None:
        options["img_size"] = img_size
    classifier = _check_architecture(name, options)
    if weights is not None:
        return _with_weights_file(name, Path(weights), classifier, options)
    if not pretrained:
        return _build(name, pretrained=False, **options)
    return _with_own_weights(name, options)


def _build(name: str, **options: Any) -> nn.Module:
    # Modules draw their first weights from the global generator: the fork keeps the caller's.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # that of the CPU alone, as the fork
        model: nn.Module = timm.create_model(name, **options)
    use_fast_linear(model)
    # From the start: adapters that are loaded from a folder would not be called either.
    call_every_layer(model)
    _note_size(model, options)
    return model.eval()


def _embedding(model: nn.Module) -> object:
    """What cuts images into patches, by the names that timm has for it; None without."""
    names = ("patch_embed", "embeds")
    return next((getattr(model, name) for name in names if hasattr(model, name)), None)


def _note_size(model: nn.Module, options: Mapping[str, Any]) -> None:
    """Put a size that was asked for into the cfg, where timm's model does not tell it itself."""
    if "img_size" in options and not hasattr(_embedding(model), "img_size"):
        size = options["img_size"]
        height, width = size if isinstance(size, Sequence) else (size, size)
        cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]  # set by timm
        cfg["input_size"] = (3, height, width)


def _check_name(name: str) -> None:
    """Raise ValueError unless timm knows the name; folders must exist."""
    source, _, location = name.partition(":")
    if source == "local-dir" and not (Path(location) / "config.json").is_file():
        raise ValueError(
            f"backbone '{name}': no config.json in '{location}'; name a folder saved by timm"
        )
    if source == "local-dir":
        _check_described(name, Path(location) / "config.json")
    if location:
        return
    architecture, _, tag = name.partition(".")
    known = [*EMBEDDED_BACKBONES, *timm.list_models()]
    if architecture not in known:
        raise ValueError(f"unknown backbone '{name}'; {nearest(architecture, known)}")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tagged:
        raise ValueError(f"unknown weights '{tag}' of {architecture}; {nearest(name, tagged)}")


def _check_described(name: str, path: Path) -> None:
    """Refuse a description of a model that would take hours or gigabytes to build."""
    try:
        described = read_json(path)
        arguments = described.get("model_args") if isinstance(described, dict) else None
        for key, value in (arguments or {}).items():
            values = value if isinstance(value, list) else [value]
            size = "model_layers" if "depth" in key or "layers" in key else "model_width"
            for number in values:
                if isinstance(number, int | float):
                    check_limit(size, number, f"model_args {key[:40]}")
            check_limit("model_layers", len(values), f"model_args {key[:40]}: its length,")
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"backbone '{name}': {path}: {reason}") from error


def _check_weights_of(name: str, model: nn.Module) -> None:
    """Refuse a model that is far larger than the weights in its folder."""
    folder = Path(name.partition(":")[2])
    on_disk = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    size = sum(parameter.numel() for parameter in model.parameters())
    if size > on_disk:  # where a byte each would be few
        what = f"backbone '{name}' has more parameters than its folder has bytes: their 2^20"
        check_limit("model_parameters", size >> 20, what)


def _check_architecture(name: str, options: dict[str, Any]) -> str | Sequence[str]:
    """Raise ValueError unless it is a vision transformer that LoRA can adapt; costs no weights.

    Returns:
        Names of the layers that classify.
    """
    is_asked = name.partition(":")[0] in _HUBS
    try:
        with asked_if_it_answers() if is_asked else nullcontext(), torch.device("meta"):
            model = timm.create_model(name, pretrained=False, **options).eval()
    except (TypeError, AssertionError, ValueError) as error:
        raise ValueError(f"backbone '{name}' cannot be built with {options}: {error}") from error
    except (OSError, RuntimeError) as error:  # hf-hub: names fetch their config here
        raise ValueError(f"backbone '{name}' is out of reach; {_OFFLINE_REMEDY}") from error
    except Exception as error:  # a folder may describe anything
        reason = " ".join(repr(error).split())[:200]
        raise ValueError(f"backbone '{name}' cannot be built: {reason}") from error
    if name.startswith("local-dir:"):
        _check_weights_of(name, model)
    try:
        layers = find_layers(model)
        call_every_layer(model)
        _note_size(model, options)
        _check_patches(model, options)
        check_forward(model, layers, input_size(model))
    except (ValueError, AssertionError, RuntimeError) as error:
        raise ValueError(
            f"backbone '{name}' ({type(model).__name__}) cannot be adapted: {error}; choose a "
            f"vision transformer of one width such as '{DEFAULT_BACKBONE}' or "
            "'vit_small_patch16_224'"
        ) from error
    cfg: dict[str, Any] = model.pretrained_cfg  # set by timm
    return cfg.get("classifier") or "head"


def _check_patches(model: nn.Module, options: Mapping[str, Any]) -> None:
    """Refuse a size asked for that patches do not fill: what is left over would never be seen."""
    patch = getattr(_embedding(model), "patch_size", None)
    # Some of timm's own sizes are none: so they were trained.
    if patch is None or "img_size" not in options or options.get("dynamic_img_pad"):
        return
    for side, length in zip(input_size(model), patch, strict=True):
        if side % length:
            raise ValueError(
                f"img_size {side} is not a multiple of {length}, its patch, and would be cut off; "
                f"give {side - side % length or length} or {side - side % length + length}"
            )


def _with_weights_file(
    name: str, path: Path, classifier: str | Sequence[str], options: dict[str, Any]
) -> nn.Module:
    if path.suffix != ".safetensors" or not path.is_file():
        raise ValueError(f"weights '{path}': no such .safetensors file")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"weights '{path}' cannot be read: {error}") from error
    prefixes = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    state = {
        key: value
        for key, value in state.items()
        if not any(key.startswith(f"{prefix}.") for prefix in prefixes)
    }
    # num_classes=0 on both sides keeps timm's load strict; it relaxes it when they differ.
    # Without a source, or that of a folder or a hub would come before the file.
    overlay = {"state_dict": state, "num_classes": 0, "custom_load": False, "source": ""}
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
    is_here = name.startswith("local-dir:") or name in dict(EMBEDDED_BACKBONES.values())
    if not is_here:
        check_trusted(HUB, name)
    with nullcontext() if is_here else asked_if_it_answers() as unreachable:
        try:
            return _build(name, pretrained=True, **options)
        except Exception as error:  # the hub client's errors share no base class
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            if unreachable is not None:
                reason = f"they are not in the cache, and {unreachable} does not answer"
            raise ValueError(
                f"backbone '{name}': its weights cannot be loaded ({reason}); {_OFFLINE_REMEDY}"
            ) from error
