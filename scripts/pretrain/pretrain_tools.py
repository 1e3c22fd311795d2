"""Reading image sets, for the scripts of this folder."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pretrain_glyphs import SIDE
from torch import Tensor


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
