"""Families q(z) and q(z | x): what Pyro lacks, and Pyro's own autoguides started well."""

from guidebook.guides.amortized import AmortizedNormal, encoder_width
from guidebook.guides.conjugate import ConjugateRegression, LinearGaussianPosterior
from guidebook.guides.families import delta, flow, full_rank, low_rank, mean_field

__all__ = [
    "AmortizedNormal",
    "ConjugateRegression",
    "LinearGaussianPosterior",
    "delta",
    "encoder_width",
    "flow",
    "full_rank",
    "low_rank",
    "mean_field",
]
