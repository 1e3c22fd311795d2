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


def test_its_tests_are_asked_for_and_stay_in_its_own_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Elsewhere the tally would not see them."""
    given: list[str] = []

    def run(words: list[str], plugins: list[object]) -> int:
        given.extend(words)
        return len(plugins) - 1

    monkeypatch.setattr("sys.argv", ["prove_reliability.py", "--only", "disk"])
    monkeypatch.setattr(pytest, "main", run)
    with pytest.raises(SystemExit):
        main()
    assert given[:4] == ["-m", "soak", "-n", "0"]
    assert given[-1] == str(SUITE / "test_disk.py")
