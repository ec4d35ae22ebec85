"""Factor analysis against SciPy and the equation in its docstring."""

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats

from guidebook.errors import ModelError, SettingError
from guidebook.models.decoders.factor import FactorAnalysis

GENERATOR = torch.Generator().manual_seed(0)
Z = torch.randn(8, 2, generator=GENERATOR, dtype=torch.float64)
X = torch.randn(8, 5, generator=GENERATOR, dtype=torch.float64)


@pytest.fixture
def model():
    pyro.set_rng_seed(0)
    model = FactorAnalysis(5, 2).double()
    with torch.no_grad():
        model.bias.normal_()
        model.log_scale.copy_(torch.linspace(-1, 0.5, 5))
    return model


def log_joint(model, z, **data):
    with torch.no_grad():
        conditioned = poutine.condition(model, {"z": z})
        return poutine.trace(conditioned).get_trace(**data).log_prob_sum()


def test_log_joint_is_the_equation_in_the_docstring(model):
    with torch.no_grad():
        mean, scale = (Z @ model.weight.T + model.bias).numpy(), model.log_scale.exp().numpy()
    expected = stats.norm.logpdf(Z.numpy()).sum() + stats.norm(mean, scale).logpdf(X.numpy()).sum()
    assert log_joint(model, Z, x=X).item() == pytest.approx(expected, abs=1e-10)


def test_simulated_rows_have_the_evidences_covariance(model):
    # Every quadratic form v'(x - b) is N(0, v'(W W' + Psi) v). Six tests at 1e-5: under 1e-4 in all.
    with torch.no_grad():
        x = model(size=4000).numpy() - model.bias.numpy()
        W, psi = model.weight.numpy(), np.exp(2 * model.log_scale.numpy())
    assert x.shape == (4000, 5)
    for direction in [*np.eye(5), np.ones(5)]:
        scale = np.sqrt(direction @ (W @ W.T + np.diag(psi)) @ direction)
        assert stats.kstest(x @ direction, stats.norm(0, scale).cdf).pvalue > 1e-5


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_average_over_mini_batches_is_the_full_log_joint(model, batch):
    x, z = X[:6] if batch == 3 else X, Z[:6] if batch == 3 else Z
    size = len(x)
    parts = [
        log_joint(model, z[rows], x=x[rows], size=size) for rows in torch.arange(size).split(batch)
    ]
    whole = log_joint(model, z, x=x)
    torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-12, atol=1e-12)


def test_units_of_a_column_change_the_log_joint_by_their_jacobian_only(model):
    units = torch.tensor([1.0, 10.0, 0.1, 3.0, 1.0], dtype=torch.float64)
    before = log_joint(model, Z, x=X)
    with torch.no_grad():
        model.weight.mul_(units.unsqueeze(-1))
        model.bias.mul_(units)
        model.log_scale.add_(units.log())
    expected = before - len(X) * units.log().sum()
    torch.testing.assert_close(log_joint(model, Z, x=X * units), expected, rtol=1e-12, atol=1e-12)


def test_log_joint_in_vmap_equals_one_at_a_time(model):
    zs = torch.stack([Z, 2 * Z, -Z])
    expected = torch.stack([log_joint(model, z, x=X) for z in zs])
    with pyro.validation_enabled(False):
        found = torch.func.vmap(lambda z: log_joint(model, z, x=X))(zs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_errors(model):
    with pytest.raises(SettingError, match="at least 1"):
        FactorAnalysis(5, 0)
    with pytest.raises(SettingError, match="at least 1"):
        FactorAnalysis(0, 1)
    with pytest.raises(SettingError, match="size=3 is the number of rows"):
        model(x=X, size=3)
    with pytest.raises(ModelError, match="at least one row"):
        model(size=0)
