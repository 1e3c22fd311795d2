"""Turn a folder of runs into a report: figures, tables and one HTML file."""

from __future__ import annotations

import contextlib
import logging
import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vitucb.report.analysis import Analysis, analyse
from vitucb.report.figures.theme import RC, inline_svg, line_styles, to_svg
from vitucb.report.groups import group_runs
from vitucb.report.measure import REGRET
from vitucb.report.page import Section, page
from vitucb.report.runs import Gallery, Run, load_gallery, load_runs
from vitucb.report.sentences import headline
from vitucb.report.tables import write_tables
from vitucb.storage.atomic_files import write_durably

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_logger = logging.getLogger(__name__)
_PNG_DPI = 144
_MAX_GALLERIES = 4
_WRITTEN = re.compile(
    r"(\d+-)?((regret|reward|differences|learning|growth|calibration|arms|experts|diagnostics|gallery)(-\d+)?"
    r"\.(svg|png)|(summary|comparisons|runs|curves|costs)\.csv)"
)


def write_report(
    runs_folder: str | Path,
    out: str | Path,
    *,
    main: str | None = None,
    include_unfinished: bool = False,
) -> Path:
    """Write `out/index.html`, `out/figures/*.svg|png` and `out/tables/*.csv`.

    Figures and tables of an earlier report there are deleted; other files stay.

    Args:
        runs_folder: A run folder, an experiment, or a folder of experiments.
        out: Folder to write to; made if missing.
        main: Label of the agent that the others are compared with; by default vit-ucb if it
            played, else the first one.
        include_unfinished: Count unfinished runs too, up to the common horizon, and say so; done
            anyway where no run has finished.

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
            _section(analysis, folder, "" if len(analyses) == 1 else f"{index}-")
            for index, analysis in enumerate(analyses)
        ]
    command = _command(runs_folder, out, main, include_unfinished)
    title = f"Regret report: {Path(runs_folder).resolve().name}"
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


def _section(analysis: Analysis, folder: Path, prefix: str) -> Section:
    """Write figures and tables of one group, with `prefix` before their names."""
    # Imported here so that `vitucb report --help` does not wait for matplotlib.
    import matplotlib

    from vitucb.report.figures.gallery import gallery_figure

    write_tables(analysis, folder / "tables", prefix)
    target = folder / "figures"
    figures, galleries = {}, []
    with matplotlib.rc_context(dict(RC)):
        for name, figure in _figures(analysis).items():
            if figure is not None:
                figures[name] = _save(figure, target, f"{prefix}{name}", headline(analysis))
        for index, (title, gallery) in enumerate(_galleries(analysis)):
            name = f"{prefix}gallery-{index}"
            galleries.append((title, _save(gallery_figure(gallery), target, name, title)))
    return Section(analysis, figures, galleries)


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


def _galleries(analysis: Analysis) -> list[tuple[str, Gallery]]:
    """The first recorded gallery of the main agent, then of other contextual agents."""
    others = [r for r in analysis.of_family("contextual") if r is not analysis.main]
    found = []
    for result in [analysis.main, *others][:_MAX_GALLERIES]:
        galleries = ((run.seed, _whole_gallery(run)) for run in result.runs)
        for seed, gallery in galleries:
            if gallery is not None:
                found.append((f"{result.label} (seed {seed})", gallery))
                break
    return found


def _whole_gallery(run: Run) -> Gallery | None:
    try:
        return load_gallery(run)
    except ValueError as error:
        _logger.warning("%s; the gallery is left out", error)
        return None


def _save(figure: Figure, folder: Path, name: str, description: str) -> str:
    """Write one figure as SVG and PNG; returns the SVG to put into the page."""
    folder.mkdir(parents=True, exist_ok=True)
    document = to_svg(figure, name)
    (folder / f"{name}.svg").write_text(document, encoding="utf-8")
    figure.savefig(folder / f"{name}.png", dpi=_PNG_DPI, metadata={"Software": "vitucb"})
    return inline_svg(document, name, f"{name}: {description}")


def _command(
    runs_folder: str | Path, out: str | Path, main: str | None, include_unfinished: bool
) -> str:
    """The call that makes this page again."""
    words = ["vitucb", "report", str(runs_folder), "--out", str(out)]
    words += ["--main", main] if main else []
    words += ["--include-unfinished"] if include_unfinished else []
    return shlex.join(words)
