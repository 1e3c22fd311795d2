"""Figures and tables that go into a paper as they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from vitucb.report import write_report
from vitucb.report.analysis import analyse
from vitucb.report.figures.layout import PAPER, using
from vitucb.report.groups import group_runs
from vitucb.report.latex import escaped
from vitucb.report.runs import load_runs
from vitucb.report.write import _figures

WriteRun: TypeAlias = Callable[..., Path]
COLUMN_INCHES, PAGE_INCHES = 3.35, 6.9


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory, write_run: WriteRun) -> Path:
    folder = tmp_path_factory.mktemp("paper")
    for agent, label in (("vit-ucb", "vit_ucb & 100 %"), ("random", None)):
        for seed in range(2):
            write_run(folder / "exp", agent, seed, rounds=30, label=label, gallery=seed == 0)
    write_report(folder / "exp", folder / "out", style="paper")
    return folder / "out"


def test_every_figure_is_a_pdf_and_a_png_of_300_dpi(paper: Path) -> None:
    names = {path.stem for path in (paper / "figures").glob("*.svg")}
    assert {"regret", "differences", "learning", "gallery-0"} <= names
    for name in names:
        assert (paper / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        with Image.open(paper / "figures" / f"{name}.png") as picture:
            assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
            inches = picture.width / 300
        assert inches == pytest.approx(COLUMN_INCHES, abs=0.01) or inches == pytest.approx(
            PAGE_INCHES, abs=0.01
        )


def test_both_axes_of_a_paper_are_labelled(paper: Path) -> None:
    svg = (paper / "figures" / "growth.svg").read_text(encoding="utf-8")
    assert re.search(r">\s*Growth of regret, log-log</text>", svg)
    assert re.search(r">\s*round</text>", svg)
    assert "rotate(-90" in re.search(r"<text[^>]*>Growth", svg)[0]  # type: ignore[index]


def test_no_text_of_a_figure_is_cut_off(paper: Path) -> None:
    """Labels of short axes are broken into lines."""
    (group,) = group_runs(load_runs(paper.parent / "exp"))
    with using(PAPER):
        drawn = {name: f for name, f in _figures(analyse(group)).items() if f is not None}
        assert {"regret", "differences", "learning", "growth", "calibration"} <= drawn.keys()
        for name, figure in drawn.items():
            FigureCanvasAgg(figure).draw()
            page = figure.bbox
            # Ticks beyond the limits are there too, and not drawn.
            ticks = {t for a in figure.axes for t in (*a.get_xticklabels(), *a.get_yticklabels())}
            for text in figure.findobj(Text):
                assert isinstance(text, Text)
                if text in ticks or not text.get_visible() or not text.get_text().strip():
                    continue
                box = text.get_window_extent()
                told = f"{name}: {text.get_text()!r} {box.bounds} of {page.bounds}"
                assert box.x0 >= -1, told
                assert box.y0 >= -1, told
                assert box.x1 <= page.x1 + 1, told
                assert box.y1 <= page.y1 + 1, told


def test_the_latex_table_holds_every_agent_and_escapes_its_label(paper: Path) -> None:
    table = (paper / "tables" / "summary.tex").read_text(encoding="utf-8")
    assert r"vit\_ucb \& 100 \% & 2 & " in table
    rows = [line for line in table.splitlines() if line.endswith(r"\\")]
    columns = len(re.findall(r"[lr]", re.search(r"tabular}\{(\w+)\}", table)[1]))  # type: ignore[index]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {columns - 1}
    assert table.count(r"\toprule") == table.count(r"\bottomrule") == 1
    heads = next(row for row in rows if row.startswith("agent"))
    assert heads == r"agent & seeds & regret & $\div$ random & reward & ms / round \\"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b", r"a\_b"),
        ("$x^2$", r"\$x\textasciicircum{}2\$"),
        (r"\input{/etc}", r"\textbackslash{}input\{/etc\}"),
        ("50 % & more #1 ~", r"50 \% \& more \#1 \textasciitilde{}"),
        ("[x] *", "{[}x{]} {*}"),
        ("a\nb", r"a\textbackslash{}x0ab"),
        ("\N{MINUS SIGN}3", "$-$3"),
    ],
)
def test_labels_are_no_latex(text: str, expected: str) -> None:
    assert escaped(text) == expected
