from __future__ import annotations

import csv
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import TypeAlias
from xml.etree import ElementTree

import numpy as np
import pytest

from vitucb.report import Gallery, write_report
from vitucb.report.analysis import analyse
from vitucb.report.figures.curves import growth_figure, regret_figure
from vitucb.report.figures.forest import difference_figure
from vitucb.report.figures.gallery import gallery_figure
from vitucb.report.figures.theme import line_styles
from vitucb.report.groups import group_runs
from vitucb.report.notes import warnings
from vitucb.report.runs import load_runs

WriteRun: TypeAlias = Callable[..., Path]
SVG = "{http://www.w3.org/2000/svg}"
FIGURES = (
    "regret",
    "differences",
    "learning",
    "growth",
    "calibration",
    "arms",
    "diagnostics",
    "gallery-0",
    "gallery-1",
)


@pytest.fixture(scope="module")
def report(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    page = write_report(experiment, out)
    assert page == out / "index.html"
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def words(path: Path) -> str:
    """The visible text of a page."""

    class Text(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.parts: list[str] = []
            self.hidden = 0

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.hidden += tag in ("style", "script")

        def handle_endtag(self, tag: str) -> None:
            self.hidden -= tag in ("style", "script")

        def handle_data(self, data: str) -> None:
            if not self.hidden:
                self.parts.append(data)

    parser = Text()
    parser.feed(path.read_text(encoding="utf-8"))
    return re.sub(r"\s+", " ", " ".join(parser.parts))


def set_regret(run: Path, regret: Sequence[float]) -> None:
    """Write the regret of every round into a run."""
    header, *table = (run / "rounds.csv").read_text(encoding="utf-8").splitlines()
    place = header.split(",").index("regret")
    for i, (row, value) in enumerate(zip(table, regret, strict=True)):
        cells = row.split(",")
        cells[place] = str(value)
        table[i] = ",".join(cells)
    (run / "rounds.csv").write_text("\n".join([header, *table, ""]), encoding="utf-8")


def test_the_page_needs_nothing_but_itself(report: Path) -> None:
    html = (report / "index.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "<link" not in html
    links = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    identifiers = re.findall(r'\bid="([^"]+)"', html)
    assert len(identifiers) == len(set(identifiers))


def test_figures_follow_the_theme_of_the_page(report: Path) -> None:
    html = (report / "index.html").read_text(encoding="utf-8")
    inline = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert "var(--blue)" in inline
    assert "#0072b2" not in inline
    assert "prefers-color-scheme:dark" in html


def test_every_figure_is_saved_as_svg_and_png(report: Path) -> None:
    for name in FIGURES:
        ElementTree.parse(report / "figures" / f"{name}.svg")
        assert (report / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_headline_has_the_numbers_of_the_table(report: Path) -> None:
    table = {row["agent"]: row for row in rows(report / "tables" / "summary.csv")}
    ours = table["vit-ucb"]
    share = float(ours["normalised_regret"])
    text = words(report / "index.html")
    assert f"vit-ucb: regret {float(ours['final_regret']):.1f} [" in text
    assert f"after 200 rounds, {100 * share:.0f} % of random." in text
    assert "lin-ucb on frozen features" in text
    assert "ucb1 without context" in text


def test_tables_hold_every_agent_run_and_comparison(report: Path) -> None:
    summary = rows(report / "tables" / "summary.csv")
    agents = [row["agent"] for row in summary]
    assert agents[0] == "vit-ucb"
    assert agents[-2:] == ["random", "oracle"]
    assert len(rows(report / "tables" / "runs.csv")) == 21
    comparisons = {row["rival"]: row for row in rows(report / "tables" / "comparisons.csv")}
    assert set(comparisons) == {"lin-ucb", "greedy", "ucb1", "gaussian-ts", "random"}
    assert float(comparisons["random"]["difference_high"]) < 0
    assert comparisons["random"]["pairs"] == "3"
    curves = rows(report / "tables" / "curves.csv")
    last = {row["agent"]: row["regret"] for row in curves if row["round"] == "200"}
    for row in summary:
        assert float(last[row["agent"]]) == pytest.approx(float(row["final_regret"]))


def test_costs_are_in_the_page_and_in_a_table(report: Path) -> None:
    costs = {row["agent"]: row for row in rows(report / "tables" / "costs.csv")}
    ours = costs["vit-ucb"]
    assert float(ours["seconds_per_round"]) == pytest.approx(0.031)
    assert float(ours["image_passes"]) == 12.5
    assert float(ours["peak_memory_mib"]) == 512
    assert float(ours["trainable_parameters"]) == 1234
    assert ours["tracked_features"] == ""
    text = words(report / "index.html")
    assert "peak memory, MiB" in text
    assert "image passes / round" in text
    assert "1,234" in text


def test_settings_of_every_agent_are_in_the_page(report: Path) -> None:
    text = words(report / "index.html")
    assert "Settings of lin-ucb" in text
    assert "env.num_arms" in text


def test_footer_says_what_was_run_and_on_what(report: Path) -> None:
    text = words(report / "index.html")
    assert "Runs 21 runs; seeds 0-2; 2.2 minutes of wall-clock time" in text
    assert "greedy: trainable parameters 1,234; lin-ucb: trainable parameters 1,234" in text
    assert "Versions Python 3.11.2, vitucb 0.1.0" in text
    assert "Hardware 2 CPU cores" in text
    assert "Settings that differ" not in text


def test_settings_that_differ_are_named(tmp_path: Path, write_run: WriteRun) -> None:
    for lr in (0.1, 0.2):
        run = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=25, settings={"lr": lr})
        run.rename(run.with_name(f"run-{lr}"))
    html = write_report(tmp_path / "exp", tmp_path / "out").read_text(encoding="utf-8")
    assert "<code>agent.lr</code> 0.1, 0.2</dd>" in html


def test_run_in_progress_makes_a_page(tmp_path: Path, write_run: WriteRun) -> None:
    write_run(tmp_path / "exp", "vit-ucb", 0, rounds=25, num_rounds=100, finished=False)
    text = words(write_report(tmp_path / "exp", tmp_path / "out"))
    assert "after 25 rounds" in text
    assert "Unfinished runs are included" in text


@pytest.mark.slow
def test_experiment_in_parts_is_read_as_one(tmp_path: Path, write_run: WriteRun) -> None:
    for arms in (3, 10):
        write_run(tmp_path / "exp" / f"num_arms={arms}", "vit-ucb", 0, rounds=25)
    text = words(write_report(tmp_path, tmp_path / "out"))
    assert "num_arms=3" in text
    assert "num_arms=10" in text


def test_parts_of_one_name_are_not_one_experiment(tmp_path: Path, write_run: WriteRun) -> None:
    for experiment, agent in (("a", "vit-ucb"), ("b", "lin-ucb")):
        for name in (agent, "random"):
            write_run(tmp_path / experiment / "num_arms=3", name, 0, rounds=25)
    text = words(write_report(tmp_path, tmp_path / "out"))
    assert "a/num_arms=3" in text
    assert "b/num_arms=3" in text


def test_agents_are_compared_by_reward_where_a_run_does_not_know_its_regret(
    tmp_path: Path, write_run: WriteRun
) -> None:
    write_run(tmp_path / "exp", "vit-ucb", 0, rounds=25)
    set_regret(write_run(tmp_path / "exp", "lin-ucb", 0, rounds=25), [math.nan] * 25)
    text = words(write_report(tmp_path / "exp", tmp_path / "out"))
    assert "vit-ucb: reward " in text
    assert "did not know the mean rewards in 1 of 2 runs" in text


def test_damaged_metrics_and_galleries_are_named_and_left_out(
    tmp_path: Path, write_run: WriteRun, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=25)
    (run / "metrics.csv").write_text("round,metric,value\n0,train/loss\n", encoding="utf-8")
    (run / "gallery.npz").write_bytes(b"PK")
    write_report(run, tmp_path / "out")
    assert re.search(r"metrics\.csv is damaged.*; its diagnostics are left out", caplog.text)
    assert re.search(r"gallery\.npz cannot be read .*; the gallery is left out", caplog.text)
    assert not list((tmp_path / "out").glob("figures/diagnostics*"))


def test_a_report_is_not_written_through_a_link(tmp_path: Path, write_run: WriteRun) -> None:
    run = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=25)
    (tmp_path / "precious").write_text("a thesis")
    (tmp_path / "exp" / "report").mkdir()
    (tmp_path / "exp" / "report" / "index.html").symlink_to(tmp_path / "precious")
    write_report(run, tmp_path / "exp" / "report")
    assert (tmp_path / "precious").read_text() == "a thesis"
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "summary.csv").write_text("mine")
    shutil.rmtree(tmp_path / "exp" / "report" / "tables")
    (tmp_path / "exp" / "report" / "tables").symlink_to(tmp_path / "documents")
    with pytest.raises(ValueError, match="tables is a link"):
        write_report(run, tmp_path / "exp" / "report")
    assert (tmp_path / "documents" / "summary.csv").read_text() == "mine"


def test_rivals_without_a_shared_seed_do_not_weaken_the_others(
    tmp_path: Path, write_run: WriteRun
) -> None:
    for seed in range(7):
        write_run(tmp_path / "exp", "vit-ucb", seed, rounds=25)
        write_run(tmp_path / "exp", "ucb1", seed, rounds=25)
        write_run(tmp_path / "exp", "greedy", 100 + seed, rounds=25)
    text = words(write_report(tmp_path / "exp", tmp_path / "out"))
    (row,) = rows(tmp_path / "out" / "tables" / "comparisons.csv")
    assert "Holm-corrected over 1 comparison." in text
    assert row["wilcoxon_p_holm"] == row["wilcoxon_p"]


@pytest.mark.slow
def test_the_same_runs_make_the_same_page(report: Path, experiment: Path) -> None:
    before = (report / "index.html").read_bytes()
    assert write_report(experiment, report).read_bytes() == before


def test_few_seeds_are_owned_up_to(report: Path) -> None:
    text = words(report / "index.html")
    assert "With 3 seeds Student's intervals (in brackets) are wide" in text
    assert "cannot give p below 0.25" in text


def test_a_contextual_agent_behind_ucb1_is_flagged(tmp_path: Path, write_run: WriteRun) -> None:
    for seed in range(3):
        write_run(tmp_path / "exp", "random", seed, rounds=40, label="vit-ucb")
        write_run(tmp_path / "exp", "oracle", seed, rounds=40, label="ucb1")
    for folder in (tmp_path / "exp").iterdir():
        config = (folder / "config.yaml").read_text(encoding="utf-8")
        config = config.replace("name: random", "name: vit-ucb").replace(
            "name: oracle", "name: ucb1"
        )
        (folder / "config.yaml").write_text(config, encoding="utf-8")
    text = words(write_report(tmp_path / "exp", tmp_path / "out"))
    assert "vit-ucb loses to ucb1, which never looks at the images" in text


@pytest.mark.parametrize(
    ("main", "simpler"),
    [
        ("full-finetune", ["lin-ucb", "kernel-ucb", "item-ucb"]),
        ("kernel-ucb", ["lin-ucb", "item-ucb"]),
        ("greedy", ["item-ucb"]),
        ("item-ucb", []),
    ],
)
def test_only_simpler_agents_are_said_to_be_simpler(
    main: str, simpler: list[str], tmp_path: Path, write_run: WriteRun
) -> None:
    for agent in ("full-finetune", "greedy", "lin-ucb", "kernel-ucb", "item-ucb"):
        run = write_run(tmp_path / "exp", agent, 0, rounds=20)
        set_regret(run, [0.5 if agent == main else 0.1] * 20)
    (group,) = group_runs(load_runs(tmp_path / "exp"))
    told = warnings(analyse(group, main=main))
    assert sorted(text.split(",")[0] for text in told) == sorted(
        f"{main} does not beat {agent}" for agent in simpler
    )


def test_names_are_escaped(tmp_path: Path, write_run: WriteRun) -> None:
    hostile = "<script>alert(1)</script>&"
    run = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=30)
    config = (run / "config.yaml").read_text(encoding="utf-8")
    config = config.replace("label: null", f"label: '{hostile}'")
    (run / "config.yaml").write_text(config, encoding="utf-8")
    page = write_report(run, tmp_path / "out")
    assert "<script" not in page.read_text(encoding="utf-8")
    assert f"{hostile}: regret" in words(page)


