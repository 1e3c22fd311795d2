"""Turn a folder of runs into a report: figures, tables and one HTML file."""

from __future__ import annotations

import contextlib
import logging
import re
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from vitucb.report.analysis import Analysis, analyse
from vitucb.report.figures.layout import PAPER, SMALL, WIDE, Layout, using
from vitucb.report.figures.theme import RC, inline_svg, line_styles, to_svg
from vitucb.report.groups import group_runs
from vitucb.report.latex import write_latex
from vitucb.report.measure import REGRET
from vitucb.report.page import Picture, Section, page
from vitucb.report.runs import Gallery, Run, load_gallery, load_runs
from vitucb.report.sentences import headline
from vitucb.report.tables import write_tables
from vitucb.storage.atomic_files import write_durably

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Style: TypeAlias = Literal["page", "paper"]
"""What the files of the figures are for."""

_logger = logging.getLogger(__name__)
_PNG_DPI = 300
_MAX_GALLERIES = 4
_WRITTEN = re.compile(
    r"(\d+-)?((regret|reward|differences|learning|growth|calibration|arms|experts|diagnostics|gallery)(-\d+)?"
    r"\.(svg|png|pdf)|summary\.tex|(summary|comparisons|runs|curves|costs)\.csv)"
)


def write_report(
    runs_folder: str | Path,
    out: str | Path,
    *,
    main: str | None = None,
    include_unfinished: bool = False,
    style: Style = "page",
) -> Path:
    """Write `out/index.html`, `out/figures/*.svg|png|pdf` and `out/tables/*.csv|tex`.

    Figures and tables of an earlier report there are deleted; other files stay.

    Args:
        runs_folder: A run folder, an experiment, or a folder of experiments.
        out: Folder to write to; made if missing.
        main: Label of the agent that the others are compared with; by default vit-ucb if it
            played, else the first one.
        include_unfinished: Count unfinished runs too, up to the common horizon, and say so; done
            anyway where no run has finished.
        style: `page` writes the figures as the page shows them; `paper` as wide as a column, or
            two where they have several panels, with labels on both axes and no titles. The page
            is the same.

    Returns:
        Path of the HTML file, which needs no other file.

    Raises:
        ValueError: If there is nothing to report, or a run folder is damaged.
    """
    runs = load_runs(runs_folder)
    is_in_progress = not any(run.is_finished for run in runs)
    groups = group_runs(runs, include_unfinished=include_unfinished or is_in_progress)
    wanted = [main if main in group.agents else None for group in groups]
    if main is not None and not any(wanted):
        analyse(groups[0], main=main)
    analyses = [analyse(g, main=label) for g, label in zip(groups, wanted, strict=True)]
    folder = Path(out)
    _drop_earlier(folder)
    with _missing_glyphs_named_once():
        sections = [
            _section(analysis, folder, "" if len(analyses) == 1 else f"{index}-", style)
            for index, analysis in enumerate(analyses)
        ]
    command = _command(runs_folder, out, main, include_unfinished, style)
    told = groups[0].task if len(groups) == 1 else ""
    name = Path(runs_folder).resolve().name
    title = f"{told or 'Report'}: {name}"
    target = folder / "index.html"
    write_durably(target, page(title, sections, runs, command))
    return target


def _drop_earlier(folder: Path) -> None:
    """Delete what an earlier report of other runs left: its tables would pass for today's."""
    for part in (folder / "figures", folder / "tables"):
        if part.is_symlink():
            raise ValueError(f"{part} is a link, and the report would go elsewhere; delete it")
    for path in (*folder.glob("figures/*"), *folder.glob("tables/*")):
        if _WRITTEN.fullmatch(path.name):
            path.unlink()


def _section(analysis: Analysis, folder: Path, prefix: str, style: Style) -> Section:
    """Write figures and tables of one group, with `prefix` before their names."""
    # Imported here so that `vitucb report --help` does not wait for matplotlib.
    import matplotlib

    write_tables(analysis, folder / "tables", prefix)
    write_latex(analysis, folder / "tables" / f"{prefix}summary.tex")
    found = _galleries(analysis)
    with matplotlib.rc_context(dict(RC)):
        layout = PAPER if style == "paper" else WIDE
        saved = {
            name: _save(figure, folder / "figures", f"{prefix}{name}")
            for name, figure in _drawn(analysis, found, layout)
        }
        wide = _pictures(analysis, WIDE, prefix, saved if layout is WIDE else None)
        small = _pictures(analysis, SMALL, prefix)
        galleries = [
            (each.title, [_rows(each, f"{prefix}gallery-{i}", layout) for layout in (WIDE, SMALL)])
            for i, each in enumerate(found)
        ]
    figures = {name: Picture([svg], [small[name]]) for name, svg in wide.items()}
    return Section(analysis, figures, [(title, Picture(*parts)) for title, parts in galleries])


