"""Factor models fitted by EM, and what is asked of every such fit."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_iris, load_wine

from guidebook.guides.conjugate.factor import FactorPosterior
from guidebook.inference.em import em
from guidebook.models.decoders.factor import FactorAnalysis
from guidebook.models.decoders.latent import LinearVAE

IRIS = load_iris().data
WINE = (load_wine().data - load_wine().data.mean(0)) / load_wine().data.std(0)
DIGITS = load_digits().data[:, load_digits().data.std(0) > 0.3]
both = pytest.mark.parametrize("kind", [FactorAnalysis, LinearVAE])


def fitted(kind, x, d, alpha=0.0, **settings):
    torch.manual_seed(0)
    model = kind(x.shape[1], d).double()
    return em(model, FactorPosterior(model, alpha=alpha), {"x": x}, progress=False, **settings)


def noise_of(fit):
    return (2 * fit.model.log_scale).exp().detach().numpy()


def assert_monotone(fit):
    falls = np.diff(fit.history)
    assert falls.max(initial=0) <= 1e-9 * max(1, abs(fit.history[-1]))
