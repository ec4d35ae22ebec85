"""Sensitivity to powers of prior and likelihood, against the derivative of a conjugate posterior."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import norm

import guidebook as gb
from guidebook.diagnostics.measures.sensitivity import Sensitivity, sensitivity
from guidebook.guides.autoguides.mixture import NormalMixture
from guidebook.inference.fits.opening import opened
from guidebook.inference.fits.status import Status

Y = np.array([2.5, 3.5, 3.0])


def normal_mean(scale: torch.Tensor, y: torch.Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, scale))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def posterior_of(scale: float, prior: float = 1.0, likelihood: float = 1.0) -> tuple[float, float]:
    """Mean and standard deviation where prior and likelihood are raised to these powers."""
    precision = prior / scale**2 + likelihood * len(Y)
    return likelihood * Y.sum() / precision, precision**-0.5


def distance(p: tuple[float, float], q: tuple[float, float], low: float, high: float) -> float:
    """The cumulative Jensen-Shannon distance of two normals on [low, high], by quadrature.

    Kallioinen et al. 2024, equations 9 to 11: of distribution functions, the larger of both directions.
    """
    x = np.linspace(low, high, 20_001)

    def one_way(P: np.ndarray, Q: np.ndarray) -> float:
        def cjs(A: np.ndarray, B: np.ndarray) -> float:
            parts = A * np.log2(np.maximum(A, 1e-300) / np.maximum(0.5 * (A + B), 1e-300))
            return float(np.trapezoid(parts + 0.5 / np.log(2) * (B - A), x))

        return (cjs(P, Q) + cjs(Q, P)) / float(np.trapezoid(P + Q, x))

    first, second = norm(*p), norm(*q)
    return np.sqrt(max(
        one_way(first.cdf(x), second.cdf(x)), one_way(first.sf(x), second.sf(x))
    ))  # fmt: skip


@pytest.mark.parametrize("scale", [0.5, 10.0])
def test_the_derivative_of_a_conjugate_posterior(scale: float) -> None:
    """4,000 draws: within 15 %, some four times what the values of 20 seeds vary by. The narrow prior
    contradicts the data, the wide one does not.
    """
    data = {"scale": torch.tensor(scale).double(), "y": torch.tensor(Y)}
    mean, sd = posterior_of(scale)
    with opened(
        "placed", normal_mean, NormalMixture(normal_mean, 1), data, seed=0, device=None
    ) as run:
        centre, factor = torch.tensor([[mean]]), torch.tensor([[[sd]]])
        run.guide.place(torch.zeros(1), centre, factor)
    fit: gb.Fit = run.fit(Status.CONVERGED, sites=run.guide.sites)
    tree = fit.posterior(4000, seed=2)
    found = sensitivity(fit, tree)
    assert found is not None and found.names == ("mu",)
    draws = tree["posterior"]["mu"].values
    for part, value in (("prior", found.prior), ("likelihood", found.likelihood)):
        expected = np.mean([
            distance((mean, sd), posterior_of(scale, **{part: power}), draws.min(), draws.max())
            / abs(np.log2(power))
            for power in (0.99, 1.01)
        ])  # fmt: skip
        assert value[0] == pytest.approx(expected, rel=0.15, abs=5e-4)
    assert found.conflict.tolist() == [scale == 0.5]
    assert not found.by_prior.any()


def test_limits_of_the_two_findings() -> None:
    at, below = 0.05, 0.0499
    found = Sensitivity(
        ("a", "b", "c", "d"), np.array([at, at, below, below]), np.array([at, below, at, below])
    )
    assert found.conflict.tolist() == [True, False, False, False]
    assert found.by_prior.tolist() == [False, True, False, False]


def test_too_many_marginals_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"scale": torch.tensor(1.0).double(), "y": torch.tensor(Y)}
    fit = gb.laplace(normal_mean, data)
    tree = fit.posterior(200)
    assert sensitivity(fit, tree) is not None
    monkeypatch.setattr("guidebook.diagnostics.measures.sensitivity.MOST_MARGINALS", 0)
    assert sensitivity(fit, tree) is None


def test_to_a_likelihood_without_latents_it_is_nothing() -> None:
    def apart(y: torch.Tensor) -> None:
        pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(0.0, 1.0).expand([3]).to_event(1), obs=y)

    fit = gb.laplace(apart, {"y": Y})
    found = sensitivity(fit, fit.posterior(500, seed=1))
    assert found is not None and found.names == ("mu",)
    assert found.likelihood == 0 and found.prior > 0.1
