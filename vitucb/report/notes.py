"""What a reader must not miss: agents behind simpler ones, and the limits of the evidence."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from vitucb.report.analysis import AgentResult, Analysis, compare
from vitucb.report.formatting import estimate_text, fixed
from vitucb.report.measure import REGRET, Measure
from vitucb.report.sentences import verdict

_SIMPLER: Mapping[str, str] = {
    "lin-ucb": "which only fits a line to frozen features",
    "kernel-ucb": "which trains no network",
    "item-ucb": "which remembers images and sees no pixel",
}
# Main agents that are no less simple in this way.
_AS_SIMPLE: Mapping[str, Collection[str]] = {
    "lin-ucb": ("lin-ucb", "lin-ts", "greedy", "item-ucb"),
    "kernel-ucb": ("kernel-ucb", "lin-ucb", "lin-ts", "greedy", "item-ucb"),
    "item-ucb": ("item-ucb",),
}


def warnings(analysis: Analysis) -> list[str]:
    """What a reader must not miss: contextual agents behind a rival that they should beat."""
    found, measure = [], analysis.measure
    for result in analysis.of_family("contextual"):
        for reference in analysis.of_family("context-free"):
            found += _behind(result, reference, measure, "which never looks at the images")
    main = analysis.main
    for reference in analysis.results if main.family == "contextual" else []:
        if reference.name in _SIMPLER and main.name not in _AS_SIMPLE[reference.name]:
            found += _behind(main, reference, measure, _SIMPLER[reference.name])
    for reference in analysis.of_family("random"):
        for result in analysis.results:
            if result.family in ("contextual", "context-free"):
                found += _no_better_than_random(result, reference, measure)
    return found


def caveats(analysis: Analysis) -> list[str]:
    """Limits of the evidence: few seeds, unfinished runs, references that did not play."""
    group = analysis.group
    found = []
    single = [result.label for result in analysis.results if len(result.runs) == 1]
    if single:
        found.append(f"One seed only, so no interval: {', '.join(single)}.")
    few = min((len(r.runs) for r in analysis.results if len(r.runs) > 1), default=10)
    if few < 10:
        found.append(
            f"With {few} seeds Student's intervals (in brackets) are wide, and the bootstrap bands "
            f"of the curves too short: a nominal 95 % covers about {_COVERED.get(few, 90)} % "
            "(normal law). Ten seeds or more are better."
        )
    found += _unknown_means(analysis)
    if group.is_truncated:
        found.append(f"Unfinished runs are included: all curves stop at round {group.horizon:,}.")
    elif group.is_cut:
        found.append(f"Some runs ended earlier: of all, {group.horizon:,} rounds are counted.")
    if group.unfinished:
        names = ", ".join(f"{r.folder.name} ({r.rounds:,} rounds)" for r in group.unfinished)
        found.append(f"Not finished and left out: {names}.")
    expected = {"random", "oracle"} if analysis.measure is REGRET else {"random"}
    missing = expected - {result.family for result in analysis.results}
    if not analysis.of_family("context-free"):
        missing.add("ucb1")
    if missing:
        found.append(f"Did not play, so nothing is compared with: {', '.join(sorted(missing))}.")
    return found


# Share of normal samples of this size whose 95 % percentile interval holds the mean, in percent;
# simulated in tests/statistics/test_resampling.py.
_COVERED = {2: 50, 3: 74, 4: 80, 5: 83, 6: 86, 7: 87, 8: 89, 9: 89}


def _unknown_means(analysis: Analysis) -> list[str]:
    """That regret is not known, and of which runs; empty where it is."""
    if analysis.measure is REGRET:
        return []
    runs = [run for result in analysis.results for run in result.runs]
    knowing = sum(run.knows_regret for run in runs)
    who = f"in {len(runs) - knowing} of {len(runs)} runs " if knowing else ""
    found = [
        f"The environment did not know the mean rewards {who}of every round, so regret is unknown "
        "and agents are compared by the rewards they got."
    ]
    if analysis.group.env == _REPLAYED_LOG:
        found.append(
            "A log was replayed: a round in which the agent chose otherwise than the log pays 0, "
            "for every agent alike. What a policy would earn is estimated by vitucb evaluate."
        )
    return found


_REPLAYED_LOG = "vitucb/Logged-v0"


def _behind(result: AgentResult, reference: AgentResult, measure: Measure, why: str) -> list[str]:
    ours, theirs = result.total, reference.total
    if result is reference or measure.cost(ours.value) < measure.cost(theirs.value):
        return []
    paired = compare(result, reference)
    is_worse = paired is not None and verdict(paired, measure) == "worse"
    verb = "loses to" if is_worse else "does not beat"
    gap = ""
    if paired is not None:
        seeds = f"{paired.num_pairs} shared seed{'s' if paired.num_pairs > 1 else ''}"
        gap = f", difference {estimate_text(paired.difference)} on {seeds}"
    return [
        f"{result.label} {verb} {reference.label}, {why}: {measure.name} {fixed(ours.value, ours)} "
        f"against {fixed(theirs.value, theirs)}{gap}."
    ]


def _no_better_than_random(
    result: AgentResult, reference: AgentResult, measure: Measure
) -> list[str]:
    is_better = measure.cost(result.total.value) < measure.cost(reference.total.value)
    if result.family == "context-free" or is_better:
        return []
    return [
        f"{result.label} is no better than random play: {measure.name} "
        f"{estimate_text(result.total)} against {estimate_text(reference.total)}."
    ]
