#!/usr/bin/env python3
"""Run a command of this project on a fresh machine: make `.venv`, install, execute.

    python3 scripts/bootstrap.py vitucb demo
    python3 scripts/bootstrap.py pytest

Needs Python >= 3.10 and a network the first time; nothing but the standard library. The
environment is made without ensurepip and filled by uv, or by pip where uv cannot be had. It is
left alone when nothing that decides its content has changed since the last install.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(os.environ.get("VITUCB_VENV") or ROOT / ".venv").absolute()
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STAMP = VENV / ".bootstrap-stamp"
PLACE = VENV / ".bootstrap-place"


def say(message: str) -> None:
    """Progress goes to stderr; stdout belongs to the command."""
    print(f"bootstrap: {message}", file=sys.stderr, flush=True)


def fingerprint() -> str:
    """What decides the content of the environment: project file, layout, interpreter, place."""
    parts = [
        (ROOT / "pyproject.toml").read_bytes(),
        Path(__file__).read_bytes(),
        f"{sys.version} {sys.executable} {ROOT}".encode(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def run(command: Sequence[str | Path], **environment: str) -> bool:
    """Run a step; its output goes to stderr. False if it failed or does not exist."""
    try:
        done = subprocess.run(
            [str(word) for word in command], stdout=sys.stderr, env={**os.environ, **environment}
        )
    except OSError:
        return False
    return done.returncode == 0


def make_venv() -> None:
    """Create `.venv` from this interpreter; Debian's lacks ensurepip, so pip comes later.

    One that was copied or moved here is made anew: its commands would start the interpreter of the
    place where they were installed. So is one whose interpreter is gone.
    """
    is_moved = PLACE.exists() and PLACE.read_text(encoding="utf-8") != str(VENV)
    if PYTHON.exists() and not is_moved:
        return
    if importlib.util.find_spec("venv") is None:
        raise SystemExit("bootstrap: this Python has no venv module; install python3-venv")
    say(f"creating {VENV}")
    import venv

    # Nothing but an environment is cleared; links that lead nowhere would be kept otherwise.
    is_old = (VENV / "pyvenv.cfg").exists()
    venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt", clear=is_old).create(VENV)
    PLACE.write_text(str(VENV), encoding="utf-8")


def pip_command() -> list[str | Path] | None:
    """A pip that installs into `.venv`: its own, a bundled one, or another interpreter's."""
    own: list[str | Path] = [PYTHON, "-m", "pip"]
    if has_module("pip"):
        return own
    if has_module("ensurepip") and run([PYTHON, "-m", "ensurepip"]):
        return own
    for outer in (sys.executable, shutil.which("python3"), shutil.which("python")):
        # --python targets the environment, so a system marked externally managed does not object.
        if outer and run([outer, "-m", "pip", "--python", PYTHON, "--version"]):
            return [outer, "-m", "pip", "--python", PYTHON]
    return None


def has_module(name: str) -> bool:
    """Whether the interpreter of `.venv` can import `name`."""
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({name!r}) is None)"
    return run([PYTHON, "-c", code])


def find_uv() -> Path | None:
    """The uv of `.venv`, installed there if need be, else one on the PATH."""
    inside = BIN / ("uv.exe" if os.name == "nt" else "uv")
    if inside.exists():
        return inside
    on_path = shutil.which("uv")
    if on_path:
        return Path(on_path)
    pip = pip_command()
    if pip and run([*pip, "install", "--quiet", "--disable-pip-version-check", "uv"]):
        return inside if inside.exists() else None
    return None


def install() -> None:
    """Install the project, editable, with its development tools."""
    target = ["--editable", f"{ROOT}[dev]"]
    uv = find_uv()
    if uv is not None:
        say("installing with uv; the first time this downloads torch, about a minute")
        if run([uv, "pip", "install", "--quiet", "--python", PYTHON, *target]):
            return
        say("uv failed, trying pip")
    pip = pip_command()
    if pip is None:
        raise SystemExit(
            "bootstrap: found neither uv nor pip; install one of them "
            "(Debian: apt install python3-pip) and run this again"
        )
    say("installing with pip; this can take several minutes")
    if not run([*pip, "install", "--quiet", *target]):
        raise SystemExit("bootstrap: the installation failed; the messages above say why")


def main(words: list[str]) -> None:
    """Prepare the environment and become the command."""
    if sys.version_info < (3, 10):  # noqa: UP036  # a fresh machine may have an older one
        raise SystemExit(f"bootstrap: Python >= 3.10 is needed, this is {sys.version.split()[0]}")
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return
    wanted = fingerprint()
    if not (STAMP.exists() and STAMP.read_text() == wanted and PYTHON.exists()):
        started = time.monotonic()
        STAMP.unlink(missing_ok=True)
        make_venv()
        install()
        STAMP.write_text(wanted)
        say(f"installed in {time.monotonic() - started:.0f} s")
    executable = shutil.which(words[0], path=str(BIN))
    if executable is None:
        raise SystemExit(f"bootstrap: {words[0]!r} is not in {BIN}; try vitucb, pytest or python")
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, "VIRTUAL_ENV": str(VENV)}
    os.chdir(ROOT if words[0] == "pytest" else Path.cwd())
    command = [executable, *words[1:]]
    if os.name == "nt":  # where the caller would not wait for what takes this one's place
        sys.exit(subprocess.run(command, env=environment).returncode)
    # In its place, so that Ctrl-C and other signals reach the command alone.
    os.execve(executable, command, environment)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        say("interrupted; the same command goes on with the installation")
        sys.exit(130)
