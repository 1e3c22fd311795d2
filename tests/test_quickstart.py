"""The notebook: kept without outputs, and its cells run, one after the other, in one namespace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "quickstart.ipynb"
NOTEBOOK = json.loads(PAGE.read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_notebook_is_of_the_usual_format_and_holds_no_outputs() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["metadata"]["kernelspec"]["name"]) == (4, "python3")
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    assert [cell for cell in CODE if cell["outputs"] or cell["execution_count"]] == []


@pytest.mark.slow
def test_cells_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: None)
    plt.switch_backend("Agg")
    names: dict[str, Any] = {}
    for cell in CODE:
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert len(plt.get_fignums()) == 2
    plt.close("all")
    regrets = {name: rounds[-1].cumulative_regret for name, rounds in names["rounds"].items()}
    assert regrets["vit-ucb"] < regrets["random"]
    assert (names["receipt"].outcome, names["agent"].counts.learnt) == ("learnt", 1)
    assert "regret" in capsys.readouterr().out
