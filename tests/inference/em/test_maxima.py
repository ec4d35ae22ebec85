"""EM against maxima that are known: closed forms, scikit-learn, a gradient of zero."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.decomposition import FactorAnalysis as SklearnFactorAnalysis

import guidebook as gb
from guidebook import Status
from guidebook.guides.conjugate.factor import FactorPosterior
from guidebook.models.decoders.factor import FactorAnalysis
from guidebook.models.decoders.latent import LinearVAE
from tests.inference.em.fitted import DIGITS, IRIS, WINE, assert_monotone, both, fitted, noise_of


@pytest.mark.parametrize(
    ("x", "d"), [(IRIS, 2), (WINE, 3), (DIGITS, 5)], ids=["iris", "wine", "digits"]
)
def test_probabilistic_pca_reaches_its_closed_form_and_scikit_learn(x, d):
    fit = fitted(LinearVAE, x, d, tolerance=1e-12, iterations=3000)
    assert fit.status is Status.CONVERGED
    assert_monotone(fit)
    best = LinearVAE.maximum_likelihood(torch.from_numpy(x), d)
    with torch.no_grad():
        evidence = FactorPosterior(best).log_evidence(torch.from_numpy(x)).sum().item()
        products = [m.weight @ m.weight.T for m in (fit.model, best)]  # W up to a rotation
    assert fit.notes["log_likelihood"] == pytest.approx(evidence, rel=1e-9)
    np.testing.assert_allclose(products[0], products[1], rtol=0, atol=1e-4 * products[1].max())
    np.testing.assert_allclose(fit.model.bias.detach(), x.mean(0), rtol=0, atol=1e-6)
    # scikit-learn divides the covariance by n - 1, and its score is at that estimate
    pca = PCA(d).fit(x)
    n = len(x)
    assert noise_of(fit) == pytest.approx(pca.noise_variance_ * (n - 1) / n, rel=1e-5)
    values, vectors = np.linalg.eigh(products[0].numpy())
    explained = values[::-1][:d] + noise_of(fit)
    np.testing.assert_allclose(explained, pca.explained_variance_ * (n - 1) / n, rtol=1e-4)
    overlap = np.abs(np.sum(vectors[:, ::-1][:, :d].T * pca.components_, axis=1))
    np.testing.assert_allclose(overlap, 1, atol=1e-4)
    assert pca.score(x) * n <= fit.notes["log_likelihood"] < pca.score(x) * n + 1


@pytest.mark.parametrize(
    ("x", "d"), [(WINE, 1), (WINE, 2), (DIGITS, 5)], ids=["wine1", "wine2", "digits"]
)
def test_factor_analysis_reaches_scikit_learn(x, d):
    fit = fitted(FactorAnalysis, x, d, tolerance=1e-12, iterations=3000)
    assert fit.status is Status.CONVERGED
    assert_monotone(fit)
    known = SklearnFactorAnalysis(d, tol=1e-10, max_iter=5000, svd_method="lapack").fit(x)
    assert fit.notes["log_likelihood"] == pytest.approx(known.score(x) * len(x), rel=1e-8)
    np.testing.assert_allclose(noise_of(fit), known.noise_variance_, rtol=1e-3)


def test_units_of_the_columns_do_not_matter_to_factor_analysis():
    raw = load_wine().data  # columns with standard deviations from 0.1 to 315
    fits = [fitted(FactorAnalysis, x, 2, tolerance=1e-11) for x in (WINE, raw)]
    jacobian = len(raw) * np.log(raw.std(0)).sum()
    found = [fit.notes["log_likelihood"] for fit in fits]
    assert found[1] == pytest.approx(found[0] - jacobian, rel=1e-9)


@both
@pytest.mark.parametrize("alpha", [0.0, 40.0])
def test_the_gradient_of_the_objective_is_zero_at_the_end(kind, alpha):
    # The one oracle that knows nothing of EM: autodiff of log N(x; b, W W' + Psi) + log p(W).
    x = torch.from_numpy(WINE)
    fit = fitted(kind, WINE, 2, alpha=alpha, tolerance=1e-14, iterations=3000)
    model = fit.model
    covariance = model.weight @ model.weight.T + (2 * model.log_scale).exp().expand(13).diag()
    objective = dist.MultivariateNormal(model.bias, covariance).log_prob(x).sum()
    if alpha:
        objective = objective + dist.Normal(0.0, alpha**-0.5).log_prob(model.weight).sum()
    assert -objective.item() == pytest.approx(fit.history[-1], rel=1e-9)
    for gradient in torch.autograd.grad(objective, list(model.parameters())):
        assert gradient.abs().max() < 1e-3  # curvatures are of order n = 178
    assert_monotone(fit)
    assert (fit.notes["log_prior"] != 0) == bool(alpha)


def test_a_prior_shrinks_the_weights_towards_zero():
    norms = [
        float(fitted(FactorAnalysis, WINE, 2, alpha=a).model.weight.detach().norm())
        for a in (0.0, 10.0, 100.0)
    ]
    assert norms[0] > 1.05 * norms[1] > 1.05 * norms[2]


@both
def test_the_guide_is_the_posterior_and_the_evidence_that_of_exact(kind):
    fit = fitted(kind, IRIS, 1)
    exact = gb.exact(fit.model, fit.guide, {"x": IRIS})
    assert exact.notes["log_evidence"] == pytest.approx(fit.notes["log_likelihood"], abs=1e-8)
    assert -fit.history[-1] == pytest.approx(fit.notes["log_likelihood"], abs=1e-10)


@both
def test_partial_m_steps_reach_the_same_maximum(kind):
    complete = fitted(kind, WINE, 1, tolerance=1e-12)
    partial = fitted(kind, WINE, 1, tolerance=1e-11, partial=3, iterations=3000)
    assert_monotone(partial)
    assert partial.history[0] == complete.history[0]
    assert partial.history[1] > complete.history[1]  # a part of the complete step
    assert partial.history[-1] == pytest.approx(complete.history[-1], abs=1e-4)
    np.testing.assert_allclose(noise_of(partial), noise_of(complete), rtol=1e-2)
