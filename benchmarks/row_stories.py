"""Models whose row posteriors are known, and encoders of them that are written down, not trained.

A row x of noise variance s^2 is made from its latent z by a mean function g,

    z ~ p(z),    x | z ~ N(g(z), s^2 I).

Where g is linear and p(z) standard normal the posterior is normal, in closed form; else it is summed on a
grid. A posterior with two branches (explanations of the row) is cut at z_1 = 0. An encoder is a mixture of
one normal a branch, with shares, means and factors that are the posterior's own, changed in one way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

ROWS = 100
GRID = {1: (2001, 8.0), 2: (121, 5.0)}
"""Points along a dimension, and how far to either side, by the number of dimensions."""


class Branches(NamedTuple):
    """Of every row: shares (n, K), means (n, K, d), lower triangular factors (n, K, d, d)."""

    shares: Tensor
    means: Tensor
    factors: Tensor


@dataclass(frozen=True)
class Story:
    """p(z), g, s; `branches` of a row's posterior. As a Pyro model it takes the rows x (n, P)."""

    name: str
    size: int
    mean: Callable[[Tensor], Tensor]
    noise: float
    branches: int = 1
    apart: float = (
        0.0  # between the centres of the prior's two normals of variance 0.25; 0: N(0, I)
    )
    weight: Tensor | None = None  # (P, d) where g(z) = W z
    apart_rows: bool = False  # rows of |z| in (1.1, 2.3) only, whose branches are apart
    trained: bool = False  # whether an encoder is trained besides

    @property
    def latent_dim(self) -> int:
        return self.size

    def observation(self, z: Tensor) -> dist.Distribution:
        """p(x | z) of z (..., d): batch shape (...), event shape (P,)."""
        return dist.Normal(self.mean(z), self.noise).to_event(1)

    def prior(self) -> dist.Distribution:
        one = torch.ones(self.size, dtype=torch.float64)
        if not self.apart:
            return dist.Normal(0 * one, one).to_event(1)
        parts = dist.Normal(torch.stack([one, -one]) * self.apart / 2, 0.5).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(probs=torch.ones(2).double()), parts)

    def __call__(self, x: Tensor, size: int | None = None) -> None:
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", self.prior().expand((len(x),)))
            pyro.sample("x", self.observation(z), obs=x)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) of x (..., P) and z (..., d)."""
        return self.prior().log_prob(z) + self.observation(z).log_prob(x)

    def simulated(self, seed: int) -> Tensor:
        """Rows (n, P)."""
        rng = np.random.default_rng(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            z = self.prior().sample(torch.Size((ROWS,)))
        if self.apart_rows:
            z = torch.as_tensor(rng.choice([-1, 1], (ROWS, 1)) * rng.uniform(1.1, 2.3, (ROWS, 1)))
        mean = self.mean(z)
        return mean + self.noise * torch.as_tensor(rng.standard_normal(mean.shape))

    def posterior(self, x: Tensor) -> tuple[Branches, Tensor]:
        """The branches of the rows x (n, P), and log p(x) (n,)."""
        return self._closed(x) if self.weight is not None else self._summed(x)

    def _closed(self, x: Tensor) -> tuple[Branches, Tensor]:
        """Bishop 2006, "Pattern recognition and machine learning", section 12.2."""
        W = self.weight
        assert W is not None
        one = torch.eye(self.size, dtype=x.dtype)
        covariance = torch.linalg.inv(one + W.T @ W / self.noise**2)
        mean = x @ W @ covariance / self.noise**2
        factor = torch.linalg.cholesky(covariance).expand(len(x), 1, -1, -1)
        whole = W @ W.T + self.noise**2 * torch.eye(len(W), dtype=x.dtype)
        evidence = dist.MultivariateNormal(x.new_zeros(len(W)), whole).log_prob(x)
        return Branches(torch.ones_like(mean[:, :1]), mean[:, None], factor), evidence

    def _summed(self, x: Tensor) -> tuple[Branches, Tensor]:
        points, reach = GRID[self.size]
        line = torch.linspace(-reach, reach, points, dtype=x.dtype)
        grid = torch.cartesian_prod(*[line] * self.size).reshape(-1, self.size)
        cell = self.size * math.log(line[1] - line[0])
        # |x - g|^2 by its three parts: no array of rows x points x P
        center = self.mean(grid)
        square = (
            x.square().sum(1, keepdim=True) - 2 * x @ center.T + center.square().sum(1)
        ) / self.noise**2
        constant = x.shape[1] * (0.5 * math.log(2 * math.pi) + math.log(self.noise))
        log_p = self.prior().log_prob(grid) - 0.5 * square - constant + cell
        evidence = log_p.logsumexp(1)
        p = (log_p - evidence[:, None]).exp()
        inside = [torch.ones(len(grid), dtype=torch.bool)]
        if self.branches == 2:
            inside = [grid[:, 0] >= 0, grid[:, 0] < 0]
        shares, means, factors = [], [], []
        for chosen in inside:
            w, at = p[:, chosen], grid[chosen]
            share = w.sum(1).clamp(min=1e-300)
            mean = w @ at / share[:, None]
            pairs = (at[:, :, None] * at[:, None, :]).reshape(len(at), -1)
            second = (w @ pairs / share[:, None]).reshape(-1, self.size, self.size)
            covariance = second - mean[:, :, None] * mean[:, None, :]
            floor = 1e-8 * torch.eye(self.size, dtype=x.dtype)
            shares.append(share)
            means.append(mean)
            factors.append(torch.linalg.cholesky(covariance + floor))
        return Branches(*(torch.stack(parts, 1) for parts in (shares, means, factors))), evidence


# encoders ------------------------------------------------------------------------------------------

Change = Callable[[Story, Tensor, Branches], Branches]


class Encoder(nn.Module):
    """q(z | x): the branches of the posterior, changed. The offset is a parameter, and nil."""

    site, observed = "z", "x"

    def __init__(self, story: Story, change: Change) -> None:
        super().__init__()
        self.story, self.change = story, change
        self.offset = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def posterior(self, x: Tensor) -> dist.Distribution:
        shares, means, factors = self.change(self.story, x, self.story.posterior(x)[0])
        parts = dist.MultivariateNormal(means + self.offset, scale_tril=factors)
        if shares.shape[1] == 1:
            return dist.MultivariateNormal(means[:, 0] + self.offset, scale_tril=factors[:, 0])
        return dist.MixtureSameFamily(dist.Categorical(probs=shares), parts)

    def forward(self, x: Tensor, size: int | None = None) -> None:
        with pyro.plate("row", len(x)):
            pyro.sample("z", self.posterior(x))


def _scaled(width: float) -> Change:
    return lambda story, x, b: b._replace(factors=width * b.factors)


def _moved(shift: float, width: float = 1.0) -> Change:
    """Means by `shift` of the branch's standard deviations, these by a factor."""

    def change(story: Story, x: Tensor, b: Branches) -> Branches:
        sd = b.factors.square().sum(-1).sqrt()
        return Branches(b.shares, b.means + shift * sd, width * b.factors)

    return change


