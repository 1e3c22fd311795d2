"""Image sets that need no file of the user: packaged digits, timm's data sets."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitucb.envs.data.decoding import first_line, open_image
from vitucb.envs.data.disk_cache import data_folder
from vitucb.envs.data.image_dataset import (
    ImageDataset,
    class_indices,
    dataset_error,
    pixels_identity,
)
from vitucb.envs.data.image_source import ImageSource, Reading, place_in, read_source
from vitucb.envs.data.npz import array_images

if TYPE_CHECKING:
    from PIL import Image

TIMM_PREFIXES = ("torch", "hfds")
"""First part of the data set names that are handed to timm."""


def load_packaged_digits(image_size: int | None, *, rated: bool = False) -> ImageDataset:
    """The 1,797 handwritten digits of scikit-learn, 8x8, gray levels 0..16 spread over 0..255.

    With `rated` they come with scores too: the digit itself, a stand-in for a rating.
    """
    table = np.loadtxt(_digits_file(), delimiter=",")
    digits, target = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    gray = np.round(digits * (255 / 16)).astype(np.uint8)
    labels, names = class_indices("digits", target)
    images = array_images("digits", gray, image_size)
    scores = target.astype(np.float32) if rated else None
    name = "digits#value" if rated else "digits"
    identity = functools.partial(pixels_identity, gray)
    return ImageDataset(name, images, labels, scores, names, identity)


def _digits_file() -> Path:
    """The table that `sklearn.datasets.load_digits` reads.

    Found without importing scikit-learn, which takes longer than all else before the first round.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ValueError("dataset 'digits' comes with scikit-learn: pip install scikit-learn")
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


def load_timm(name: str, split: str, reading: Reading) -> ImageDataset:
    """A torchvision (`torch/NAME`) or Hugging Face (`hfds/NAME`) set through timm.

    What is absent is downloaded to `reading.download_folder`.

    Raises:
        ValueError: If a package is missing, timm cannot load the set, or its labels are no
            integers.
    """
    root = data_folder(reading.download_folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
        from timm.data import create_dataset

        dataset = create_dataset(name, root=str(root), split=split, download=True)
        labels = np.asarray(_timm_labels(dataset))
    except ModuleNotFoundError as error:
        raise dataset_error(name, f"{error}; pip install {error.name}") from error
    except Exception as error:  # unknown name or split, no network: the libraries raise any kind
        problem = f"split {split!r} could not be loaded: {first_line(error)}"
        raise dataset_error(name, f"{problem}; check name, split and network") from error
    indices, names = class_indices(name, labels, getattr(dataset, "classes", ()))
    source = ImageSource(
        name,
        len(indices),
        open=functools.partial(_timm_image, dataset),
        describe=functools.partial(place_in, name),
        identity=functools.partial(_timm_identity, split),
        check=_look_at_nothing,
        suspects=np.zeros(0, np.int64),
        fingerprint=functools.partial(_timm_identity, split, len(indices)),
    )
    return read_source(source, reading, indices, None, names)


def _timm_labels(dataset: Any) -> Any:
    """All labels, without decoding the images where the set offers that."""
    if hasattr(dataset, "targets"):
        return dataset.targets
    reader = getattr(dataset, "reader", None)
    if reader is not None and hasattr(reader, "label_key"):
        return reader.dataset[reader.label_key]
    return [dataset[index][1] for index in range(len(dataset))]


def _timm_identity(split: str, index: int) -> bytes:
    return f"{split} {index}".encode()


def _look_at_nothing(index: int) -> None:
    """Only decoding tells whether an image is broken."""


def _timm_image(dataset: Any, index: int) -> Image.Image:
    # timm's own indexing replaces an unreadable image by the next one, under the wrong label.
    if hasattr(dataset, "reader"):
        return open_image(dataset.reader[index][0])
    image: Image.Image = dataset[index][0]
    return image
