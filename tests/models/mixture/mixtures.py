"""Gaussian mixtures, draws of their parameters, and positive definite matrices."""

import torch

from guidebook.models.mixture import GaussianMixture

LOC = (0.3, -0.4, 0.1)
SCALE = torch.tensor([[1.5, 0.2, 0.1], [0.2, 0.9, -0.3], [0.1, -0.3, 2.0]], dtype=torch.float64)


def mixture(covariance, concentration=0.7, K=2, df=4.5):
    scale = SCALE if covariance == "full" else SCALE.diagonal()
    return GaussianMixture(K, 3, covariance, concentration, LOC, 0.5, df, scale)


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def definite(*shape):
    root = draw(*shape, shape[-1])
    return root @ root.mT + torch.eye(shape[-1], dtype=torch.float64)
