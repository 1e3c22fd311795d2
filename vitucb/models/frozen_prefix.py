"""The part of a model before its first adapter, computed once for every image.

Stem, position embedding and the blocks without adapters are frozen: what they make of an image
depends on the image alone. Images come again and again, in the replay at every step and on most
streams as arms too, so their tokens are kept, up to a bound, and the model goes on from there.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitucb.models.activation_cache import ImageCache, check_limit, noise_images, steady_batch
from vitucb.models.lora import lora_pairs
from vitucb.models.vit_layers import forward_as

_logger = logging.getLogger(__name__)


class FrozenPrefix:
    """A model cut in two where the block with its first adapter begins.

    The model's own forward runs in both halves: up to the block; and from the block on, with zeros
    of the right shape in place of what costs time before it.

    Attributes:
        shape: Of the tokens of one image, without the batch.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        """Cut `model`, and compare the two halves with the whole.

        Args:
            model: Holds LoRA layers; maps images (b, 3, H, W) to features (b, d).
            images: Two images to try it on.

        Raises:
            ValueError: If the part before the first adapter cannot be kept; the message starts
                with "it".
        """
        self._model, self._entry = model, _entry(model)
        tokens = self._trace(images)
        if len(tokens) != len(images) or tokens.shape[1:] == images.shape[1:]:
            raise ValueError(f"it gives tokens of shape {tuple(tokens.shape)}")
        self.shape = tokens.shape[1:]
        self._blank = torch.zeros_like(images[:1])
        self._compare(images, tokens)

    @torch.no_grad()
    def _compare(self, images: Tensor, tokens: Tensor) -> None:
        whole = self._model(images)
        try:
            halves = self.after(tokens)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"its modules cannot be left out ({error})") from error
        tolerance = torch.finfo(whole.dtype).eps ** 0.5
        if not torch.allclose(whole, halves, rtol=tolerance, atol=tolerance):
            raise ValueError("it is used again after the first adapter")

    def _trace(self, images: Tensor) -> Tensor:
        """Run up to the entry and note what is called on the way; the tokens of `images`."""
        called: dict[str, tuple[nn.Module, Any]] = {}
        with contextlib.ExitStack() as stack:
            for name, module in self._model.named_modules():

                def note(module: nn.Module, _: Any, output: Any, name: str = name) -> None:
                    called[name] = (module, output)

                stack.callback(module.register_forward_hook(note).remove)
            with torch.enable_grad():
                tokens = self._run_to_entry(images)
        if tokens.requires_grad:
            raise ValueError("it has parameters that are trained")
        if any(_depends_on_mode(module) for module, _ in called.values()):
            raise ValueError("it has dropout or batch normalisation")
        inner = {name for name in called if any(name.startswith(f"{outer}.") for outer in called)}
        self._skipped = [
            (module, output[:0])
            for name, (module, output) in called.items()
            if name not in inner and _is_costly(module) and _is_per_image(output, len(images))
        ]
        return tokens

    def _run_to_entry(self, images: Tensor) -> Tensor:
        def stop(x: Tensor, *_: Any, **__: Any) -> None:
            raise _Reached(x)

        with forward_as(self._entry, stop):
            try:
                self._model(images)
            except _Reached as reached:
                return reached.tokens
        raise ValueError("its end is never reached")

    @torch.no_grad()
    def before(self, images: Tensor) -> Tensor:
        """Tokens (b, ...) that the first adapted block gets for images (b, 3, H, W)."""
        with torch.inference_mode(False):
            return self._run_to_entry(images)

    def after(self, tokens: Tensor) -> Tensor:
        """What the model gives for images whose tokens are these, (b, d)."""
        count, enter = len(tokens), self._entry.forward
        with contextlib.ExitStack() as stack:
            for module, empty in self._skipped:

                def skip(*_: Any, empty: Tensor = empty, **__: Any) -> Tensor:
                    return empty.new_zeros(count, *empty.shape[1:])

                stack.enter_context(forward_as(module, skip))
            stack.enter_context(
                forward_as(self._entry, lambda _, *args, **named: enter(tokens, *args, **named))
            )
            features: Tensor = self._model(self._blank.expand(count, -1, -1, -1))
            return features

    def gave(self, inputs: Tensor) -> bool:
        """Whether `inputs` are tokens, all those of every image or some of them, and no images."""
        if len(self.shape) != 2:
            return inputs.shape[1:] == self.shape
        return inputs.dim() == 3 and inputs.shape[2] == self.shape[1]


class PrefixCache(ImageCache):
    """Tokens of images.

    Attributes:
        prefix: Makes them.
    """

    def __init__(
        self,
        prefix: FrozenPrefix,
        preprocess: Callable[[NDArray[np.uint8]], Tensor],
        *,
        limit_bytes: int,
        batch: int,
    ) -> None:
        """As `ImageCache`, of what `prefix` makes."""
        super().__init__(prefix.before, preprocess, limit_bytes=limit_bytes, batch=batch)
        self.prefix = prefix


def make_prefix_cache(
    model: nn.Module,
    preprocess: Callable[[NDArray[np.uint8]], Tensor],
    size: tuple[int, int],
    *,
    limit_mib: int,
    arms: int,
) -> PrefixCache | None:
    """A cache for `model`, or None where nothing can be gained or it would not be exact.

    Args:
        model: Holds LoRA layers; maps images (b, 3, H, W) to features (b, d).
        preprocess: One image uint8 (H, W, C) to the model's input (3, H, W).
        size: Height and width of the model's input, pixels.
        limit_mib: Bound of what is held; 0 for no cache.
        arms: How many images a round brings at most.

    Raises:
        ValueError: If `limit_mib` is negative.
    """
    check_limit(limit_mib)
    if limit_mib == 0:
        return None
    images = noise_images(model, size)
    try:
        prefix = FrozenPrefix(model, images[:2])
    except ValueError as error:
        _logger.info("the part before the first adapter is computed every time: %s", error)
        return None
    batch = steady_batch(prefix.before, images, arms)
    return PrefixCache(prefix, preprocess, limit_bytes=limit_mib << 20, batch=batch)


class _Reached(Exception):  # noqa: N818  # not an error: the way out of the model's forward
    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens


def _entry(model: nn.Module) -> nn.Module:
    """The item of a list of modules, such as blocks, that holds the first adapter."""
    module = model
    for part in lora_pairs(model)[0].name.split("."):
        parent, module = module, module.get_submodule(part)
        if isinstance(parent, nn.Sequential | nn.ModuleList):
            break
    return module


def _depends_on_mode(module: nn.Module) -> bool:
    """Whether the module does something else, or by chance, while the model trains."""
    rates = (getattr(module, name, 0.0) for name in ("p", "prob", "drop_prob"))
    return isinstance(module, nn.modules.batchnorm._BatchNorm) or any(
        isinstance(rate, float | int) and rate > 0 for rate in rates
    )


def _is_costly(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _is_per_image(output: object, count: int) -> bool:
    """Whether it is a tensor with a row per image; a position bias, for one, has none."""
    return isinstance(output, Tensor) and output.shape[:1] == (count,)