def _drawn(
    analysis: Analysis, galleries: Sequence[_Recorded], layout: Layout
) -> Iterator[tuple[str, Figure]]:
    """Every figure by name, in `layout`."""
    from vitucb.report.figures.gallery import gallery_figure

    with using(layout):
        for name, figure in _figures(analysis).items():
            if figure is not None:
                yield name, figure
        for index, each in enumerate(galleries):
            yield f"gallery-{index}", gallery_figure(each.gallery, each.names)


def _pictures(
    analysis: Analysis, layout: Layout, prefix: str, documents: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The figures as SVG to put into the page, by name; galleries left out.

    Args:
        analysis: What they show.
        layout: How they are laid out.
        prefix: What their names begin with in the page.
        documents: SVG documents by name, if they are drawn already.
    """
    if documents is None:
        drawn = _drawn(analysis, (), layout)
        documents = {name: to_svg(figure, f"{prefix}{name}") for name, figure in drawn}
    return {
        name: inline_svg(document, f"{prefix}{name}-{layout.name}", f"{name}: {headline(analysis)}")
        for name, document in documents.items()
        if not name.startswith("gallery")
    }


def _rows(recorded: _Recorded, name: str, layout: Layout) -> list[str]:
    """A gallery as SVG, a picture a row: a page may be broken between them."""
    from vitucb.report.figures.gallery import gallery_figure, gallery_rows

    with using(layout):
        return [
            _inline(
                gallery_figure(recorded.gallery, recorded.names, [row]),
                f"{name}-{row}-{layout.name}",
                recorded.title,
            )
            for row in gallery_rows(recorded.gallery)
        ]


@contextlib.contextmanager
def _missing_glyphs_named_once() -> Iterator[None]:
    """One line on all characters that matplotlib's font lacks, not one for every figure."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", message=r"Glyph \d+ ")
        yield
    missing: dict[str, None] = {}
    for warning in caught:
        found = re.match(r"Glyph (\d+) ", str(warning.message))
        if found:
            missing[chr(int(found[1]))] = None
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if missing:
        _logger.warning(
            "the font of the PNG figures lacks %s: boxes stand for them there, not in the page",
            " ".join(missing),
        )


def _figures(analysis: Analysis) -> dict[str, Figure | None]:
    """Figures by name, None where there is too little to show."""
    from vitucb.report.figures import arms, curves, diagnostics, experts, forest, rewards

    styles = line_styles(analysis.results, analysis.main)
    horizon = analysis.group.horizon
    metrics = {r.label: diagnostics.metric_curves(r, horizon) for r in analysis.results}
    by_regret = analysis.measure is REGRET
    total = curves.regret_figure if by_regret else rewards.reward_figure
    return {
        analysis.measure.name: total(analysis, styles),
        "differences": forest.difference_figure(analysis),
        "learning": curves.learning_figure(analysis, styles),
        "growth": curves.growth_figure(analysis, styles),
        "calibration": curves.calibration_figure(analysis, styles),
        "arms": arms.arms_figure(analysis),
        **dict(experts.experts_figures(analysis, metrics)),
        **dict(diagnostics.diagnostics_figures(analysis, metrics, styles)),
    }


class _Recorded(NamedTuple):
    """A gallery, what it is called in the page, and the names of its arms."""

    title: str
    gallery: Gallery
    names: Sequence[str]


def _galleries(analysis: Analysis) -> list[_Recorded]:
    """The first recorded gallery of the main agent, then of other contextual agents."""
    others = [r for r in analysis.of_family("contextual") if r is not analysis.main]
    found = []
    for result in [analysis.main, *others][:_MAX_GALLERIES]:
        galleries = ((run, _whole_gallery(run)) for run in result.runs)
        for run, gallery in galleries:
            if gallery is not None:
                title = f"{result.label} (seed {run.seed})"
                found.append(_Recorded(title, gallery, run.arm_names))
                break
    return found


def _whole_gallery(run: Run) -> Gallery | None:
    try:
        return load_gallery(run)
    except ValueError as error:
        _logger.warning("%s; the gallery is left out", error)
        return None


def _save(figure: Figure, folder: Path, name: str) -> str:
    """Write one figure as SVG, PNG and PDF; returns the SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    document = to_svg(figure, name)
    (folder / f"{name}.svg").write_text(document, encoding="utf-8")
    figure.savefig(folder / f"{name}.png", dpi=_PNG_DPI, metadata={"Software": "vitucb"})
    about = {"Creator": "vitucb", "CreationDate": None}
    figure.savefig(folder / f"{name}.pdf", dpi=_PNG_DPI, metadata=about)
    return document


def _inline(figure: Figure, name: str, description: str) -> str:
    """One figure as SVG to put into the page."""
    return inline_svg(to_svg(figure, name), name, description)


def _command(
    runs_folder: str | Path,
    out: str | Path,
    main: str | None,
    include_unfinished: bool,
    style: Style,
) -> str:
    """The call that makes this page again."""
    words = ["vitucb", "report", str(runs_folder), "--out", str(out)]
    words += ["--main", main] if main else []
    words += ["--include-unfinished"] if include_unfinished else []
    words += ["--style", style] if style != "page" else []
    return shlex.join(words)
