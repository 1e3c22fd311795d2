"""Numbers and comparisons in plain words: what the data allow to say, and no more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from vitucb.agents.table import Family
from vitucb.report.analysis import AgentResult, Analysis, RivalComparison, compare
from vitucb.report.formatting import before_number, estimate_text, fixed, number, p_text, percent
from vitucb.report.groups import Group
from vitucb.statistics import IntervalEstimate, PairedDifference

_LEVEL = 0.05
_SHOWN_RIVALS: Mapping[Family, int] = {"contextual": 2, "context-free": 2, "random": 1}

# It is told the means, so it learns nothing, though its family is that of learners.
_TOLD = ("best-fixed-arm",)

_SIMPLER: Mapping[str, str] = {
    "lin-ucb": "which only fits a line to frozen features",
    "kernel-ucb": "which trains no network",
    "item-ucb": "which remembers images and sees no pixel",
}

Verdict: TypeAlias = Literal["better", "worse", "open"]


@dataclass(frozen=True, slots=True)
class Sentence:
    """A statement and which way it points for the agent it is about."""

    text: str
    verdict: Verdict


def headline(analysis: Analysis) -> str:
    """The main agent's result in one sentence."""
    main = analysis.main
    horizon = analysis.group.horizon
    parts = [
        f"{main.label}: regret {estimate_text(main.summary.final_regret)} after {horizon:,} rounds"
    ]
    share = main.summary.normalised_regret.value
    if math.isfinite(share) and main.family != "random":
        parts.append(f"{percent(share)} of random")
    return ", ".join(parts) + "."


def section_title(analysis: Analysis) -> str:
    """Experiment and environment, rounds and seeds."""
    group = analysis.group
    counts = [len(result.runs) for result in analysis.results]
    few, most = min(counts), max(counts)
    seeds = f"{few} seed{'s' if few > 1 else ''}" if few == most else f"{few} to {most} seeds"
    parts = (group.title, group.settings, _rounds_text(group), f"{seeds} per agent")
    return " · ".join(part for part in parts if part)


def section_links(analyses: Sequence[Analysis]) -> list[str]:
    """The names of sections: experiment and environment, with the rounds where they differ."""
    groups = [analysis.group for analysis in analyses]
    differ = len({group.num_rounds for group in groups}) > 1
    notes = [[group.settings, _rounds_text(group) if differ else ""] for group in groups]
    texts = [", ".join(filter(None, each)) for each in notes]
    return [
        f"{g.title} ({text})" if text else g.title for g, text in zip(groups, texts, strict=True)
    ]


def rivals_line(analysis: Analysis) -> str:
    """The two best contextual and context-free rivals and random play, with their regrets."""
    texts: list[str] = []
    for family, most in _SHOWN_RIVALS.items():
        rivals = [r for r in analysis.of_family(family) if r is not analysis.main]  # best first
        texts += [f"{described(r)} {estimate_text(r.summary.final_regret)}" for r in rivals[:most]]
    return "; ".join(texts) + "." if texts else ""


def described(result: AgentResult) -> str:
    """The label, with what it stands for where that is known."""
    label = before_number(result.label)
    if result.family == "context-free":
        return f"{label} without context"
    return f"{label} on frozen features" if result.name in ("lin-ucb", "greedy") else label


def comparison_sentence(comparison: RivalComparison) -> Sentence:
    """What the paired seeds say of the main agent against one rival."""
    main, rival, paired = comparison.main, comparison.rival.label, comparison.paired
    if paired is None:
        return Sentence(f"{main} and {rival} share no seed, so they are not compared.", "open")
    sentence = difference_sentence(main, rival, paired)
    if paired.num_pairs < 2:
        return sentence
    if paired.smallest_p > _LEVEL:
        return sentence  # the p-value would say nothing; `tests_note` says why
    return Sentence(f"{sentence.text[:-1]} ({p_text(comparison.holm_p)}).", sentence.verdict)


