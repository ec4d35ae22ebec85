"""Where EM of a linear decoder starts, and data that have no maximum."""

import numpy as np
import pyro
import pytest
import torch

from guidebook.errors import DataError, GuideError, SettingError
from guidebook.guides.conjugate.factor import FactorPosterior
from guidebook.models.decoders.factor import FactorAnalysis
from guidebook.models.decoders.latent import LinearVAE
from guidebook.models.regression import linear_regression
from tests.guides.conjugate.factor.decoders import both


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def test_the_start_follows_the_units_of_the_columns_and_the_seed():
    x = torch.randn(60, 6).double()
    units = torch.tensor([1.0, 1e3, 1e-3, 1.0, 7.0, 1.0], dtype=torch.float64)
    guide = FactorPosterior(FactorAnalysis(6, 2))
    start, other = guide.start({"x": x}, 5), guide.start({"x": x * units}, 5)
    np.testing.assert_allclose(other["weight"], start["weight"] * units[:, None], rtol=1e-10)
    np.testing.assert_allclose(other["log_scale"], start["log_scale"] + units.log(), atol=1e-10)
    assert not torch.equal(guide.start({"x": x}, 6)["weight"], start["weight"])
    # Half noise, half factors: expected 0.5, standard deviation 0.2 over the P d = 12 weights.
    share = (start["weight"].square().sum(-1) / x.var(0, correction=0)).mean()
    assert 0.1 < share < 1.2


def test_finished_copies_keep_the_models_dtype_and_leave_it_alone():
    model = FactorAnalysis(6, 2)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    guide = FactorPosterior(model, alpha=0.5)
    parameters = guide.start({"x": torch.randn(30, 6)}, 0)
    trained, other = guide.finished(model, parameters)
    assert trained.weight.dtype is torch.float32 and other.alpha == 0.5
    np.testing.assert_array_equal(trained.weight.detach(), parameters["weight"].float())
    x = torch.randn(4, 6)
    trained.bias.data.add_(1.0)  # the new guide reads the new model
    assert not torch.equal(other.posterior(x).mean, guide.posterior(x).mean)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_data_without_a_maximum_are_refused():
    x = torch.randn(30, 4).double()
    constant = x.clone()
    constant[:, 2] = 0.1
    few = x[:3].repeat(10, 1)  # three distinct rows lie in a plane
    for kind in (FactorAnalysis, LinearVAE):
        guide = FactorPosterior(kind(4, 2))
        with pytest.raises(DataError, match="Column 2 of x is constant"):
            guide.start({"x": constant}, 0)
        with pytest.raises(DataError, match="30 rows of x lie in 2 dimensions or fewer"):
            guide.start({"x": few}, 0)
        with pytest.raises(DataError, match="one row"):
            guide.start({"x": x[:1]}, 0)
        with pytest.raises(
            DataError, match=r"shape \(30, 3\), and the model was made for \(n, 4\)"
        ):
            guide.start({"x": x[:, :3]}, 0)
        with pytest.raises(DataError, match="needs the observed rows"):
            guide.start({}, 0)
        with pytest.raises(DataError, match="4 columns, and 4 latents"):
            FactorPosterior(kind(4, 4)).start({"x": x}, 0)
        with pytest.raises(DataError, match="4 columns, and 9 latents"):
            FactorPosterior(kind(4, 9)).start({"x": x}, 0)


def test_errors():
    with pytest.raises(GuideError, match="no weight and no bias"):
        FactorPosterior(linear_regression)
    with pytest.raises(SettingError, match="alpha=-1"):
        FactorPosterior(FactorAnalysis(4, 1), alpha=-1.0)
    odd = FactorAnalysis(4, 1)
    odd.log_scale = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(GuideError, match=r"log_scale has shape \(3,\)"):
        FactorPosterior(odd)
    with pytest.raises(GuideError, match="pass x"):
        FactorPosterior(FactorAnalysis(4, 1))(size=3)


