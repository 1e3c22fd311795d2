"""The HTML page: one self-contained file, light and dark, that prints well."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from vitucb.config import flatten
from vitucb.report.analysis import Analysis
from vitucb.report.costs import costs_html
from vitucb.report.figures.theme import css_variables
from vitucb.report.formatting import number
from vitucb.report.groups import Group, config_differences
from vitucb.report.runs import Run
from vitucb.report.sentences import (
    caveats,
    comparison_sentence,
    headline,
    rivals_line,
    tests_note,
    warnings,
)
from vitucb.report.style import STYLE_SHEET
from vitucb.report.tables import SUMMARY_COLUMNS, summary_html


def page(title: str, sections: Sequence[str], footer: str, toc: str = "") -> str:
    """A complete HTML document."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{css_variables()}{STYLE_SHEET}</style></head>"
        f"<body><main>{toc}{''.join(sections)}{footer}</main></body></html>\n"
    )


def section(
    analysis: Analysis, figures: Mapping[str, str], galleries: Sequence[tuple[str, str]], key: str
) -> str:
    """One group of the report: headline, picture, table, comparisons, diagnostics, gallery.

    Args:
        analysis: The numbers.
        figures: Inline SVG by figure name; missing ones are left out.
        galleries: Title and inline SVG of each gallery, the main agent's first.
        key: Anchor of the section.
    """
    group = analysis.group
    title = [group.title, group.settings, _rounds_text(group), _seeds_text(analysis)]
    parts = [
        f'<section id="{key}"><h1>{escape(" · ".join(part for part in title if part))}</h1>',
        f'<p class="headline">{_text(headline(analysis))}</p>',
        f'<p class="rivals">{_text(rivals_line(analysis))}</p>',
        *(f'<p class="warning"><b>Note.</b> {_text(text)}</p>' for text in warnings(analysis)),
        _figure(figures, "regret", _REGRET_CAPTION),
        summary_html(analysis),
        *(f'<p class="caveat">{escape(text)}</p>' for text in caveats(analysis)),
        _comparisons(analysis, figures),
        "<h2>Learning</h2>",
        _figure(figures, "learning", _learning_caption(analysis)),
        _figure(figures, "growth", _GROWTH_CAPTION, "narrow"),
        _calibration(figures),
        _diagnostics(figures),
        _galleries(galleries),
        costs_html(analysis),
        _settings(analysis),
        "</section>",
    ]
    return "".join(parts)


def about(runs: Sequence[Run], command: str) -> str:
    """The footer: what was run, on what, how to make the page again, and what its words mean."""
    rows = [
        ("Made with", f"<code>{escape(command)}</code>"),
        ("Runs", escape(_runs_text(runs))),
        ("Parameters", escape(_joined(_counts(runs)))),
        ("Versions", escape(_joined(_versions(runs)))),
        ("Hardware", escape(_joined(_hardware(runs)))),
        ("Settings that differ", _differences_html(runs)),
    ]
    definitions = [(column.heading, column.meaning) for column in SUMMARY_COLUMNS]
    terms = "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in definitions)
    facts = "".join(f"<dt>{a}</dt><dd>{b}</dd>" for a, b in rows if b)
    return (
        f'<footer class="about"><h2>How this was made</h2><dl>{facts}</dl>'
        f"<h2>What the columns mean</h2><dl>{terms}</dl></footer>"
    )


def contents(analyses: Sequence[Analysis]) -> str:
    """Links to the sections, where there are several."""
    if len(analyses) < 2:
        return ""
    differ = len({analysis.group.num_rounds for analysis in analyses}) > 1
    links = "".join(
        f'<a href="#group-{i}">{escape(_group_name(analysis.group, with_rounds=differ))}</a>'
        for i, analysis in enumerate(analyses)
    )
    return f'<nav aria-label="Sections">{links}</nav>'


_REGRET_CAPTION = (
    "Cumulative pseudo-regret, mean over seeds; bands are pointwise 95 % bootstrap intervals over "
    "seeds, thin lines single seeds. Lower is better; the oracle is zero."
)
_GROWTH_CAPTION = (
    "The same curves on log axes, each with its fitted growth exponent. The steep grey guide "
    "grows like t, as random play does; the shallow one like √t, which flattens."
)


def _text(text: str) -> str:
    """Escaped, with no line break inside a number and its interval."""
    joined = re.sub(r"(?<=[\d%]) \[[^\]]*\]", lambda m: m.group().replace(" ", "\u00a0"), text)
    return escape(joined)


def _group_name(group: Group, *, with_rounds: bool) -> str:
    notes = [group.settings, _rounds_text(group) if with_rounds else ""]
    text = ", ".join(note for note in notes if note)
    return f"{group.title} ({text})" if text else group.title


def _rounds_text(group: Group) -> str:
    of_all = f" of {group.num_rounds:,}" if group.num_rounds > group.horizon else ""
    return f"{group.horizon:,}{of_all} round{'s' if group.num_rounds > 1 else ''}"


def _figure(figures: Mapping[str, str], name: str, caption: str, kind: str = "") -> str:
    if name not in figures:
        return ""
    attribute = f' class="{kind}"' if kind else ""
    return f"<figure{attribute}>{figures[name]}<figcaption>{escape(caption)}</figcaption></figure>"


def _learning_caption(analysis: Analysis) -> str:
    from vitucb.report.series import smoothing_window

    window = smoothing_window(analysis.group.horizon)
    return f"Mean over seeds and over the last {window:,} rounds."


