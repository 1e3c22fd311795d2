"""What of a folder's files and links becomes a class, and what is said of the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from tests.envs.tiny_datasets import assert_refused, folder
from vitucb.envs.data.datasets import load_dataset

_links = pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")


def _elsewhere(tmp_path: Path, names: tuple[str, ...] = ("7.png", "8.png")) -> Path:
    place = tmp_path / "elsewhere"
    place.mkdir()
    for name in names:
        Image.new("RGB", (8, 8)).save(place / name)
    return place


def _counts(root: Path) -> list[int]:
    labels = load_dataset(root).labels
    assert labels is not None
    return [int((labels == label).sum()) for label in range(labels.max() + 1)]


@_links
def test_a_linked_folder_inside_a_class_is_read(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "dog" / "more").symlink_to(_elsewhere(tmp_path))
    assert _counts(root) == [3, 5]


@_links
def test_a_class_and_a_file_may_be_links(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "emu").symlink_to(_elsewhere(tmp_path))
    (root / "dog" / "linked.png").symlink_to(tmp_path / "elsewhere" / "7.png")
    assert _counts(root) == [3, 4, 2]


@_links
@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_to_where_one_is_or_above_is_not_followed(
    tmp_path: Path, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder(tmp_path)
    (root / "dog" / "deep").mkdir()
    (root / "dog" / "deep" / "loop").symlink_to(Path("..", target))
    (root / "dog" / "loop").symlink_to(target)
    assert _counts(root) == [3, 3]
    assert caplog.text.count("which is read already") == 2


@_links
def test_a_linked_class_does_not_lead_to_the_folders_around_it(tmp_path: Path) -> None:
    root = folder(tmp_path)
    place = _elsewhere(tmp_path)
    (place / "up").symlink_to(tmp_path)
    (root / "emu").symlink_to(place)
    assert _counts(root) == [3, 3, 2]


@_links
def test_images_reached_twice_count_once(tmp_path: Path) -> None:
    root = folder(tmp_path)
    place = _elsewhere(tmp_path)
    for name in ("one", "two"):
        (root / "dog" / name).symlink_to(place)
    assert _counts(root) == [3, 5]


@_links
def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "dog" / "9.png").symlink_to(tmp_path / "gone.png")
    assert_refused(root, r"1 of 7 images cannot be read; the first: .*9.png: no such file")


def test_classes_named_by_numbers_are_in_the_order_of_these(tmp_path: Path) -> None:
    """As timm has them, and logs and manifests here; torchvision puts 10 before 2."""
    for name in ("b", "10", "2", "1", "a"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "x.png")
    assert load_dataset(tmp_path).class_names == ("1", "2", "10", "a", "b")


def test_hidden_folders_inside_a_class_are_left_out(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "dog" / ".ipynb_checkpoints").mkdir()
    Image.new("RGB", (8, 8)).save(root / "dog" / ".ipynb_checkpoints" / "1.png")
    assert _counts(root) == [3, 3]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_folder_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "dog" / "closed").mkdir(mode=0)
    assert_refused(root, r"dog.closed: Permission denied; check its permissions")


def test_files_left_out_are_counted_by_their_extension(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder(tmp_path)
    for name in ("1.svg", "2.svg", "IMG.CR2"):
        (root / "dog" / name).write_bytes(b"?")
    Image.new("RGB", (8, 8)).save(root / "loose.png")
    assert _counts(root) == [3, 3]
    assert "4 files are left out: not in a class's folder, or" in caplog.text
    assert "(.svg 2, .png 1, .cr2 1); the first: " in caplog.text


def test_files_beside_the_classes_that_are_no_images_are_not_talked_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder(tmp_path)
    (root / "README.md").write_text("about")
    assert _counts(root) == [3, 3]
    assert caplog.text == ""
