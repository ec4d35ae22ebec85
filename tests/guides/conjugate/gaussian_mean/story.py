"""One mean and one precision of five numbers: the story, its density by hand and its marginals."""

import math

import numpy as np
import torch
from scipy import stats

from guidebook.guides.exact.normal_gamma import NormalGammaPosterior
from guidebook.models.gaussian_mean import gaussian_mean

PRIOR = {"loc": 0.5, "strength": 0.7, "shape": 2.5, "rate": 1.3}
X = 1.5 + 0.8 * np.random.default_rng(0).normal(size=12)
DATA = {"x": torch.from_numpy(X)}


def story(x=None, size=None):
    return gaussian_mean(x, size, **PRIOR)


def log_joint(mu, tau, x=X):
    """By SciPy; mu and tau may be arrays."""
    mu, tau = np.asarray(mu), np.asarray(tau)
    of_tau = stats.gamma(PRIOR["shape"], scale=1 / PRIOR["rate"]).logpdf(tau)
    of_mu = stats.norm(PRIOR["loc"], 1 / np.sqrt(PRIOR["strength"] * tau)).logpdf(mu)
    of_x = stats.norm(mu[..., None], 1 / np.sqrt(tau[..., None])).logpdf(x).sum(-1)
    return of_tau + of_mu + of_x


def marginals():
    """The exact posterior of mu (Student t) and of tau."""
    q = NormalGammaPosterior(**PRIOR).posterior(DATA["x"])
    spread = math.sqrt(q.rate / (q.strength * q.shape))
    return stats.t(2 * q.shape.item(), loc=q.loc.item(), scale=spread), stats.gamma(
        q.shape.item(), scale=1 / q.rate.item()
    )
