from __future__ import annotations

import copy
import io
import logging
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vitucb.envs import decoding
from vitucb.envs.datasets import load_dataset
from vitucb.envs.image_arms import ImageArmsEnv
from vitucb.envs.image_dataset import ImageDataset, class_indices

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def _shared(name: str) -> str:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return str(path)


def _noise(count: int = 6, size: int = 8, channels: int = 3) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, size, size, channels), np.uint8)
    return images if channels == 3 else images[..., 0]


def _encode(image: NDArray[np.uint8], kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind)
    return stream.getvalue()


def _jpeg_arrays(files: list[bytes], labels: list[int]) -> dict[str, NDArray[Any]]:
    return {
        "jpeg": np.frombuffer(b"".join(files), np.uint8),
        "offsets": np.cumsum([0, *map(len, files)]),
        "labels": np.array(labels),
    }


def _save(tmp_path: Path, **arrays: Any) -> str:
    np.savez(tmp_path / "set.npz", **arrays)
    return str(tmp_path / "set.npz")


def _folder(tmp_path: Path, classes: tuple[str, ...] = ("cat", "dog"), size: int = 8) -> Path:
    root = tmp_path / "pets"
    for offset, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index, image in enumerate(_noise(3, size)):
            Image.fromarray(image + np.uint8(offset)).save(root / name / f"{index}.png")
    return root


def _all(dataset: ImageDataset) -> NDArray[np.uint8]:
    return dataset.images[np.arange(len(dataset.images))]


def test_packaged_digits_use_the_full_gray_range() -> None:
    dataset = load_dataset("digits")
    assert dataset.images.shape == (1797, 8, 8, 3)
    assert dataset.class_names == tuple("0123456789")
    pixels = _all(dataset)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert (pixels == pixels[..., :1]).all()


def test_digits_resized_on_demand_equal_bicubic_resizing() -> None:
    plain, resized = load_dataset("digits"), load_dataset("digits", image_size=20)
    assert resized.images.shape == (1797, 20, 20, 3)
    expected = Image.fromarray(plain.images[5]).resize((20, 20), Image.Resampling.BICUBIC)
    assert np.array_equal(resized.images[5], np.asarray(expected))


@pytest.mark.parametrize("channels", [1, 3])
def test_npz_pixels_come_back_as_three_channels(tmp_path: Path, channels: int) -> None:
    images = _noise(channels=channels)
    dataset = load_dataset(_save(tmp_path, images=images, labels=[0, 1, 0, 1, 0, 1]))
    expected = images if channels == 3 else np.repeat(images[..., None], 3, axis=3)
    assert np.array_equal(_all(dataset), expected)
    assert dataset.class_names == ("0", "1")


def test_npz_labels_become_indices_in_label_order(tmp_path: Path) -> None:
    dataset = load_dataset(
        _save(tmp_path, images=_noise(), labels=np.array([9, 4, 9, 7, 4, 7], np.uint8))
    )
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [2, 0, 2, 1, 0, 1]
    assert dataset.class_names == ("4", "7", "9")


def test_npz_class_names_name_the_labels(tmp_path: Path) -> None:
    names = np.array(["ant", "bee", "cow"])
    path = _save(tmp_path, images=_noise(), labels=[2, 0, 2, 0, 2, 0], class_names=names)
    assert load_dataset(path).class_names == ("ant", "cow")


def test_npz_scores_without_labels(tmp_path: Path) -> None:
    dataset = load_dataset(_save(tmp_path, images=_noise(), scores=np.arange(6.0)))
    assert dataset.labels is None
    assert dataset.scores is not None
    assert dataset.scores.dtype == np.float32
    assert dataset.num_classes == 0


def test_a_part_picks_a_named_score(tmp_path: Path) -> None:
    scores, names = np.arange(12.0).reshape(6, 2), np.array(["valence", "arousal"])
    path = _save(tmp_path, images=_noise(), scores=scores, score_names=names)
    picked = load_dataset(f"{path}#arousal").scores
    assert picked is not None
    assert picked.tolist() == [1, 3, 5, 7, 9, 11]
    with pytest.raises(ValueError, match=r"score '' is unknown; append '#' .*: valence, arousal"):
        load_dataset(path)