LABELS = (
    "$a$ x^2_i \\alpha",
    "$\\frac{$",
    'a<b>&c"d',
    "\N{OCTOPUS} caf\u00e9",
    "\u05e9\u05dc\u05d5\u05dd 42",
    'id="x" url(#x)',
)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, write_run: WriteRun) -> Path:
    """Report of agents whose labels are no plain words."""
    folder = tmp_path_factory.mktemp("labelled")
    for label in LABELS:
        write_run(folder / "exp", "lin-ucb", 0, rounds=25, label=label)
    write_report(folder / "exp", folder / "out")
    return folder / "out"


@pytest.mark.parametrize("label", LABELS)
def test_labels_are_shown_as_they_are(labelled: Path, label: str) -> None:
    assert label in {row["agent"] for row in rows(labelled / "tables" / "summary.csv")}
    assert label in words(labelled / "index.html")
    for name in ("regret", "differences", "learning", "growth"):
        texts = ElementTree.parse(labelled / "figures" / f"{name}.svg").iter(f"{SVG}text")
        assert any(label in (text.text or "") for text in texts), name


def test_labels_are_shown_as_they_are_in_the_figures_of_the_page(labelled: Path) -> None:
    html = (labelled / "index.html").read_text(encoding="utf-8")
    pictures = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert all(escape(label, quote=False) in pictures for label in LABELS)


