r"""Gaussian guides made of sites, one for each row: what expectation propagation fits.

    q(theta) = N(theta; prior) prod_i exp(nu_i' s_i - tau_i |s_i|^2 / 2) / const

Site i stands for the likelihood t_i of row i, and sees theta through s_i: one projection a_i' theta
(regression), or the whole vector with a single precision (the clutter problem). `moments` of a site
are those of t_i(s) N(s; m, v I), the tilted distribution.

Sources: Minka 2001, "A family of algorithms for approximate Bayesian inference"; Rasmussen and
Williams 2006, "Gaussian processes for machine learning", section 3.6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from guidebook.errors import DataError, SettingError
from guidebook.guides.conjugate.moments import (
    Tilted,
    clutter_moments,
    logistic_moments,
    probit_moments,
)


class Sites(NamedTuple):
    """What expectation propagation needs of a model with n sites on theta (D,).

    `number` n; `precision` (D, D) and `shift` (D,), precision times mean, of the normal prior.
    `directions` (n, D) are the a_i, k = 1; None where every site sees all of theta, k = D: the prior
    precision must then be a multiple of I. `tilted(index, m, v)` gives the moments for the sites of
    the index (b,), m (b, k) and v (b,).
    """

    number: int
    precision: Tensor
    shift: Tensor
    directions: Tensor | None
    tilted: Callable[[Tensor, Tensor, Tensor], Tilted]


class SiteGuide(nn.Module):
    """A normal over theta (D,) that holds its sites; before it is fitted it is the prior.

    Buffers, made when data are first seen: `site_precision` tau (n,), `site_shift` nu (n, k), `loc`
    (D,) and `scale_tril` (D, D). There is no parameter to optimise.
    """

    family = "sites"
    site_precision: Tensor | None
    site_shift: Tensor | None
    loc: Tensor | None
    scale_tril: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        for name in ("site_precision", "site_shift", "loc", "scale_tril"):
            self.register_buffer(name, None)

    def hold(
        self, site_precision: Tensor, site_shift: Tensor, loc: Tensor, covariance: Tensor
    ) -> None:
        """Takes the sites (n,) and (n, k), and the q(theta) = N(loc, covariance) that they make."""
        self.site_precision, self.site_shift = site_precision, site_shift
        self.loc, self.scale_tril = loc, torch.linalg.cholesky(covariance)

    def posterior(self) -> dist.TorchDistribution:
        """q(theta), event shape (D,); DataError before the guide has seen data."""
        if self.loc is None:
            raise DataError(
                "The dimension of theta is unknown before the guide has read data: call guide(**data), "
                "or fit it by gb.ep."
            )
        return dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril)

    def _start(self, sites: Sites) -> None:
        """q is the prior: sites of no effect."""
        if self.loc is not None:
            return
        n, k = sites.number, len(sites.shift) if sites.directions is None else 1
        covariance = torch.linalg.inv(sites.precision)
        zero = sites.shift.new_zeros
        self.hold(zero(n), zero(n, k), covariance @ sites.shift, covariance)


class _RegressionSites(SiteGuide):
    """q(beta_0, beta) for zeros and ones given x_i' beta, with prior N(0, scale^2 I)."""

    moments: Callable[[Tensor, Tensor, Tensor], Tilted]
    """The tilted moments of the rows' factors, each (n,), of (y, mean, variance)."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        if not 0 < scale < math.inf:
            raise SettingError(f"scale={scale} must be positive and finite.")
        self.scale = scale

    def sites(self, X: Tensor, y: Tensor | None = None, size: int | None = None) -> Sites:
        """The sites of X (n, P) and y (n,), zeros and ones; DataError for anything else."""
        _check_rows(X, y, size)
        assert y is not None
        if not bool(((y == 0) | (y == 1)).all()):
            raise DataError("y holds values other than 0 and 1: code the two classes as 0 and 1.")

        def tilted(index: Tensor, mean: Tensor, variance: Tensor) -> Tilted:
            found = self.moments(y[index], mean[:, 0], variance)
            return Tilted(found.log_mass, found.mean.unsqueeze(-1), found.variance)

        return self._prior(X)._replace(tilted=tilted)

    def _prior(self, X: Tensor) -> Sites:
        A = torch.cat([X.new_ones(len(X), 1), X], -1)
        precision = torch.eye(A.shape[1], dtype=X.dtype, device=X.device) / self.scale**2
        return Sites(len(X), precision, X.new_zeros(A.shape[1]), A, _untilted)

    def position(self, values: Mapping[str, Tensor]) -> Tensor:
        """theta = (beta_0, beta) (S, P + 1) of draws of the sites."""
        return torch.cat([values["intercept"].unsqueeze(-1), values["beta"]], -1)

    def forward(
        self, X: Tensor, y: Tensor | None = None, size: int | None = None
    ) -> dict[str, Tensor]:
        """Sample `intercept` and `beta`, jointly normal; takes the model's keywords."""
        self._start(self._prior(X))
        assert self.loc is not None and self.scale_tril is not None
        corner = self.scale_tril[0, 0]
        intercept = pyro.sample("intercept", dist.Normal(self.loc[0], corner))
        # L is lower triangular: its first column carries the intercept's share of beta.
        given = ((intercept - self.loc[0]) / corner).unsqueeze(-1) * self.scale_tril[1:, 0]
        conditional = dist.MultivariateNormal(
            self.loc[1:] + given, scale_tril=self.scale_tril[1:, 1:]
        )
        return {"intercept": intercept, "beta": pyro.sample("beta", conditional)}