def test_jpeg_stream_decodes_as_pillow_does(tmp_path: Path) -> None:
    files = [_encode(image, "JPEG") for image in _noise()]
    dataset = load_dataset(_save(tmp_path, **_jpeg_arrays(files, [0, 1] * 3)))
    assert dataset.images.shape == (6, 8, 8, 3)
    for index, file in enumerate(files):
        expected = np.asarray(Image.open(io.BytesIO(file)))
        assert np.array_equal(dataset.images[index], expected)


def test_bytes_after_the_end_of_a_jpeg_are_no_error(tmp_path: Path) -> None:
    files = [_encode(image, "JPEG") + b"tail" for image in _noise()]
    assert len(load_dataset(_save(tmp_path, **_jpeg_arrays(files, [0, 1] * 3))).images) == 6


def test_folder_classes_are_the_sorted_subfolders(tmp_path: Path) -> None:
    root = _folder(tmp_path, ("dog", "cat"))
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / "cat" / "deep").mkdir()
    Image.fromarray(_noise()[3]).save(root / "cat" / "deep" / "9.bmp")
    (root / ".hidden").mkdir()
    dataset = load_dataset(str(root))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    expected = np.asarray(Image.open(root / "cat" / "1.png"))
    assert np.array_equal(dataset.images[1], expected)
    assert np.array_equal(dataset.images[3], _noise()[3])


def test_a_subfolder_without_images_is_no_class(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = _folder(tmp_path)
    (root / "empty").mkdir()
    with caplog.at_level(logging.WARNING):
        assert load_dataset(root).class_names == ("cat", "dog")
    assert "empty holds no images" in caplog.text


def test_images_of_another_size_are_resized_to_the_first_and_said_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = _folder(tmp_path)
    for name in ("7.png", "8.png"):
        Image.new("RGB", (5, 4), "red").save(root / "dog" / name)
    dataset = load_dataset(root)
    with caplog.at_level(logging.WARNING):
        assert _all(dataset).shape == (8, 8, 8, 3)
    assert caplog.text.count("resized to 8x8") == 1


def test_image_size_applies_to_files(tmp_path: Path) -> None:
    assert load_dataset(_folder(tmp_path), image_size=6).images.shape == (6, 6, 6, 3)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(np.full((2, 2), 0x4000, np.uint16)), [64, 64, 64]),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), [255, 255, 255]),
        (Image.new("LA", (2, 2), (10, 255)), [10, 10, 10]),
        (Image.new("CMYK", (2, 2), (0, 0, 0, 255)), [0, 0, 0]),
        (Image.new("1", (2, 2), 1), [255, 255, 255]),
        (Image.new("RGB", (2, 2), (1, 2, 3)).quantize(), [1, 2, 3]),
    ],
    ids=["gray16", "transparent", "gray-alpha", "cmyk", "binary", "palette"],
)
def test_every_mode_becomes_rgb(image: Image.Image, expected: list[int]) -> None:
    assert np.asarray(decoding.to_rgb(image))[0, 0].tolist() == expected


def test_decoded_images_are_kept_only_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "CACHE_MIB", 1)
    opened: list[int] = []

    def open_image(index: int) -> Image.Image:
        opened.append(index)
        return Image.new("RGB", (512, 512))

    images = decoding.LazyImages(open_image, str, count=4, image_size=512)
    for index in (0, 0, 1, 1, 0):
        images[index]
    assert opened == [0, 1, 0]  # one image of 512 px is 0.75 MiB: only the last one is kept


def test_cifar_stream_and_emoji_scores_make_environments() -> None:
    for kwargs in (
        {"dataset": _shared("cifar10_test10k_jpeg.npz"), "num_arms": 10},
        {"dataset": _shared("emoji_sentiment_64px.npz"), "num_arms": 20, "reward": "score"},
        {"dataset": _shared("bass_affect_safe_128px.npz") + "#val_mean_us", "reward": "score"},
        {"dataset": _shared("fashion_mnist_test10k.npz"), "image_size": 32},
        {"dataset": _shared("flowers5_112px_jpeg.npz"), "num_arms": 5},
    ):
        env = ImageArmsEnv(**kwargs)
        obs, _ = env.reset(seed=0)
        assert obs["images"].std() > 0
        assert np.isfinite(env.expected_rewards).all()


class _FakeSet:
    """Stands in for a torchvision data set."""

    classes = ("plane", "car", "bird")
    targets = (2, 0, 2, 0)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (4, 4), (index, 0, 0)), self.targets[index]


