"""Amortised guides on rows of their own model: exact, too narrow, and blind to the data."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

import guidebook as gb
from guidebook.diagnostics.numerics.calibration import DENSITY, DISTANCE
from guidebook.diagnostics.simulation.encoded import guesses
from guidebook.errors import GuideError, ModelError, SettingError
from guidebook.models import VAE, LinearVAE

X = torch.zeros(3, 4)


class Exact:
    """q(z | x) of a linear-Gaussian model in closed form, its scale multiplied, or N(0, I)."""

    site, observed = "z", "x"

    def __init__(self, model: LinearVAE, scale: float = 1.0, blind: bool = False) -> None:
        self.model, self.scale, self.blind = model, scale, blind

    def posterior(self, x: Tensor) -> Any:
        W, noise = self.model.weight.detach(), self.model.log_scale.detach().exp() ** 2
        eye = torch.eye(W.shape[1])
        if self.blind:
            zero = torch.zeros(len(x), W.shape[1])
            return dist.MultivariateNormal(zero, eye)
        covariance = torch.linalg.inv(eye + W.T @ W / noise)
        mean = (x - self.model.bias.detach()) @ W @ covariance / noise
        return dist.MultivariateNormal(mean, self.scale**2 * covariance)

    def __call__(self, x: Tensor, size: int | None = None) -> Any:
        with pyro.plate("row", len(x)):
            return pyro.sample("z", self.posterior(x))


@pytest.fixture(scope="module")
def model() -> LinearVAE:
    torch.manual_seed(0)
    made = LinearVAE(4, 2)
    with torch.no_grad():
        made.log_scale.fill_(-0.3)
    return made


def test_the_exact_encoder_passes(model: LinearVAE) -> None:
    """Kolmogorov's test of each quantity; false-alarm rate 4 x 1e-4."""
    found = gb.calibrate(model, Exact(model), {"x": X}, replications=400)
    assert found.names == ["z[0]", "z[1]", DENSITY, DISTANCE]
    assert (found.of, found.engine, found.replications) == ("prior", "", 400)
    for i in range(4):
        assert kstest(found.p[:, i], "uniform").pvalue > 1e-4
    assert found.off == []


def test_an_encoder_that_is_too_narrow_is_found(model: LinearVAE) -> None:
    found = gb.calibrate(model, Exact(model, 0.6), {"x": X}, replications=400)
    assert found.finding("z[0]") == found.finding("z[1]") == "too narrow"
    assert DISTANCE in found.off
    assert found.table.loc["z[0]", "sd_ratio"] == pytest.approx(0.6, abs=0.1)


def test_an_encoder_that_ignores_the_row_is_found_by_the_joint_quantities_alone(
    model: LinearVAE,
) -> None:
    """Its draws are the prior's, so every marginal is calibrated over rows."""
    found = gb.calibrate(model, Exact(model, blind=True), {"x": X}, replications=400)
    assert set(found.off) == {DENSITY, DISTANCE}


def test_guesses_know_the_row_and_not_its_truth() -> None:
    """A truth moved far does not move the guess of its own row."""
    rng = np.random.default_rng(0)
    x = torch.as_tensor(rng.standard_normal((60, 3)))
    z = x[:, :2] + 0.1 * torch.as_tensor(rng.standard_normal((60, 2)))
    found = guesses(z, x)
    assert float((found - z).std()) < 0.2
    moved = z.clone()
    moved[0] += 100
    assert torch.allclose(guesses(moved, x)[0], found[0], atol=1e-9)
    assert not torch.allclose(guesses(moved, x)[1], found[1], atol=1e-3)


def test_what_does_not_fit_an_encoder_is_refused(model: LinearVAE) -> None:
    with pytest.raises(SettingError, match="leave out engine, steps"):
        gb.calibrate(model, Exact(model), {"x": X}, engine=gb.svi, steps=5)
    with pytest.raises(SettingError, match="from the prior alone"):
        gb.calibrate(model, Exact(model), {"x": X}, of="posterior")
    flat = VAE(4, 2, (3,), prior_scale=None)
    with pytest.raises(ModelError, match="prior of site 'z' is flat"):
        gb.calibrate(flat, Exact(model), {"x": X})
    point = gb.guides.AmortizedDelta(torch.nn.Linear(4, 2), 2)
    with pytest.raises(GuideError, match="a point for each row"):
        gb.calibrate(model, point, {"x": X})

    class WithoutSize(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor | None = None) -> Any:
            return self.inner(x)

    with pytest.raises(ModelError, match="no argument size"):
        gb.calibrate(WithoutSize(), Exact(model), {"x": X})
