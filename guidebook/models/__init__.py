"""Generative stories p(z) p(x | z): Pyro models, one family a file."""

from guidebook.models.clutter import clutter
from guidebook.models.decoders.discrete_latent import DiscreteVAE
from guidebook.models.decoders.factor import FactorAnalysis
from guidebook.models.decoders.hierarchical_latent import HierarchicalVAE
from guidebook.models.decoders.latent import VAE, LinearVAE
from guidebook.models.decoders.likelihoods import (
    Bernoulli,
    Gaussian,
    GaussianPerDatum,
    LowRankGaussian,
)
from guidebook.models.decoders.networks import ConvDecoder, ConvEncoder, mlp
from guidebook.models.energy.boltzmann import BoltzmannMachine
from guidebook.models.energy.energy import Boltzmann, ising_grid
from guidebook.models.energy.hopfield import associative_memory
from guidebook.models.gaussian_mean import gaussian_mean
from guidebook.models.hierarchical import eight_schools, eight_schools_centered
from guidebook.models.mixture import GaussianMixture
from guidebook.models.probit import probit_regression
from guidebook.models.regression import linear_regression, logistic_regression

__all__ = [
    "VAE",
    "Bernoulli",
    "Boltzmann",
    "BoltzmannMachine",
    "ConvDecoder",
    "ConvEncoder",
    "DiscreteVAE",
    "FactorAnalysis",
    "Gaussian",
    "GaussianMixture",
    "GaussianPerDatum",
    "HierarchicalVAE",
    "LinearVAE",
    "LowRankGaussian",
    "associative_memory",
    "clutter",
    "eight_schools",
    "eight_schools_centered",
    "gaussian_mean",
    "ising_grid",
    "linear_regression",
    "logistic_regression",
    "mlp",
    "probit_regression",
]
