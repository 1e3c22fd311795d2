"""Names, files and images that do not fit are refused in one line that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.envs.tiny_datasets import assert_refused, encode, folder, jpeg_arrays, noise, save
from vitucb.envs.data.datasets import load_dataset
from vitucb.envs.data.image_dataset import ImageDataset

_LABELS = np.array([0, 1] * 3)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    assert_refused("digit", r"unknown dataset 'digit'; did you mean 'digits'[?] known: digits")


def test_a_missing_file_is_refused_with_the_nearest(tmp_path: Path) -> None:
    save(tmp_path, images=noise(), labels=[0, 1] * 3)
    assert_refused(tmp_path / "sett.npz", r"no such file or folder; did you mean '.*set\.npz'[?]")
    assert_refused("nowhere/", "no such file or folder; check the path")
    assert_refused("nowhere/at/all.npz", "no such file or folder; check the path")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.txt").write_text("a,b")
    assert_refused(tmp_path / "set.txt", "neither a folder nor a file .npz, .csv or .parquet")


def test_a_name_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(TypeError, match="dataset 3 is no name"):
        load_dataset(3)  # type: ignore[arg-type]  # the point of the test


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "32"])
def test_an_image_size_that_is_no_size_is_refused(size: Any) -> None:
    with pytest.raises(ValueError, match=r"image_size .* give an integer >= 1"):
        load_dataset("digits", image_size=size)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": _LABELS}, "has arrays labels; store images, or jpeg and offsets"),
        ({"images": noise()}, "neither labels nor scores"),
        ({"images": noise() / 255, "labels": _LABELS}, "images are float64 .*; store uint8"),
        ({"images": noise()[0, 0], "labels": _LABELS}, r"images are uint8 \(8, 3\)"),
        ({"images": noise()[..., :2], "labels": _LABELS}, r"images are uint8 \(6, 8, 8, 2\)"),
        ({"images": noise()[:0], "labels": _LABELS[:0]}, "give at least one image"),
        (
            {"images": noise(), "labels": _LABELS[:4]},
            r"labels are int64 \(4,\); give int64 \(6,\)",
        ),
        (
            {"images": noise(), "labels": _LABELS / 2},
            "labels have dtype float64; store .* integers",
        ),
        ({"images": noise(), "labels": _LABELS.astype(str)}, "labels have dtype <U21"),
        ({"images": noise(), "labels": _LABELS.astype(object)}, "Object arrays cannot be loaded"),
        ({"images": noise(), "labels": _LABELS * 0}, "only one class, '0'; give at least two"),
        ({"images": noise(), "scores": _LABELS[:4]}, r"scores are float32 \(4,\)"),
        ({"images": noise(), "scores": _LABELS.astype(str)}, "scores have dtype <U21"),
        (
            {"images": noise(), "scores": np.array([0, 1, np.nan, 3, 4, np.inf])},
            r"scores\[2\] is nan",
        ),
    ],
)
def test_npz_content_that_does_not_fit_is_refused(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    assert_refused(save(tmp_path, **arrays), "set.npz.*" + message)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (np.array(["a"]), "labels go from 0 to 1, and class_names name 0 to 0; give a name for"),
        (np.array(["a", "a "]), r"class_names\[1\] is 'a', twice; give each name once"),
        (np.array(["a", " "]), r"class_names\[1\] is '', empty; give each name once"),
        (np.array([1.5, 2.5]), r"class_names are float64 \(2,\); store text"),
        (np.array("ab"), r"class_names are <U2 \(\); store text"),
        (np.array([b"\xe9", b"b"]), "class_names are bytes, but no UTF-8"),
    ],
    ids=["fewer", "twice", "empty", "numbers", "scalar", "latin-1"],
)
def test_names_of_classes_that_do_not_fit_are_refused(
    tmp_path: Path, names: Any, message: str
) -> None:
    assert_refused(save(tmp_path, images=noise(), labels=_LABELS, class_names=names), message)


def test_a_label_below_the_first_name_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, images=noise(), labels=_LABELS - 1, class_names=np.array(["a", "b"]))
    assert_refused(path, "labels go from -1 to 0, and class_names name 0 to 1")


def test_a_damaged_npz_is_refused(tmp_path: Path) -> None:
    path = Path(save(tmp_path, images=noise(), labels=_LABELS))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert_refused(path, "set.npz.* cannot be read: .*; write it again")
    path.write_bytes(b"")
    assert_refused(path, "set.npz.* cannot be read")
    with path.open("wb") as stream:
        np.save(stream, noise())
    assert_refused(path, "set.npz.* cannot be read: it holds a single array")
    path.write_bytes(b"no zip")
    assert_refused(path, "set.npz.* cannot be read")
    path.write_bytes(content[:300] + bytes(200) + content[500:])
    assert_refused(path, "set.npz.* cannot be read")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"jpeg": np.zeros(9, np.int64)}, r"jpeg is int64 \(9,\); store one uint8 byte stream"),
        ({"offsets": np.zeros(3)}, r"offsets are float64 \(3,\); store integers"),
        ({"offsets": np.array([0, 10**9])}, "offsets do not rise from 0 to"),
        ({"offsets": np.array([0, 50, 20])}, "offsets do not rise"),
        (
            {"offsets": np.array([0, 0, 0]), "labels": np.arange(2)},
            "2 of 2 images cannot be read; the first: 0 of .*set.npz: not a JPEG",
        ),
        (
            {"jpeg": np.zeros(5000, np.uint8)},
            "6 of 6 images cannot be read; the first: 0 of .*set.npz: not a JPEG",
        ),
    ],
)
def test_a_jpeg_stream_that_does_not_fit_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    arrays = jpeg_arrays([encode(image, "JPEG") for image in noise()], [0, 1] * 3)
    assert_refused(save(tmp_path, **(arrays | change)), message)


def test_a_truncated_jpeg_in_a_stream_is_found_at_load(tmp_path: Path) -> None:
    files = [encode(image, "JPEG") for image in noise(size=32)]
    files[4] = files[4][: len(files[4]) // 2]
    path = save(tmp_path, **jpeg_arrays(files, [0, 1] * 3))
    assert_refused(
        path,
        "1 of 6 images cannot .* first: 4 of .*set.npz: .*; mend or remove them, or set skip_bad",
    )


def test_a_file_that_is_no_image_is_refused_at_load(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "dog" / "2.png").write_bytes(b"not an image")
    assert_refused(
        root, r"1 of 6 images cannot be read; the first: .*dog.2\.png: .*; mend or remove"
    )


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_truncated_images_are_found_at_load_and_counted(tmp_path: Path, kind: str) -> None:
    root = folder(tmp_path, size=32)
    for index in (1, 2):
        file = root / "dog" / f"{index}.{kind}"
        Image.fromarray(noise(1, 32)[0]).save(file)
        file.write_bytes(file.read_bytes()[:-300])
    assert_refused(root, rf"2 of \d images cannot be read; the first: .*dog.1\.{kind}: .*runcated")


def test_an_image_damaged_in_the_middle_is_named_when_it_is_first_drawn(tmp_path: Path) -> None:
    root = folder(tmp_path, size=32)
    file = root / "dog" / "2.png"
    content = file.read_bytes()
    file.write_bytes(content[:1500] + bytes(400) + content[1900:])
    dataset = load_dataset(root)
    assert dataset.images[np.arange(5)].shape == (5, 32, 32, 3)
    with pytest.raises(ValueError, match=r"cannot read image .*dog.2\.png: "):
        dataset.images[5]


def test_folders_without_two_classes_of_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", "no images in subfolders; put the images of each class")
    assert_refused(folder(tmp_path, ("cat",)), "only one class, 'cat'; give at least two")


def test_a_hand_made_dataset_with_missing_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"labels take 2 values 0\.\.2 for 3 class_names"):
        ImageDataset("mine", noise(3), np.array([0, 2, 0]), class_names=("a", "b", "c"))


def test_classes_of_one_name_are_refused() -> None:
    labels = np.array([0, 1, 2])
    with pytest.raises(ValueError, match=r"'a' twice; give each class a name of its own"):
        ImageDataset("mine", noise(3), labels, class_names=("a", "b", "a"))
