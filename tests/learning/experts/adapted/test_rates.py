"""Every optimizer learns online at a rate of its own, from one table, which the docs repeat."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from vitucb.learning.experts.adapted.rates import online_options, online_rate
from vitucb.optim import ENTRIES

DOCS = Path(__file__).resolve().parents[4] / "docs" / "optimizers.md"


def test_an_import_path_starts_from_the_rate_of_adamw() -> None:
    assert online_rate("torch.optim:NAdam") == ENTRIES["adamw"].lr
    assert online_options("torch.optim:NAdam", {"foreach": False}) == {"foreach": False}


def test_options_asked_for_come_on_top_of_an_optimizers_own() -> None:
    own = dict(ENTRIES["adamw"].options)
    assert own["betas"] == (0.9, 0.99)
    assert online_options("adamw", {"eps": 1e-6}) == {**own, "eps": 1e-6}
    assert online_options("adamw", {"betas": (0.8, 0.9)}) == {**own, "betas": (0.8, 0.9)}


@pytest.mark.parametrize(
    ("name", "options"), [("lora-plus", {"base": "sgd"}), ("rac-lora", {"inner": "sgd"})]
)
def test_another_rule_inside_is_built_without_the_options_of_the_first(
    name: str, options: dict[str, Any]
) -> None:
    assert ENTRIES[name].options
    assert online_options(name, options) == options


def test_the_table_of_the_docs_is_that_of_the_code() -> None:
    section = DOCS.read_text(encoding="utf-8").split("## Rates\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([\w-]+)` \| ([\d.e-]+) \|", section, re.MULTILINE)
    assert {name: float(lr) for name, lr in rows} == {n: e.lr for n, e in ENTRIES.items()}
