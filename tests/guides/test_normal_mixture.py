"""The mixture of normals that Pathfinder leaves."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import guidebook as gb
from guidebook.errors import SettingError
from guidebook.guides.autoguides.mixture import NormalMixture

DATA = {"mean": np.arange(4.0), "root": np.eye(4)}


def correlated(mean: torch.Tensor, root: torch.Tensor) -> None:
    """u ~ N(mean, root root')."""
    pyro.sample("u", dist.MultivariateNormal(mean, scale_tril=root))


def test_the_mixture_has_the_density_of_its_parts() -> None:
    guide = NormalMixture(correlated, 2)
    data = {name: torch.as_tensor(value) for name, value in DATA.items()}
    guide(**data)
    centers = torch.stack([torch.zeros(4), torch.ones(4)]).double()
    factors = torch.stack([torch.eye(4), 2 * torch.eye(4)]).double()
    shares = torch.tensor([0.3, 0.7]).double()
    guide.place(shares.log(), centers, factors)
    u = torch.randn(5, 4, dtype=torch.float64)
    parts = [
        torch.distributions.MultivariateNormal(m, scale_tril=L).log_prob(u)
        for m, L in zip(centers, factors, strict=True)
    ]
    expected = (torch.stack(parts) + shares.log()[:, None]).logsumexp(0)
    torch.testing.assert_close(guide.get_posterior().log_prob(u), expected)
    guide.start_at(torch.ones(4).double(), 3 * torch.ones(4).double())
    normal = torch.distributions.Normal(torch.ones(4).double(), 3.0)
    torch.testing.assert_close(guide.get_posterior().log_prob(u), normal.log_prob(u).sum(-1))


def test_it_has_nothing_to_train() -> None:
    with pytest.raises(SettingError, match="has a parameter to fit"):
        gb.svi(correlated, NormalMixture(correlated, 2), DATA, steps=10, progress=False)
