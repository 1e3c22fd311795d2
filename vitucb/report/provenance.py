"""What a report rests on: the runs, their parameters, versions, hardware and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vitucb.report.formatting import number
from vitucb.report.groups import config_differences
from vitucb.report.runs import Run

_HARDWARE = ("platform", "processor", "device", "gpu")
_TOLD_ELSEWHERE = {"seed", "agent.name", "agent.label"}


def facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What was run and on what, by name; what was not recorded is left out."""
    environments = [run.environment for run in runs]
    found = (
        ("Runs", _runs_text(runs)),
        # In the order of the runs.
        ("Parameters", "; ".join(dict.fromkeys(text for run in runs if (text := _counts(run))))),
        ("Versions", "; ".join(sorted({_versions(each) for each in environments} - {""}))),
        ("Hardware", "; ".join(sorted({_hardware(each) for each in environments} - {""}))),
    )
    return [(name, text) for name, text in found if text]


def differing_settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Settings that are not the same in all runs, with their values; seed and agent left out."""
    found = config_differences(runs)
    return {key: values for key, values in found.items() if key not in _TOLD_ELSEWHERE}


def _runs_text(runs: Sequence[Run]) -> str:
    unfinished = sum(not run.is_finished for run in runs)
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    count += f", {unfinished} not finished" if unfinished else ""
    seconds = sum(float(run.summary.get("wall_seconds", 0)) for run in runs)
    seeds = _ranges(sorted({run.seed for run in runs}))
    return f"{count}; seeds {seeds}; {_duration(seconds)} of wall-clock time"


def _duration(seconds: float) -> str:
    for unit, size in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= size:
            return f"{number(seconds / size, 2)} {unit}"
    return f"{number(seconds, 2)} seconds"


def _ranges(seeds: Sequence[int]) -> str:
    """`0-4, 7`."""
    spans: list[list[int]] = []
    for seed in seeds:
        if spans and seed == spans[-1][1] + 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def _counts(run: Run) -> str:
    """What the agent says it adapted and tracked."""
    counts = run.summary.get("parameters") or {}
    parts = [f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items()]
    return f"{run.agent}: {', '.join(parts)}" if parts else ""


def _versions(environment: Mapping[str, Any]) -> str:
    parts = [f"Python {environment['python']}"] if environment.get("python") else []
    packages = environment.get("packages") or {}
    parts += [f"{name} {version}" for name, version in packages.items()]
    if environment.get("git_commit"):
        parts.append(f"commit {str(environment['git_commit'])[:12]}")
    return ", ".join(parts)


def _hardware(environment: Mapping[str, Any]) -> str:
    parts = [str(environment[key]) for key in _HARDWARE if environment.get(key)]
    if environment.get("cpu_count"):
        parts.append(f"{environment['cpu_count']} CPU cores")
    return ", ".join(parts)