class _FakeReader:
    """Stands in for timm's reader of a Hugging Face data set."""

    label_key = "label"

    def __init__(self) -> None:
        self.dataset = {"label": [5, 3]}

    def __getitem__(self, index: int) -> tuple[io.BytesIO, int]:
        return io.BytesIO(_encode(np.full((4, 4, 3), index, np.uint8), "PNG")), 0


def _fake_timm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dataset: Any) -> dict[str, Any]:
    """Replace `timm.data` so that neither torch nor the network is needed; returns the call."""
    call: dict[str, Any] = {}

    def create_dataset(name: str, **kwargs: Any) -> Any:
        call.update(name=name, **kwargs)
        if isinstance(dataset, Exception):
            raise dataset
        return dataset

    module = types.ModuleType("timm.data")
    monkeypatch.setattr(module, "create_dataset", create_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "timm", types.ModuleType("timm"))
    monkeypatch.setitem(sys.modules, "timm.data", module)
    monkeypatch.setenv("VITUCB_DATA", str(tmp_path / "cache"))
    return call


def test_torchvision_sets_come_through_timm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    call = _fake_timm(monkeypatch, tmp_path, _FakeSet())
    dataset = load_dataset("torch/cifar10#test")
    assert (call["name"], call["split"], call["download"]) == ("torch/cifar10", "test", True)
    assert call["root"] == str(tmp_path / "cache")
    assert dataset.class_names == ("plane", "bird")
    assert _all(dataset)[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_hugging_face_sets_come_through_timm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    call = _fake_timm(monkeypatch, tmp_path, types.SimpleNamespace(reader=_FakeReader()))
    dataset = load_dataset("hfds/owner/name")
    assert (call["name"], call["split"]) == ("hfds/owner/name", "train")
    assert dataset.class_names == ("3", "5")
    assert _all(dataset)[:, 0, 0, 0].tolist() == [0, 1]


def test_a_timm_set_that_cannot_be_loaded_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _fake_timm(monkeypatch, tmp_path, AssertionError("Unknown torchvision dataset cifar11"))
    message = r"'torch/cifar11': split 'train' .*Unknown torchvision dataset.*; check name, split"
    with pytest.raises(ValueError, match=message):
        load_dataset("torch/cifar11")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = ModuleNotFoundError("No module named 'datasets'", name="datasets")
    _fake_timm(monkeypatch, tmp_path, missing)
    _assert_refused("hfds/a/b", "No module named 'datasets'; pip install datasets")


def _assert_refused(name: str | Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset(name)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    _assert_refused("digit", r"unknown dataset 'digit'; did you mean 'digits'[?] known: digits")


def test_a_missing_file_is_refused_with_the_nearest(tmp_path: Path) -> None:
    _save(tmp_path, images=_noise(), labels=[0, 1] * 3)
    _assert_refused(tmp_path / "sett.npz", r"no such file or folder; did you mean '.*set\.npz'[?]")
    _assert_refused("nowhere/at/all.npz", "no such file or folder; check the path")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.txt").write_text("a,b")
    _assert_refused(tmp_path / "set.txt", "neither a folder nor a file .npz, .csv or .parquet")


def test_a_name_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(TypeError, match="dataset 3 is no name"):
        load_dataset(3)  # type: ignore[arg-type]  # the point of the test


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "32"])
def test_an_image_size_that_is_no_size_is_refused(size: Any) -> None:
    with pytest.raises(ValueError, match=r"image_size .* give an integer >= 1"):
        load_dataset("digits", image_size=size)