def test_a_label_in_hebrew_is_closed_before_its_number(labelled: Path) -> None:
    for name in ("regret", "growth"):
        svg = (labelled / "figures" / f"{name}.svg").read_text(encoding="utf-8")
        assert f"{LABELS[4]}\N{LEFT-TO-RIGHT MARK}  " in svg


def test_missing_glyphs_are_named_in_one_line(
    tmp_path: Path, write_run: WriteRun, caplog: pytest.LogCaptureFixture
) -> None:
    write_run(tmp_path / "exp", "lin-ucb", 0, rounds=25, label="\N{OCTOPUS}")
    write_report(tmp_path / "exp", tmp_path / "out")
    assert [record.getMessage() for record in caplog.records] == [
        "the font of the PNG figures lacks \N{OCTOPUS}: boxes stand for them there, not in the page"
    ]


def test_long_labels_leave_room_for_the_curves(tmp_path: Path, write_run: WriteRun) -> None:
    label = "vit-ucb optimizer=lora-rite covariance=low-rank WIDE CAPITALS"
    run = write_run(tmp_path / "exp", "vit-ucb", 0, rounds=25, label=label)
    names = ("train/loss", "score/noise", "covariance/drift", "covariance/log_det", "own", "more")
    metrics = [f"{t},{name},{t}" for t in range(0, 25, 5) for name in names]
    text = "\n".join(["round,metric,value", *metrics, ""])
    (run / "metrics.csv").write_text(text, encoding="utf-8")
    html = write_report(run, tmp_path / "out").read_text(encoding="utf-8")
    for title in ("Training loss", "Estimated reward noise", "Movement of features", "own", "more"):
        assert title in html


