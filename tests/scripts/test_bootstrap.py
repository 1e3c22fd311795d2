"""`scripts/bootstrap.py` makes an environment that works, and becomes the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import bootstrap
import pytest

SCRIPT = Path(bootstrap.__file__)
pytestmark = pytest.mark.skipif(os.name == "nt", reason="links and signals of POSIX")


def installed(folder: Path, name: str, body: str) -> None:
    """An environment as if it had been installed, with one command."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    command = folder / "bin" / name
    command.write_text(f"#!{sys.executable}\n{body}")
    command.chmod(0o755)
    (folder / ".bootstrap-stamp").write_text(bootstrap.fingerprint())


def use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "VENV", folder)
    monkeypatch.setattr(bootstrap, "PYTHON", folder / "bin" / "python")
    monkeypatch.setattr(bootstrap, "PLACE", folder / ".bootstrap-place")


WAIT = """
import sys, time
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit("command: interrupted")
"""


def test_ctrl_c_is_the_commands_own_matter(tmp_path: Path) -> None:
    installed(tmp_path / "venv", "wait", WAIT)
    child = subprocess.Popen(
        [sys.executable, str(SCRIPT), "wait"],
        env={**os.environ, "VITUCB_VENV": str(tmp_path / "venv")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does
    _, said = child.communicate(timeout=30)
    assert said == "command: interrupted\n"
    assert child.returncode == 1


def test_an_environment_may_be_named_from_the_current_folder(tmp_path: Path) -> None:
    installed(tmp_path / "venv", "pytest", "print('played')\n")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "pytest"],
        cwd=tmp_path,
        env={**os.environ, "VITUCB_VENV": "venv"},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.returncode) == ("played\n", 0)


def test_an_environment_whose_interpreter_is_gone_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(tmp_path, monkeypatch)
    bootstrap.make_venv()
    for link in (tmp_path / "bin").glob("python*"):
        link.unlink()
        link.symlink_to("/nowhere/python")
    bootstrap.make_venv()
    assert bootstrap.run([tmp_path / "bin" / "python", "-c", ""])


def test_an_environment_that_was_moved_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(tmp_path / "old", monkeypatch)
    bootstrap.make_venv()
    (tmp_path / "old" / "bin" / "pytest").write_text(f"#!{tmp_path}/old/bin/python\n")
    (tmp_path / "old").rename(tmp_path / "new")
    use(tmp_path / "new", monkeypatch)
    bootstrap.make_venv()
    assert not (tmp_path / "new" / "bin" / "pytest").exists()
    kept = tmp_path / "new" / "bin" / "pytest"
    kept.touch()
    bootstrap.make_venv()
    assert kept.exists()


def test_a_folder_that_is_no_environment_is_not_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.txt").touch()
    use(tmp_path, monkeypatch)
    bootstrap.make_venv()
    assert (tmp_path / "mine.txt").exists()
