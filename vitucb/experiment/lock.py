"""One process per run folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

_NAME = "run.lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder (made if missing) for this process alone.

    The operating system drops the lock with the process, so a killed run leaves none. The file
    also names process and host: another host may not see the lock, so its name alone counts.

    Raises:
        ValueError: If another process holds it, or the file system knows no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":  # no fcntl there: two processes are not told apart
        yield
        return
    path = folder / _NAME
    descriptor = _acquire(path)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_this_process()).encode(), 0)
        yield
    finally:
        # Deleted while held: who waits for it finds another file and tries again.
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _acquire(path: Path) -> int:
    import fcntl

    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _owner(descriptor)
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise _taken(path, owner) from None
            raise ValueError(
                f"{path} cannot be locked ({error.strerror}): nobody holds it, but its file system "
                "gives no locks; keep the runs on one that does"
            ) from error
        if not _is_named(path, descriptor):
            os.close(descriptor)  # its last holder deleted it meanwhile
            continue
        owner = _owner(descriptor)
        if owner.get("host") not in (None, socket.gethostname()):
            os.close(descriptor)
            raise _taken(path, owner)
        return descriptor


def _is_named(path: Path, descriptor: int) -> bool:
    """Whether `path` is still the name of the open file; it may be deleted at any time."""
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _owner(descriptor: int) -> dict[str, object]:
    try:
        content = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _this_process() -> dict[str, object]:
    return {"pid": os.getpid(), "host": socket.gethostname()}


def _taken(path: Path, owner: dict[str, object]) -> ValueError:
    who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"
    return ValueError(
        f"{path.parent} is being played by {who}; wait for it, or if it is gone delete {path}"
    )
