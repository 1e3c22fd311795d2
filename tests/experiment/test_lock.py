"""One process per run folder; a killed one leaves no lock."""

from __future__ import annotations

import errno
import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest

from vitucb.experiment.lock import locked

HOLD = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from vitucb.experiment.lock import locked\n"
    "with locked(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


def test_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with (
        pytest.raises(ValueError, match=rf"is being played by process {holder.pid} on"),
        locked(tmp_path),
    ):
        pass
    holder.kill()
    holder.communicate()
    assert (tmp_path / "run.lock").is_file()
    with locked(tmp_path):
        pass
    assert not (tmp_path / "run.lock").exists()


def test_lock_of_another_host_is_respected(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text(json.dumps({"pid": 7, "host": "elsewhere.example"}))
    with (
        pytest.raises(ValueError, match=r"process 7 on elsewhere.example, .* delete"),
        locked(tmp_path),
    ):
        pass


def test_garbled_lock_without_a_holder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text("{")
    with locked(tmp_path):
        pass


def test_file_system_without_locks_is_not_said_to_be_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(ValueError, match=r"cannot be locked \(Function not implemented\)"),
        locked(tmp_path),
    ):
        pass


def test_lock_deleted_at_the_worst_moment_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last holder deletes it after it was opened and locked here."""
    lock, taken = fcntl.flock, []

    def lock_and_delete(descriptor: int, operation: int) -> None:
        lock(descriptor, operation)
        if operation & fcntl.LOCK_EX:
            taken.append(descriptor)
        if len(taken) == 1 and operation & fcntl.LOCK_EX:
            monkeypatch.setattr(Path, "exists", lambda path: True)  # deleted after this look
            (tmp_path / "run.lock").unlink()

    monkeypatch.setattr(fcntl, "flock", lock_and_delete)
    with locked(tmp_path):
        assert (tmp_path / "run.lock").stat().st_ino
    assert len(taken) == 2