class ProbitSites(_RegressionSites):
    """The guide of `guidebook.models.probit.probit_regression` for `ep`; moments in closed form.

    `scale` is the prior's standard deviation, as the model's. Raises SettingError unless positive.
    """

    moments = staticmethod(probit_moments)

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__(scale)


class LogisticSites(_RegressionSites):
    """The guide of `guidebook.models.regression.logistic_regression` for `ep`, by quadrature.

    `scale` is the prior's standard deviation, as the model's. Raises SettingError unless positive.
    """

    moments = staticmethod(logistic_moments)

    def __init__(self, *, scale: float = 2.5) -> None:
        super().__init__(scale)


class ClutterSites(SiteGuide):
    """The guide of `guidebook.models.clutter.clutter` for `ep`: theta ~ N(m, v I).

    The arguments are the model's, with its defaults. Raises SettingError for a share outside (0, 1)
    or a variance that is not positive.

    Source: Minka (2001), section 3.2.1; Bishop (2006), equations 10.213 to 10.224.
    """

    def __init__(
        self, *, share: float = 0.5, clutter_variance: float = 10.0, prior_variance: float = 100.0
    ) -> None:
        super().__init__()
        if not (
            0 < share < 1 and 0 < clutter_variance < math.inf and 0 < prior_variance < math.inf
        ):
            raise SettingError(
                f"share={share} must lie in (0, 1), clutter_variance={clutter_variance} and "
                f"prior_variance={prior_variance} must be positive and finite."
            )
        self.share = share
        self.clutter_variance = clutter_variance
        self.prior_variance = prior_variance

    def sites(self, x: Tensor, size: int | None = None) -> Sites:
        """The sites of x (n, D); DataError for a mini-batch or another shape."""
        _check_rows(x, x[:, 0] if x.dim() == 2 else None, size)

        def tilted(index: Tensor, mean: Tensor, variance: Tensor) -> Tilted:
            return clutter_moments(x[index], mean, variance, self.share, self.clutter_variance)

        return self._prior(x)._replace(tilted=tilted)

    def _prior(self, x: Tensor) -> Sites:
        D = x.shape[1]
        precision = torch.eye(D, dtype=x.dtype, device=x.device) / self.prior_variance
        return Sites(len(x), precision, x.new_zeros(D), None, _untilted)

    def position(self, values: Mapping[str, Tensor]) -> Tensor:
        """theta (S, D) of draws of the site."""
        return values["theta"]

    def forward(self, x: Tensor, size: int | None = None) -> Tensor:
        """Sample `theta`; takes the model's keywords."""
        self._start(self._prior(x))
        return pyro.sample("theta", self.posterior())


def _untilted(index: Tensor, mean: Tensor, variance: Tensor) -> Tilted:
    """The moments where there is no likelihood: those of the cavity."""
    return Tilted(torch.zeros_like(variance), mean, variance)


def _check_rows(X: Tensor, y: Tensor | None, size: int | None) -> None:
    if y is None or X.dim() != 2 or y.shape != X.shape[:1]:
        given = "no observed rows" if y is None else f"observed {tuple(y.shape)}"
        raise DataError(
            f"The guide needs X (n, P) and y (n,), one row per observation, and was given "
            f"X {tuple(X.shape)} and {given}: pass all observed rows."
        )
    if size is not None and size != len(X):
        raise DataError(
            f"Each factor of the guide approximates the likelihood of one row: all {size} rows are "
            f"needed and {len(X)} were given. Call ep without mini-batches."
        )
