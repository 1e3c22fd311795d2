"""The plan of the script for accelerators, the arithmetic of its tables, and what it refuses.

What it measures is played in `tests/simulated`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gpu_passes
import numpy as np
import on_a_gpu
import pytest
from gpu_choices import Choices, compare
from gpu_players import Device
from gpu_rounds import extrapolated
from time_budget import LEFT_OUT, Budget, Row, Section, in_turn, play_sections


class Clock:
    """Stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_that_one_case_leaves_over_goes_to_those_after_it() -> None:
    clock, given = Clock(), []
    for case, part in in_turn(["a", "b", "c"], Budget(9, clock)):
        assert part is not None
        given.append(part.left())
        clock.now += 1 if case == "a" else 4
    assert given == [3, 4, 4]


def test_a_case_is_not_begun_where_the_quickest_would_not_fit() -> None:
    clock, begun = Clock(), []
    for case, part in in_turn("abcd", Budget(7, clock)):
        if part is not None:
            begun.append(case)
            clock.now += 3
    assert begun == ["a", "b"]


def test_sections_share_the_seconds_and_one_that_fails_costs_the_others_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()

    def rows(budget: Budget) -> Iterator[Row]:
        yield {"given": budget.left()}
        clock.now += 2

    def failing(budget: Budget) -> Iterator[Row]:
        yield {"given": budget.left()}
        raise MemoryError("out of memory\nof the device")

    sections = [Section("a", 1, rows), Section("b", 1, failing), Section("c", 2, rows)]
    first, second, third = play_sections(sections, Budget(8, clock))
    assert (first.rows, first.planned_s, first.spent_s) == ([{"given": 2}], 2, 2)
    assert (second.rows, second.error) == ([{"given": 2}], "MemoryError: out of memory")
    assert (third.rows, third.error) == ([{"given": 6}], "")
    assert "in failing" in capfd.readouterr().err


def test_choices_are_compared_up_to_the_first_that_differs() -> None:
    scores = np.array([[1.0, 0.0], [0.3, 0.2], [0.0, 5.0]])
    off = np.array([[0.0, 1e-3], [0.0, 0.2], [9.0, 0.0]])
    here, other = Choices([0, 0, 1], scores), scores + off
    assert compare(here, Choices([0, 1, 0], other)) == {
        "rounds": 3,
        "differs in round": 1,
        "difference of scores": pytest.approx(0.2),
        "gap of the two arms": pytest.approx(0.1),
    }
    same = compare(here, Choices([0, 0], other))
    assert (same["rounds"], same["differs in round"]) == (2, "none")
    assert same["difference of scores"] == pytest.approx(0.2)


def test_the_rest_takes_as_long_as_the_last_third() -> None:
    assert extrapolated([9.0, 1.0, 1.0, 1.0, 2.0, 2.0], 10) == pytest.approx(16 + 4 * 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "device 'cuda' cannot be used: no driver of NVIDIA is installed"),
        (["--device", "cdua"], "device 'cdua' is no name of a device; did you mean cuda?"),
        (["--device", "cpu", "--out", "x.md"], "--out 'x.md' must be a .json file"),
        (["--device", "cpu", "--seconds", "0"], "--seconds 0 is no time; give 1 to 86400"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line_before_torch(
    words: list[str], message: str
) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "from vitucb import devices; devices._may_have_cuda = lambda: False; "
        "import on_a_gpu, atexit; "
        "atexit.register(lambda: print('torch' in sys.modules)); "
        "on_a_gpu.main(sys.argv[2:])"
    )
    folder = str(Path(on_a_gpu.__file__).parent)
    command = [sys.executable, "-c", program, folder, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.startswith(f"on_a_gpu: {message}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == "False\n"


@pytest.mark.slow  # Dynamo takes seconds to load
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a .*cache")
@pytest.mark.parametrize("backend", ["eager", "no such compiler"])
def test_ways_that_agents_do_not_take_are_measured_or_say_why_not(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_passes, "COMPILER", backend)
    monkeypatch.setattr(gpu_passes, "_REPEATS", 1)
    rows = list(gpu_passes.pass_rows(Device("cpu"), [on_a_gpu.NANO], Budget(600)))
    ways = [(row["pass"], row["way"]) for row in rows]
    assert ways == [
        ("frozen backbone", "as it is"),
        ("frozen backbone", "torch.compile"),
        ("frozen backbone", "CUDA graph"),
        ("scoring with adapters", "as it is"),
        ("scoring with adapters", "CUDA graph"),
    ]
    assert rows[2][LEFT_OUT] == rows[4][LEFT_OUT] == "not for cpu"
    if backend == "eager":
        assert float(rows[1]["difference"]) < 1e-5
        assert float(rows[1]["ms"]) > 0
    else:
        assert str(rows[1][LEFT_OUT]).startswith("failed: ")
