"""Families q(z) and q(z | x): what Pyro lacks, and Pyro's own autoguides started well."""

from guidebook.guides.amortized.categorical import AmortizedCategorical
from guidebook.guides.amortized.corruption import CorruptedEncoder
from guidebook.guides.amortized.flow import AmortizedFlow, flow_width
from guidebook.guides.amortized.layers import AmortizedLayers
from guidebook.guides.amortized.normal import AmortizedNormal, encoder_width
from guidebook.guides.amortized.point import AmortizedDelta
from guidebook.guides.conjugate.factor import FactorPosterior
from guidebook.guides.conjugate.gaussian_mean import GaussianMeanField
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.guides.conjugate.mixture_mode import MixtureMode
from guidebook.guides.conjugate.sites import ClutterSites, LogisticSites, ProbitSites
from guidebook.guides.energy.blocks import BlockMeanField
from guidebook.guides.energy.spin_gibbs import SpinGibbs
from guidebook.guides.exact.conjugate import ConjugateRegression, LinearGaussianPosterior
from guidebook.guides.exact.enumerated_clutter import EnumeratedClutter
from guidebook.guides.exact.enumerated_mixture import EnumeratedMixture
from guidebook.guides.exact.normal_gamma import NormalGammaPosterior
from guidebook.guides.exact.quadrature import QuadraturePosterior
from guidebook.guides.families import delta, flow, full_rank, low_rank, mean_field

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