def best_rival(analysis: Analysis) -> tuple[RivalComparison, int] | None:
    """The other learning agent of the lowest mean regret, and how many there are; None if none.

    Random play learns nothing, and references are told the means.
    """
    if not _learns(analysis.main):
        return None
    others = [c for c in analysis.comparisons if _learns(c.rival)]
    if not others:
        return None
    return min(others, key=lambda c: c.rival.summary.final_regret.value), len(others)


def best_rival_sentence(analysis: Analysis) -> Sentence | None:
    """What the paired seeds say of the main agent against the best of all others; None if none."""
    found = best_rival(analysis)
    if found is None:
        return None
    comparison, count = found
    main, paired = comparison.main, comparison.paired
    among = f"the best of {count} other agents" if count > 1 else "the only other agent"
    rival = f"{before_number(comparison.rival.label)}, {among} that learn{'s' * (count == 1)}"
    if paired is None:
        return Sentence(f"{main} shares no seed with {rival}, so they are not compared.", "open")
    outcome = verdict(paired)
    seeds = f"{paired.num_pairs} shared seed{'s' if paired.num_pairs > 1 else ''}"
    text = f"{main} {_VERBS[outcome]} {rival}: difference in regret "
    text += f"{estimate_text(paired.difference)} on {seeds}"
    if paired.num_pairs > 1 and paired.smallest_p <= _LEVEL:
        text += f" ({p_text(comparison.holm_p)})"
    return Sentence(f"{text}.", outcome)


_VERBS: Mapping[Verdict, str] = {
    "better": "beats",
    "worse": "loses to",
    "open": "is not told apart from",
}


def _learns(result: AgentResult) -> bool:
    return result.family in ("contextual", "context-free") and result.name not in _TOLD


def tests_note(analysis: Analysis) -> str:
    """How the comparisons were tested, and what the number of pairs allows."""
    paired = [c.paired for c in analysis.comparisons if c.paired is not None]
    note = (
        f"Each rival is paired with {analysis.main.label} on the seeds both played; brackets are "
    )
    note += (
        "95 % bootstrap intervals of the mean difference. 'Beats' and 'loses' need Student's 95 % "
        "interval to leave zero out as well; intervals are not corrected for several comparisons."
    )
    if any(p.smallest_p <= _LEVEL for p in paired):
        note += (
            " p: two-sided Wilcoxon signed-rank test, exact up to 50 pairs, Holm-corrected over "
            f"{len(paired)} comparison{'s' if len(paired) > 1 else ''}."
        )
    found = best_rival(analysis)
    if found is not None and found[1] > 1:
        note += " Which other agent is best was read off these seeds too, which favours it."
    few = max((p.num_pairs for p in paired if p.smallest_p > _LEVEL), default=0)
    if few > 1:
        note += (
            f" With {few} pairs a two-sided signed-rank test cannot give p below "
            f"{2.0 ** (1 - few):.2g}, so those p-values are left to the CSV table: six pairs can "
            "reach 0.05, more are needed to stand a correction for several comparisons."
        )
    return note


def difference_sentence(a: str, b: str, paired: PairedDifference) -> Sentence:
    """`a beats b by x [lo, hi]`, or that no difference is shown."""
    gap, n = paired.difference, paired.num_pairs
    size = estimate_text(IntervalEstimate(abs(gap.value), *sorted((abs(gap.low), abs(gap.high)))))
    wins = f"lower in {paired.num_lower} of {n} seeds"
    if n == 1:
        order = "below" if gap.value < 0 else "above"
        return Sentence(f"One seed: {a} is {number(abs(gap.value))} {order} {b}.", "open")
    outcome = verdict(paired)
    if outcome != "open":
        verb = "beats" if outcome == "better" else "loses to"
        return Sentence(f"{a} {verb} {b} by {size} regret, {wins}.", outcome)
    text = f"No difference between {a} and {b} is shown at n = {n}: {estimate_text(gap)} regret"
    if gap.value != 0 and _has_no_spread(paired):
        wins += ", the same in every one: too few to tell from chance"
    elif gap.low > 0 or gap.high < 0:
        student = IntervalEstimate(gap.value, paired.student_low, paired.student_high)
        wins += f"; Student's interval {estimate_text(student).partition(' ')[2]} holds zero"
    return Sentence(f"{text}, {wins}.", "open")


