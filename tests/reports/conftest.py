"""Real comparisons, small ones, each made once a session: what the reports are tested with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from arviz_base import from_dict
from scipy import stats

import guidebook as gb
from guidebook.diagnostics.amortized.numbers import AmortizedNumbers
from guidebook.diagnostics.measures.forms import elbo_forms
from guidebook.guides import AmortizedNormal
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.guides.conjugate.mixture_mode import MixtureMode
from guidebook.guides.energy.blocks import BlockMeanField
from guidebook.guides.exact.enumerated_mixture import EnumeratedMixture
from guidebook.models import VAE
from guidebook.models.decoders.networks import mlp
from guidebook.models.energy.boltzmann import BoltzmannMachine, bipartite
from guidebook.models.energy.hopfield import associative_memory
from guidebook.models.mixture import GaussianMixture

SCHOOLS = ["Choate", "Deerfield", "Phillips Andover", "St. Paul's"]
Y = np.array([28.0, 8.0, -3.0, 12.0])
SIGMA = np.array([15.0, 10.0, 16.0, 18.0])
DRAWS = 1000


def schools(sigma: torch.Tensor, y: torch.Tensor | None = None) -> None:
    """Schools whose effects have a known spread: the posterior is normal."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("school", len(sigma)):
        theta = pyro.sample("theta", dist.Normal(mu, 10.0))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def posterior_of_schools() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (mu, theta) given y, from the joint precision."""
    n = len(Y)
    precision = np.zeros((n + 1, n + 1))
    precision[0, 0] = 1 / 25 + n / 100
    precision[0, 1:] = precision[1:, 0] = -1 / 100
    precision[1:, 1:] = np.diag(1 / 100 + 1 / SIGMA**2)
    covariance = np.linalg.inv(precision)
    return covariance @ np.r_[0.0, Y / SIGMA**2], covariance


def tree(z: np.ndarray, seed: int, **groups: Any) -> Any:
    """Draws (chain, draw, 5) of (mu, theta) in ArviZ's groups, with the data and their replicates."""
    rng = np.random.default_rng(seed)
    made = from_dict(
        {
            "posterior": {"mu": z[..., 0], "theta": z[..., 1:]},
            "posterior_predictive": {"y": rng.normal(z[..., 1:], SIGMA)},
            "observed_data": {"y": Y},
            "constant_data": {"sigma": SIGMA},
            **groups,
        },
        coords={"school": SCHOOLS},
        dims={"theta": ["school"], "y": ["school"], "sigma": ["school"]},
    )
    made["posterior"].attrs["seed"] = seed
    return made


def drawn_from_the_posterior(chains: int, seed: int) -> Any:
    mean, covariance = posterior_of_schools()
    rng = np.random.default_rng(seed)
    return tree(rng.multivariate_normal(mean, covariance, (chains, DRAWS)), seed)


def normal(shift: float, width: float, seed: int) -> Any:
    """Draws of the posterior shifted by so much in mu and so many times as wide, their densities and
    a history of the objective.
    """
    mean, covariance = posterior_of_schools()
    mean, covariance = mean + np.eye(5)[0] * shift, covariance * width**2
    rng = np.random.default_rng(seed)
    z = rng.multivariate_normal(mean, covariance, (1, DRAWS))
    mu, theta = z[..., :1], z[..., 1:]
    log_joint = stats.norm(0, 5).logpdf(mu[..., 0]) + stats.norm(mu, 10).logpdf(theta).sum(-1)
    log_joint += stats.norm(theta, SIGMA).logpdf(Y).sum(-1)
    log_q = stats.multivariate_normal(mean, covariance).logpdf(z[0])[None]
    t = np.arange(400)
    objective = 17.5 + 200 * np.exp(-t / 30) + rng.normal(0, 0.3, t.size) ** 2
    made = tree(z, seed, sample_stats={"lp": log_joint, "log_q": log_q})
    made["vi_fit"] = xr.DataTree(xr.Dataset({"objective": ("step", objective)}))
    return made


@contextmanager
def fewer() -> Iterator[None]:
    """A twelfth of the usual draws, and a short annealing: the pages show the same things."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("guidebook.diagnostics.inputs.MOST_DRAWS", 4000)
        patch.setattr("guidebook.diagnostics.model_kinds.normaliser.TEMPERATURES", 3)
        patch.setattr("guidebook.diagnostics.model_kinds.recall.SIZES", ((25, 3), (50, 1)))
        yield


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """Of these pages alone: what a comparison computes when it is asked is as short as the rest."""
    with fewer():
        yield


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, and their pictures left empty, where only the words are looked at."""
    monkeypatch.setattr("guidebook.reports.elements.images.png", lambda *_: b"")


