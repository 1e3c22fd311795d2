"""One process per run folder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from vitucb.storage.atomic_files import check_own, open_own
from vitucb.storage.foreign_files import open_regular, parse_json

# Long enough to try again where the last holder deleted the file that was just opened.
_TIMEOUT_S = 0.2


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder (made if missing) for this process alone.

    The operating system drops the lock with the process, so a killed run leaves none. The file
    also names process and host: another host may not see the lock, so its name alone counts.

    Raises:
        ValueError: If another process holds it, it is a link, or the file system knows no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, us = folder / "run.lock", {"pid": os.getpid(), "host": socket.gethostname()}
    check_own(path)
    if _owner(path).get("host") not in (None, us["host"]):
        raise _taken(path)
    # A lock that is a file and no more would stay when its holder is killed.
    lock = FileLock(path, timeout=_TIMEOUT_S, fallback_to_soft=False, preserve_lock_file=True)
    try:
        lock.acquire()
    except Timeout:
        raise _taken(path) from None
    except OSError as error:
        raise ValueError(
            f"{path} cannot be locked ({error.strerror}): nobody holds it, but its file system "
            "gives no locks; keep the runs on one that does"
        ) from error
    try:
        with contextlib.suppress(PermissionError):  # Windows keeps even its holder from the file
            _sign(path, json.dumps(us))
        yield
    finally:
        # Deleted while held: who waits for it finds another file and tries again.
        with contextlib.suppress(PermissionError):
            path.unlink(missing_ok=True)
        lock.release()


def check_free(folder: Path) -> None:
    """Refuse a run folder that another process holds; leaves no file where there was none.

    Raises:
        ValueError: As `locked`.
    """
    if os.path.lexists(folder / "run.lock"):
        with locked(folder):
            pass


def _sign(path: Path, text: str) -> None:
    with open(open_own(path, os.O_WRONLY | os.O_TRUNC), "w", encoding="utf-8") as file:
        file.write(text)


def _owner(path: Path) -> dict[str, object]:
    try:
        with open_regular(path) as file:
            content = parse_json(file.read(4096))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _taken(path: Path) -> ValueError:
    owner = _owner(path)
    pid, host = owner.get("pid"), owner.get("host")
    who = f"process {pid if isinstance(pid, int) else '?'} on {_printable(host)}"
    if host == socket.gethostname():
        return ValueError(
            f"{path.parent} is being played by {who}; wait for it, or if it is gone delete {path}"
        )
    return ValueError(
        f"{path.parent} is being played by {who}, another host or container, since "
        f"{_age(path)}, its last round {_age(path.parent / 'rounds.csv')}; wait for it, or if it "
        f"is gone delete {path}"
    )


def _printable(host: object) -> str:
    return host[:80] if isinstance(host, str) and host.isprintable() and host else "?"


def _age(path: Path) -> str:
    """How long ago a file was written, in words."""
    try:
        seconds = max(0.0, time.time() - path.lstat().st_mtime)
    except OSError:
        return "never"
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} seconds ago"
