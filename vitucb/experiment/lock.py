"""One process per run folder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

# Long enough to try again where the last holder deleted the file that was just opened.
_TIMEOUT_S = 0.2


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder (made if missing) for this process alone.

    The operating system drops the lock with the process, so a killed run leaves none. The file
    also names process and host: another host may not see the lock, so its name alone counts.

    Raises:
        ValueError: If another process holds it, or the file system knows no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, us = folder / "run.lock", {"pid": os.getpid(), "host": socket.gethostname()}
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
            path.write_text(json.dumps(us), encoding="utf-8")
        yield
    finally:
        # Deleted while held: who waits for it finds another file and tries again.
        with contextlib.suppress(PermissionError):
            path.unlink(missing_ok=True)
        lock.release()


def _owner(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _taken(path: Path) -> ValueError:
    owner = _owner(path)
    who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"
    return ValueError(
        f"{path.parent} is being played by {who}; wait for it, or if it is gone delete {path}"
    )
