"""The main agent against the best of all the others that learn, in words."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from vitucb.report import sentences
from vitucb.report.analysis import Analysis, analyse
from vitucb.report.groups import group_runs
from vitucb.report.runs import load_runs
from vitucb.report.sentences import best_rival_sentence
from vitucb.report.write import write_report

WriteRun = Callable[..., Path]
ROUNDS = 20


@pytest.fixture
def analysis(tmp_path: Path, write_run: WriteRun) -> Callable[..., Analysis]:
    """Makes a group of agents with these final regrets, a seed each."""

    def make(finals: Mapping[str, Sequence[float]], first_seed: int = 0) -> Analysis:
        for agent, totals in finals.items():
            start = 0 if agent == "vit-ucb" else first_seed
            for seed, total in enumerate(totals, start):
                run = write_run(tmp_path / "exp", agent, seed, rounds=ROUNDS)
                _set_final(run, total)
        (group,) = group_runs(load_runs(tmp_path / "exp"))
        return analyse(group)

    return make


def _set_final(run: Path, total: float) -> None:
    header, *table = (run / "rounds.csv").read_text(encoding="utf-8").splitlines()
    place = header.split(",").index("regret")
    for i, row in enumerate(table):
        cells = row.split(",")
        cells[place] = str(total / ROUNDS)
        table[i] = ",".join(cells)
    (run / "rounds.csv").write_text("\n".join([header, *table, ""]), encoding="utf-8")


@pytest.mark.parametrize(
    ("ours", "verdict", "start"),
    [
        ((2, 3, 4), "better", "vit-ucb beats item-ucb, the best of 3 other agents that learn: "),
        ((9, 11, 10), "worse", "vit-ucb loses to item-ucb, the best of 3 other agents"),
        ((3, 8, 7), "open", "vit-ucb is not told apart from item-ucb, the best of 3 other agents"),
    ],
)
def test_the_best_of_those_that_learn_is_named(
    ours: Sequence[float],
    verdict: str,
    start: str,
    analysis: Callable[..., Analysis],
    tmp_path: Path,
) -> None:
    made = analysis(
        {
            "vit-ucb": ours,
            "lin-ucb": (8, 8, 9),
            "item-ucb": (6, 6.5, 7),
            "ucb1": (12, 13, 14),
            "best-fixed-arm": (1, 1, 1),  # told the means
            "random": (1, 1, 1),  # learns nothing
            "oracle": (0, 0, 0),
        }
    )
    sentence = best_rival_sentence(made)
    assert sentence is not None
    assert sentence.verdict == verdict
    assert sentence.text.startswith(start)
    assert sentence.text.endswith("] on 3 shared seeds.")
    page = write_report(tmp_path / "exp", tmp_path / "out").read_text(encoding="utf-8")
    assert sentence.text in html.unescape(page).replace("\u00a0", " ")


def test_the_difference_is_signed_and_tested_where_the_seeds_allow(
    analysis: Callable[..., Analysis],
) -> None:
    made = analysis({"vit-ucb": range(10), "greedy": range(5, 15), "lin-ucb": range(7, 17)})
    sentence = best_rival_sentence(made)
    assert sentence is not None
    assert sentence.text == (
        "vit-ucb beats greedy, the best of 2 other agents that learn: difference in regret −5.00 "
        "on 10 shared seeds (p = 0.0039)."
    )
    assert "read off these seeds too, which favours it" in sentences.tests_note(made)


def test_a_single_rival_on_a_single_seed(analysis: Callable[..., Analysis]) -> None:
    sentence = best_rival_sentence(made := analysis({"vit-ucb": [2], "ucb1": [5]}))
    assert sentence is not None
    assert sentence.verdict == "open"
    assert sentence.text == (
        "vit-ucb is not told apart from ucb1, the only other agent that learns: difference in "
        "regret −3.00 on 1 shared seed."
    )
    assert "favours" not in sentences.tests_note(made)


def test_a_best_rival_on_other_seeds_is_not_compared(analysis: Callable[..., Analysis]) -> None:
    sentence = best_rival_sentence(analysis({"vit-ucb": (2, 3), "ucb1": (5, 6)}, first_seed=7))
    assert sentence is not None
    assert sentence.text.startswith("vit-ucb shares no seed with ucb1, the only other agent")


@pytest.mark.parametrize("agents", [("vit-ucb", "random", "oracle"), ("oracle", "random")])
def test_without_a_rival_nothing_is_said(
    agents: Sequence[str], analysis: Callable[..., Analysis]
) -> None:
    assert best_rival_sentence(analysis(dict.fromkeys(agents, (1, 2)))) is None