_LABELS = np.array([0, 1] * 3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": _LABELS}, "has arrays labels; store images, or jpeg and offsets"),
        ({"images": _noise()}, "neither labels nor scores"),
        ({"images": _noise() / 255, "labels": _LABELS}, "images are float64 .*; store uint8"),
        ({"images": _noise()[0, 0], "labels": _LABELS}, r"images are uint8 \(8, 3\)"),
        ({"images": _noise()[..., :2], "labels": _LABELS}, r"images are uint8 \(6, 8, 8, 2\)"),
        ({"images": _noise()[:0], "labels": _LABELS[:0]}, "give at least one image"),
        (
            {"images": _noise(), "labels": _LABELS[:4]},
            r"labels are int64 \(4,\); give int64 \(6,\)",
        ),
        (
            {"images": _noise(), "labels": _LABELS / 2},
            "labels have dtype float64; store .* integers",
        ),
        ({"images": _noise(), "labels": _LABELS.astype(str)}, "labels have dtype <U21"),
        ({"images": _noise(), "labels": _LABELS.astype(object)}, "Object arrays cannot be loaded"),
        ({"images": _noise(), "labels": _LABELS * 0}, "only one class, '0'; give at least two"),
        ({"images": _noise(), "scores": _LABELS[:4]}, r"scores are float32 \(4,\)"),
        ({"images": _noise(), "scores": _LABELS.astype(str)}, "scores have dtype <U21"),
        (
            {"images": _noise(), "scores": np.array([0, 1, np.nan, 3, 4, np.inf])},
            r"scores\[2\] is nan",
        ),
    ],
)
def test_npz_content_that_does_not_fit_is_refused(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    _assert_refused(_save(tmp_path, **arrays), "set.npz.*" + message)


def test_a_damaged_npz_is_refused(tmp_path: Path) -> None:
    path = Path(_save(tmp_path, images=_noise(), labels=_LABELS))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    _assert_refused(path, "set.npz.* cannot be read: .*; write it again")
    path.write_bytes(b"")
    _assert_refused(path, "set.npz.* cannot be read")
    with path.open("wb") as stream:
        np.save(stream, _noise())
    _assert_refused(path, "set.npz.* cannot be read: it holds a single array")
    path.write_bytes(b"no zip")
    _assert_refused(path, "set.npz.* cannot be read")
    path.write_bytes(content[:300] + bytes(200) + content[500:])
    _assert_refused(path, "set.npz.* cannot be read")


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
    arrays = _jpeg_arrays([_encode(image, "JPEG") for image in _noise()], [0, 1] * 3)
    _assert_refused(_save(tmp_path, **(arrays | change)), message)


def test_a_truncated_jpeg_in_a_stream_is_found_at_load(tmp_path: Path) -> None:
    files = [_encode(image, "JPEG") for image in _noise(size=32)]
    files[4] = files[4][: len(files[4]) // 2]
    path = _save(tmp_path, **_jpeg_arrays(files, [0, 1] * 3))
    _assert_refused(
        path,
        "1 of 6 images cannot .* first: 4 of .*set.npz: .*; mend or remove them, or set skip_bad",
    )


def test_a_file_that_is_no_image_is_refused_at_load(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    (root / "dog" / "2.png").write_bytes(b"not an image")
    _assert_refused(
        root, r"1 of 6 images cannot be read; the first: .*dog.2\.png: .*; mend or remove"
    )


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_truncated_images_are_found_at_load_and_counted(tmp_path: Path, kind: str) -> None:
    root = _folder(tmp_path, size=32)
    for index in (1, 2):
        file = root / "dog" / f"{index}.{kind}"
        Image.fromarray(_noise(1, 32)[0]).save(file)
        file.write_bytes(file.read_bytes()[:-300])
    _assert_refused(root, rf"2 of \d images cannot be read; the first: .*dog.1\.{kind}: .*runcated")


def test_an_image_damaged_in_the_middle_is_named_when_it_is_first_drawn(tmp_path: Path) -> None:
    root = _folder(tmp_path, size=32)
    file = root / "dog" / "2.png"
    content = file.read_bytes()
    file.write_bytes(content[:1500] + bytes(400) + content[1900:])
    dataset = load_dataset(root)
    assert dataset.images[np.arange(5)].shape == (5, 32, 32, 3)
    with pytest.raises(ValueError, match=r"cannot read image .*dog.2\.png: "):
        dataset.images[5]


def test_folders_without_two_classes_of_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    _assert_refused(tmp_path / "empty", "no images in subfolders; put the images of each class")
    _assert_refused(_folder(tmp_path, ("cat",)), "only one class, 'cat'; give at least two")


def test_copying_the_arguments_of_an_environment_copies_no_images() -> None:
    dataset = ImageDataset("mine", _noise(2), np.array([0, 1]), class_names=("a", "b"))
    assert copy.deepcopy({"dataset": dataset})["dataset"] is dataset


def test_class_indices_of_integers_of_any_kind() -> None:
    indices, names = class_indices("set", np.array([-3, 200, -3], np.int16), ("zero",))
    assert indices.dtype == np.int64
    assert (indices.tolist(), names) == ([0, 1, 0], ("-3", "200"))


def test_a_hand_made_dataset_with_missing_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"labels take 2 values 0\.\.2 for 3 class_names"):
        ImageDataset("mine", _noise(3), np.array([0, 2, 0]), class_names=("a", "b", "c"))
