"""The picture of the packages: what is left out of it, where a box stands, the same bytes."""

from __future__ import annotations

from pathlib import Path

import draw_packages as pictures
import pytest

GRAPH = {"cli": {"agents", "types"}, "agents": {"models", "types"}, "models": {"types"}}
GRAPH |= {"types": set()}


def test_imports_that_follow_from_others_are_left_out() -> None:
    assert pictures.reduced(GRAPH) == {
        "cli": {"agents"},
        "agents": {"models"},
        "models": {"types"},
        "types": set(),
    }


def test_package_stands_below_all_that_import_it() -> None:
    assert pictures.rows(GRAPH) == {"cli": 0, "agents": 1, "models": 2, "types": 3}


def test_picture_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("once.svg", "again.svg"):
        pictures.draw(pictures.packages(), tmp_path / name)
    assert (tmp_path / "once.svg").read_bytes() == (tmp_path / "again.svg").read_bytes()


def test_imports_in_functions_count_and_those_for_types_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_text(
        "import torch\nif TYPE_CHECKING:\n    import timm\ndef f():\n    from vitucb.b import g\n"
    )
    (tmp_path / "b.py").write_text("")
    monkeypatch.setattr(pictures, "PACKAGE", tmp_path)
    monkeypatch.setattr(pictures, "ROOT", tmp_path / "none")
    assert pictures.read_imports() == [
        pictures.Import("a", "torch", is_ours=False, at_module_level=True),
        pictures.Import("a", "b", is_ours=True, at_module_level=False),
    ]