def test_an_interval_beyond_the_axis_is_marked_at_its_edge(
    tmp_path: Path, write_run: WriteRun
) -> None:
    """ucb1 is near in the mean, but its interval is far wider than the contextual rivals'."""
    finals = {
        "vit-ucb": (5, 5, 5),
        "lin-ucb": (4, 5, 6),
        "ucb1": (0, 5, 10),
        "gaussian-ts": (4.5, 5, 5.5),
    }
    for agent, totals in finals.items():
        for seed, total in enumerate(totals):
            run = write_run(tmp_path / "exp", agent, seed, rounds=25)
            set_regret(run, [total / 25] * 25)
    (group,) = group_runs(load_runs(tmp_path / "exp"))
    figure = difference_figure(analyse(group))
    assert figure is not None
    marks = [
        (line.get_marker(), *np.asarray(line.get_xydata()).ravel().tolist())
        for line in figure.axes[0].lines
        if line.get_marker() in ("<", ">")
    ]
    rivals = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    place = -rivals.index("vs ucb1")
    assert marks == [("<", 0.0, place), (">", 1.0, place)]


def test_sections_that_differ_in_the_horizon_have_links_of_their_own(
    tmp_path: Path, write_run: WriteRun
) -> None:
    for rounds in (20, 30):
        for seed in range(2):
            run = write_run(tmp_path / "exp", "vit-ucb", seed, rounds=rounds)
            run.rename(run.with_name(f"{run.name}-{rounds}"))
    html = write_report(tmp_path / "exp", tmp_path / "out").read_text(encoding="utf-8")
    links = dict(re.findall(r'<a href="#([^"]+)">([^<]+)</a>', html))
    assert list(links.values()) == [
        "vitucb/ImageArms-v0 (20 rounds)",
        "vitucb/ImageArms-v0 (30 rounds)",
    ]
    sections = dict(re.findall(r'<section id="([^"]+)"><h1>([^<]+)</h1>', html))
    assert [
        f"{rounds} rounds" in sections[key] for key, rounds in zip(links, (20, 30), strict=True)
    ]
    identifiers = re.findall(r'\bid="([^"]+)"', html)
    assert len(identifiers) == len(set(identifiers))


