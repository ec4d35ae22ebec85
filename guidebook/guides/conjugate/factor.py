"""The posterior of factor analysis and of probabilistic PCA, with the two steps of EM."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from guidebook.errors import DataError, GuideError, SettingError
from guidebook.guides.exact.conjugate import LinearGaussianPosterior

NOISE_FLOOR = 1e-9
"""The least noise variance, as a share of the column's variance. Where columns determine each other
the likelihood rises without bound as a noise variance falls to 0 (a Heywood case)."""

Tensors = dict[str, Tensor]


class FactorPosterior(LinearGaussianPosterior):
    r"""The posterior of a linear Gaussian decoder with diagonal or isotropic noise, as a guide.

    For z ~ N(0, I_d) and x | z ~ N(W z + b, Psi), Psi = diag(sigma^2):

    .. math:: q(z \mid x) = N(M^{-1} W^\top \Psi^{-1} (x - b),\ M^{-1}), \qquad
        M = I_d + W^\top \Psi^{-1} W

    W (P, d), b (P,) and log sigma are the `weight`, `bias` and `log_scale` of `model`, which the
    guide reads at every call and never owns. The model decides which of the two it is: with one
    sigma for all columns (`log_scale` scalar, `LinearVAE`) probabilistic PCA, with P of them
    (`FactorAnalysis`) factor analysis.

    **EM.** `start`, `e_step`, `m_step`, `log_prior`, `expected_log_joint` and `finished` are what
    `guidebook.em` asks for. Its parameters are `weight`, `bias`, `log_scale` and the constant
    `center`, the origin of the statistics. With r = x - center, m = E z and <.> sums over the rows,
    the M-step regresses r on (z, 1), and the noise is what is left:

    .. math::
        (W, b - c) &= \langle r\, (m, 1)^\top \rangle\, \langle (z, 1)(z, 1)^\top \rangle^{-1} \\
        \sigma_p^2 &= \tfrac1n \langle (r_p - W_p z - b_p + c_p)^2 \rangle

    (for probabilistic PCA averaged over the columns). A noise variance is never set below 1e-9 of
    its column's variance, which is the exact M-step under that bound.

    Arguments: `alpha` >= 0, the precision of a prior W_pk ~ N(0, 1 / alpha) for MAP-EM, 0 for
    maximum likelihood. With a prior W is maximised at the former sigma and sigma at the new W: a
    conditional M-step (ECM), as monotone. `site` and `plate` as the model names them.

    Raises GuideError if the model lacks one of the three parameters or `log_scale` has another
    shape, and when called without x; SettingError for an alpha out of range.

    Source: Rubin & Thayer (1982), EM algorithms for ML factor analysis; Tipping & Bishop (1999),
    Probabilistic principal component analysis; Ghahramani & Hinton (1996), The EM algorithm for
    mixtures of factor analyzers; ECM: Meng & Rubin (1993), Maximum likelihood estimation via the
    ECM algorithm.
    """

    def __init__(
        self, model: Any, *, alpha: float = 0.0, site: str = "z", plate: str = "row"
    ) -> None:
        super().__init__(model, site=site, plate=plate)
        if not 0 <= alpha < math.inf:
            raise SettingError(
                f"alpha={alpha} is the precision of the prior on W: give 0 or more, and finite."
            )
        if model.log_scale.shape not in (torch.Size(()), model.bias.shape):
            raise GuideError(
                f"The model's log_scale has shape {tuple(model.log_scale.shape)}: one number for "
                f"all columns, or one for each of the {len(model.bias)} columns."
            )
        self.alpha = float(alpha)

    # the posterior ------------------------------------------------------------------------------

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """q(z | x) for x (B, P): batch shape (B,), event shape (d,); one covariance for all."""
        model = self._model[0]
        mean, chol, _ = _local(x, model.weight, model.bias, model.log_scale)
        covariance = torch.cholesky_inverse(chol)
        return dist.MultivariateNormal(mean, scale_tril=torch.linalg.cholesky(covariance))

    def log_evidence(self, x: Tensor) -> Tensor:
        r"""log p(x_i) of each row of x (B, P), shape (B,): log N(x_i; b, W W' + Psi).

        With m the posterior mean, by the determinant lemma and completing the square:

        .. math:: -\tfrac12 \left(P \log 2\pi + \log|\Psi| + \log|M|
            + \|\Psi^{-1/2} (x - b - W m)\|^2 + \|m\|^2\right)
        """
        model = self._model[0]
        return _local(x, model.weight, model.bias, model.log_scale)[2]

    # EM -----------------------------------------------------------------------------------------

    def start(self, data: Mapping[str, Any], seed: int) -> Tensors:
        """Random parameters in the units of the columns of data['x'] (n, P), by the seed alone.

        Half of each column's variance is noise and, on average, half of it factors.

        Raises DataError for x that is missing or of another width, and where the likelihood has no
        maximum: one row, a constant column, as many latents as columns or more, rows that lie in d
        dimensions or fewer.
        """
        P, d = self._model[0].weight.shape
        tied = self._model[0].log_scale.dim() == 0
        x = _observed(data, P)
        center = x.mean(0)
        variance = (x - center).square().mean(0)
        _has_a_maximum(x, (x - center) / (1.0 if tied else variance.sqrt()), d)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(P, d, generator=generator, dtype=x.dtype).to(x.device)
        spread = variance.mean() if tied else variance
        return {
            "weight": noise * (spread.sqrt() / math.sqrt(2 * d)).reshape(-1, 1),
            "bias": center.clone(),
            "log_scale": 0.5 * (spread / 2).log(),
            "center": center,
        }

    def e_step(self, rows: Mapping[str, Any], parameters: Tensors) -> tuple[Tensors, Tensor]:
        """Expected sufficient statistics of the rows, and log p(rows | parameters), both summed.

        With r = x - center and m, M^-1 the posterior's moments: `count` n, `sum_x` and `sum_xx`
        (P,) of r and r^2, `sum_z` (d,), `sum_xz` (P, d) of r m', `sum_zz` (d, d) of m m' + M^-1.
        """
        x = _observed(rows, len(parameters["bias"]))
        mean, chol, log_evidence = _local(
            x, parameters["weight"], parameters["bias"], parameters["log_scale"]
        )
        r = x - parameters["center"]
        statistics = {
            "count": x.new_tensor(float(len(x))),
            "sum_x": r.sum(0),
            "sum_xx": r.square().sum(0),
            "sum_z": mean.sum(0),
            "sum_xz": r.mT @ mean,
            "sum_zz": mean.mT @ mean + len(x) * torch.cholesky_inverse(chol),
        }
        return statistics, log_evidence.sum()

    def m_step(self, statistics: Tensors, parameters: Tensors) -> Tensors:
        """The parameters that maximise the expected log joint (with a prior: W, b, then sigma)."""
        A, C = _regressors(statistics), _products(statistics)
        d = len(A) - 1
        if self.alpha:
            noise = (2 * parameters["log_scale"]).exp().expand(len(C))
            ridge = torch.ones(d + 1, dtype=A.dtype, device=A.device)
            ridge[d] = 0.0  # no prior on b
            A = A + self.alpha * noise[:, None, None] * ridge.diag()
            loadings = torch.linalg.solve(A, C.unsqueeze(-1)).squeeze(-1)
        else:
            loadings = torch.cholesky_solve(C.mT, torch.linalg.cholesky(A)).mT
        weight, offset = loadings[:, :d], loadings[:, d]
        noise = _residual(statistics, weight, offset) / statistics["count"]
        floor = _floor(statistics)
        if parameters["log_scale"].dim() == 0:
            noise, floor = noise.mean(), floor.mean()
        return {
            "weight": weight,
            "bias": parameters["center"] + offset,
            "log_scale": 0.5 * torch.maximum(noise, floor).log(),
            "center": parameters["center"],
        }

    def expected_log_joint(self, statistics: Tensors, parameters: Tensors) -> Tensor:
        r"""E_q log p(x, z | parameters) summed over the rows, for partial M-steps; differentiable.

        .. math:: -\tfrac12 \left(n (P + d) \log 2\pi + n \log|\Psi|
            + \sum_p \langle (r_p - W_p z - b_p + c_p)^2 \rangle / \sigma_p^2
            + \mathrm{tr} \langle z z^\top \rangle\right)

        It is -inf where a noise variance is below its bound.
        """
        weight, n = parameters["weight"], statistics["count"]
        P, d = weight.shape
        log_scale, floor = parameters["log_scale"], _floor(statistics)
        if log_scale.dim() == 0:
            floor = floor.mean()
        if bool((2 * log_scale < floor.log()).any()):
            return weight.new_tensor(-math.inf)
        offset = parameters["bias"] - parameters["center"].detach()
        squares = _residual(statistics, weight, offset) * (-2 * log_scale).exp()
        log_det = 2 * n * log_scale.expand(P).sum()
        constant = n * (P + d) * math.log(2 * math.pi)
        return -0.5 * (constant + log_det + squares.sum() + statistics["sum_zz"].trace())

    def log_prior(self, parameters: Tensors) -> Tensor:
        """log N(W; 0, I / alpha), or 0 for maximum likelihood."""
        weight = parameters["weight"]
        if not self.alpha:
            return weight.new_zeros(())
        constant = weight.numel() * math.log(self.alpha / (2 * math.pi))
        return 0.5 * (constant - self.alpha * weight.square().sum())

    def finished(self, model: Any, parameters: Tensors) -> tuple[Any, FactorPosterior]:
        """A copy of the model with these parameters, in its own dtype, and the guide that reads it."""
        model = copy.deepcopy(model)
        with torch.no_grad():
            for name in ("weight", "bias", "log_scale"):
                getattr(model, name).copy_(parameters[name])
        return model, type(self)(model, alpha=self.alpha, site=self.site, plate=self.plate)


def _local(
    x: Tensor, weight: Tensor, bias: Tensor, log_scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Posterior means (B, d), the Cholesky factor of M (d, d), and log p(x_i) of each row (B,)."""
    P, d = weight.shape
    log_scale = log_scale.expand(P)
    y = (x - bias) / log_scale.exp()
    V = weight / log_scale.exp().unsqueeze(-1)
    chol = torch.linalg.cholesky(torch.eye(d, dtype=V.dtype, device=V.device) + V.mT @ V)
    mean = torch.cholesky_solve((y @ V).mT, chol).mT
    # The square completed, not y'y - m'M m: no cancellation where the noise is small.
    squares = (y - mean @ V.mT).square().sum(-1) + mean.square().sum(-1)
    log_det = 2 * log_scale.sum() + 2 * chol.diagonal().log().sum()
    return mean, chol, -0.5 * (P * math.log(2 * math.pi) + log_det + squares)


def _regressors(statistics: Tensors) -> Tensor:
    """<(z, 1)(z, 1)'>, (d + 1, d + 1)."""
    top = torch.cat([statistics["sum_zz"], statistics["sum_z"].unsqueeze(-1)], -1)
    bottom = torch.cat([statistics["sum_z"], statistics["count"].reshape(1)])
    return torch.cat([top, bottom.unsqueeze(0)])


def _products(statistics: Tensors) -> Tensor:
    """<r (z, 1)'>, (P, d + 1)."""
    return torch.cat([statistics["sum_xz"], statistics["sum_x"].unsqueeze(-1)], -1)


def _residual(statistics: Tensors, weight: Tensor, offset: Tensor) -> Tensor:
    """<(r_p - W_p z - offset_p)^2>, (P,), at any W and offset."""
    loadings = torch.cat([weight, offset.unsqueeze(-1)], -1)
    fitted = ((loadings @ _regressors(statistics)) * loadings).sum(-1)
    return statistics["sum_xx"] - 2 * (loadings * _products(statistics)).sum(-1) + fitted


def _floor(statistics: Tensors) -> Tensor:
    """The least noise variance of each column, (P,)."""
    n = statistics["count"]
    return NOISE_FLOOR * (statistics["sum_xx"] / n - (statistics["sum_x"] / n).square())


def _observed(data: Mapping[str, Any], P: int) -> Tensor:
    x = data.get("x")
    if not isinstance(x, Tensor):
        raise DataError("EM needs the observed rows: give data={'x': array of shape (n, P)}.")
    if x.dim() != 2 or x.shape[1] != P:
        raise DataError(f"x has the shape {tuple(x.shape)}, and the model was made for (n, {P}).")
    return x.double()


def _has_a_maximum(x: Tensor, scaled: Tensor, d: int) -> None:
    """Refuses x (n, P), `scaled` its centred columns, where the likelihood has no maximum."""
    n, P = x.shape
    if n == 1:
        raise DataError("x has one row, so every column is constant: give more rows.")
    if d >= P:
        raise DataError(f"x has {P} columns, and {d} latents need more: take fewer latents.")
    constant = (x.amax(0) == x.amin(0)).nonzero().flatten().tolist()
    if constant:
        raise DataError(
            f"Column {', '.join(map(str, constant[:8]))} of x is constant, so its noise variance "
            "would be 0 and the likelihood unbounded: remove it."
        )
    gram = scaled.mT @ scaled if n >= P else scaled @ scaled.mT
    values = torch.linalg.eigvalsh(gram).flip(0)
    if not bool(values[d:].sum() > 1e-12 * values[0]):
        raise DataError(
            f"The {n} rows of x lie in {d} dimensions or fewer, so the noise would be 0 and the "
            "likelihood unbounded: take fewer latents, or give more distinct rows."
        )