def verdict(paired: PairedDifference) -> Verdict:
    """Whether the first agent's regret is shown to be lower, higher, or neither.

    Both the bootstrap and Student's interval must leave zero out: at a handful of seeds the first
    is too short. Where all differences are the same, as those of counts may be, both are points;
    then the sign test must reject.
    """
    if _has_no_spread(paired) and paired.sign_p > _LEVEL:
        return "open"
    low = min(paired.difference.low, paired.student_low)
    high = max(paired.difference.high, paired.student_high)
    return "better" if high < 0 else "worse" if low > 0 else "open"


def _has_no_spread(paired: PairedDifference) -> bool:
    """Whether the differences are equal but for rounding."""
    return paired.student_high - paired.student_low <= 1e-9 * abs(paired.difference.value)


def warnings(analysis: Analysis) -> list[str]:
    """What a reader must not miss: contextual agents behind a rival that they should beat."""
    found = []
    for result in analysis.of_family("contextual"):
        for reference in analysis.of_family("context-free"):
            found += _behind(result, reference, "which never looks at the images")
    simpler = [r for r in analysis.results if r.name in _SIMPLER and r is not analysis.main]
    for reference in simpler if analysis.main.family == "contextual" else []:
        found += _behind(analysis.main, reference, _SIMPLER[reference.name])
    for reference in analysis.of_family("random"):
        for result in analysis.results:
            if result.family in ("contextual", "context-free"):
                found += _no_better_than_random(result, reference)
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
            f"With {few} seeds percentile bootstrap intervals are too short: a nominal 95 % covers "
            f"about {_COVERED.get(few, 90)} % (normal law). Ten seeds or more are better."
        )
    if group.is_truncated:
        found.append(f"Unfinished runs are included: all curves stop at round {group.horizon:,}.")
    if group.unfinished:
        names = ", ".join(f"{r.folder.name} ({r.rounds:,} rounds)" for r in group.unfinished)
        found.append(f"Not finished and left out: {names}.")
    missing = {"random", "oracle"} - {result.family for result in analysis.results}
    if not analysis.of_family("context-free"):
        missing.add("ucb1")
    if missing:
        found.append(f"Did not play, so nothing is compared with: {', '.join(sorted(missing))}.")
    return found


# Share of normal samples of this size whose 95 % percentile interval holds the mean, in percent;
# simulated in tests/statistics/test_resampling.py.
_COVERED = {2: 50, 3: 74, 4: 80, 5: 83, 6: 86, 7: 87, 8: 89, 9: 89}


def _rounds_text(group: Group) -> str:
    of_all = f" of {group.num_rounds:,}" if group.num_rounds > group.horizon else ""
    return f"{group.horizon:,}{of_all} round{'s' if group.num_rounds > 1 else ''}"


def _behind(result: AgentResult, reference: AgentResult, why: str) -> list[str]:
    ours, theirs = result.summary.final_regret, reference.summary.final_regret
    if result is reference or ours.value < theirs.value:
        return []
    paired = compare(result, reference)
    is_worse = paired is not None and verdict(paired) == "worse"
    verb = "loses to" if is_worse else "does not beat"
    gap = ""
    if paired is not None:
        seeds = f"{paired.num_pairs} shared seed{'s' if paired.num_pairs > 1 else ''}"
        gap = f", difference {estimate_text(paired.difference)} on {seeds}"
    return [
        f"{result.label} {verb} {reference.label}, {why}: regret {fixed(ours.value, ours)} "
        f"against {fixed(theirs.value, theirs)}{gap}."
    ]


def _no_better_than_random(result: AgentResult, reference: AgentResult) -> list[str]:
    if result.family == "context-free" or result.summary.normalised_regret.value < 1:
        return []
    return [
        f"{result.label} is no better than random play: regret "
        f"{estimate_text(result.summary.final_regret)} against "
        f"{estimate_text(reference.summary.final_regret)}."
    ]