@pytest.fixture(scope="session")
@fewer()
def comparison() -> gb.Comparison:
    """One approximation of each verdict, against draws of the posterior itself.

    laplace is exact, for the posterior is normal; `shifted` is off in mu, which its weights mend;
    `narrow` is off and far too narrow.
    """
    data = {"sigma": torch.tensor(SIGMA), "y": torch.tensor(Y)}
    fits = {
        "shifted": normal(1.5, 1.1, 2),
        "laplace": gb.laplace(schools, data),
        "narrow": normal(3.0, 0.4, 1),
        "truth": drawn_from_the_posterior(4, 0),
    }
    return gb.compare(fits, reference="truth")


@pytest.fixture(scope="session")
@fewer()
def amortized_comparison() -> gb.Comparison:
    """An encoder of 40 digits, hardly trained: what is wrong with it is what its page shows."""
    x = gb.datasets.digits("train", binary=True)["x"][:40]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, guide = VAE(64, 3, (8,)), AmortizedNormal(mlp((64, 8, 6)), 3)
    fit = gb.svi(model, guide, {"x": x}, steps=100, compile=False, progress=False)
    kept = gb.datasets.digits("test", binary=True)["x"][:20]
    return gb.compare({"encoder": fit}, held_out={"x": kept}, labels=np.arange(40) % 10)


@pytest.fixture(scope="session")
def numbers(amortized_comparison: gb.Comparison) -> AmortizedNumbers:
    return amortized_comparison.amortized["encoder"]


X = np.array([[-3.0, -3.1], [-2.8, -3.3], [0.1, -0.4], [0.9, 0.2], [3.1, 3.4]])


@pytest.fixture(scope="session")
@fewer()
def mixture_comparison() -> gb.Comparison:
    """Three components for five rows, by sweeps, a point, chains, and the enumerated posterior.

    All but one come as draws, which are assessed in less time; the point brings the model.
    """
    model = GaussianMixture(3, 2, "unit", concentration=None, mean_precision=0.1)
    guide, data = MixtureMeanField(model), {"x": X}
    fits = {
        "cavi": gb.cavi(model, guide, data, progress=False),
        "em": gb.em(model, MixtureMode(model), data, progress=False),
        "gibbs": gb.gibbs(model, guide, data, draws=100, tune=50, progress=False),
        "exact": gb.exact(model, EnumeratedMixture(model), data),
    }
    given = {n: fit if n == "em" else fit.posterior(300) for n, fit in fits.items()}
    bounds = elbo_forms({n: fits[n] for n in ("cavi", "exact")}, "exact", draws=300)
    return replace(gb.compare(given, reference="exact"), bounds=bounds)


@pytest.fixture(scope="session")
@fewer()
def memory_comparison() -> gb.Comparison:
    """Two patterns in nine units, of which three are seen."""
    patterns = torch.tensor([[1.0, 1, 1, -1, -1, -1, 1, 1, 1], [1.0, -1, 1, -1, 1, -1, 1, -1, 1]])
    model = associative_memory(patterns, 3, beta=1.0)
    data = {"v": torch.tensor([[1.0, 1.0, 1.0]])}
    fits = {
        "mean-field": gb.cavi(model, BlockMeanField(model), data, progress=False).posterior(300),
        "exact": gb.exact(model, BlockMeanField(model, blocks=6), data),
    }
    return gb.compare(fits, reference="exact")


@pytest.fixture(scope="session")
@fewer()
def machine_comparison() -> gb.Comparison:
    """A restricted machine of four visible and two hidden units."""
    across = torch.tensor([[1.0, -0.5], [1.0, 0.5], [-1.0, 0.5], [-1.0, -0.5]])
    weights = bipartite(across)
    model = BoltzmannMachine(weights, torch.zeros(6), 2, restricted=True).requires_grad_(False)
    data = {"v": torch.tensor([[1.0, 1, -1, -1], [-1.0, -1, 1, 1], [1.0, -1, 1, -1]])}
    fits = {"exact": gb.exact(model, BlockMeanField(model), data)}
    return gb.compare(fits, reference="exact")
