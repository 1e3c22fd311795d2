"""The panel of experts: drawn where a run has any, with sleep marked, and left out elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from vitucb.report.analysis import Analysis, analyse
from vitucb.report.figures.diagnostics import diagnostics_figures, metric_curves
from vitucb.report.figures.experts import experts_figures
from vitucb.report.figures.theme import line_styles
from vitucb.report.groups import group_runs
from vitucb.report.runs import load_runs
from vitucb.report.write import write_report

WriteRun = Callable[..., Path]
ROUNDS = 60
WEIGHTS = {"linear": 0.5, "kernel": 0.3, "adapted": 0.2}


def write_experts(run: Path, weights: Mapping[str, float], sleeper: str = "") -> None:
    """Constant weights; `sleeper` sleeps in the rounds 20..40."""
    lines = ["round,metric,value"]
    for t in range(0, ROUNDS, 5):
        for name, weight in weights.items():
            asleep = float(name == sleeper and 20 <= t <= 40)
            lines += [f"{t},expert/weight/{name},{weight}", f"{t},expert/loss/{name},{1 - weight}"]
            lines += [f"{t},expert/asleep/{name},{asleep}"]
    (run / "metrics.csv").write_text("\n".join([*lines, ""]), encoding="utf-8")


def analysed(folder: Path) -> Analysis:
    (group,) = group_runs(load_runs(folder))
    return analyse(group)


def curves_of(analysis: Analysis) -> dict[str, dict[str, np.ndarray]]:
    return {r.label: metric_curves(r, analysis.group.horizon) for r in analysis.results}


def drawn(folder: Path) -> list[Figure]:
    analysis = analysed(folder)
    return [figure for _, figure in experts_figures(analysis, curves_of(analysis))]


def bars(figure: Figure) -> list[tuple[float, float]]:
    """First and last round of every row of bars in the first panel."""
    found = []
    for collection in figure.axes[0].collections:
        assert isinstance(collection, PolyCollection)
        rounds = np.concatenate(
            [np.asarray(path.vertices)[:, 0] for path in collection.get_paths()]
        )
        found.append((float(rounds.min()), float(rounds.max())))
    return found


def test_weights_are_means_over_seeds(tmp_path: Path, write_run: WriteRun) -> None:
    for seed, shift in enumerate((-0.1, 0.1)):
        run = write_run(tmp_path / "exp", "vit-ucb", seed, rounds=ROUNDS)
        write_experts(run, {"linear": 0.6 + shift, "adapted": 0.4 - shift})
    write_run(tmp_path / "exp", "random", 0, rounds=ROUNDS)
    (figure,) = drawn(tmp_path / "exp")
    (axes,) = figure.axes
    assert axes.get_title() == "Weights of experts, vit-ucb"
    curves = [np.asarray(line.get_ydata()) for line in axes.lines if np.size(line.get_xdata()) > 3]
    assert sorted(float(curve[-1]) for curve in curves) == pytest.approx([0.4, 0.6])
    assert {text.get_text() for text in axes.texts} == {"linear", "adapted"}
    assert bars(figure) == []
    assert axes.get_ylim()[0] == 0


@pytest.mark.parametrize(("sleepers", "is_marked"), [(("adapted", ""), True), (("", ""), False),
                                                     (("adapted", "", ""), False)])  # fmt: skip
def test_sleep_in_half_of_the_seeds_is_marked(
    sleepers: Sequence[str], is_marked: bool, tmp_path: Path, write_run: WriteRun
) -> None:
    for seed, sleeper in enumerate(sleepers):
        run = write_run(tmp_path / "exp", "vit-ucb", seed, rounds=ROUNDS)
        write_experts(run, WEIGHTS, sleeper)
    (figure,) = drawn(tmp_path / "exp")
    found = bars(figure)
    assert bool(found) == is_marked
    for first, last in found:
        assert 15 < first <= 21 <= 41 <= last < 46
        assert figure.axes[0].get_ylim()[0] < -0.03


def test_every_agent_that_mixes_has_a_panel_and_experts_keep_their_colour(
    tmp_path: Path, write_run: WriteRun
) -> None:
    mixed = {"vit-ucb": ("linear", "adapted"), "b": ("adapted", "x"), "c": ("x", "y")}
    # An only expert always weighs all: nothing to see.
    for label, names in {**mixed, "d": ("adapted",)}.items():
        run = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=ROUNDS, label=label)
        write_experts(run, dict.fromkeys(names, 0.5))
    first, second = drawn(tmp_path / "exp")
    panels = [*first.axes, *second.axes]
    assert len(panels) == 3
    colours = [
        {text.get_text(): text.get_color() for text in axes.texts}.get("adapted") for axes in panels
    ]
    assert len({colour for colour in colours if colour}) == 1


def test_the_page_shows_experts_apart_from_the_diagnostics(
    tmp_path: Path, write_run: WriteRun
) -> None:
    run = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=ROUNDS)
    write_experts(run, WEIGHTS, "adapted")
    out = tmp_path / "out"
    page = write_report(tmp_path / "exp", out).read_text(encoding="utf-8")
    assert "<h2>Experts</h2>" in page
    assert "a bar below zero\nmarks where an expert slept" in page
    assert "<h2>Learning diagnostics</h2>" not in page
    assert (out / "figures" / "experts.svg").is_file()
    (run / "metrics.csv").write_text("round,metric,value\n", encoding="utf-8")
    page = write_report(tmp_path / "exp", out).read_text(encoding="utf-8")
    assert "<h2>Experts</h2>" not in page
    assert not list(out.glob("figures/experts*"))


def test_weights_without_sleep_or_with_many_experts_are_drawn(
    tmp_path: Path, write_run: WriteRun
) -> None:
    run = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=ROUNDS)
    lines = [f"9,expert/weight/e{i:02d},{i / 435}" for i in range(30)]
    text = "\n".join(["round,metric,value", *lines, ""])
    (run / "metrics.csv").write_text(text, encoding="utf-8")
    (figure,) = drawn(tmp_path / "exp")
    curves = [line for line in figure.axes[0].lines if np.size(line.get_xdata()) > 3]
    assert len(curves) == 12
    analysis = analysed(tmp_path / "exp")
    styles = line_styles(analysis.results, analysis.main)
    assert diagnostics_figures(analysis, curves_of(analysis), styles) == []
