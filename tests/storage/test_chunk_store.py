"""A store of chunks reads and deletes chunks, and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from vitucb.storage.chunk_store import ChunkStore
from vitucb.storage.state_files import load_state, save_state


def saved(tmp_path: Path) -> tuple[Path, ChunkStore, str]:
    """A state of one chunk: its folder, its store and the name of the chunk."""
    chunks = ChunkStore(tmp_path / "pieces")
    save_state({"a": torch.arange(4_096)}, tmp_path / "state", chunks)
    (name,) = os.listdir(tmp_path / "pieces")
    return tmp_path / "state", chunks, name


def rewrite(folder: Path, old: str, new: str) -> None:
    path = folder / "state.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("name", ["/dev/zero", "../precious", "", "0" * 63])
def test_a_name_that_is_no_sum_is_not_opened(name: str, tmp_path: Path) -> None:
    folder, chunks, chunk = saved(tmp_path)
    rewrite(folder, json.dumps(chunk), json.dumps(name))
    with pytest.raises(ValueError, match=r"checkpoint .* is no name of a chunk"):
        load_state(folder, chunks)


def test_a_chunk_that_is_a_pipe_or_endless_is_refused(tmp_path: Path) -> None:
    folder, chunks, chunk = saved(tmp_path)
    path = tmp_path / "pieces" / chunk
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="missing: it is no regular file"):
        load_state(folder, chunks)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="missing: it is no regular file"):
        load_state(folder, chunks)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[4096]", "[4096000000000]", "is said to lie in 1 chunks"),
        ("[4096]", "[-1, -4096]", "no type and shape"),
        ('"int64"', '"load"', "no type and shape"),
        ('"int64"', '"_dynamo"', "no type and shape"),
    ],
)
def test_what_an_array_claims_is_checked_first(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    folder, chunks, _ = saved(tmp_path)
    rewrite(folder, old, new)
    with pytest.raises(ValueError, match=message):
        load_state(folder, chunks)


def test_equal_chunks_do_not_stand_for_more_than_the_limits_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = ChunkStore(tmp_path / "pieces")
    save_state({"a": torch.zeros(12 << 20, dtype=torch.uint8)}, tmp_path / "state", chunks)
    assert len(list((tmp_path / "pieces").iterdir())) == 1
    assert len(load_state(tmp_path / "state", chunks)["a"]) == 12 << 20
    monkeypatch.setenv("VITUCB_LIMIT_STATE_MIB", "8")
    monkeypatch.setenv("VITUCB_LIMIT_STATE_RATIO", "2")
    with pytest.raises(ValueError, match="size of its arrays in MiB, 12 is above the limit of 8"):
        load_state(tmp_path / "state", chunks)


def test_only_chunks_are_deleted(tmp_path: Path) -> None:
    _, chunks, chunk = saved(tmp_path)
    for name in ("thesis.tex", f"{chunk[:-1]}x", f"{'0' * 64}", f"{'1' * 64}.tmp"):
        (tmp_path / "pieces" / name).touch()
    chunks.keep_only([chunk])
    assert sorted(os.listdir(tmp_path / "pieces")) == sorted(
        [chunk, "thesis.tex", f"{chunk[:-1]}x"]
    )


def test_a_store_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "pieces").symlink_to(tmp_path / "documents")
    with pytest.raises(ValueError, match="is a link; put the folder itself there"):
        ChunkStore(tmp_path / "pieces")


def test_states_nested_too_deeply_are_refused(tmp_path: Path) -> None:
    save_state({"a": 1}, tmp_path)
    for depth in (150, 100_000):
        (tmp_path / "state.json").write_text("[" * depth + "]" * depth)
        with pytest.raises(ValueError, match=r"cannot be read: (its depth|it is nested too)"):
            load_state(tmp_path)
    (tmp_path / "state.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no mapping"):
        load_state(tmp_path)
