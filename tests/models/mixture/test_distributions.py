"""The distributions of the mixture's own: factors of Wishart matrices, normals by precision."""

import math

import numpy as np
import pyro
import pytest
import torch
import torch.distributions as td
from scipy import stats

from guidebook.models.mixture import (
    LogCholeskyWishart,
    PrecisionNormal,
    cholesky_of,
    log_cholesky_of,
)
from tests.models.mixture.mixtures import SCALE, definite, draw


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


@pytest.mark.filterwarnings("ignore:Low df values")  # of torch: its sampler is not used
@pytest.mark.parametrize("D", [1, 2, 3])
@pytest.mark.parametrize("df", [0.5, 3.0])
def test_log_cholesky_density_is_the_wishart_with_the_jacobian_of_autodiff(D, df):
    inverse_scale, nu = definite(D), torch.tensor(D - 1 + df, dtype=torch.float64)
    flat = draw(D * (D + 1) // 2)
    row, column = torch.tril_indices(D, D)

    def lower(coordinates):
        factor = cholesky_of(coordinates, D)
        return (factor @ factor.mT)[row, column]

    jacobian = torch.autograd.functional.jacobian(lower, flat)
    factor = cholesky_of(flat, D)
    wishart = td.Wishart(nu, precision_matrix=inverse_scale)
    expected = wishart.log_prob(factor @ factor.mT) + torch.linalg.slogdet(jacobian)[1]
    found = LogCholeskyWishart(nu, inverse_scale).log_prob(flat)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_log_cholesky_density_agrees_with_scipys_wishart():
    flat = draw(6)
    factor = cholesky_of(flat, 3)
    scipys = stats.wishart(5.5, np.linalg.inv(SCALE.numpy())).logpdf((factor @ factor.mT).numpy())
    diagonal = factor.diagonal()
    log_jacobian = 3 * math.log(2) + float((torch.tensor([4.0, 3, 2]) * diagonal.log()).sum())
    found = LogCholeskyWishart(torch.tensor(5.5).double(), SCALE).log_prob(flat)
    assert float(found) == pytest.approx(float(scipys) + log_jacobian, abs=1e-9)


@pytest.mark.parametrize("df", [2.5, 7.0])
def test_wishart_draws_have_mean_df_v_and_chi_squared_forms(df):
    # Nine means within 5 standard errors and three Kolmogorov-Smirnov tests at 1e-5: false alarm
    # below 1e-4 for each df, fixed seed.
    drawn = LogCholeskyWishart(torch.tensor(df).double(), SCALE).sample(torch.Size([20_000]))
    factor = cholesky_of(drawn, 3)
    L = factor @ factor.mT
    V = torch.linalg.inv(SCALE)
    error = L.std(0) / math.sqrt(len(L))
    assert bool(((L.mean(0) - df * V).abs() < 5 * error).all())
    for direction in (torch.tensor([1.0, 0, 0]), torch.ones(3), torch.tensor([1.0, -2, 0.5])):
        c = direction.double()  # c' L c / c' V c is chi squared with df degrees of freedom
        form = (L @ c @ c / (V @ c @ c)).numpy()
        assert stats.kstest(form, stats.chi2(df).cdf).pvalue > 1e-5


def test_log_cholesky_coordinates_are_inverted():
    matrix = definite(4, 2, 3)
    factor = cholesky_of(log_cholesky_of(matrix), 3)
    torch.testing.assert_close(factor @ factor.mT, matrix, rtol=1e-12, atol=1e-12)
    flat = draw(4, 6)
    factor = cholesky_of(flat, 3)
    torch.testing.assert_close(log_cholesky_of(factor @ factor.mT), flat, rtol=1e-9, atol=1e-9)


def test_gradient_of_the_factor_is_finite_where_an_exponential_would_overflow():
    flat = torch.tensor([0.1, 2000.0, -0.2], dtype=torch.float64, requires_grad=True)
    factor = cholesky_of(flat, 2)
    (gradient,) = torch.autograd.grad(factor.sum(), flat)
    assert bool(factor.isfinite().all()) and bool(gradient.isfinite().all())


def test_precision_normal_is_torchs_multivariate_normal():
    matrix, loc, x = definite(2, 3), draw(2, 3), draw(5, 2, 3)
    found = PrecisionNormal(loc, torch.linalg.cholesky(matrix))
    reference = td.MultivariateNormal(loc, precision_matrix=matrix)
    torch.testing.assert_close(found.log_prob(x), reference.log_prob(x), rtol=1e-10, atol=1e-10)


def test_precision_normal_draws_are_white_after_its_factor():
    # Three Kolmogorov-Smirnov tests and three correlations, each at 1e-5: fixed seed.
    factor, loc = torch.linalg.cholesky(definite(3)), draw(3)
    drawn = PrecisionNormal(loc, factor).sample(torch.Size([5000]))
    white = ((drawn - loc) @ factor).numpy()
    for column in white.T:
        assert stats.kstest(column, stats.norm.cdf).pvalue > 1e-5
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert stats.pearsonr(white[:, i], white[:, j]).pvalue > 1e-5


@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_expanded_distributions_keep_density_and_shape(shape):
    wishart = LogCholeskyWishart(torch.tensor(5.0).double(), SCALE)
    normal = PrecisionNormal(draw(3), torch.linalg.cholesky(SCALE))
    for one, value in ((wishart, draw(6)), (normal, draw(3))):
        many = one.expand(torch.Size(shape))
        assert many.batch_shape == shape and many.sample().shape == shape + value.shape
        torch.testing.assert_close(many.log_prob(value), one.log_prob(value).expand(shape))


@pytest.mark.parametrize(
    ("loc", "factor", "value"),
    [
        ((3, 1), (3, 1), (5,)),
        ((2, 3, 1), (3, 1), (5,)),
        ((), (3, 1), ()),
        ((3, 4), (3, 4), (4,)),
        ((), (), (6,)),
    ],
)
def test_a_factor_for_all_rows_of_a_component(
    loc: tuple[int, ...], factor: tuple[int, ...], value: tuple[int, ...]
) -> None:
    """log N by torch, of every shape in which components and rows come."""
    torch.manual_seed(0)
    mean, x = torch.randn(*loc, 2), torch.randn(*value, 2)
    root = torch.linalg.cholesky(torch.eye(2) + torch.randn(*factor, 2, 1).square() * 0.3)
    found = PrecisionNormal(mean, root)
    expected = torch.distributions.MultivariateNormal(mean, precision_matrix=root @ root.mT)
    torch.testing.assert_close(found.log_prob(x), expected.log_prob(x), rtol=1e-4, atol=1e-4)
