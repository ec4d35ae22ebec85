"""em and cavi of mixtures against scikit-learn on iris and wine: sweep by sweep from one start."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture
from sklearn.mixture import GaussianMixture as MaximumLikelihood

import guidebook as gb
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.guides.conjugate.mixture_mode import MixtureMode
from guidebook.inference.protocols.conjugate import divergence
from guidebook.models.mixture import GaussianMixture

SWEEPS = 12
KINDS = [("full", "full"), ("diagonal", "diag")]


def standardised(raw):
    return (raw - raw.mean(0)) / raw.std(0)


DATA = {"iris": standardised(load_iris().data), "wine": standardised(load_wine().data)}

every_case = pytest.mark.parametrize(
    ("name", "ours", "theirs"), [(n, *k) for n in DATA for k in KINDS]
)


def sweeps_of(side, x, count):
    """Run scikit-learn one sweep at a time; yields after each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for _ in range(count):
            side.fit(x)
            side.converged_ = False
            yield side


@every_case
def test_em_has_the_log_likelihood_of_every_sweep(name, ours, theirs):
    """From the same weights, means and precisions; to 1e-8 of the log likelihood."""
    x = DATA[name]
    model = GaussianMixture(3, x.shape[1], ours)
    guide = MixtureMode(model, prior=False)
    fit = gb.em(model, guide, {"x": x}, iterations=SWEEPS, tolerance=0.0, progress=False)
    start = guide.double().start({"x": torch.as_tensor(x)}, 0)
    side = MaximumLikelihood(
        3, covariance_type=theirs, tol=0.0, reg_covar=0.0, max_iter=1, warm_start=True,
        weights_init=start["weights"].numpy(), means_init=start["loc"].numpy(),
        precisions_init=start["precision"].numpy(),
    )  # fmt: skip
    climbed = [one.lower_bound_ * len(x) for one in sweeps_of(side, x, SWEEPS)]
    climbed.append(side.score(x) * len(x))
    np.testing.assert_allclose(-fit.history, climbed, rtol=1e-8)
    values = fit.guide.values
    np.testing.assert_allclose(values["loc"], side.means_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(values["precision"], side.precisions_, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DATA)
def test_cavi_has_the_parameters_and_the_elbo_of_every_sweep(name):
    """The same priors and the same start, full covariances. Both ELBOs are computed from the
    parameters by one function: scikit-learn's own bound leaves constants out. Its diagonal variant
    takes the Wishart's expectation of log det for independent columns, so it is another model.
    """
    x = DATA[name]
    model = GaussianMixture(3, x.shape[1], "full", 0.7, x.mean(0), 0.5, x.shape[1] + 2.0, 1.3)
    guide = MixtureMeanField(model).double()
    natural = guide.initial_natural(torch.as_tensor(x), len(x), 0)
    start = {n: v.numpy() for n, v in guide.hyper(natural).items()}
    fit = gb.cavi(
        model, MixtureMeanField(model), {"x": x}, sweeps=SWEEPS, tolerance=0.0, progress=False
    )
    side = scikit_learn_at(start, model, x)
    elbos = [elbo_of(guide, start, x)]
    elbos += [elbo_of(guide, hyper_of(one), x) for one in sweeps_of(side, x, SWEEPS)]
    np.testing.assert_allclose(-fit.history, elbos[: len(fit.history)], rtol=1e-8)
    assert len(fit.history) == SWEEPS + 1
    found = {n: v.numpy() for n, v in fit.guide.hyper().items()}
    for site, value in hyper_of(side).items():
        np.testing.assert_allclose(found[site], value, rtol=1e-6, atol=1e-8, err_msg=site)


def scikit_learn_at(start, model, x):
    """BayesianGaussianMixture with the model's priors, to be continued from `start`."""
    side = BayesianGaussianMixture(
        n_components=model.K, tol=0.0, reg_covar=0.0, max_iter=1, warm_start=True,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=model.concentration, mean_precision_prior=model.mean_precision,
        mean_prior=x.mean(0), degrees_of_freedom_prior=model.df,
        covariance_prior=1.3 * np.eye(x.shape[1]),
    )  # fmt: skip
    side.weight_concentration_, side.means_ = start["concentration"], start["loc"]
    side.mean_precision_, side.degrees_of_freedom_ = start["mean_precision"], start["df"]
    side.covariances_ = start["inverse_scale"] / start["df"][:, None, None]
    side.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(side.covariances_))
    side.converged_, side.lower_bound_ = False, -np.inf  # so that fit() continues
    return side


def hyper_of(side):
    """The parameters of q in guidebook's names."""
    return {
        "concentration": side.weight_concentration_, "mean_precision": side.mean_precision_,
        "loc": side.means_, "df": side.degrees_of_freedom_,
        "inverse_scale": side.covariances_ * side.degrees_of_freedom_[:, None, None],
    }  # fmt: skip


def elbo_of(guide, hyper, x):
    """The ELBO with assignments at their best, as cavi counts it."""
    natural = guide.natural_of({n: torch.as_tensor(v) for n, v in hyper.items()})
    bound, _ = guide.local(torch.as_tensor(x), guide.expected(natural))
    return float(bound - divergence(guide, natural, guide.prior))
