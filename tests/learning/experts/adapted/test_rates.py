"""Every optimizer learns online at a rate of its own, from one table, which the docs repeat."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import timm

from vitucb.learning.experts.adapted.build import build_adapted_expert
from vitucb.learning.experts.adapted.expert import AdaptedExpert
from vitucb.learning.experts.adapted.rates import (
    is_of_measured_size,
    online_options,
    online_rate,
)
from vitucb.models.preprocess import preprocess_for
from vitucb.optim import ENTRIES

DOCS = Path(__file__).resolve().parents[4] / "docs" / "optimizers.md"


def rate_of(expert: AdaptedExpert) -> float:
    """Of the adapters."""
    state = expert.network.state_dict()["optimizer"]
    return float(state["param_groups"][0]["lr"])


def test_an_import_path_starts_from_the_rate_of_adamw() -> None:
    assert online_rate("torch.optim:NAdam", 16, 192, 8) == ENTRIES["adamw"].lr
    assert online_options("torch.optim:NAdam", {"foreach": False}) == {"foreach": False}


def test_the_embedded_vit_has_the_rates_of_the_table_and_larger_networks_less() -> None:
    table = ENTRIES["lora-pro"].lr
    assert online_rate("lora-pro", 16, 192, 8) == table
    assert (
        online_rate("lora-pro", 8, 96, 2) == table
    )  # fewer and smaller adapters are no reason for more
    assert online_rate("lora-pro", 48, 384, 8) == pytest.approx(table / 3 / 2**0.5)  # ViT-S
    assert online_rate("lora-pro", 16, 192, 32) == table / 4
    assert online_rate("lora-pro", 48, 768, 8) == pytest.approx(table / 3 / 2)  # ViT-B


def test_a_network_is_of_the_measured_size_up_to_that_of_the_embedded_one() -> None:
    assert is_of_measured_size(16, 192)
    assert not is_of_measured_size(17, 192)
    assert not is_of_measured_size(16, 193)


@pytest.mark.parametrize(("width", "depth", "expected"), [(192, 4, 2e-3), (384, 8, 2e-3 / 2**1.5)])
def test_an_expert_is_built_at_the_rate_of_its_backbone(
    width: int, depth: int, expected: float
) -> None:
    backbone = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        patch_size=16,
        embed_dim=width,
        depth=depth,
        num_heads=3,
        num_classes=0,
    )
    given = build_adapted_expert(
        copy.deepcopy(backbone), preprocess_for(backbone, "cpu"), num_labels=2, lr=0.5
    )
    own = build_adapted_expert(backbone, preprocess_for(backbone, "cpu"), num_labels=2)
    assert rate_of(own) == pytest.approx(expected)
    assert rate_of(given) == 0.5


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
