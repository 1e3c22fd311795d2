"""The tutorial by its text alone: its files written, its commands run in order, its output seen."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from vitucb.cli import main
from vitucb.config import RunConfig
from vitucb.experiment.engines import JobEnd
from vitucb.experiment.engines.job import play_job

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tutorial.md"
BLOCKS = re.findall(
    r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)
FOLDERS = {"report", "evaluation", "photos", "runs"}
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?%?")


def play_here(jobs: Sequence[RunConfig], **_: object) -> Iterator[JobEnd]:
    """An engine without processes: each of those would load the libraries once more."""
    for job in jobs:
        yield job, play_job(job)


def execute(command: str) -> None:
    """A line of a shell, in this process."""
    program, *words = shlex.split(command)
    if program == "python":
        (script,) = words
        runpy.run_path(script)
    else:
        assert program == "vitucb"
        main(words)


def shape(line: str) -> str:
    """A printed line without what differs between machines: numbers, widths, units, verdicts."""
    bare = NUMBER.sub("0", re.sub(r"-{2,}|\s+", " ", line))
    bare = re.sub(r"\b0 (?:s|min|h)\b", "0 s", bare)
    bare = re.sub(r"(interval 0 to 0\.) .*", r"\1", bare)
    return re.sub(r"\s+", " ", bare).strip()


@pytest.mark.slow
def test_tutorial_runs_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vitucb.experiment.engines.processes.play_jobs", play_here)
    printed: set[str] = set()
    for language, text in BLOCKS:
        if language == "python":
            (tmp_path / text.split()[1]).write_text(text, encoding="utf-8")
        elif language == "bash":
            for command in text.replace("\\\n", "").splitlines():
                execute(command)
            printed = {shape(line) for line in "\n".join(capfd.readouterr()).splitlines()}
        else:
            assert language == "text"
            shown = {shape(line).removesuffix("...") for line in text.splitlines()}
            assert {line for line in shown if not any(line in p for p in printed)} == set()
    report = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    sections = re.findall(r'^- "([^"]+)"', PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sections
    assert [title for title in sections if f">{title}<" not in report] == []
    promised = re.findall(r"`([\w-]+/[\w./-]+|[\w-]+\.\w+)`", PAGE.read_text(encoding="utf-8"))
    files = [name for name in promised if name.split("/")[0] in FOLDERS or "." in name]
    assert {name for name in files if not (tmp_path / name).exists()} <= {"photos/shoes/1.jpg"}


def test_every_block_says_what_it_is() -> None:
    fences = re.findall(r"^```(\w*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(fences[::2]) == {"python", "bash", "text"}
    assert set(fences[1::2]) == {""}
