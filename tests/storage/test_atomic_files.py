"""What is written aside cannot be guessed, is made anew, and follows no link."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from vitucb.storage.atomic_files import (
    create_file,
    drop_leftovers,
    open_table,
    remove,
    replacing,
    temporary_beside,
    write_durably,
)


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("a thesis")
    for name in ("a.json", "a.json.tmp"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    write_durably(tmp_path / "a.json", "new")
    assert (tmp_path / "precious").read_text() == "a thesis"
    assert (tmp_path / "a.json").read_text() == "new"
    assert not (tmp_path / "a.json").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.json.tmp", "precious"]


def test_names_aside_differ_and_must_be_new(tmp_path: Path) -> None:
    names = {temporary_beside(tmp_path / "a") for _ in range(100)}
    assert len(names) == 100
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "link")
    assert not (tmp_path / "precious").exists()


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    write_durably(tmp_path / "durable", "x")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with contextlib.suppress(RuntimeError), replacing(tmp_path / "a") as file:
        file.write(b"half")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_leftovers_of_killed_processes_are_dropped_and_nothing_else(tmp_path: Path) -> None:
    kept = ["a.tmp", ".a.tmp", ".a.0123.tmp", "a.0123456789abcdef.tmp"]
    for name in kept:
        (tmp_path / name).touch()
    (temporary_beside(tmp_path / "a")).touch()
    (temporary_beside(tmp_path / "folder")).mkdir()
    drop_leftovers(tmp_path, older_than_s=1_000.0)
    assert len(list(tmp_path.iterdir())) == 6
    drop_leftovers(tmp_path, "folder.")
    assert len(list(tmp_path.iterdir())) == 5
    drop_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    drop_leftovers(tmp_path / "nowhere")


def test_a_table_is_not_continued_through_a_link_or_into_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("a thesis")
    (tmp_path / "link.csv").symlink_to(tmp_path / "precious")
    os.mkfifo(tmp_path / "pipe.csv")
    for name, kind in (("link.csv", "a link"), ("pipe.csv", "no regular file")):
        with pytest.raises(ValueError, match=f"{name} is {kind}"):
            open_table(tmp_path / name)
    with open_table(tmp_path / "new.csv") as file:
        file.write("a\n")
    with open_table(tmp_path / "new.csv") as file:
        file.write("b\n")
    assert (tmp_path / "new.csv").read_text() == "a\nb\n"


def test_a_link_to_a_folder_is_removed_and_the_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").touch()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    remove(tmp_path / "link")
    assert (tmp_path / "folder" / "precious").exists()
    remove(tmp_path / "folder")
    remove(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []
