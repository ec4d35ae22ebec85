"""Adapted mixtures against posteriors whose moments and normalisers are known in closed form."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Cauchy, MixtureSameFamily, MultivariateNormal, Normal

from guidebook.diagnostics.numerics import population as room
from guidebook.diagnostics.numerics.population import population, refined
from guidebook.scope import random_state

CHAINS, DRAWS = 64, 4000
LOG_Z = torch.tensor([2.0, -300.0, 700.0])
"""Normalisers: the densities are known up to them."""


def correlated() -> MultivariateNormal:
    """Three normals in three dimensions, of scales 0.01 to 100."""
    root = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.5, 0.0], [-0.5, 0.3, 1.0]]).double()
    scale = torch.tensor([0.01, 1.0, 100.0]).double()
    mean = torch.arange(9.0).double().reshape(3, 3) * scale[:, None]
    return MultivariateNormal(mean, scale_tril=scale[:, None, None] * root)


def branches(share: float) -> MixtureSameFamily:
    """Around -3 and 3 with standard deviations 0.1 and 0.2, with these shares, three times."""
    parts = Normal(torch.tensor([[-3.0, 3.0]] * 3).double(), torch.tensor([0.1, 0.2]).double())
    return MixtureSameFamily(Categorical(torch.tensor([[1 - share, share]] * 3).double()), parts)


def begun(draws: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Ends that are draws, with equal weights, and a fixed component with their moments."""
    log_w = LOG_Z.double().expand(len(draws), -1)
    centred = draws - draws.mean(0)
    covariance = torch.einsum("sni,snj->nij", centred, centred) / len(draws)
    return draws, log_w, (draws.mean(0), torch.linalg.cholesky(covariance))


@pytest.mark.parametrize("kind", ["correlated", "even", "uneven"])
def test_moments_and_normalisers_are_those_of_the_closed_form(kind: str) -> None:
    """Within five standard errors of self-normalised weights; branches of 30 % among the ends."""
    with random_state(0):
        if kind == "correlated":
            q = correlated()
            ends = q.sample((CHAINS,))
            log_density = q.log_prob
        else:
            two = branches(0.5 if kind == "even" else 0.3)
            ends = two.sample((CHAINS,))[..., None]
            log_density = lambda z: two.log_prob(z[..., 0])  # noqa: E731
        begin, log_w, own = begun(ends)
        found = refined(lambda z: log_density(z) + LOG_Z, begin, ends[:2], log_w, own, DRAWS)
    assert found.known.all() and found.z.shape == (DRAWS, *ends.shape[1:])
    w = (found.log_w - LOG_Z).exp()
    error = w.std(0) / math.sqrt(DRAWS)
    assert ((w.mean(0) - 1).abs() < 5 * error).all() and (error < 0.05).all()
    if kind == "correlated":
        mean, sd = q.mean, q.variance.sqrt()
    else:
        mean, sd = two.mean[:, None], two.variance.sqrt()[:, None]
    w = w / w.sum(0)
    z2 = ((found.z - mean) / sd).square()
    off = (w[..., None] * (found.z - mean) / sd).sum(0).abs()
    assert (off < 5 * (w.square()[..., None] * z2).sum(0).sqrt()).all()
    off = ((w[..., None] * z2).sum(0) - 1).abs()
    assert (off < 5 * (w.square()[..., None] * (z2 - 1).square()).sum(0).sqrt()).all()


@pytest.mark.parametrize("seen", [True, False])
def test_a_branch_with_a_thousandth_of_the_mass_is_drawn_from_where_a_top_is(seen: bool) -> None:
    """All ends lie in the other branch: only a top says that there is one."""
    two = branches(1e-3)
    with random_state(1):
        ends = -3 + 0.1 * torch.randn(CHAINS, 3, 1).double()
        tops = torch.full((2, 3, 1), 3.0 if seen else -3.0).double()
        begin, log_w, own = begun(ends)
        z, log_v, mixture = population(
            lambda z: two.log_prob(z[..., 0]), begin, tops, log_w, own, DRAWS
        )
    w = log_v.exp() / DRAWS
    there = (w * (z[..., 0] > 0)).sum(0)
    if seen:
        error = (w.square() * (z[..., 0] > 0)).sum(0).sqrt()
        assert ((there - 1e-3).abs() < 5 * error).all() and (error < 5e-4).all()
    else:
        assert (there == 0).all()
    mean, sd = mixture.moments()  # of the draws as they are, within five errors
    assert ((z.mean(0) - mean).abs() < 5 * sd / math.sqrt(DRAWS)).all()
    square = (z - mean).square()
    assert ((square.mean(0) - sd.square()).abs() < 5 * square.std(0) / math.sqrt(DRAWS)).all()


def test_where_the_weights_are_not_even_the_ends_are_kept() -> None:
    """A product of eight Cauchy distributions under mixtures of Student t with five degrees of freedom."""
    wide = Cauchy(torch.zeros(8).double(), torch.ones(8).double())
    with random_state(0):
        ends = wide.sample((CHAINS, 3))
        begin, log_w, own = begun(ends)
        found = refined(lambda z: wide.log_prob(z).sum(-1), begin, ends[:2], log_w, own, DRAWS)
    assert not found.known.any()
    torch.testing.assert_close(found.z[:CHAINS], ends)
    assert (found.log_w[CHAINS:] == -math.inf).all()
    torch.testing.assert_close((found.log_w - LOG_Z).exp().mean(0), torch.ones(3).double())
    w = found.log_w.softmax(0)
    torch.testing.assert_close(1 / w.square().sum(0), torch.full((3,), float(CHAINS)).double())


def test_what_counts_as_even() -> None:
    """A k-hat of 0.3 and of 0.9 by weights u^-k; equal weights to a few per cent; one that towers."""
    u = (np.arange(DRAWS) + 0.5) / DRAWS
    assert room._even(-0.3 * np.log(u))
    assert not room._even(-0.9 * np.log(u))
    nearly = np.log1p(0.02 * np.random.default_rng(0).standard_cauchy(DRAWS).clip(-2, 2))
    assert room._even(nearly)
    tower = nearly.copy()
    tower[0] = math.log(1000.0)
    assert not room._even(tower)
    assert not room._even(np.full(DRAWS, np.nan))
