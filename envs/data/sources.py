"""Image sets that are not NPZ files: packaged digits, image folders, timm's data sets."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitucb.envs.data.decoding import first_line, image_extensions, open_image
from vitucb.envs.data.disk_cache import data_folder
from vitucb.envs.data.image_dataset import ImageDataset, class_indices, dataset_error
from vitucb.envs.data.image_source import ImageSource, Reading, file_source, read_source
from vitucb.envs.data.npz import array_images

if TYPE_CHECKING:
    from PIL import Image

_logger = logging.getLogger(__name__)

TIMM_PREFIXES = ("torch", "hfds")
"""First part of the data set names that are handed to timm."""


def load_packaged_digits(image_size: int | None, *, rated: bool = False) -> ImageDataset:
    """The 1,797 handwritten digits of scikit-learn, 8x8, gray levels 0..16 spread over 0..255.

    With `rated` they come with scores too: the digit itself, a stand-in for a rating.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    gray = np.round(digits.images * (255 / 16)).astype(np.uint8)
    labels, names = class_indices("digits", digits.target)
    images = array_images("digits", gray, image_size)
    scores = digits.target.astype(np.float32) if rated else None
    name = "digits#value" if rated else "digits"
    return ImageDataset(name, images, labels, scores, names, lambda index: gray[index].tobytes())


def load_folder(path: Path, reading: Reading) -> ImageDataset:
    """An image folder: every subfolder is a class, in sorted order.

    Images are found at any depth; hidden entries and files without an image's extension are left
    out.

    Raises:
        ValueError: If there are no images, one class only, or a file cannot be read.
    """
    try:
        folders = sorted(entry for entry in path.iterdir() if entry.is_dir())
    except OSError as error:
        raise dataset_error(str(path), f"{error.strerror}; check its permissions") from error
    by_class = {
        folder.name: _image_files(folder) for folder in folders if not folder.name.startswith(".")
    }
    for empty in [name for name, files in by_class.items() if not files]:
        _logger.warning("%s holds no images and is left out of the classes", path / empty)
        del by_class[empty]
    if not by_class:
        raise dataset_error(
            str(path), "no images in subfolders; put the images of each class in its own subfolder"
        )
    paths = [file.relative_to(path).as_posix() for group in by_class.values() for file in group]
    labels = np.repeat(np.arange(len(by_class)), [len(group) for group in by_class.values()])
    source = file_source(str(path), path, paths)
    return read_source(source, reading, labels.astype(np.int64), None, tuple(by_class))


def _image_files(folder: Path) -> list[Path]:
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in image_extensions() and not name.startswith(".")
    )


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
        open=lambda index: _timm_image(dataset, index),
        describe=lambda index: f"{index} of {name}",
        identity=lambda index: f"{split} {index}".encode(),
        check=lambda index: None,  # only decoding tells
        suspects=np.zeros(0, np.int64),
        fingerprint=lambda: f"{split} {len(indices)}".encode(),
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


def _timm_image(dataset: Any, index: int) -> Image.Image:
    # timm's own indexing replaces an unreadable image by the next one, under the wrong label.
    if hasattr(dataset, "reader"):
        return open_image(dataset.reader[index][0])
    image: Image.Image = dataset[index][0]
    return image
