"""Generative stories p(z) p(x | z): Pyro models, one family a file."""

from guidebook.models.hierarchical import eight_schools, eight_schools_centered
from guidebook.models.latent import VAE, LinearVAE
from guidebook.models.networks import mlp
from guidebook.models.regression import linear_regression, logistic_regression

__all__ = [
    "VAE",
    "LinearVAE",
    "eight_schools",
    "eight_schools_centered",
    "linear_regression",
    "logistic_regression",
    "mlp",
]
