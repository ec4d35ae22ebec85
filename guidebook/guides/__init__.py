"""Families q(z) and q(z | x): what Pyro lacks, and Pyro's own autoguides started well."""

from guidebook.guides.amortized import AmortizedNormal, encoder_width
from guidebook.guides.amortized_categorical import AmortizedCategorical
from guidebook.guides.amortized_flow import AmortizedFlow, flow_width
from guidebook.guides.amortized_layers import AmortizedLayers
from guidebook.guides.code import AmortizedDelta
from guidebook.guides.conjugate import ConjugateRegression, LinearGaussianPosterior
from guidebook.guides.corruption import CorruptedEncoder
from guidebook.guides.energy import BlockMeanField
from guidebook.guides.enumerated_clutter import EnumeratedClutter
from guidebook.guides.enumerated_mixture import EnumeratedMixture
from guidebook.guides.factor import FactorPosterior
from guidebook.guides.families import delta, flow, full_rank, low_rank, mean_field
from guidebook.guides.gaussian_mean import GaussianMeanField, NormalGammaPosterior
from guidebook.guides.mixture import MixtureMeanField
from guidebook.guides.mixture_mode import MixtureMode
from guidebook.guides.quadrature import QuadraturePosterior
from guidebook.guides.sites import ClutterSites, LogisticSites, ProbitSites
from guidebook.guides.spin_gibbs import SpinGibbs

__all__ = [
    "AmortizedCategorical",
    "AmortizedDelta",
    "AmortizedFlow",
    "AmortizedLayers",
    "AmortizedNormal",
    "BlockMeanField",
    "ClutterSites",
    "ConjugateRegression",
    "CorruptedEncoder",
    "EnumeratedClutter",
    "EnumeratedMixture",
    "FactorPosterior",
    "GaussianMeanField",
    "LinearGaussianPosterior",
    "LogisticSites",
    "MixtureMeanField",
    "MixtureMode",
    "NormalGammaPosterior",
    "ProbitSites",
    "QuadraturePosterior",
    "SpinGibbs",
    "delta",
    "encoder_width",
    "flow",
    "flow_width",
    "full_rank",
    "low_rank",
    "mean_field",
]
