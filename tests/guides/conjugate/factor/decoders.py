"""Linear decoders, and their parameters by name."""

import pytest
import torch

from guidebook.models.decoders.factor import FactorAnalysis
from guidebook.models.decoders.latent import LinearVAE

both = pytest.mark.parametrize("kind", [FactorAnalysis, LinearVAE])


def decoder(kind, P=6, d=2):
    model = kind(P, d).double()
    with torch.no_grad():
        model.bias.normal_()
        model.log_scale.normal_().mul_(0.3).sub_(0.5)
    return model
