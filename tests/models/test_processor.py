"""Which way of taking products a processor gets: by its maker and its instructions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vitucb.models import processor
from vitucb.models.processor import (
    facts_of_processor,
    frozen_dtype,
    prefers_bfloat16,
    prefers_onednn,
)

AMD = "vendor_id\t: AuthenticAMD\nflags\t\t: avx2 avx512f avx512_bf16\n"
OLDER_AMD = "vendor_id\t: AuthenticAMD\nflags\t\t: avx2\n"
INTEL = "vendor_id\t: GenuineIntel\nflags\t\t: avx2 avx512f avx512_bf16 amx_bf16\n"


def pretend(monkeypatch: pytest.MonkeyPatch, path: Path, table: str) -> None:
    """This machine has the processor of `table`."""
    path.write_text(table)
    facts = facts_of_processor(path)
    monkeypatch.setattr(processor, "facts_of_processor", lambda: facts)
    capability = "AVX512" if "avx512f" in table else "AVX2"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for rule in (prefers_onednn, prefers_bfloat16):
        monkeypatch.setattr(processor, rule.__name__, rule.__wrapped__)


@pytest.mark.parametrize(
    ("table", "is_onednn", "auto"),
    [
        (AMD, True, torch.bfloat16),
        (OLDER_AMD, False, None),
        (INTEL, False, None),
        ("", False, None),
    ],
    ids=["AMD", "AMD without AVX-512", "Intel", "nothing known"],
)
def test_rules_of_a_processor(
    table: str,
    is_onednn: bool,
    auto: torch.dtype | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, tmp_path / "cpuinfo", table)
    assert processor.prefers_onednn() == is_onednn
    assert frozen_dtype("auto", "cpu") == auto
    assert frozen_dtype("auto", "cuda") is None
    assert frozen_dtype("float32", "cpu") is None
    assert frozen_dtype("bfloat16", "cpu") == torch.bfloat16


def test_a_system_without_the_table_is_not_known(tmp_path: Path) -> None:
    assert facts_of_processor(tmp_path / "missing") == {}


def test_of_several_processors_the_first_counts(tmp_path: Path) -> None:
    table = tmp_path / "cpuinfo"
    table.write_text("processor\t: 0\nvendor_id\t: A\n\nprocessor\t: 1\nvendor_id\t: B\n")
    assert facts_of_processor(table)["vendor_id"] == "A"
