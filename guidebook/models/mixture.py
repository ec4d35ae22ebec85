"""Gaussian mixtures with conjugate priors, with unit, diagonal or full covariances."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from guidebook.errors import DataError, SettingError
from guidebook.programs.plate import rows

Covariance = Literal["unit", "diagonal", "full"]


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    r"""A mixture of K Gaussians in D dimensions with conjugate priors; a Pyro model, `model(x)`.

    .. math::
        \pi &\sim \mathrm{Dirichlet}(a, \dots, a) \quad\text{or}\quad \pi_k = 1/K \\
        \Lambda_k &\sim \mathrm{Wishart}(\nu, V), \qquad
        \mu_k \mid \Lambda_k \sim N(m, (\kappa \Lambda_k)^{-1}) \\
        z_i &\sim \mathrm{Categorical}(\pi), \qquad x_i \mid z_i \sim N(\mu_{z_i}, \Lambda_{z_i}^{-1})

    - `covariance="full"` as written. `"diagonal"`: each precision on the diagonal of Lambda is
      Gamma(nu / 2, b / 2), b of the diagonal of V^{-1}. `"unit"`: Lambda = I and mu_k ~ N(m, I /
      kappa), so kappa = 1 / tau^2.
    - `concentration` a, or None for weights of 1/K. With `covariance="unit"` that is the model of
      the reading group: unit variance, mu_k ~ N(0, tau^2), uniform assignments.
    - `loc` m (D numbers or one), `mean_precision` kappa, `df` nu (None: D for "full" and 1 for
      "diagonal", as scikit-learn has it), `inverse_scale` V^{-1} ((D, D), D numbers or one).

    Sites: `weights` (K,) unless they are fixed; in plate `component`: `log_cholesky` (K, D(D+1)/2),
    the Cholesky factor of Lambda_k row by row with logarithms on its diagonal, and the
    deterministic `precision` (K, D, D), or for "diagonal" `precision` (K, D); `loc` (K, D); in
    plate `row`: `z` (n,), marked for parallel enumeration, and `x` (n, D).

    The prior does not change when components change their places, so the posterior has K! copies of
    every mode: `canonical_order` names one of them.

    Raises SettingError for values out of range.

    Source: Bishop (2006), Pattern Recognition and Machine Learning, section 10.2; Blei, Kucukelbir
    & McAuliffe (2017), Variational inference: a review for statisticians, section 2.1 (unit).
    """

    K: int
    D: int
    covariance: Covariance = "full"
    concentration: float | None = 1.0
    loc: Any = 0.0
    mean_precision: float = 1.0
    df: float | None = None
    inverse_scale: Any = 1.0

    def __post_init__(self) -> None:
        if self.K < 1 or self.D < 1:
            raise SettingError(f"K={self.K} and D={self.D} must each be at least 1.")
        if self.covariance not in ("unit", "diagonal", "full"):
            raise SettingError(
                f"There is no covariance {self.covariance!r}: give 'unit', 'diagonal' or 'full'."
            )
        if self.concentration is not None and not 0 < self.concentration < math.inf:
            raise SettingError(f"concentration={self.concentration} must be positive, or None.")
        if not 0 < self.mean_precision < math.inf:
            raise SettingError(f"mean_precision={self.mean_precision} must be positive.")
        least = self.D - 1 if self.covariance == "full" else 0
        if self.df is not None and not self.df > least:
            raise SettingError(f"df={self.df} must be above {least}.")
        for name in ("loc", "inverse_scale"):  # as tensors once: a recorded run cannot convert
            given = torch.as_tensor(getattr(self, name), dtype=torch.float64)
            object.__setattr__(self, name, given)
        self._check_shapes()

    def _check_shapes(self) -> None:
        """Refuse a prior of another shape than the components', or one that is not proper."""
        D, loc, inverse = self.D, self.loc, self.inverse_scale
        if tuple(loc.shape) not in ((), (1,), (D,)) or not bool(loc.isfinite().all()):
            raise SettingError(
                f"loc must be one finite number or {D} of them, not shape {tuple(loc.shape)} "
                f"({loc.flatten()[:3].tolist()})."
            )
        if self.df is not None and not math.isfinite(self.df):
            raise SettingError(f"df={self.df} must be finite.")
        shapes: list[tuple[int, ...]] = [(), (1,), (D,), (D, D)]
        if tuple(inverse.shape) not in shapes or not bool(inverse.isfinite().all()):
            raise SettingError(
                f"inverse_scale must be one number, {D} of them or a ({D}, {D}) matrix, finite, "
                f"not shape {tuple(inverse.shape)}."
            )
        matrix = inverse if inverse.dim() == 2 else torch.diag(inverse.expand(D))
        positive = bool((torch.linalg.eigvalsh(matrix) > 0).all())
        if not positive or not bool(torch.allclose(matrix, matrix.mT)):
            raise SettingError(
                "inverse_scale must be positive, and a matrix symmetric and positive definite: it "
                "is the prior's scatter, such as the covariance of the columns."
            )

    def prior(self, like: Tensor | None = None) -> dict[str, Tensor]:
        """The hyperparameters of every component, by the names of `globals`, in `like`'s dtype."""
        like = torch.zeros(()) if like is None else like
        new: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
        K, D = self.K, self.D
        found = {
            "loc": self.loc.to(like).expand(K, D),
            "mean_precision": torch.full((K,), self.mean_precision, **new),
        }
        if self.concentration is not None:
            found["concentration"] = torch.full((K,), self.concentration, **new)
        given = self.inverse_scale.to(like)
        if self.covariance == "full":
            matrix = given if given.dim() == 2 else torch.diag(given.expand(D))
            found["inverse_scale"] = matrix.expand(K, D, D)
            found["df"] = torch.full((K,), float(self.df or D), **new)
        elif self.covariance == "diagonal":
            found["inverse_scale"] = (given.diagonal() if given.dim() == 2 else given).expand(K, D)
            found["df"] = torch.full((K, D), float(self.df or 1.0), **new)
            found["mean_precision"] = found["mean_precision"].unsqueeze(-1).expand(K, D)
        return found

    def globals(self, hyper: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sample all sites but those of the rows, with these hyperparameters.

        The posterior given assignments has the form of the prior, so a guide calls this too.
        """
        values: dict[str, Tensor] = {}
        if self.concentration is not None:
            values["weights"] = pyro.sample("weights", dist.Dirichlet(hyper["concentration"]))
        with pyro.plate("component", self.K, device=hyper["loc"].device):
            if self.covariance == "full":
                flat = pyro.sample(
                    "log_cholesky", LogCholeskyWishart(hyper["df"], hyper["inverse_scale"])
                )
                factor = cholesky_of(flat, self.D)
                precision = pyro.deterministic("precision", factor @ factor.mT, event_dim=2)
                root = hyper["mean_precision"].sqrt()[..., None, None]
                values["loc"] = pyro.sample("loc", PrecisionNormal(hyper["loc"], root * factor))
                return values | {"log_cholesky": flat, "precision": precision}
            if self.covariance == "diagonal":
                gamma = dist.Gamma(hyper["df"] / 2, hyper["inverse_scale"] / 2).to_event(1)
                values["precision"] = pyro.sample("precision", gamma)
                spread = (hyper["mean_precision"] * values["precision"]).rsqrt()
            else:
                spread = hyper["mean_precision"].rsqrt().unsqueeze(-1).expand_as(hyper["loc"])
            values["loc"] = pyro.sample("loc", dist.Normal(hyper["loc"], spread).to_event(1))
        return values

    def __call__(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample everything. `x` (n, D) or None to simulate `size` rows (1 where it is not given);
        with x, `size` is the number of rows of the whole data set. Returns x.

        Raises DataError for x of another width.
        """
        if x is not None and (x.dim() != 2 or x.shape[-1] != self.D):
            raise DataError(f"x has shape {tuple(x.shape)}: the mixture needs (rows, {self.D}).")
        values = self.globals(self.prior(x))
        loc = values["loc"]
        weights = values.get("weights", torch.full_like(loc[..., 0], 1 / self.K))
        present = len(x) if x is not None else size or 1
        with rows(present, size if x is not None else None, loc.device):
            z = pyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
            return pyro.sample("x", self._component(values, z), obs=x)

    def _component(self, values: dict[str, Tensor], z: Tensor) -> TorchDistribution:
        mean = values["loc"][..., z, :]
        if self.covariance == "full":
            return PrecisionNormal(mean, cholesky_of(values["log_cholesky"], self.D)[..., z, :, :])
        if self.covariance == "diagonal":
            return dist.Normal(mean, values["precision"][..., z, :].rsqrt()).to_event(1)
        return dist.Normal(mean, 1.0).to_event(1)

    def log_cholesky(self, precision: Tensor) -> Tensor:
        """The value of the site `log_cholesky` for precision matrices (..., D, D)."""
        return log_cholesky_of(precision)

    def canonical_order(self, values: dict[str, Tensor]) -> Tensor:
        """The order (..., K) in which components stand by the first coordinate of their means."""
        return values["loc"][..., 0].argsort(-1)


def cholesky_of(flat: Tensor, D: int) -> Tensor:
    """The lower triangular factor (..., D, D) of its log-Cholesky coordinates (..., D(D+1)/2)."""
    places = _places(D)
    factor = flat[..., places.reshape(-1)].unflatten(-1, (D, D))
    eye = torch.eye(D, dtype=torch.bool, device=flat.device)
    below = torch.ones(D, D, dtype=torch.bool, device=flat.device).tril(-1)
    # exp of the diagonal only: exp of an off-diagonal entry could overflow
    diagonal = torch.where(eye, factor, 0.0).exp()
    return torch.where(eye, diagonal, torch.where(below, factor, 0.0))


def log_cholesky_of(precision: Tensor) -> Tensor:
    """The log-Cholesky coordinates (..., D(D+1)/2) of precision matrices (..., D, D)."""
    factor = torch.linalg.cholesky(precision)
    D = factor.shape[-1]
    eye = torch.eye(D, dtype=torch.bool, device=factor.device)
    mixed = torch.where(eye, torch.where(eye, factor, 1.0).log(), factor)
    row, column = torch.tril_indices(D, D)
    return mixed[..., row, column]


def _places(D: int) -> Tensor:
    """Where entry (i, j) of the lower triangle stands in the row-by-row list."""
    places = torch.zeros(D, D, dtype=torch.long)
    row, column = torch.tril_indices(D, D)
    places[row, column] = torch.arange(len(row))
    return places


class LogCholeskyWishart(TorchDistribution):
    r"""Wishart(df, V) of a precision matrix L = C C' in the coordinates of its factor C.

    With C lower triangular and log C_ii in the place of C_ii, the density is that of the Wishart
    times

    .. math:: |dL / dC| \prod_i C_{ii} = 2^D \prod_{i=1}^D C_{ii}^{D - i + 2}.

    Sampled by Bartlett's decomposition. `df` (...), `inverse_scale` V^{-1} (..., D, D); the event
    is a real vector of D(D+1)/2.

    Source: Bartlett (1933), On the theory of statistical regression; Muirhead (1982), Aspects of
    Multivariate Statistical Theory, theorems 2.1.9 and 3.2.14.
    """

    arg_constraints: ClassVar = {
        "df": constraints.positive,
        "inverse_scale": constraints.positive_definite,
    }
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self, df: Tensor, inverse_scale: Tensor, validate_args: bool | None = None
    ) -> None:
        self.D = inverse_scale.shape[-1]
        batch = torch.broadcast_shapes(df.shape, inverse_scale.shape[:-2])
        self.df = df.expand(batch)
        self.inverse_scale = inverse_scale.expand(*batch, self.D, self.D)
        super().__init__(
            batch, torch.Size([self.D * (self.D + 1) // 2]), validate_args=validate_args
        )

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogCholeskyWishart:
        shape = torch.Size(batch_shape)
        df = self.df.expand(shape)
        return LogCholeskyWishart(
            df, self.inverse_scale.expand(*shape, self.D, self.D), validate_args=False
        )

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        D, new = self.D, self.inverse_scale
        steps = torch.arange(D, dtype=new.dtype, device=new.device)
        chi2 = 2 * torch._standard_gamma(((self.df.unsqueeze(-1) - steps) / 2).expand(*shape, D))
        normal = torch.randn(*shape, D, D, dtype=new.dtype, device=new.device).tril(-1)
        bartlett = normal + torch.diag_embed(chi2.sqrt())
        root = torch.linalg.cholesky(torch.linalg.inv(self.inverse_scale))
        factor = root @ bartlett
        row, column = torch.tril_indices(D, D)
        diagonal = torch.eye(D, dtype=torch.bool, device=new.device)[row, column]
        flat = factor[..., row, column]
        return torch.where(diagonal, torch.where(diagonal, flat, 1.0).log(), flat)

    def log_prob(self, value: Tensor) -> Tensor:
        D, factor = self.D, cholesky_of(value, self.D)
        steps = torch.arange(D, 0, -1, dtype=value.dtype, device=value.device) + 1
        log_diagonal = factor.diagonal(dim1=-2, dim2=-1).log()
        half = self.df / 2
        root = torch.linalg.cholesky(self.inverse_scale)
        log_det_scale = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        normaliser = half * (D * math.log(2) - log_det_scale) + half.mvlgamma(D)
        trace = (root.mT @ factor).square().sum((-2, -1))
        wishart = (self.df - D - 1) * log_diagonal.sum(-1) - 0.5 * trace - normaliser
        return wishart + D * math.log(2) + (steps * log_diagonal).sum(-1)


class PrecisionNormal(TorchDistribution):
    """N(loc, (C C')^{-1}), given the lower triangular factor C of the precision: no inversions."""

    arg_constraints: ClassVar = {"loc": constraints.real_vector}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, factor: Tensor, validate_args: bool | None = None) -> None:
        batch = torch.broadcast_shapes(loc.shape[:-1], factor.shape[:-2])
        # as they were given: of all rows of a component there is one factor, with one determinant
        self._given = loc, factor
        self.loc = loc.expand(*batch, loc.shape[-1])
        self.factor = factor.expand(*batch, *factor.shape[-2:])
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PrecisionNormal:
        shape = torch.Size(batch_shape)
        loc, factor = self.loc, self.factor
        made = PrecisionNormal(
            loc.expand(*shape, loc.shape[-1]), factor.expand(*shape, *factor.shape[-2:]), False
        )
        made._given = self._given
        return made

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device).unsqueeze(-1)
        moved = torch.linalg.solve_triangular(self.factor.mT, noise, upper=True)
        return self.loc + moved.squeeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        loc, factor = self._given
        away = value - loc
        if factor.dim() > 2 and factor.shape[-3] == 1 and away.dim() > 1:  # one factor for all rows
            scaled = away @ factor.squeeze(-3)
        else:
            scaled = (factor.mT @ away.unsqueeze(-1)).squeeze(-1)
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * value.shape[-1] * math.log(2 * math.pi)
        found: Tensor = log_det - 0.5 * scaled.square().sum(-1) - constant
        return found.expand(torch.broadcast_shapes(self.batch_shape, value.shape[:-1]))
