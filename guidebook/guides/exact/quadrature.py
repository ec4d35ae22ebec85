"""Posteriors of one or two latent dimensions by quadrature: nothing is fitted, nothing is assumed."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Protocol

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from guidebook.errors import GuideError, SettingError
from guidebook.programs.plate import rows

POINTS = {1: 2000, 2: 200}
"""Cells along a dimension, by the number of latent dimensions."""
REACH = 8.0
"""Half the grid's side in standard deviations of the prior: beyond lies 1e-15 of its mass."""
MOVES = 6
NUMBERS_AT_ONCE = 4_000_000


class DecoderModel(Protocol):
    """What `QuadraturePosterior` reads of a model: p(z) and p(x | z), for one local latent vector.

    The prior is N(0, prior_scale^2 I); a model without a `prior_scale` has 1.
    """

    latent_dim: int

    def prior(self) -> Any:
        """p(z), batch shape (), event shape (d,)."""
        ...

    def observation(self, z: Tensor) -> Any:
        """p(x | z) for z (..., d): batch shape (...), event shape (P,)."""
        ...


class QuadraturePosterior(nn.Module):
    r"""The posterior of a decoder model with one or two latent dimensions, as a guide.

    On a grid of cells of width h in every dimension, with centres z_g, over 8 standard deviations of
    the prior N(0, sigma_0^2 I) to either side,

    .. math:: p(x_i) \approx h^d \sum_g p(x_i \mid z_g)\, p(z_g), \qquad
        p(z \mid x_i) = \frac{p(x_i \mid z)\, p(z)}{p(x_i)}

    The sum converges faster than any power of h for smooth integrands that vanish at the ends: for
    a posterior like a normal of standard deviation s its relative error is 2 exp(-2 pi^2 s^2 / h^2),
    1e-8 already at h = s. `log_evidence_error` tells it for the rows at hand.

    The density is exact (of any z, not of its cell), and samples are drawn from the cells by their
    weights, uniformly within, and then moved by six independence Metropolis-Hastings steps to the
    posterior itself: with M the largest ratio of density to cell average, the total variation is
    at most (1 - 1 / M)^6.

    It reads the model whenever it is called and owns nothing, so it follows the model while that
    is trained; use it with `guidebook.exact`. Copy the two together (`copy.deepcopy((model, guide))`).

    Arguments: `model`, with `latent_dim`, `prior()` and `observation(z)`: `guidebook.models.VAE` with
    any likelihood, `LinearVAE`; `points`, cells along a dimension, even, 2000 for d = 1 and 200
    for d = 2; `site`, `observed`, `plate`, the model's names. Memory: n points^d numbers for n rows.

    Raises GuideError for a model without these, of more dimensions or with a flat prior; SettingError
    for `points` that are odd or below 10; when called, GuideError without data.

    Source: Davis & Rabinowitz (1984), Methods of numerical integration, 2.9 and 3.4 (the rule and
    its error); Tierney (1994), Markov chains for exploring posterior distributions (independence
    chains).
    """

    def __init__(
        self,
        model: Any,
        *,
        points: int | None = None,
        site: str = "z",
        observed: str = "x",
        plate: str = "row",
    ) -> None:
        super().__init__()
        missing = [n for n in ("latent_dim", "prior", "observation") if not hasattr(model, n)]
        if missing:
            raise GuideError(
                f"The model has no {' and no '.join(missing)}: quadrature is for decoder models such "
                "as guidebook.models.VAE."
            )
        if model.latent_dim not in POINTS:
            raise GuideError(
                f"The model has {model.latent_dim} latent dimensions, and quadrature is for 1 or "
                "2: for more, use guidebook.diagnostics.amortized.gap.importance_bound."
            )
        if getattr(model, "prior_scale", 1.0) is None:
            raise GuideError(
                "The model has a flat prior, so it has no evidence: give it a prior_scale."
            )
        points = POINTS[model.latent_dim] if points is None else points
        if points < 10 or points % 2:
            raise SettingError(f"points={points} must be even and at least 10.")
        # In a tuple, so that torch does not register the model as a part of the guide.
        self._model: tuple[DecoderModel] = (model,)
        self.points = points
        self.site = site
        self.observed = observed
        self.plate = plate

    def posterior(self, x: Tensor) -> GridPosterior:
        """p(z | x) for x (B, P): batch shape (B,), event shape (d,)."""
        nodes, h = self.grid()
        return GridPosterior(self._model[0], x, nodes, h, self._table(x, nodes))

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x_i) of each row of x (B, P), (B,), differentiable in the model's parameters."""
        nodes, h = self.grid()
        return self._table(x, nodes).logsumexp(1) + self._model[0].latent_dim * math.log(h)

    def log_evidence_error(self, x: Tensor) -> Tensor:
        """|log p(x_i) on this grid - on one with every other point|, (B,): bounds its error.

        Where it is not small against 1, the posterior is narrower than the cells: raise `points`.
        """
        d = self._model[0].latent_dim
        nodes, h = self.grid()
        table = self._table(x, nodes)
        fine = table.logsumexp(1) + d * math.log(h)
        half = table.reshape(len(x), *[self.points] * d)[(slice(None), *[slice(None, None, 2)] * d)]
        coarse = half.reshape(len(x), -1).logsumexp(1) + d * math.log(2 * h)
        return (fine - coarse).abs()

    def grid(self) -> tuple[Tensor, float]:
        """The centres of the cells (points^d, d), the last dimension fastest, and their width h."""
        model = self._model[0]
        reach = REACH * getattr(model, "prior_scale", 1.0)
        h = 2 * reach / self.points
        like = model.prior().mean
        line = torch.arange(self.points, dtype=like.dtype, device=like.device)
        line = (line + 0.5) * h - reach
        return torch.cartesian_prod(*[line] * model.latent_dim).reshape(-1, model.latent_dim), h

    def forward(self, x: Tensor | None = None, size: int | None = None, **other: Any) -> Tensor:
        """Sample the latents of x (B, P); `size` as in the model. Returns z (B, d)."""
        data = other.get(self.observed) if x is None else x
        if not isinstance(data, Tensor):
            raise GuideError(
                f"The posterior reads the data {self.observed!r}: pass {self.observed}=tensor."
            )
        with rows(len(data), size, data.device, self.plate):
            return pyro.sample(self.site, self.posterior(data))

    def _table(self, x: Tensor, nodes: Tensor) -> Tensor:
        """log p(x_i, z_g): (B, G)."""
        model = self._model[0]
        x = x.reshape(len(x), -1)
        log_prior = model.prior().log_prob(nodes)
        block = max(1, NUMBERS_AT_ONCE // x.numel())
        pieces = [model.observation(z.unsqueeze(1)).log_prob(x) for z in nodes.split(block)]
        return (torch.cat(pieces) + log_prior.unsqueeze(1)).mT


class GridPosterior(dist.TorchDistribution):
    """p(z | x_i) of every row; made by `QuadraturePosterior.posterior`.

    `nodes` (G, d) and `weights` (B, G), the posterior masses of the cells, are there for pictures.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, model: DecoderModel, x: Tensor, nodes: Tensor, h: float, table: Tensor):
        self.model, self.x, self.nodes, self.h, self.table = model, x, nodes, h, table
        self.log_evidence = table.logsumexp(1) + nodes.shape[1] * math.log(h)
        super().__init__(torch.Size([len(x)]), nodes.shape[1:], validate_args=False)

    @property
    def support(self) -> Any:
        """Every real vector."""
        return constraints.real_vector

    @property
    def weights(self) -> Tensor:
        """The posterior masses of the cells, (B, G)."""
        return self.table.softmax(1)

    @property
    def mean(self) -> Tensor:
        """E[z | x_i], (B, d)."""
        return self.weights @ self.nodes

    @property
    def variance(self) -> Tensor:
        """Var[z | x_i], (B, d)."""
        mean = self.mean
        return self.weights @ self.nodes.square() - mean.square()

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z | x_i) of z (..., B, d): (..., B)."""
        return self._log_joint(value) - self.log_evidence

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """z (*sample_shape, B, d)."""
        with torch.no_grad():
            shape = torch.Size(sample_shape)
            cumulative = self.table.double().softmax(1).cumsum(1)
            z, ratio = self._proposal(shape, cumulative)
            for _ in range(MOVES):
                other, other_ratio = self._proposal(shape, cumulative)
                moved = torch.rand_like(ratio).log() < other_ratio - ratio
                z = torch.where(moved.unsqueeze(-1), other, z)
                ratio = torch.where(moved, other_ratio, ratio)
            return z

    def _proposal(self, shape: torch.Size, cumulative: Tensor) -> tuple[Tensor, Tensor]:
        """z from the cells, (*shape, B, d), and log of posterior over proposal, (*shape, B)."""
        count, B = math.prod(shape), len(self.x)
        like = self.table
        u = torch.rand(B, count, dtype=torch.float64, device=like.device)
        cell = torch.searchsorted(cumulative, u * cumulative[:, -1:])
        cell = cell.clamp_max(len(self.nodes) - 1)
        within = torch.rand(*shape, B, self.nodes.shape[1], dtype=like.dtype, device=like.device)
        at = self.nodes[cell.mT].reshape(within.shape)
        z = at + self.h * (within - 0.5)
        level = self.table.gather(1, cell).mT.reshape(within.shape[:-1])
        return z, self._log_joint(z) - level

    def _log_joint(self, z: Tensor) -> Tensor:
        x = self.x.reshape(len(self.x), -1)
        total: Tensor = self.model.prior().log_prob(z) + self.model.observation(z).log_prob(x)
        return total
