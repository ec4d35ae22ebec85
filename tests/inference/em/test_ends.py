"""How EM ends, and data that try its end."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine

from guidebook import Status
from guidebook.guides.conjugate.factor import FactorPosterior
from guidebook.models.decoders.factor import FactorAnalysis
from guidebook.models.decoders.latent import LinearVAE
from tests.inference.em.fitted import IRIS, WINE, assert_monotone, fitted, noise_of


def test_what_remains_is_estimated():
    fit = fitted(LinearVAE, IRIS, 2, tolerance=1e-7)
    best = LinearVAE.maximum_likelihood(torch.from_numpy(IRIS), 2)
    with torch.no_grad():
        top = FactorPosterior(best).log_evidence(torch.from_numpy(IRIS)).sum().item()
    missing = top - fit.notes["log_likelihood"]
    assert fit.status is Status.CONVERGED and missing < 0.005
    assert fit.notes["remaining"] == pytest.approx(missing, rel=0.1)


def test_small_steps_far_from_the_maximum_are_not_called_converged():
    # Columns of very different spread: probabilistic PCA's EM crawls, tens of nats below the top.
    x = load_wine().data
    fit = fitted(LinearVAE, x, 3, tolerance=1e-5, iterations=1000)
    best = LinearVAE.maximum_likelihood(torch.from_numpy(x), 3)
    with torch.no_grad():
        top = FactorPosterior(best).log_evidence(torch.from_numpy(x)).sum().item()
    assert top - fit.notes["log_likelihood"] > 1
    assert -np.diff(fit.history)[-1] < 1e-5 * abs(fit.history[-1])
    assert fit.status is Status.STILL_MOVING
    assert len(fit.history) == 1001 and fit.notes["iterations"] == 1000


def test_duplicated_rows_change_nothing_but_the_height():
    once = fitted(FactorAnalysis, WINE, 2, tolerance=1e-12)
    twice = fitted(FactorAnalysis, np.concatenate([WINE, WINE]), 2, tolerance=1e-12)
    found = twice.notes["log_likelihood"], 2 * once.notes["log_likelihood"]
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    np.testing.assert_allclose(noise_of(twice), noise_of(once), rtol=1e-3)


def test_identical_columns_end_at_the_noise_bound():
    x = np.c_[IRIS, IRIS[:, 0]]  # the likelihood has no maximum but the bound's
    fit = fitted(FactorAnalysis, x, 1)
    assert fit.status is Status.CONVERGED and np.isfinite(fit.history).all()
    assert_monotone(fit)
    np.testing.assert_allclose(noise_of(fit)[[0, 4]] / IRIS[:, 0].var(), 1e-9, rtol=1e-4)
