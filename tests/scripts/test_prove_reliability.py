"""The reliability suite is found whole, or in the parts that are named."""

from __future__ import annotations

import pytest
from prove_reliability import SUITE, main, parts


def test_all_files_are_run_if_none_is_named() -> None:
    names = {path.name for path in SUITE.iterdir() if path.name.startswith("test_")}
    assert {path.name for path in parts("")} == names
    assert len(names) > 3


def test_a_part_is_named_by_a_piece_of_its_file_name() -> None:
    assert [path.name for path in parts("disk")] == ["test_disk.py"]


def test_an_unknown_part_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["prove_reliability.py", "--only", "nothing"])
    with pytest.raises(SystemExit):
        main()
    assert "--only 'nothing' is in the name of no file in tests/soak" in capsys.readouterr().err
