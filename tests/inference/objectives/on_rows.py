"""Programs of eight and three rows, and the value and gradients of an objective on them."""

import pyro
import pyro.distributions as dist
import torch

from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.inference.objectives.rows import traced
from guidebook.models.decoders.latent import VAE
from guidebook.models.decoders.networks import mlp
from guidebook.programs.plate import rows

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


def normals(x, size=None):
    """z_i ~ N(0, 1), x_i ~ N(z_i, 2), by rows."""
    with rows(len(x), size, x.device):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z, 2.0), obs=x)


class Shifted(torch.nn.Module):
    """z_i ~ N(a x_i, b)."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.b = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x, size=None):
        with rows(len(x), size, x.device):
            return pyro.sample("z", dist.Normal(self.a * x, self.b))


Y = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def by_hand(particles, seed=1):
    """A guide, noise e (particles, 3), z = a y + b e, and log p(z), log p(y | z) at given z."""
    guide = Shifted()
    torch.manual_seed(seed)
    z = traced(guide, {"x": Y}, particles).nodes["z"]["value"].detach().reshape(particles, 3)
    noise = (z - guide.a.detach() * Y) / guide.b.detach()
    return guide, noise, dist.Normal(0.0, 1.0).log_prob, lambda z: dist.Normal(z, 2.0).log_prob(Y)