@both
@pytest.mark.parametrize("d", [1, 3])
def test_the_start_is_half_noise_and_half_factors_by_the_seeds_own_numbers(kind, d):
    x = torch.randn(20, 5) * torch.arange(1.0, 6.0) + 7
    found = FactorPosterior(kind(5, d)).start({"x": x}, 3)
    rows = x.double()
    spread = rows.var(0, correction=0)
    if kind is LinearVAE:
        spread = spread.mean().expand(5)
    noise = torch.randn(5, d, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = noise * (spread / (2 * d)).sqrt()[:, None]  # to the last digits: drawn as doubles
    torch.testing.assert_close(found["weight"], expected, rtol=1e-12, atol=0)
    torch.testing.assert_close((2 * found["log_scale"]).exp().expand(5), spread / 2)
    torch.testing.assert_close(found["bias"], rows.mean(0))
    torch.testing.assert_close(found["center"], rows.mean(0))
    assert found["log_scale"].shape == (() if kind is LinearVAE else (5,))


def test_units_matter_to_one_sigma_and_not_to_a_sigma_for_each_column():
    """One column of standard deviation 10^7: with a single sigma the others are rounding errors."""
    x = torch.randn(20, 3).double()
    x[:, 0] *= 1e7
    assert FactorPosterior(FactorAnalysis(3, 1)).start({"x": x}, 0)["bias"].shape == (3,)
    with pytest.raises(DataError, match="20 rows of x lie in 1 dimensions or fewer"):
        FactorPosterior(LinearVAE(3, 1)).start({"x": x}, 0)
    assert FactorPosterior(FactorAnalysis(2, 1)).start({"x": x[:, :2]}, 0)["bias"].shape == (2,)
    far = torch.randn(20, 3).double() + torch.tensor([1e7, 0, 0])  # an origin far away is no matter
    for kind in (FactorAnalysis, LinearVAE):
        assert FactorPosterior(kind(3, 1)).start({"x": far}, 0)["bias"].shape == (3,)


def test_more_columns_than_rows_and_the_limit_of_what_has_a_maximum():
    """Two directions whose variances have the ratio 10^-12 are one; 2 * 10^-12 are two."""
    wide = torch.randn(4, 9).double()
    for d in (1, 2):
        assert FactorPosterior(FactorAnalysis(9, d)).start({"x": wide}, 0)["weight"].shape == (9, d)
    with pytest.raises(DataError, match="4 rows of x lie in 3 dimensions"):
        FactorPosterior(FactorAnalysis(9, 3)).start({"x": wide}, 0)
    x = torch.tensor([[1e6, 0], [-1e6, 0], [0, 1], [0, -1]], dtype=torch.float64)
    with pytest.raises(DataError, match="1 dimensions or fewer"):
        FactorPosterior(LinearVAE(2, 1)).start({"x": x}, 0)
    more = x * torch.tensor([1, 2**0.5]).double()
    assert FactorPosterior(LinearVAE(2, 1)).start({"x": more}, 0)["weight"].shape == (2, 1)
    small = 0.7**0.5  # two directions of 0.7 * 10^-12 each are more than 10^-12 together
    rows = [
        [1e6, small, small],
        [1e6, -small, -small],
        [-1e6, small, -small],
        [-1e6, -small, small],
    ]
    three = torch.tensor(rows, dtype=torch.float64)
    assert FactorPosterior(LinearVAE(3, 1)).start({"x": three}, 0)["weight"].shape == (3, 1)


def test_constant_columns_are_named_up_to_eight():
    x = torch.randn(6, 12).double()
    x[:, :10] = 0.1
    with pytest.raises(DataError, match="Column 0, 1, 2, 3, 4, 5, 6, 7 of x"):
        FactorPosterior(FactorAnalysis(12, 2)).start({"x": x}, 0)
    with pytest.raises(DataError, match=r"shape \(6, 12, 1\)"):
        FactorPosterior(FactorAnalysis(12, 2)).start({"x": x.unsqueeze(-1)}, 0)