def _lazy(story: Story, x: Tensor, b: Branches) -> Branches:
    """Half of the mean of rows whose mean lies more than a prior standard deviation from nil."""
    far = (b.means.norm(dim=-1, keepdim=True) > math.sqrt(story.size)).to(x.dtype)
    return b._replace(means=(1 - 0.5 * far) * b.means)


def _other_noise(story: Story, x: Tensor, b: Branches) -> Branches:
    """The posterior under 1.5 times the noise: means pulled to the prior, standard deviations wide."""
    return replace(story, noise=1.5 * story.noise).posterior(x)[0]


def _collapsed(story: Story, x: Tensor, b: Branches) -> Branches:
    """A normal with the moments of the prior, for every row."""
    sd = math.sqrt(0.25 + story.apart**2 / 4) if story.apart else 1.0
    factor = sd * torch.eye(story.size, dtype=x.dtype).expand(len(x), 1, -1, -1)
    return Branches(torch.ones_like(b.shares[:, :1]), 0 * b.means[:, :1], factor)


def _one_branch(story: Story, x: Tensor, b: Branches) -> Branches:
    """The branch above zero."""
    return Branches(torch.ones_like(b.shares[:, :1]), b.means[:, :1], b.factors[:, :1])


def _heavier_branch(story: Story, x: Tensor, b: Branches) -> Branches:
    """The branch with the larger share: what training on the ELBO ends in."""
    k, row = b.shares.argmax(1), torch.arange(len(x))
    return Branches(
        torch.ones_like(b.shares[:, :1]), b.means[row, k][:, None], b.factors[row, k][:, None]
    )


