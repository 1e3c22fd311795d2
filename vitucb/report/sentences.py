"""Numbers and comparisons in plain words: what the data allow to say, and no more."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from vitucb.agents.table import Family
from vitucb.report.analysis import AgentResult, Analysis, RivalComparison
from vitucb.report.formatting import before_number, estimate_text, fixed, number, p_text, percent
from vitucb.report.groups import Group
from vitucb.report.measure import REGRET, REWARD, Measure
from vitucb.statistics import IntervalEstimate, PairedDifference

_LEVEL = 0.05
_SHOWN_RIVALS: Mapping[Family, int] = {"contextual": 2, "context-free": 2, "random": 1}

# It is told the means, so it learns nothing, though its family is that of learners.
_TOLD = ("best-fixed-arm",)

Verdict: TypeAlias = Literal["better", "worse", "open"]


@dataclass(frozen=True, slots=True)
class Sentence:
    """A statement and which way it points for the agent it is about."""

    text: str
    verdict: Verdict


def headline(analysis: Analysis) -> str:
    """The main agent's result in one sentence."""
    main, measure = analysis.main, analysis.measure
    horizon = analysis.group.horizon
    parts = [f"{main.label}: {measure.name} {estimate_text(main.total)} after {horizon:,} rounds"]
    if main.summary is None:
        parts.append(f"{fixed(main.reward.value, main.reward)} a round")
    elif math.isfinite(share := main.summary.normalised_regret.value) and main.family != "random":
        parts.append(f"{percent(share)} of random")
    return ", ".join(parts) + "."


def section_title(analysis: Analysis) -> str:
    """What was played: experiment, environment, data, arms, reward, rounds and seeds."""
    group = analysis.group
    counts = [len(result.runs) for result in analysis.results]
    few, most = min(counts), max(counts)
    seeds = f"{few} seed{'s' if few > 1 else ''}" if few == most else f"{few} to {most} seeds"
    parts = (group.task, group.title, group.untold, _rounds_text(group), f"{seeds} per agent")
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
    """The two best contextual and context-free rivals and random play, with their totals."""
    texts: list[str] = []
    for family, most in _SHOWN_RIVALS.items():
        rivals = [r for r in analysis.of_family(family) if r is not analysis.main]  # best first
        texts += [f"{described(r)} {estimate_text(r.total)}" for r in rivals[:most]]
    return "; ".join(texts) + "." if texts else ""


def gain_sentence(analysis: Analysis) -> Sentence | None:
    """What the main agent earned beyond random choices, for who pays for it; None if unknown."""
    main, gain = analysis.main, analysis.main.gain
    uniform = next(iter(analysis.of_family("random")), None)
    if gain is None or uniform is None:
        return None
    outcome = verdict(gain, REWARD)
    size = estimate_text(gain.difference)
    # Of the seeds that the difference is of: others may tell another story.
    shared = set(main.seeds) & set(uniform.seeds)
    rate, base = (_rate(each, shared) for each in (main, uniform))
    rates = f"{fixed(rate, main.reward)} a round against {fixed(base, uniform.reward)}"
    if outcome == "better" and base > 0:
        rates += f", {percent(rate / base - 1)} more"
    rounds = f"over {analysis.group.horizon:,} rounds"
    if gain.num_pairs == 1:
        text = f"Reward earned beyond random choices {rounds}, one seed: {size} ({rates})."
    elif outcome == "open":
        text = f"No reward beyond random choices is shown {rounds}: difference {size} ({rates})."
    else:
        less = "less" if outcome == "worse" else "more"
        size = estimate_text(_size(gain.difference))
        text = f"{main.label} earned {size} {less} reward than random choices {rounds} ({rates})."
    return Sentence(text, outcome)


def _rate(result: AgentResult, seeds: Container[int]) -> float:
    """Mean reward per round over some of the seeds."""
    rewards = result.column("reward").mean(axis=1)
    return float(rewards[[seed in seeds for seed in result.seeds]].mean())


def _size(gap: IntervalEstimate) -> IntervalEstimate:
    """A difference whatever its sign; its interval leaves zero out."""
    return IntervalEstimate(abs(gap.value), *sorted((abs(gap.low), abs(gap.high))))


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
    sentence = difference_sentence(main, rival, paired, comparison.measure)
    if paired.num_pairs < 2:
        return sentence
    if paired.smallest_p > _LEVEL:
        return sentence  # the p-value would say nothing; `tests_note` says why
    return Sentence(f"{sentence.text[:-1]} ({p_text(comparison.holm_p)}).", sentence.verdict)


def best_rival(analysis: Analysis) -> tuple[RivalComparison, int] | None:
    """The best of the other learning agents in the mean, and how many there are; None if none.

    Random play learns nothing, and references are told the means.
    """
    if not _learns(analysis.main):
        return None
    others = [c for c in analysis.comparisons if _learns(c.rival)]
    if not others:
        return None
    best = min(others, key=lambda c: c.measure.cost(c.rival.total.value))
    return best, len(others)


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
    outcome = verdict(paired, comparison.measure)
    seeds = f"{paired.num_pairs} shared seed{'s' if paired.num_pairs > 1 else ''}"
    text = f"{main} {_VERBS[outcome]} {rival}: difference in {comparison.measure.name} "
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
        "Student's 95 % intervals of the mean difference, and 'beats' and 'loses' mean that they "
        "leave zero out; they are not corrected for several comparisons."
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


def difference_sentence(
    a: str, b: str, paired: PairedDifference, measure: Measure = REGRET
) -> Sentence:
    """`a beats b by x [lo, hi]`, or that no difference is shown."""
    gap, n = paired.difference, paired.num_pairs
    size = estimate_text(_size(gap))
    num_better = paired.num_lower if measure.sign > 0 else paired.num_higher
    wins = f"{measure.better} in {num_better} of {n} seeds"
    if n == 1:
        order = "below" if gap.value < 0 else "above"
        text = f"{a} is {number(abs(gap.value))} {order} {b}"
        if gap.value == 0:
            text = f"{a} and {b} have the same {measure.name}"
        return Sentence(f"One seed: {text}.", "open")
    outcome = verdict(paired, measure)
    if outcome != "open":
        verb = "beats" if outcome == "better" else "loses to"
        return Sentence(f"{a} {verb} {b} by {size} {measure.name}, {wins}.", outcome)
    text = f"No difference between {a} and {b} is shown at n = {n}: {estimate_text(gap)} "
    text += measure.name
    if gap.value != 0 and _has_no_spread(paired):
        wins += ", the same in every one: too few to tell from chance"
    return Sentence(f"{text}, {wins}.", "open")


def verdict(paired: PairedDifference, measure: Measure = REGRET) -> Verdict:
    """Whether the first agent is shown to be better, worse, or neither.

    The interval shown beside it, Student's, must leave zero out. Where all differences are the
    same, as those of counts may be, it is a point; then the sign test must reject.
    """
    if _has_no_spread(paired) and paired.sign_p > _LEVEL:
        return "open"
    _, low, high = paired.difference
    if not (low > 0 or high < 0):  # so, an unknown interval tells nothing
        return "open"
    return "better" if measure.cost(low) < 0 else "worse"


def _has_no_spread(paired: PairedDifference) -> bool:
    """Whether the differences are equal but for rounding."""
    value, low, high = paired.difference
    return high - low <= 1e-9 * abs(value)


def _rounds_text(group: Group) -> str:
    of_all = f" of {group.num_rounds:,}" if group.num_rounds > group.horizon else ""
    return f"{group.horizon:,}{of_all} round{'s' if group.num_rounds > 1 else ''}"
