"""Pixels, labels and scores of every kind of data set, as they are in its file."""

from __future__ import annotations

import copy
import io
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.envs.tiny_datasets import encode, folder, jpeg_arrays, noise, pixels_of, save
from vitucb.envs.data import decoding
from vitucb.envs.data.datasets import load_dataset
from vitucb.envs.data.image_dataset import ImageDataset, class_indices
from vitucb.envs.image_arms import ImageArmsEnv

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def _shared(name: str) -> str:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return str(path)


def test_packaged_digits_use_the_full_gray_range() -> None:
    dataset = load_dataset("digits")
    assert dataset.images.shape == (1797, 8, 8, 3)
    assert dataset.class_names == tuple("0123456789")
    pixels = pixels_of(dataset)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert (pixels == pixels[..., :1]).all()


def test_digits_resized_on_demand_equal_bicubic_resizing() -> None:
    plain, resized = load_dataset("digits"), load_dataset("digits", image_size=20)
    assert resized.images.shape == (1797, 20, 20, 3)
    expected = Image.fromarray(plain.images[5]).resize((20, 20), Image.Resampling.BICUBIC)
    assert np.array_equal(resized.images[5], np.asarray(expected))


@pytest.mark.parametrize("channels", [1, 3])
def test_npz_pixels_come_back_as_three_channels(tmp_path: Path, channels: int) -> None:
    images = noise(channels=channels)
    dataset = load_dataset(save(tmp_path, images=images, labels=[0, 1, 0, 1, 0, 1]))
    expected = images if channels == 3 else np.repeat(images[..., None], 3, axis=3)
    assert np.array_equal(pixels_of(dataset), expected)
    assert dataset.class_names == ("0", "1")


def test_npz_labels_become_indices_in_label_order(tmp_path: Path) -> None:
    dataset = load_dataset(
        save(tmp_path, images=noise(), labels=np.array([9, 4, 9, 7, 4, 7], np.uint8))
    )
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [2, 0, 2, 1, 0, 1]
    assert dataset.class_names == ("4", "7", "9")


def test_npz_class_names_name_the_labels(tmp_path: Path) -> None:
    names = np.array(["ant", "bee", "cow"])
    path = save(tmp_path, images=noise(), labels=[2, 0, 2, 0, 2, 0], class_names=names)
    assert load_dataset(path).class_names == ("ant", "cow")


def test_npz_class_names_may_be_bytes_and_name_classes_without_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = np.array(["fourmi", "abeille", "vache à lait"])
    encoded = np.array([name.encode() for name in names])
    path = save(tmp_path, images=noise(), labels=[2, 0, 2, 0, 2, 0], class_names=encoded)
    assert load_dataset(path).class_names == ("fourmi", "vache à lait")
    assert "no image of 1 classes: abeille" in caplog.text


def test_npz_scores_without_labels(tmp_path: Path) -> None:
    dataset = load_dataset(save(tmp_path, images=noise(), scores=np.arange(6.0)))
    assert dataset.labels is None
    assert dataset.scores is not None
    assert dataset.scores.dtype == np.float32
    assert dataset.num_classes == 0


def test_a_part_picks_a_named_score(tmp_path: Path) -> None:
    scores, names = np.arange(12.0).reshape(6, 2), np.array(["valence", "arousal"])
    path = save(tmp_path, images=noise(), scores=scores, score_names=names)
    picked = load_dataset(f"{path}#arousal").scores
    assert picked is not None
    assert picked.tolist() == [1, 3, 5, 7, 9, 11]
    (tmp_path / "one").mkdir()
    unnamed = save(tmp_path / "one", images=noise(), scores=scores[:, 0])
    with pytest.raises(ValueError, match="one score without a name; drop #arousal"):
        load_dataset(f"{unnamed}#arousal")
    with pytest.raises(ValueError, match=r"score '' is unknown; append '#' .*: valence, arousal"):
        load_dataset(path)


def test_jpeg_stream_decodes_as_pillow_does(tmp_path: Path) -> None:
    files = [encode(image, "JPEG") for image in noise()]
    dataset = load_dataset(save(tmp_path, **jpeg_arrays(files, [0, 1] * 3)))
    assert dataset.images.shape == (6, 8, 8, 3)
    for index, file in enumerate(files):
        expected = np.asarray(Image.open(io.BytesIO(file)))
        assert np.array_equal(dataset.images[index], expected)


def test_bytes_after_the_end_of_a_jpeg_are_no_error(tmp_path: Path) -> None:
    files = [encode(image, "JPEG") + b"tail" for image in noise()]
    assert len(load_dataset(save(tmp_path, **jpeg_arrays(files, [0, 1] * 3))).images) == 6


def test_folder_classes_are_the_sorted_subfolders(tmp_path: Path) -> None:
    root = folder(tmp_path, ("dog", "cat"))
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / "cat" / "deep").mkdir()
    Image.fromarray(noise()[3]).save(root / "cat" / "deep" / "9.bmp")
    (root / ".hidden").mkdir()
    dataset = load_dataset(str(root))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    expected = np.asarray(Image.open(root / "cat" / "1.png"))
    assert np.array_equal(dataset.images[1], expected)
    assert np.array_equal(dataset.images[3], noise()[3])


def test_a_subfolder_without_images_is_no_class(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder(tmp_path)
    (root / "empty").mkdir()
    with caplog.at_level(logging.WARNING):
        assert load_dataset(root).class_names == ("cat", "dog")
    assert "empty holds no images" in caplog.text


def test_images_of_another_size_are_resized_to_the_first_and_said_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder(tmp_path)
    for name in ("7.png", "8.png"):
        Image.new("RGB", (5, 4), "red").save(root / "dog" / name)
    dataset = load_dataset(root)
    with caplog.at_level(logging.WARNING):
        assert pixels_of(dataset).shape == (8, 8, 8, 3)
    assert caplog.text.count("resized to 8x8") == 1


def test_image_size_applies_to_files(tmp_path: Path) -> None:
    assert load_dataset(folder(tmp_path), image_size=6).images.shape == (6, 6, 6, 3)


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


def test_copying_the_arguments_of_an_environment_copies_no_images() -> None:
    dataset = ImageDataset("mine", noise(2), np.array([0, 1]), class_names=("a", "b"))
    assert copy.deepcopy({"dataset": dataset})["dataset"] is dataset


def test_class_indices_of_integers_of_any_kind() -> None:
    indices, names = class_indices("set", np.array([-3, 200, -3], np.int16), ("zero",))
    assert indices.dtype == np.int64
    assert (indices.tolist(), names) == ([0, 1, 0], ("-3", "200"))
