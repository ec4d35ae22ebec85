"""A small autoencoder on eight rows, and the value and gradients of an objective on it."""

import torch

from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.models.decoders.latent import VAE
from guidebook.models.decoders.networks import mlp

X = torch.rand(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).round()


def pair():
    torch.manual_seed(0)
    return VAE(5, 2, (4,)).double(), AmortizedNormal(mlp((5, 6, 4)), 2).double()


def value(objective, model, guide, seed=1, **data):
    torch.manual_seed(seed)
    return objective.loss(model, guide, **data)


def gradients(objective, model, guide, seed=1, **data):
    torch.manual_seed(seed)
    parameters = dict(model.named_parameters()), dict(guide.named_parameters())
    loss = objective.differentiable_loss(model, guide, **data)
    flat = [*parameters[0].values(), *parameters[1].values()]
    found = torch.autograd.grad(loss, flat, allow_unused=True)
    found = [torch.zeros_like(p) if g is None else g for p, g in zip(flat, found, strict=True)]
    count = len(parameters[0])
    return [torch.cat([g.reshape(-1) for g in part]) for part in (found[:count], found[count:])]
