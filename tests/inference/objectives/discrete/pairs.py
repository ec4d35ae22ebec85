"""Eight rows of five bits, latents of a few values, and an encoder of their logits."""

import pyro
import pyro.distributions as dist
import torch

from guidebook.guides.amortized.categorical import AmortizedCategorical
from guidebook.models.decoders.discrete_latent import DiscreteVAE
from guidebook.models.decoders.networks import mlp

X = torch.rand(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).round()


def pair(latents=2, categories=3):
    torch.manual_seed(0)
    model = DiscreteVAE(5, latents, categories, (6,)).double()
    encoder = mlp((5, 6, latents * categories))
    return model, AmortizedCategorical(encoder, latents, categories).double()


def exact_elbo(model, guide):
    states = model.states()
    with torch.no_grad():
        log_q = guide.posterior(X).base_dist.logits  # (n, L, K)
        log_q = torch.einsum("nlk,slk->ns", log_q, states)
        return (log_q.exp() * (model.log_joint(X) - log_q)).sum()


LOGITS = torch.tensor([[0.3, -1.0, 1.2], [0.0, 0.5, -0.5]], dtype=torch.float64)


def one_hot(logits=LOGITS):
    with pyro.plate("row", len(logits)):
        return pyro.sample("z", dist.OneHotCategorical(logits=logits))
