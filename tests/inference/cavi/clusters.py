"""Clusters of rows, the mixtures that are fitted to them, and when two q are the same."""

import numpy as np

from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.inference.cavi import cavi
from guidebook.models.mixture import GaussianMixture

COVARIANCES = ("unit", "diagonal", "full")


def clusters(n=60, apart=4.0, D=2, K=3, seed=0):
    rng = np.random.default_rng(seed)
    centers = apart * np.arange(K)[:, None] * np.ones(D)
    return centers[np.arange(n) % K] + rng.normal(size=(n, D))


def mixture(covariance, K=3, D=2, concentration=0.7):
    return GaussianMixture(K, D, covariance, concentration, 4.0, 0.1, D + 1.5, 1.3)


def fitted(model, x, **options):
    return cavi(model, MixtureMeanField(model), {"x": x}, **{"progress": False, **options})