def _wrong_shares(story: Story, x: Tensor, b: Branches) -> Branches:
    """Even shares to 85 : 15, others to the square of their odds."""
    odds = (b.shares[:, :1] / b.shares[:, 1:]).clamp(1e-6, 1e6)
    odds = torch.where((odds - 1).abs() < 1e-6, 85 / 15, odds.square())
    share = odds / (1 + odds)
    return b._replace(shares=torch.cat([share, 1 - share], 1))


def _whole_moments(story: Story, x: Tensor, b: Branches) -> Branches:
    """One normal over both branches, with the posterior's moments."""
    mean = (b.shares[..., None] * b.means).sum(1, keepdim=True)
    away = b.means - mean
    own = b.factors @ b.factors.mT + away[..., :, None] * away[..., None, :]
    covariance = (b.shares[..., None, None] * own).sum(1, keepdim=True)
    return Branches(torch.ones_like(b.shares[:, :1]), mean, torch.linalg.cholesky(covariance))


def encoders(story: Story) -> Mapping[str, Change]:
    """By name; those that a story with one branch has, and the others."""
    found: dict[str, Change] = {
        "own moments": lambda story, x, b: b,
        "near": _moved(0.05, 0.95),
        "narrow": _scaled(0.5),
        "wide": _scaled(1.5),
        "shifted": _moved(0.3),
        "lazy": _lazy,
        "other noise": _other_noise,
        "collapsed": _collapsed,
    }
    if story.branches == 2:
        found |= {
            "one branch": _one_branch,
            "heavier branch": _heavier_branch,
            "wrong shares": _wrong_shares,
            "one normal over both": _whole_moments,
        }
    return found


# stories -------------------------------------------------------------------------------------------


def stories() -> Iterator[Story]:
    for name, apart in ((", few rows between", 6.0), ("", 3.0)):
        yield Story(
            f"prior of two normals{name}", 1, lambda z: torch.cat([z, 0 * z], -1), 1.2, 2, apart
        )
    yield Story(
        "some rows of two branches (z^2, 0.6 z)", 1, lambda z: torch.cat([z**2, 0.6 * z], -1), 0.3,
        branches=2,
    )  # fmt: skip
    yield Story(
        "unequal branches (z^2, 0.15 z)", 1, lambda z: torch.cat([z**2, 0.15 * z], -1), 0.3,
        branches=2,
    )  # fmt: skip
    yield Story(
        "square (z^2, z^2 / 2 + 1)", 1, lambda z: torch.cat([z**2, 0.5 * z**2 + 1], -1), 0.3,
        branches=2, apart_rows=True, trained=True,
    )  # fmt: skip
    yield Story(
        "curve (z, 0.3 z^2)", 1, lambda z: torch.cat([z, 0.3 * z**2], -1), 0.3, trained=True
    )
    yield Story("bent plane, d = 2", 2, _bent, 0.3)
    for size, width in ((1, 6), (2, 6), (8, 16)):
        generator = torch.Generator().manual_seed(size)
        W = torch.randn(width, size, generator=generator, dtype=torch.float64)
        yield Story(f"linear, d = {size}", size, Linear(W), 0.7, weight=W)
    yield Story("absolute value |z|", 1, torch.abs, 0.3, branches=2)
    yield Story("faint second branch (|z|, 0.4 sign z)", 1, _signed, 0.3, branches=2, apart=6.0)


class Linear:
    """g(z) = W z."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, z: Tensor) -> Tensor:
        return z @ self.weight.T


def _bent(z: Tensor) -> Tensor:
    first, second = z[..., :1], z[..., 1:]
    return torch.cat([first + 0.4 * second**2, second, 0.5 * first], -1)


def _signed(z: Tensor) -> Tensor:
    return torch.cat([z.abs(), 0.4 * torch.tanh(8 * z)], -1)
