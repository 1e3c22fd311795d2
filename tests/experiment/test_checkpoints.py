"""Checkpoints: whole or absent, two kept, large arrays stored once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vitucb.experiment.checkpoints import Checkpoints
from vitucb.storage.chunk_store import CHUNK_BYTES, ChunkStore


def chunks(folder: Path) -> set[str]:
    return {path.name for path in (folder / "pieces").iterdir()}


def test_state_comes_back_exactly_in_and_out_of_chunks(tmp_path: Path) -> None:
    state = {
        "large": torch.randn(300, 70, generator=torch.Generator().manual_seed(0)),
        "half": torch.ones(9000, dtype=torch.bfloat16),
        "flags": np.arange(9000) % 3 == 0,
        "transposed": torch.arange(6000.0).view(60, 100).T,
        "small": np.arange(3),
    }
    snapshots = Checkpoints(tmp_path)
    snapshots.save(5, state)
    loaded = snapshots.load(5)
    assert loaded["rounds"] == 5
    assert loaded["half"].dtype == torch.bfloat16
    torch.testing.assert_close(loaded["large"], state["large"], rtol=0, atol=0)
    torch.testing.assert_close(loaded["transposed"], state["transposed"], rtol=0, atol=0)
    np.testing.assert_array_equal(loaded["flags"], state["flags"])
    np.testing.assert_array_equal(loaded["small"], state["small"])


def test_the_last_two_are_kept_and_share_what_did_not_change(tmp_path: Path) -> None:
    snapshots = Checkpoints(tmp_path)
    images = {str(i): np.full((64, 64, 3), i, np.uint8) for i in range(4)}
    for rounds in (1, 2, 3):
        snapshots.save(rounds, {"images": images, "moving": np.full(5000, float(rounds))})
    assert snapshots.rounds == [2, 3]
    assert len(chunks(tmp_path)) == len(images) + 2


def test_rows_that_are_appended_leave_the_earlier_chunks(tmp_path: Path) -> None:
    snapshots = Checkpoints(tmp_path)
    rows = np.random.default_rng(0).integers(0, 255, 2 * CHUNK_BYTES + 100, np.uint8)
    snapshots.save(1, {"rows": rows[: 2 * CHUNK_BYTES]})
    before = chunks(tmp_path)
    snapshots.save(2, {"rows": rows})
    assert before < chunks(tmp_path)
    assert len(chunks(tmp_path)) == 3


def test_damaged_chunk_falls_back_to_the_state_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshots = Checkpoints(tmp_path)
    for rounds in (1, 2):
        snapshots.save(rounds, {"array": np.full(5000, float(rounds))})
    (newest,) = chunks(tmp_path) - {
        name
        for name in chunks(tmp_path)
        if np.frombuffer((tmp_path / "pieces" / name).read_bytes())[0] == 1.0
    }
    (tmp_path / "pieces" / newest).write_bytes(bytes(40_000))
    state = snapshots.load_newest(lambda _: None)
    assert state is not None
    assert state["rounds"] == 1
    assert f"chunk {newest} is damaged" in caplog.text
    assert snapshots.rounds == [1]


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "state.safetensors"])
def test_missing_file_makes_the_checkpoint_unusable(tmp_path: Path, name: str) -> None:
    snapshots = Checkpoints(tmp_path)
    snapshots.save(1, {"a": 1})
    (tmp_path / "round-000000001" / name).unlink()
    with pytest.raises(ValueError, match=name):
        snapshots.load(1)
    assert snapshots.load_newest(lambda _: None) is None


def test_array_of_another_length_is_refused(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path)
    names = store.put(memoryview(bytes(10)))
    with pytest.raises(ValueError, match="longer than its array"):
        store.read_into(memoryview(bytearray(9)), names)
    with pytest.raises(ValueError, match="2 bytes of an array are missing"):
        store.read_into(memoryview(bytearray(12)), names)
