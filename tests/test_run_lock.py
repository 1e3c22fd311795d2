"""One process per run folder; a killed one leaves no lock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vitucb.run_lock import locked

HOLD = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from vitucb.run_lock import locked\n"
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
        pytest.raises(ValueError, match=r"process 7 on elsewhere.example; .* delete"),
        locked(tmp_path),
    ):
        pass


def test_garbled_lock_without_a_holder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text("{")
    with locked(tmp_path):
        pass
