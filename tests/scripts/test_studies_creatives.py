"""The study of creatives, in its short version."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scripts.studies import folders, run, table


@pytest.mark.slow
def test_regret_is_told_in_per_cent_of_random_choices(tmp_path: Path) -> None:
    run("study_creatives.py", "--quick", *folders(tmp_path), "--workers", "1")
    header, *rows = table(tmp_path / "creatives.csv")
    found = {(row[0], row[1], row[2]): row[header.index("% of random")] for row in rows}
    assert len(found) == 3 * 8
    assert {share for (_, agent, _), share in found.items() if agent == "random"} == {"100.0"}
    assert [key[2] for key in found if key[1] == "vit-ucb"] == 3 * ["without", "with"]
