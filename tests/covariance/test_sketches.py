from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import Tensor

from vitucb.config import CovarianceConfig
from vitucb.covariance import make_covariance
from vitucb.covariance.budgeted import BudgetedCovariance, row_capacity
from vitucb.covariance.countsketch import CountSketch
from vitucb.covariance.dual import DualCovariance
from vitucb.covariance.factory import configured_covariance
from vitucb.covariance.frequent_directions import FrequentDirections
from vitucb.covariance.grouped import GroupedCovariance
from vitucb.covariance.projected import ProjectedCovariance, low_rank
from vitucb.covariance.ridge_correction import debiased_ridge, effective_dimension


def make_features(rows: int, dim: int, seed: int = 0, decay: float = 1.0) -> Tensor:
    """Gaussian rows of mean squared norm 1; the standard deviations fall as i^-decay."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.arange(1, dim + 1, dtype=torch.float64) ** -decay
    phi = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    scaled: Tensor = phi * scales / scales.norm()
    return scaled


def exact_squares(phi: Tensor, queries: Tensor, ridge: float) -> Tensor:
    exact = DualCovariance(phi.shape[1], ridge=ridge)
    exact.update(phi)
    return exact.quad_form(queries)


@pytest.mark.parametrize("variant", ["calibrated", "upper", "centred", "lower"])
@pytest.mark.parametrize(("rank", "decay"), [(8, 1.0), (20, 0.5), (30, 0.0)])
def test_the_interval_holds_for_every_query(variant: str, rank: int, decay: float) -> None:
    phi, queries = make_features(300, 60, decay=decay), make_features(40, 60, seed=1)
    sketch = FrequentDirections(60, rank=rank, max_rank=rank, ridge=0.5, variant=variant)  # type: ignore[arg-type]  # a plain str
    for start in range(0, 300, 7):
        sketch.update(phi[start : start + 7])
    exact = exact_squares(phi, queries, 0.5)
    low, up = sketch.interval(queries)
    assert (low <= exact * (1 + 1e-9)).all()
    assert (exact <= up * (1 + 1e-9)).all()
    assert ((low <= sketch.quad_form(queries)) & (sketch.quad_form(queries) <= up)).all()
    assert (up / low).max() <= (1 + sketch.delta / 0.5) * (1 + 1e-9)
    certificate = sketch.certificate(queries)["covariance/certificate"]
    assert certificate == pytest.approx(float((up / low).max().sqrt()) - 1, rel=1e-9)
    log_det = float(torch.logdet(torch.eye(60, dtype=torch.float64) + phi.mT @ phi / 0.5))
    assert sketch.log_det_interval[0] <= log_det * (1 + 1e-9)
    assert log_det <= sketch.log_det_interval[1] * (1 + 1e-9)
    assert sketch.log_det_interval[0] <= sketch.log_det <= sketch.log_det_interval[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("ridge", [1.0, 0.1])
def test_the_interval_holds_for_rows_of_few_bits(dtype: torch.dtype, ridge: float) -> None:
    phi, queries = make_features(600, 60, decay=2.0).to(dtype), make_features(40, 60, seed=1)
    sketch = FrequentDirections(60, rank=10, max_rank=10, ridge=ridge)
    for chunk in torch.split(phi, 5):
        sketch.update(chunk)
    exact = exact_squares(phi.double(), queries.to(dtype).double(), ridge)
    low, up = sketch.interval(queries.to(dtype))
    assert (low <= exact * (1 + 1e-3)).all()
    assert (exact <= up * (1 + 1e-3)).all()


@pytest.mark.parametrize("name", ["frequent-directions", "low-rank"])
def test_huge_features_in_float32_leave_the_interval_finite(name: str) -> None:
    sketch, queries = make_covariance(name, 300, rank=8), make_features(4, 300, seed=5).float()
    huge = 1e6 * make_features(1, 300).float()
    for seed in range(60):
        sketch.update(make_features(1, 300, seed=seed).float())
        sketch.update(huge)
    low, up = sketch.interval(queries)
    assert ((low >= 0) & (low <= up) & torch.isfinite(up)).all()


@pytest.mark.parametrize("by_index", [True, False])
def test_the_calibrated_ridge_is_the_best_guess_on_a_flat_spectrum(by_index: bool) -> None:
    phi, queries = make_features(600, 300, decay=0.4), make_features(40, 300, seed=1, decay=0.4)
    exact = exact_squares(phi, queries, 1.0)
    errors = {}
    for variant in ("calibrated", "centred", "upper"):
        sketch = FrequentDirections(300, rank=40, max_rank=40, variant=variant)
        for i in range(0, 600, 20):
            if by_index:
                for j in range(i, i + 20):
                    sketch.quad_form(phi[[j, (j + 300) % 600]])
                    sketch.update(index=0)
            else:
                sketch.update(phi[i : i + 20])
        ratio = float((sketch.quad_form(queries) / exact).median())
        errors[variant] = abs(math.log(ratio))
    assert errors["calibrated"] < 0.25
    assert errors["calibrated"] < 0.5 * min(errors["centred"], errors["upper"])


def test_delta_bounds_what_is_missing_and_obeys_the_theorem() -> None:
    phi = make_features(300, 60, decay=0.7)
    sketch = FrequentDirections(60, rank=12, max_rank=12)
    sketch.update(phi)
    rows = torch.cat([chunk * w.sqrt()[:, None] for chunk, w in sketch._rows.row_chunks()])
    missing = torch.linalg.eigvalsh(phi.mT @ phi - rows.mT @ rows)
    assert missing.min() > -1e-10
    assert missing.max() <= sketch.delta * (1 + 1e-9)
    values = torch.linalg.eigvalsh(phi.mT @ phi).flip(0)
    bound = min(float(values[k:].sum()) / (12 - k) for k in range(12))
    assert 0 < sketch.delta <= bound
    assert len(rows) <= 24


def test_data_of_low_rank_lose_nothing() -> None:
    phi = make_features(200, 40, decay=0.0)
    phi[:, 6:] = 0
    sketch = FrequentDirections(40, rank=6, ridge=0.1)
    sketch.update(phi)
    queries = make_features(5, 40, seed=2)
    assert sketch.delta < 1e-10
    expected = exact_squares(phi, queries, 0.1)
    torch.testing.assert_close(sketch.quad_form(queries), expected, rtol=1e-8, atol=0)


def test_the_rank_doubles_before_the_error_passes_max_delta(
    caplog: pytest.LogCaptureFixture,
) -> None:
    phi = make_features(400, 60, decay=0.0)
    with caplog.at_level(logging.WARNING):
        sketch = FrequentDirections(60, rank=4, max_rank=64, ridge=0.5)
        sketch.update(phi[:100])
        assert sketch.rank == 64
        assert sketch.delta == 0.0
        assert not caplog.records
        small = FrequentDirections(60, rank=4, max_rank=8, ridge=0.5)
        small.update(phi)
        assert small.rank == 8
        assert len(caplog.records) == 1


def test_a_rank_beyond_the_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must lie in 1\.\.10"):
        make_covariance("frequent-directions", 10, rank=11)
    with pytest.raises(ValueError, match="variant"):
        FrequentDirections(10, variant="best")  # type: ignore[arg-type]  # the point of the test


def test_countsketch_is_linear_the_same_by_blocks_and_by_gathering() -> None:
    sketch, phi = CountSketch(1000, 64, seed=3), make_features(4, 1000)
    z = sketch(phi)
    by_blocks = torch.zeros_like(z)
    for start in range(0, 1000, 130):
        sketch.add_block(by_blocks, start, phi[:, start : start + 130])
    torch.testing.assert_close(by_blocks, z)
    torch.testing.assert_close(sketch.by_gathering(phi), z)
    torch.testing.assert_close(sketch(2 * phi[:1] + phi[1:2]), 2 * z[:1] + z[1:2])
    assert torch.equal(CountSketch(1000, 64, seed=3)(phi), z)
    assert not torch.equal(CountSketch(1000, 64, seed=4)(phi), z)
    assert sketch(phi.bfloat16()).dtype == torch.float32


def test_countsketch_keeps_inner_products_on_average_and_all_of_them_when_it_fits() -> None:
    phi = make_features(2, 500)
    phi[1] += phi[0]
    sketches = [CountSketch(500, 50, seed=seed)(phi) for seed in range(400)]
    products = torch.stack([z @ z.mT for z in sketches])
    standard_error = products.std(0) / 20
    assert ((products.mean(0) - phi @ phi.mT).abs() < 5 * standard_error).all()
    exact = CountSketch(500, 500)(phi)
    torch.testing.assert_close(exact @ exact.mT, phi @ phi.mT)


@pytest.mark.parametrize("seed", range(3))
def test_the_ridge_correction_takes_the_bias_out(seed: int) -> None:
    phi, queries = make_features(300, 4000, decay=0.0), make_features(60, 4000, seed=1, decay=0.0)
    queries[30:] += phi[:30]
    exact = exact_squares(phi, queries, 1.0)
    sketch = make_covariance("countsketch", 4000, rank=600, seed=seed)
    sketch.update(phi)
    ratio = float((sketch.quad_form(queries) / exact).median())
    plain = DualCovariance(600)
    assert isinstance(sketch, ProjectedCovariance)
    plain.update(sketch.projection(phi))
    plain_ratio = float((plain.quad_form(sketch.projection(queries)) / exact).median())
    assert abs(ratio - 1) < 0.05
    assert abs(ratio - 1) < 0.2 * abs(plain_ratio - 1)
    assert sketch.effective_dimension > 100


def test_debiased_ridge_solves_its_equation() -> None:
    spectrum = torch.logspace(-3, 2, 200, dtype=torch.float64)
    ridge = debiased_ridge(spectrum, 1.0, 500)
    assert ridge == pytest.approx(1 - effective_dimension(spectrum, ridge) / 500, rel=1e-9)
    assert debiased_ridge(spectrum, 1.0, 20) == pytest.approx(0.05)
    assert debiased_ridge(torch.zeros(3), 2.0, 20) == pytest.approx(2.0)


def test_low_rank_interval_holds_on_a_decaying_spectrum() -> None:
    phi, queries = make_features(400, 9000, decay=0.8), make_features(50, 9000, seed=1, decay=0.8)
    sketch = low_rank(9000, sketch_dim=1024, rank=64)
    for row in phi:
        sketch.quad_form(torch.stack([row, queries[0]]))
        sketch.update(index=0)
    exact = exact_squares(phi, queries, 1.0)
    ratio = sketch.quad_form(queries) / exact
    assert abs(float(ratio.median()) - 1) < 0.05
    low, up = sketch.interval(queries)
    assert ((low <= exact) & (exact <= up)).double().mean() > 0.95
    report = sketch.certificate(queries)
    assert 0 < report["covariance/certificate"] < 0.5
    assert 0.7 < report["covariance/sketch_ratio_low"] <= 1.0
    assert 1.0 <= report["covariance/sketch_ratio_high"] < 1.3
    assert report["covariance/sketch_effective_dimension"] > 1
    log_det = float(torch.linalg.slogdet(torch.eye(400) + phi @ phi.mT)[1])
    assert sketch.log_det == pytest.approx(log_det, rel=0.05)


def test_projected_features_may_come_already_projected() -> None:
    phi = make_features(30, 3000)
    raw, ready = (make_covariance("countsketch", 3000, rank=256) for _ in range(2))
    raw.update(phi[:20])
    assert isinstance(ready, ProjectedCovariance)
    ready.update(ready.projection(phi[:20]))
    assert torch.equal(raw.quad_form(phi[20:]), ready.quad_form(ready.projection(phi[20:])))
    assert "covariance/sketch_ratio_low" not in ready.certificate(phi[20:])
    with pytest.raises(NotImplementedError, match="use quad_form"):
        raw.solve(phi[0])


def test_a_sketch_that_is_too_small_says_so(caplog: pytest.LogCaptureFixture) -> None:
    sketch = make_covariance("countsketch", 3000, rank=64)
    with caplog.at_level(logging.WARNING):
        sketch.update(make_features(60, 3000, decay=0.0))
        sketch.update(make_features(60, 3000, seed=1, decay=0.0))
    assert sum("enlarge the sketch" in r.message for r in caplog.records) == 1


@pytest.mark.parametrize(("rank", "rows"), [(64, 600), (256, 300)])
def test_a_sketch_that_is_too_small_promises_nothing(rank: int, rows: int) -> None:
    phi, queries = make_features(rows, 3000, decay=0.0), make_features(20, 3000, 9, decay=0.0)
    sketch = make_covariance("countsketch", 3000, rank=rank, ridge=0.1)
    for chunk in torch.split(phi, 50):
        sketch.update(chunk)
    exact = exact_squares(phi, queries, 0.1)
    low, up = sketch.interval(queries)
    assert ((low <= exact) & (exact <= up)).all()
    assert sketch.certificate(queries)["covariance/certificate"] == math.inf


def test_a_countsketch_too_wide_for_the_dense_form_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 5000 must be at most 4096"):
        make_covariance("countsketch", 20_000, rank=5000)


def test_sketches_discount_and_resume() -> None:
    phi, queries = make_features(300, 3000, decay=0.7), make_features(5, 3000, seed=1)

    def make() -> ProjectedCovariance:
        return low_rank(3000, sketch_dim=512, rank=32)

    left = make()
    left.update(phi)
    left.discount(0.5)
    resumed = make()
    resumed.load_state_dict(left.state_dict())
    for covariance in (left, resumed):
        covariance.update(phi[:40])
    assert torch.equal(left.quad_form(queries), resumed.quad_form(queries))
    assert left.log_det == resumed.log_det


def test_the_configured_budget_is_in_mib_and_of_exact_alone() -> None:
    made = configured_covariance(CovarianceConfig(budget_mib=2), 5000, ridge=2.0, seed=1)
    assert isinstance(made, BudgetedCovariance)
    assert (made.budget_bytes, made.ridge) == (2 * 2**20, 2.0)
    made.update(make_features(row_capacity(5000, 4, 2 * 2**20), 5000).float())
    assert made.is_exact
    made.update(make_features(1, 5000).float())
    assert not made.is_exact
    config = CovarianceConfig(name="low-rank", budget_mib=2)
    with pytest.raises(ValueError, match="bounds the rows of exact, not low-rank"):
        configured_covariance(config, 5000, ridge=1.0, seed=0)


def test_exact_hands_over_to_the_sketch_at_its_budget() -> None:
    phi, queries = make_features(120, 5000, decay=0.8), make_features(10, 5000, seed=1, decay=0.8)
    phi, queries = phi.float(), queries.float()
    covariance = make_covariance("exact", 5000, budget_bytes=100 * 5000 * 4 + 8 * 100 * 101)
    covariance.update(phi[:100])
    for row in phi[100:]:
        covariance.update(row)
    assert covariance.count == 120
    ratio = covariance.quad_form(queries) / exact_squares(phi, queries, 1.0)
    assert abs(float(ratio.median()) - 1) < 0.05
    assert covariance.certificate(queries).keys() > {"covariance/certificate"}
    again = make_covariance("exact", 5000)
    again.load_state_dict(covariance.state_dict())
    assert torch.equal(again.quad_form(queries), covariance.quad_form(queries))
    covariance.rebuild(phi[:10])
    torch.testing.assert_close(
        covariance.quad_form(queries), exact_squares(phi[:10], queries, 1.0), rtol=1e-4, atol=0
    )


def test_memory_and_work_do_not_grow_with_the_horizon() -> None:
    sketch = low_rank(2000, sketch_dim=256, rank=16, max_rank=16)
    sketch.update(make_features(200, 2000, decay=1.0))
    sizes = []
    for seed in range(4):
        sketch.update(make_features(100, 2000, seed=seed, decay=1.0))
        sizes.append(sketch.inner.memory_bytes)
    assert max(sizes) <= 32 * 256 * 8 + 8 * 32 * 33


def test_groups_are_told_what_one_covariance_is_told() -> None:
    def sketch() -> FrequentDirections:
        return FrequentDirections(300, rank=20, max_rank=20)

    alone, grouped = sketch(), GroupedCovariance({"lora": sketch(), "head": DualCovariance(3)})
    for one, other in zip(make_features(90, 300), make_features(90, 300, seed=1), strict=True):
        pair = torch.stack([one, other])
        alone.quad_form(pair)
        alone.update(index=0)
        grouped.quad_form(torch.nn.functional.pad(pair, (0, 3)))
        grouped.update(index=0)
    queries = make_features(5, 300, seed=2)
    padded = torch.nn.functional.pad(queries, (0, 3))
    assert torch.equal(grouped.quad_form(padded), alone.quad_form(queries))


def test_groups_take_a_row_as_a_whole_or_not_at_all_and_report_what_members_know() -> None:
    grouped = GroupedCovariance(
        {"lora": low_rank(2000, sketch_dim=128, rank=32), "head": DualCovariance(3)}
    )
    phi = make_features(9, 2003)
    grouped.update(phi)
    before = grouped.quad_form(phi)
    fresh = make_features(1, 2003, seed=1)
    fresh[0, -1] = torch.nan
    grouped.update(fresh)
    assert torch.equal(grouped.quad_form(phi), before)
    assert grouped.rejected == 1
    report = grouped.certificate(phi)
    assert report["covariance/sketch_effective_dimension"] > 0
    assert report["covariance/sketch_ratio_low"] <= 1 <= report["covariance/sketch_ratio_high"]


def test_groups_add_up() -> None:
    phi, queries = make_features(30, 50), make_features(4, 50, seed=1)
    grouped = GroupedCovariance({"lora": DualCovariance(44), "head": make_covariance("dense", 6)})
    for row in phi:
        grouped.update(row)
    a, b = DualCovariance(44), DualCovariance(6)
    a.update(phi[:, :44])
    b.update(phi[:, 44:])
    expected = a.quad_form(queries[:, :44]) + b.quad_form(queries[:, 44:])
    torch.testing.assert_close(grouped.quad_form(queries), expected)
    torch.testing.assert_close(grouped.cov(queries).diagonal(), expected)
    assert grouped.log_det == pytest.approx(a.log_det + b.log_det)
    solved = torch.cat([a.solve(queries[:, :44]), b.solve(queries[:, 44:])], dim=1)
    torch.testing.assert_close(grouped.solve(queries), solved)
    grouped.quad_form(queries)
    grouped.update(index=2)
    a.update(queries[2, :44])
    b.update(queries[2, 44:])
    grouped.discount(0.9)
    a.discount(0.9)
    b.discount(0.9)
    expected = a.quad_form(queries[:, :44]) + b.quad_form(queries[:, 44:])
    torch.testing.assert_close(grouped.quad_form(queries), expected)
    again = GroupedCovariance({"lora": DualCovariance(44), "head": make_covariance("dense", 6)})
    again.load_state_dict(grouped.state_dict())
    assert torch.equal(again.quad_form(queries), grouped.quad_form(queries))
    assert again.count == 31
    low, up = grouped.interval(queries)
    assert torch.equal(low, up)
    grouped.rebuild(phi)
    assert grouped.count == 30
