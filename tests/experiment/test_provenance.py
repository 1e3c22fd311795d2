"""Where a result was made."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from vitucb.experiment.provenance import describe_environment, processor

TABLE = """\
processor\t: 0
cpu family\t: 25
model\t\t: 1
model name\t: AMD EPYC: 7B13
flags\t\t: fpu sse2 avx avx2{more}

processor\t: 1
cpu family\t: 25
model\t\t: 1
model name\t: AMD EPYC: 7B13
flags\t\t: fpu sse2 avx avx2{more}
"""


@pytest.mark.parametrize(("more", "vectors"), [("", "avx2"), (" avx512f avx512bw", "avx512f")])
def test_a_processor_is_known_by_model_and_vectors(tmp_path: Path, more: str, vectors: str) -> None:
    table = tmp_path / "cpuinfo"
    table.write_text(TABLE.format(more=more))
    assert processor(table) == f"AMD EPYC: 7B13, cpu family 25, model 1, {vectors}"


@pytest.mark.parametrize("text", [None, "", "Hardware : something else\n"])
def test_elsewhere_python_is_asked(tmp_path: Path, text: str | None) -> None:
    table = tmp_path / "cpuinfo"
    if text is not None:
        table.write_text(text)
    assert processor(table) == (platform.processor() or platform.machine())


def test_the_environment_names_it() -> None:
    assert describe_environment()["processor"] == processor()