def _comparisons(analysis: Analysis, figures: Mapping[str, str]) -> str:
    if not analysis.comparisons:
        return ""
    sentences = [comparison_sentence(comparison) for comparison in analysis.comparisons]
    items = "".join(f'<li class="{s.verdict}">{_text(s.text)}</li>' for s in sentences)
    picture = _figure(
        figures,
        "differences",
        "Diamonds are means with 95 % bootstrap intervals over seeds, dots single seeds; a "
        "triangle at the edge stands for what lies beyond the axis.",
    )
    note = f'<p class="meta">{escape(tests_note(analysis))}</p>'
    return f'<h2>Compared seed by seed</h2><ul class="words">{items}</ul>{note}{picture}'


def _calibration(figures: Mapping[str, str]) -> str:
    caption = (
        "How often the agent chose another arm than the one it thought best, the bonus it gave the "
        "chosen arm (reward units), and how often that arm's true mean lay within mean ± bonus."
    )
    picture = _figure(figures, "calibration", caption)
    return f"<h2>Exploration and calibration</h2>{picture}" if picture else ""


def _diagnostics(figures: Mapping[str, str]) -> str:
    arms = _figure(
        figures,
        "arms",
        "Arms of the main agent by their place among the arms on offer, all seeds together. Where "
        "the places are shuffled every round, equal shares are right.",
    )
    caption = (
        "What the agents measured of themselves while they learned, mean over at most ten seeds."
    )
    names = sorted(name for name in figures if name.startswith("diagnostics"))
    learned = "".join(
        _figure(figures, name, "" if name != names[-1] else caption) for name in names
    )
    return (f"<h2>Arms</h2>{arms}" if arms else "") + (
        f"<h2>Learning diagnostics</h2>{learned}" if learned else ""
    )


def _settings(analysis: Analysis) -> str:
    """The resolved settings of the first run of every agent, folded away."""
    blocks = "".join(
        f"<details><summary>Settings of {escape(result.label)}</summary><dl>"
        + "".join(
            f"<dt><code>{escape(key)}</code></dt><dd>{escape(str(value))}</dd>"
            for key, value in flatten(result.runs[0].config).items()
        )
        + "</dl></details>"
        for result in analysis.results
    )
    return f'<div class="about"><h2>Settings</h2>{blocks}</div>'


def _galleries(galleries: Sequence[tuple[str, str]]) -> str:
    if not galleries:
        return ""
    caption = (
        "What was on offer in a few rounds (of many arms the chosen and the best), and what the "
        "agent thought before it chose. Each row has its own scale; the numbers below are arms."
    )
    first_title, first = galleries[0]
    rest = "".join(
        f"<details><summary>{escape(title)}</summary><figure>{svg}</figure></details>"
        for title, svg in galleries[1:]
    )
    return (
        f"<h2>What {escape(first_title)} saw and chose</h2><figure>{first}"
        f"<figcaption>{caption}</figcaption></figure>{rest}"
    )


def _seeds_text(analysis: Analysis) -> str:
    counts = {len(result.runs) for result in analysis.results}
    if len(counts) == 1:
        count = counts.pop()
        return f"{count} seed{'s' if count > 1 else ''} per agent"
    return f"{min(counts)} to {max(counts)} seeds per agent"


def _runs_text(runs: Sequence[Run]) -> str:
    seeds = sorted({run.seed for run in runs})
    done = sum(run.is_finished for run in runs)
    unfinished = f", {len(runs) - done} not finished" if done < len(runs) else ""
    listed = _ranges(seeds)
    seconds = sum(float(run.summary.get("wall_seconds", 0)) for run in runs)
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}{unfinished}"
    return f"{count}; seeds {listed}; {_duration(seconds)} of wall-clock time"


def _duration(seconds: float) -> str:
    for unit, size in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= size:
            return f"{number(seconds / size, 2)} {unit}"
    return f"{number(seconds, 2)} seconds"


def _counts(runs: Sequence[Run]) -> list[str]:
    """What the agents say they adapted and tracked."""
    found: dict[str, None] = {}
    for run in runs:
        counts = run.summary.get("parameters") or {}
        if counts:
            parts = [f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items()]
            found[f"{run.agent}: {', '.join(parts)}"] = None
    return list(found)


def _ranges(seeds: Sequence[int]) -> str:
    """`0-4, 7`."""
    spans: list[list[int]] = []
    for seed in seeds:
        if spans and seed == spans[-1][1] + 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def _versions(runs: Sequence[Run]) -> list[str]:
    return sorted({_one_versions(run.environment) for run in runs} - {""})


def _one_versions(environment: Mapping[str, Any]) -> str:
    packages = environment.get("packages") or {}
    parts = [f"{name} {version}" for name, version in packages.items()]
    if environment.get("python"):
        parts.insert(0, f"Python {environment['python']}")
    if environment.get("git_commit"):
        parts.append(f"commit {str(environment['git_commit'])[:12]}")
    return ", ".join(parts)


def _hardware(runs: Sequence[Run]) -> list[str]:
    found = set()
    for run in runs:
        keys = ("platform", "processor", "device", "gpu")
        parts = [str(run.environment[key]) for key in keys if run.environment.get(key)]
        if run.environment.get("cpu_count"):
            parts.append(f"{run.environment['cpu_count']} CPU cores")
        found.add(", ".join(parts))
    return sorted(found - {""})


def _joined(texts: Sequence[str]) -> str:
    return "; ".join(texts)


def _differences_html(runs: Sequence[Run]) -> str:
    ignored = {"seed", "agent.name", "agent.label"}
    found = {k: v for k, v in config_differences(runs).items() if k not in ignored}
    return "<br>".join(
        f"<code>{escape(key)}</code> {escape(', '.join(map(str, values)))}"
        for key, values in found.items()
    )
