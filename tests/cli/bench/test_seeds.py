"""What sharing passes saves, counted: the times of the table are never asserted."""

from __future__ import annotations

from vitucb.cli.bench.seeds import run_suite


def test_seeds_that_share_passes_take_fewer_operations_each() -> None:
    alone, four = run_suite(blocks=1, numbers=(1, 4))
    assert (alone["seeds"], four["seeds"]) == (1, 4)
    assert alone["x alone"] == alone["x operations alone"] == 1.0
    assert float(four["operations"]) <= 722
    assert float(four["x operations alone"]) < 0.68
    for row in (alone, four):
        assert float(row["ms"]) > 0
        assert float(row["limit"]) == float(alone["ms"]) / float(row["ViT arithmetic, ms"])