def test_tables_of_an_earlier_report_do_not_stay(tmp_path: Path, write_run: WriteRun) -> None:
    write_run(tmp_path / "exp", "vit-ucb", 0, rounds=25)
    out = tmp_path / "out"
    write_report(tmp_path / "exp", out)
    (out / "tables" / "notes.csv").write_text("mine\n", encoding="utf-8")
    names = {path.name for path in out.glob("*/*")}
    write_run(tmp_path / "exp", "vit-ucb", 1, rounds=30)
    write_report(tmp_path / "exp", out)
    expected = {f"{i}-{name}" for name in names - {"notes.csv"} for i in range(2)}
    assert {path.name for path in out.glob("*/*")} == expected | {"notes.csv"}


def test_regret_below_zero_is_drawn(tmp_path: Path, write_run: WriteRun) -> None:
    for agent, regret in (("vit-ucb", -0.5), ("lin-ucb", 0.5), ("oracle", 1e-17)):
        run = write_run(tmp_path / "exp", agent, 0, rounds=30)
        set_regret(run, [regret] * 30)
    (group,) = group_runs(load_runs(tmp_path / "exp"))
    analysis = analyse(group)
    styles = line_styles(analysis.results, analysis.main)
    assert regret_figure(analysis, styles).axes[0].get_ylim()[0] <= -15
    growth = growth_figure(analysis, styles)
    assert growth is not None
    assert growth.axes[0].get_ylim()[0] > 0.1  # not down to the rounding of the oracle
    set_regret(tmp_path / "exp" / "lin-ucb__vitucb-ImageArms-v0__s0", [-1.0] * 30)
    assert "vit-ucb: regret −15" in words(write_report(tmp_path / "exp", tmp_path / "out"))


def test_a_seed_far_above_the_others_stays_in_the_picture(
    tmp_path: Path, write_run: WriteRun
) -> None:
    for seed in range(8):
        run = write_run(tmp_path / "exp", "vit-ucb", seed, rounds=30)
        set_regret(run, [10.0 if seed == 3 else 0.1] * 30)
    (group,) = group_runs(load_runs(tmp_path / "exp"))
    analysis = analyse(group)
    (axes,) = regret_figure(analysis, line_styles(analysis.results, analysis.main)).axes
    assert axes.get_ylim()[1] > 300


def test_other_seeds_than_those_of_random_play_are_not_paired_with_it(
    tmp_path: Path, write_run: WriteRun
) -> None:
    for seed, size in enumerate((0.1, 0.2, 0.3)):
        set_regret(write_run(tmp_path / "exp", "vit-ucb", seed, rounds=25), [size] * 25)
        set_regret(write_run(tmp_path / "exp", "random", 7 + seed, rounds=25), [2 * size] * 25)
    (group,) = group_runs(load_runs(tmp_path / "exp"))
    summary = analyse(group).main.summary
    assert summary is not None
    share = summary.normalised_regret
    assert share.low < 0.4 < share.value < 0.6 < share.high


def test_unfinished_runs_are_never_silent(tmp_path: Path, write_run: WriteRun) -> None:
    write_run(tmp_path / "exp", "vit-ucb", 0, rounds=30)
    write_run(tmp_path / "exp", "random", 0, rounds=12, num_rounds=30, finished=False)
    left_out = words(write_report(tmp_path / "exp", tmp_path / "a"))
    assert "Not finished and left out: random__vitucb-ImageArms-v0__s0 (12 rounds)." in left_out
    page = write_report(tmp_path / "exp", tmp_path / "b", include_unfinished=True)
    assert "Unfinished runs are included: all curves stop at round 12." in words(page)


