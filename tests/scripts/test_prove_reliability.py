"""The reliability suite is found whole, or in the parts that are named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import prove_same_rounds
import pytest
from prove_reliability import SUITE, Tally, _empty, main, parts


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


def test_a_case_whose_set_up_fails_is_no_success() -> None:
    tally = Tally()
    tally.rows["disk"], tally._cases["test"] = _empty("goes on"), "disk"
    report = SimpleNamespace(
        nodeid="test", when="setup", failed=True, skipped=False, duration=1.0, user_properties=[]
    )
    tally.pytest_runtest_logreport(cast(pytest.TestReport, report))
    assert (tally.rows["disk"]["tried"], tally.rows["disk"]["failed"]) == (1, 1)


def test_sums_to_compare_with_are_looked_for_before_anything_is_played(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["prove_same_rounds.py", "--only", "random", "--against", str(tmp_path / "none.sha")]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr(prove_same_rounds, "play_all", lambda *_: pytest.fail("played first"))
    with pytest.raises(SystemExit):
        prove_same_rounds.main()
    assert "none.sha is no file; name what this printed before" in capsys.readouterr().err
