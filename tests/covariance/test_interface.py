"""What every covariance must do, and what every exact one must."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitucb.covariance import COVARIANCES, DESCRIPTIONS, FeatureCovariance, make_covariance

EXACT = ["exact", "dense"]
DIM = 24


def make_features(rows: int, dim: int = DIM, seed: int = 0, decay: float = 0.85) -> Tensor:
    """Rows with a decaying spectrum, mean squared norm about 1."""
    generator = torch.Generator().manual_seed(seed)
    scales = decay ** torch.arange(dim, dtype=torch.float64)
    phi = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    scaled: Tensor = phi * scales / scales.norm()
    return scaled


def dense_matrix(phi: Tensor, ridge: float, weights: Tensor | None = None) -> Tensor:
    weighted = phi if weights is None else phi * weights[:, None]
    eye = torch.eye(phi.shape[1], dtype=torch.float64)
    matrix: Tensor = (ridge * eye).addmm_(weighted.mT, phi)
    return matrix


def exact_squares(matrix: Tensor, queries: Tensor) -> Tensor:
    squares: Tensor = (queries * torch.linalg.solve(matrix, queries.T).T).sum(1)
    return squares


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-9) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=1e-14)


@pytest.mark.parametrize("name", COVARIANCES)
@pytest.mark.parametrize("spoilt", [False, True])
def test_widths_that_are_read_with_values_are_the_widths(name: str, spoilt: bool) -> None:
    covariance, arms = make_covariance(name, DIM), make_features(5, seed=1)
    covariance.update(make_features(20))
    if spoilt:
        arms[2, 3] = torch.nan
    values = torch.arange(5, dtype=torch.float64)
    widths, read = covariance.width_array_with(arms, values)
    assert widths.tolist() == covariance.width_array(arms).tolist()
    assert widths.tolist() == covariance.width(arms).tolist()
    assert read.tolist() == values.tolist()
    assert (widths[2] == 0) == spoilt


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("ridge", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("rows", [7, 20, 60])
def test_quad_form_log_det_solve_and_cov_equal_the_dense_solve(
    name: str, ridge: float, rows: int
) -> None:
    phi, queries = make_features(rows), make_features(9, seed=1)
    covariance = make_covariance(name, DIM, ridge=ridge)
    for row in phi:
        covariance.update(row)
    matrix = dense_matrix(phi, ridge)
    close(covariance.quad_form(queries), exact_squares(matrix, queries))
    close(covariance.width(queries), exact_squares(matrix, queries).sqrt())
    close(covariance.solve(queries), torch.linalg.solve(matrix, queries.T).T, 1e-8)
    close(covariance.cov(queries), queries @ torch.linalg.solve(matrix, queries.T), 1e-8)
    expected = float(torch.logdet(matrix / ridge))
    assert covariance.log_det == pytest.approx(expected, rel=1e-9)
    assert covariance.count == rows


@pytest.mark.parametrize("name", sorted(COVARIANCES))
def test_batch_sequential_index_and_permuted_updates_agree(name: str) -> None:
    phi, queries = make_features(12), make_features(5, seed=1)
    results = []
    for order in ("sequential", "batch", "index", "permuted"):
        covariance = make_covariance(name, DIM)
        if order == "batch":
            covariance.update(phi[:5])
            covariance.update(phi[5:])
        elif order == "permuted":
            covariance.update(phi.flip(0))
        elif order == "index":
            for i in range(len(phi)):
                covariance.quad_form(phi)
                covariance.update(index=i)
        else:
            for row in phi:
                covariance.update(row)
        results.append(covariance.quad_form(queries))
        assert covariance.count == 12
    for other in results[1:]:
        close(other, results[0], 1e-11)


@pytest.mark.parametrize("name", sorted(COVARIANCES))
def test_no_quad_form_grows_under_updates_and_none_is_negative(name: str) -> None:
    queries = make_features(20, seed=1)
    covariance = make_covariance(name, DIM, ridge=0.1)
    before = covariance.quad_form(queries)
    close(before, queries.square().sum(1) / 0.1)
    for row in make_features(40):
        covariance.update(row)
        after = covariance.quad_form(queries)
        assert (after <= before * (1 + 1e-12)).all()
        assert (after >= 0).all()
        before = after


@pytest.mark.parametrize("name", EXACT)
def test_the_added_row_shrinks_by_one_plus_itself(name: str) -> None:
    covariance = make_covariance(name, DIM)
    covariance.update(make_features(30))
    query = make_features(1, seed=5)
    square = covariance.quad_form(query)
    covariance.update(index=0)
    close(covariance.quad_form(query), square / (1 + square), 1e-12)


@pytest.mark.parametrize("name", EXACT)
def test_weights_equal_repetition_and_discount_equals_recomputation(name: str) -> None:
    phi, queries = make_features(6), make_features(5, seed=1)
    covariance = make_covariance(name, DIM, ridge=0.5)
    covariance.update(phi[:3], weight=torch.tensor([2.0, 0.5, 1.0]))
    covariance.discount(0.9)
    covariance.update(phi[3:], weight=0.25)
    weights = torch.tensor([1.8, 0.45, 0.9, 0.25, 0.25, 0.25], dtype=torch.float64)
    matrix = dense_matrix(phi, 0.5, weights)
    close(covariance.quad_form(queries), exact_squares(matrix, queries))
    assert covariance.log_det == pytest.approx(float(torch.logdet(matrix / 0.5)), rel=1e-9)


@pytest.mark.parametrize("name", sorted(COVARIANCES))
def test_rebuild_forgets_what_was_there(name: str) -> None:
    phi, queries = make_features(20), make_features(5, seed=1)
    covariance, fresh = make_covariance(name, DIM), make_covariance(name, DIM)
    covariance.update(make_features(30, seed=9))
    covariance.rebuild(iter([phi[:8], phi[8:]]))
    fresh.update(phi[:8])
    fresh.update(phi[8:])
    assert torch.equal(covariance.quad_form(queries), fresh.quad_form(queries))
    assert covariance.count == 20
    assert covariance.log_det == pytest.approx(fresh.log_det, rel=1e-12)


@pytest.mark.parametrize("name", sorted(COVARIANCES))
def test_state_continues_bit_for_bit(name: str) -> None:
    phi, queries = make_features(60), make_features(5, seed=1)
    whole, resumed = make_covariance(name, DIM), make_covariance(name, DIM)
    for row in phi[:33]:
        whole.update(row)
    state = whole.state_dict()
    assert all(isinstance(v, Tensor | int | float | str | bool) for v in state.values())
    resumed.load_state_dict(state)
    for row in phi[33:]:
        for covariance in (whole, resumed):
            covariance.quad_form(torch.stack([row, queries[0]]))
            covariance.update(index=0)
    assert torch.equal(whole.quad_form(queries), resumed.quad_form(queries))
    assert whole.log_det == resumed.log_det
    assert whole.count == resumed.count == 60


@pytest.mark.parametrize("name", sorted(COVARIANCES))
def test_samples_have_the_joint_covariance(name: str) -> None:
    covariance = make_covariance(name, DIM)
    covariance.update(make_features(30))
    queries = make_features(3, seed=1)
    queries[2] = queries[1]  # A singular joint covariance is no error.
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([covariance.sample(queries, generator) for _ in range(1000)])
    expected = covariance.cov(queries)
    error = (draws.T @ draws / len(draws) - expected).abs()
    assert (error < 5 * expected.diagonal().max() / len(draws) ** 0.5).all()
    assert (draws[:, 1] - draws[:, 2]).abs().max() < 1e-6 * draws.abs().max()
    close(expected.diagonal(), covariance.quad_form(queries), 1e-10)
    alone = torch.stack([covariance.sample(queries, generator, joint=False) for _ in range(100)])
    assert (alone[:, 1] - alone[:, 2]).abs().max() > 0


@pytest.mark.parametrize("name", sorted(COVARIANCES))
def test_features_that_are_not_finite_never_enter(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    covariance = make_covariance(name, DIM)
    phi = make_features(6)
    covariance.update(phi)
    clean = covariance.quad_form(phi)
    bad = phi.clone()
    bad[1, 3], bad[4, 0] = torch.nan, torch.inf
    squares = covariance.quad_form(bad)
    assert squares[[1, 4]].tolist() == [0.0, 0.0]
    close(squares[[0, 2, 3, 5]], clean[[0, 2, 3, 5]], 1e-12)
    covariance.update(index=1)
    covariance.update(bad[[1, 4]])
    assert (covariance.count, covariance.rejected) == (6, 3)
    close(covariance.quad_form(phi), clean, 1e-12)
    assert sum("not finite" in record.message for record in caplog.records) == 1
    with pytest.raises(FloatingPointError, match="in a row"):
        covariance.update(bad[[1] * 10])


@pytest.mark.parametrize("name", sorted(COVARIANCES))
def test_zero_and_tiny_features_change_nothing(name: str) -> None:
    covariance = make_covariance(name, DIM)
    phi = make_features(6)
    covariance.update(phi)
    before = covariance.quad_form(phi)
    covariance.update(torch.zeros(DIM, dtype=torch.float64))
    covariance.update(torch.full((DIM,), 1e-12, dtype=torch.float64))
    covariance.update(phi[0], weight=0.0)
    close(covariance.quad_form(phi), before, 1e-12)
    assert covariance.quad_form(torch.zeros(DIM, dtype=torch.float64)) == 0
    tiny = covariance.quad_form(torch.full((DIM,), 1e-12, dtype=torch.float64))
    assert 0 < tiny < 1e-20


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("ridge", [1.0, 1e-6])
def test_duplicates_follow_the_closed_form(name: str, ridge: float) -> None:
    query = make_features(1)[0]
    covariance = make_covariance(name, DIM, ridge=ridge)
    for _ in range(50):
        covariance.update(query)
    k = float(query @ query) / ridge
    rtol = 1e-6 if (name, ridge) == ("dense", 1e-6) else 1e-9  # The sum A itself cancels there.
    close(covariance.quad_form(query), torch.tensor(k / (1 + 50 * k), dtype=torch.float64), rtol)


@pytest.mark.parametrize("name", EXACT)
def test_huge_duplicates_at_a_tiny_ridge_are_survived(name: str) -> None:
    covariance = make_covariance(name, DIM, ridge=1e-8)
    huge, phi = 1e6 * make_features(1)[0], make_features(4, seed=2)
    covariance.update(huge.expand(20, DIM))
    covariance.update(phi)
    squares = covariance.quad_form(torch.cat([huge[None], phi]))
    assert torch.isfinite(squares).all()
    assert (squares[1:] <= 1 + 1e-6).all()
    assert 1 / 21 <= squares[0] <= float(huge @ huge) / 1e-8 / 1e12


@pytest.mark.parametrize("name", sorted(COVARIANCES))
def test_a_huge_feature_that_comes_again_and_again_is_survived(name: str) -> None:
    covariance, huge = make_covariance(name, DIM), 1e6 * make_features(1)[0]
    phi = make_features(4, seed=2)
    for _ in range(1100):
        covariance.update(huge)
    low, up = covariance.interval(phi)
    assert ((low >= 0) & (up <= phi.square().sum(1) * (1 + 1e-2))).all()
    expected = phi.square().sum(1) - (phi @ huge).square() / huge.square().sum()
    if name != "diagonal":
        torch.testing.assert_close(covariance.quad_form(phi), expected, rtol=1e-2, atol=0.0)


@pytest.mark.parametrize("name", sorted(COVARIANCES))
def test_the_interval_of_any_covariance_holds(name: str) -> None:
    phi, queries = make_features(60) + 0.1, make_features(9, seed=1)
    covariance = make_covariance(name, DIM, ridge=0.5)
    covariance.update(phi)
    exact = exact_squares(dense_matrix(phi, 0.5), queries)
    low, up = covariance.interval(queries)
    assert (low <= exact * (1 + 1e-9)).all()
    assert (exact <= up * (1 + 1e-9)).all()
    slack = covariance.certificate(queries)["covariance/certificate"]
    assert slack == pytest.approx(float((up / low).max()) ** 0.5 - 1, abs=1e-12)
    assert (slack > 1e-9) == (name == "diagonal")


@pytest.mark.parametrize("name", sorted(COVARIANCES))
def test_a_huge_feature_is_bounded_and_leaves_the_others(name: str) -> None:
    huge = torch.zeros(DIM, dtype=torch.float64)
    huge[0] = 1e6
    phi = make_features(4)
    phi[:, 0] = 0
    covariance = make_covariance(name, DIM)
    covariance.update(phi)
    before = covariance.quad_form(phi)
    covariance.update(huge)
    assert float(covariance.quad_form(huge)) <= 1.0 + 1e-9
    close(covariance.quad_form(phi), before, 1e-9)


@settings(max_examples=25, deadline=None)
@given(
    scale=st.floats(1e-3, 1e3),
    rows=st.integers(1, 40),
    seed=st.integers(0, 1000),
    name=st.sampled_from(EXACT),
)
def test_scaling_features_and_ridge_together_and_rotating_change_nothing(
    scale: float, rows: int, seed: int, name: str
) -> None:
    phi, queries = make_features(rows, dim=8, seed=seed), make_features(3, dim=8, seed=seed + 1)
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))
    plain, changed = make_covariance(name, 8), make_covariance(name, 8, ridge=scale**2)
    plain.update(phi)
    changed.update(scale * phi @ rotation)
    close(changed.quad_form(scale * queries @ rotation), plain.quad_form(queries), 1e-8)
    assert changed.log_det == pytest.approx(plain.log_det, rel=1e-8)


@pytest.mark.parametrize("name", sorted(COVARIANCES))
def test_leading_dimensions_are_kept(name: str) -> None:
    covariance = make_covariance(name, DIM)
    covariance.update(make_features(4))
    queries = make_features(6, seed=1)
    assert covariance.quad_form(queries.view(2, 3, DIM)).shape == (2, 3)
    assert covariance.quad_form(queries[0]).shape == ()
    assert covariance.quad_form(queries[0]).dtype == torch.float64
    low, up = covariance.interval(queries)
    square = covariance.quad_form(queries)
    assert ((low <= square) & (square <= up)).all()
    assert covariance.memory_bytes > 0


def misuse(covariance: FeatureCovariance, what: str) -> None:
    phi = make_features(4)
    calls: dict[str, Callable[[], object]] = {
        "neither": lambda: covariance.update(),
        "both": lambda: covariance.update(phi, index=0),
        "unscored": lambda: covariance.update(index=0),
        "shape": lambda: covariance.quad_form(phi[:, :3]),
        "weight": lambda: covariance.update(phi, weight=-1.0),
        "gamma": lambda: covariance.discount(0.0),
    }
    calls[what]()


@pytest.mark.parametrize("name", sorted(COVARIANCES))
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("neither", "either phi or index"),
        ("both", "either phi or index"),
        ("unscored", "since the last change"),
        ("shape", "last dimension must be 24"),
        ("weight", "at least 0"),
        ("gamma", "must lie in"),
    ],
)
def test_misuse_is_a_clear_error(name: str, what: str, message: str) -> None:
    covariance = make_covariance(name, DIM)
    covariance.quad_form(make_features(2))
    covariance.update(make_features(2))
    with pytest.raises((ValueError, RuntimeError), match=message):
        misuse(covariance, what)


def test_bad_names_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'exact'"):
        make_covariance("exakt", DIM)
    with pytest.raises(ValueError, match="ridge 0"):
        make_covariance("exact", DIM, ridge=0.0)
    with pytest.raises(ValueError, match="dim 0"):
        make_covariance("dense", 0)
    with pytest.raises(ValueError, match="use 'exact'"):
        make_covariance("dense", 100_000)


def test_every_covariance_has_one_line_of_description() -> None:
    assert COVARIANCES.keys() == DESCRIPTIONS.keys()


def test_listing_imports_no_torch() -> None:
    code = "import sys, vitucb.covariance as c; c.COVARIANCES; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