def test_runs_that_ended_earlier_are_never_silent(tmp_path: Path, write_run: WriteRun) -> None:
    """An environment may end its episode before the rounds that were asked for."""
    write_run(tmp_path / "exp", "vit-ucb", 0, rounds=30)
    write_run(tmp_path / "exp", "random", 0, rounds=12, num_rounds=30)
    text = words(write_report(tmp_path / "exp", tmp_path / "out"))
    assert "Some runs ended earlier: of all, 12 rounds are counted." in text
    both = [
        write_run(tmp_path / "both", a, 0, rounds=12, num_rounds=30) for a in ("ucb1", "greedy")
    ]
    assert "ended earlier" not in words(write_report(both[0].parent, tmp_path / "b"))


def test_one_round_of_one_seed_makes_a_page(tmp_path: Path, write_run: WriteRun) -> None:
    write_run(tmp_path / "exp", "oracle", 0, rounds=1)
    text = words(write_report(tmp_path / "exp", tmp_path / "out"))
    assert "oracle: regret 0 after 1 rounds." in text


def test_a_gallery_of_many_large_arms_without_estimates_is_drawn() -> None:
    rng = np.random.default_rng(0)
    truth, nothing = rng.random((1, 50)), np.full((1, 50), np.nan)
    images = rng.integers(0, 255, (1, 50, 130, 150, 3), dtype=np.uint8)
    one = np.array([1])
    figure = gallery_figure(
        Gallery(one, images, nothing, nothing, truth, one * 7, truth.argmax(axis=1), one * 1.0)
    )
    pictures, bars = figure.axes
    assert len(pictures.images) == 16
    assert "7" in [label.get_text() for label in bars.get_xticklabels()]


def test_image_that_all_arms_share_is_drawn_once() -> None:
    rng = np.random.default_rng(0)
    truth, one = rng.random((1, 5)), np.array([1])
    images = rng.integers(0, 255, (1, 1, 16, 16, 3), dtype=np.uint8)
    figure = gallery_figure(
        Gallery(one, images, truth, truth, truth, one * 3, truth.argmax(axis=1), one * 1.0)
    )
    assert len(figure.axes[0].images) == 1


@pytest.mark.parametrize(("recorded", "caption"), [(None, "regret 0.9"), (0.25, "regret 0.25")])
def test_a_picture_tells_the_regret_that_was_recorded(recorded: float | None, caption: str) -> None:
    truth, one = np.array([[0.0, 0.9, 0.25]]), np.array([1])
    images = np.zeros((1, 3, 8, 8, 3), np.uint8)
    regret = None if recorded is None else np.array([recorded])
    figure = gallery_figure(
        Gallery(one, images, truth, truth, truth, one * 0, one * 2, one * 1.0, regret)
    )
    assert any(caption in text.get_text() for text in figure.texts)


def test_arms_that_were_not_on_offer_are_faded_and_have_no_estimates() -> None:
    truth, one = np.array([[0.2, 0.9, 0.25]]), np.array([1])
    images = np.zeros((1, 3, 8, 8, 3), np.uint8)
    figure = gallery_figure(
        Gallery(
            one, images, truth, truth, truth, one * 0, one * 2, one * 1.0,
            action_mask=np.array([[1, 0, 1]]),
        )
    )  # fmt: skip
    pictures, bars = figure.axes
    assert [image.get_alpha() for image in pictures.images] == [1.0, 0.25, 1.0]
    (means,) = (line.get_ydata() for line in bars.lines)
    np.testing.assert_array_equal(np.isnan(np.asarray(means)), [False, True, False])
    assert bars.get_ylim()[1] < 0.5


def test_an_unknown_main_agent_is_refused(experiment: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="main 'nobody' has no runs here; choose from vit-ucb"):
        write_report(experiment, tmp_path, main="nobody")


def test_importing_the_report_is_fast() -> None:
    heavy = {"torch", "matplotlib", "scipy", "jinja2"}
    code = f"import sys, vitucb.report; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
