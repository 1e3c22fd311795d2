"""A call in a forked child that may use little time, memory and nothing outside its folder."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.metadata
import json
import logging
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CPU_SECONDS, WALL_SECONDS, MEMORY_MIB = 10, 90.0, 1024
_LONGEST_REFUSAL = 2_000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = (
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.truncate",
)
_NEVER = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec")


@dataclass(frozen=True, slots=True)
class Job:
    """One call.

    Attributes:
        name: What it is.
        folder: Where it may write; its working directory.
        call: The call; ValueError and OSError of one line are refusals.
        check: What is wrong afterwards, looked at outside of the child; empty if nothing is.
    """

    name: str
    folder: Path
    call: Callable[[], object]
    check: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job: `loaded`, `refused`, or a `fault` with its description."""

    job: Job
    kind: str
    detail: str
    memory_mib: float
    seconds: float


def play_jobs(
    jobs: Iterable[Job], workers: int, *, cpu_seconds: int = CPU_SECONDS
) -> Iterator[Outcome]:
    """Outcomes of the jobs as they end, `workers` at a time, each stopped after `cpu_seconds`."""
    running: dict[int, tuple[Job, int, float]] = {}
    pending = iter(jobs)
    is_over = False
    while running or not is_over:
        while not is_over and len(running) < workers:
            job = next(pending, None)
            if job is None:
                is_over = True
                break
            child, pipe = _start(job, cpu_seconds)
            running[child] = (job, pipe, time.monotonic())
        for child in list(running):
            job, pipe, started = running[child]
            seconds = time.monotonic() - started
            done, status = os.waitpid(child, os.WNOHANG)
            if not done and seconds > WALL_SECONDS:
                os.kill(child, signal.SIGKILL)
                done, status = os.waitpid(child, 0)
            if done:
                del running[child]
                yield _outcome(job, pipe, os.waitstatus_to_exitcode(status), seconds)
        time.sleep(0.002)


def _outcome(job: Job, pipe: int, code: int, seconds: float) -> Outcome:
    with os.fdopen(pipe, "rb") as stream:
        text = stream.read().decode("utf-8", "replace")
    told: dict[str, Any] = json.loads(text) if text else {}
    kind, detail = told.get("kind", "fault"), told.get("detail", f"ended with {code}")
    if code == -signal.SIGXCPU:
        detail = "took all the processor time it was given"
    memory = told.get("memory_mib", 0.0)
    if memory > MEMORY_MIB:
        kind, detail = "fault", f"took {memory:,.0f} MiB; {detail}"
    if problem := job.check():
        kind, detail = "fault", f"{problem}; {detail}"
    return Outcome(job, kind, detail, memory, seconds)


def _start(job: Job, cpu_seconds: int) -> tuple[int, int]:
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    os.close(reading)
    try:
        told = _call(job, cpu_seconds)
        os.write(writing, json.dumps(told).encode("utf-8", "replace")[:60_000])
    finally:
        os._exit(0)


def _call(job: Job, cpu_seconds: int) -> dict[str, Any]:
    os.setpgid(0, 0)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.chdir(job.folder)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    # Memory that is asked for and not touched counts as well, if it is very much.
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + (3 << 30), resource.RLIM_INFINITY))
    before = _peak()
    watch = _Watch(job.folder.resolve())
    with contextlib.suppress(ValueError):
        sys.meta_path.insert(0, watch)
    sys.addaudithook(watch.saw)
    kind, detail = "loaded", ""
    try:
        job.call()
    except (ValueError, OSError) as error:
        detail = str(error)
        is_plain = detail and "\n" not in detail and len(detail) <= _LONGEST_REFUSAL
        kind = "refused" if is_plain else "fault"
    except BaseException as error:
        kind, detail = "fault", f"{type(error).__name__}: {str(error)[:200]} {_where(error)}"
    watch.is_on = False
    if watch.forbidden:
        kind, detail = "fault", f"{'; '.join(watch.forbidden[:3])}; {detail}"
    return {"kind": kind, "detail": detail[:1_000], "memory_mib": (_peak() - before) / 1024}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _where(error: BaseException) -> str:
    trace, places = error.__traceback__, []
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return " < ".join(reversed(places[-4:]))


class _Watch(importlib.abc.MetaPathFinder):
    """Notes imports of what is neither ours nor a dependency, and changes outside `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.is_on = str(folder), True
        self.forbidden: list[str] = []
        self._known = {*sys.stdlib_module_names, *importlib.metadata.packages_distributions()}

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Looks, and finds nothing."""
        if self.is_on and name.partition(".")[0] not in self._known:
            self.forbidden.append(f"imports {name}")

    def saw(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Called for every audit event of the interpreter."""
        if not self.is_on:
            return
        is_provenance = event == "subprocess.Popen" and arguments[0] == "git"
        if event in _NEVER and not is_provenance:
            self.forbidden.append(f"{event} {arguments!r:.200}")
        flags = arguments[2] if event == "open" and isinstance(arguments[2], int) else 0
        if event in _CHANGES or flags & _WRITING:
            self._look(event, arguments[0])

    def _look(self, event: str, path: object) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        place = os.path.realpath(os.path.dirname(os.path.abspath(os.fsdecode(path))))
        is_inside = place == self.folder or place.startswith(self.folder + os.sep)
        if not is_inside and not os.fsdecode(path).startswith(("/dev/", "/proc/")):
            self.forbidden.append(f"{event} {os.fsdecode(path)[:200]}")
