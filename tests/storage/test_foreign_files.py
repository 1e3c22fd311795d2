"""Files that somebody else made: regular, of bounded size and depth, inside their folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vitucb.storage.foreign_files import (
    open_regular,
    parse_json,
    path_inside,
    read_json,
    read_text,
    read_yaml,
    sha256_of,
)


def test_a_pipe_does_not_block_and_a_device_does_not_end_the_memory(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="no regular file"):
            open_regular(path)
        with pytest.raises(OSError, match="no regular file"):
            sha256_of(path)


@pytest.mark.parametrize(
    "name", ["../x", "/dev/zero", "a/../../x", "", ".", "a\nb", "\0", "..\\x", "C:\\x", 7, None]
)
def test_names_that_lead_out_of_a_folder_are_refused(name: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no name of a file in the folder"):
        path_inside(tmp_path, name)


def test_links_may_lead_about_in_a_folder_but_not_out(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a").write_text("a")
    (folder / "in").symlink_to("sub/a")
    (folder / "out").symlink_to(tmp_path / "precious")
    (folder / "up").symlink_to(tmp_path)
    assert path_inside(folder, "in").read_text() == "a"
    assert path_inside(folder, "sub/a") == folder / "sub" / "a"
    for name in ("out", "up/precious"):
        with pytest.raises(ValueError, match="link out of the folder"):
            path_inside(folder, name)
    (tmp_path / "other-name").symlink_to(folder)
    assert path_inside(tmp_path / "other-name", "sub/a").read_text() == "a"


def test_large_files_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # of holes
    with pytest.raises(ValueError, match=r"its size in MiB, 1,048,576 is above the limit of 64"):
        read_json(path)
    monkeypatch.setenv("VITUCB_LIMIT_JSON_MIB", "1")
    path.write_text("1" + " " * (1 << 20))
    with pytest.raises(ValueError, match="its size in MiB, 2 is above the limit of 1"):
        read_json(path)
    assert read_text(Path("/proc/self/status")).startswith("Name:")  # which says it has 0 bytes


def test_depth_is_bounded(tmp_path: Path) -> None:
    assert parse_json("[" * 90 + "]" * 90)
    with pytest.raises(ValueError, match="its depth 101 is above"):
        parse_json("[" * 120 + "]" * 120)
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)
    path = tmp_path / "deep.yaml"
    path.write_text("a: " + "[" * 500)
    with pytest.raises(ValueError, match="its depth 101 is above"):
        read_yaml(path)


def bomb(levels: int) -> str:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(rows)


def test_aliases_count_as_what_they_stand_for(tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(bomb(9))
    assert path.stat().st_size < 1_000
    with pytest.raises(ValueError, match=r"its number of values, .* is above the limit of 100,000"):
        read_yaml(path)
    path.write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n")
    assert read_yaml(path) == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}
    path.write_text(f"a: &a {'x' * 500_000}\nb: [{', '.join(['*a'] * 1_000)}]\n")
    with pytest.raises(ValueError, match="its number of values"):
        read_yaml(path)
    path.write_text("a: &a [*a]")
    with pytest.raises(ValueError, match="stands for what it is a part of"):
        read_yaml(path)


@pytest.mark.parametrize(
    "text",
    ["a: [", "!!timestamp x", "!!int x", "!!python/name:os.system", "a: 0x" + "f" * 5_000,
     "9" * 5_000, "? [a]\n: b", "!!float ''", "a: *b", "\t", "!!bool x"],
)  # fmt: skip
def test_whatever_is_wrong_with_yaml_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=r".") as error:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(error.value)
