r"""Entropy, cross-entropy, Kullback-Leibler divergence and mutual information, with their errors.

    H[p] = -E_p log p,   H[p, q] = -E_p log q,   KL(p || q) = H[p, q] - H[p],
    I(x; z) = KL(p(x, z) || p(x) p(z))

All in nats. p and q are distributions of torch or Pyro (batch dimensions are independent and
summed), or arrays of draws (n, D). Between distributions: closed form where torch has it, a sum over
the support where that is finite, else Monte Carlo. From draws: distances to nearest neighbours.

Sources: Cover and Thomas 2006, "Elements of information theory"; Wang, Kulkarni and Verdu 2009,
"Divergence estimation for multidimensional densities via k-nearest-neighbor distances"; Kozachenko
and Leonenko 1987, "Sample estimate of the entropy of a random vector"; Hoffman and Johnson 2016,
"ELBO surgery: yet another way to carve up the variational evidence lower bound".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.special import gammaln, psi
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from guidebook.errors import DataError
from guidebook.scope import random_state

DRAWS = 10_000


BLOCKS = 8


NEIGHBOURS = 5


LEAST_DRAWS = 80


LARGEST_SUPPORT = 1_000_000


NUMBERS_AT_ONCE = 4_000_000


class Estimate(NamedTuple):
    """A value and its standard error: 0 where the value is exact."""

    value: float
    se: float = 0.0


def entropy(p: Any, *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """H[p] of a distribution, or of draws (n, D) or (n,) by nearest neighbours.

    Raises DataError for draws that are too few (80), not finite, or repeated.
    """
    if not isinstance(p, Distribution):
        return _of_draws(_entropy_of_draws, _draws(p))
    try:
        return Estimate(float(p.entropy().detach().sum()))
    except NotImplementedError:
        return _expectation(p, lambda x: -p.log_prob(x), draws, seed)


def cross_entropy(p: Any, q: Any, *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """H[p, q] = -E_p log q: both distributions, both draws, or p draws and q a distribution.

    Raises DataError as `entropy`, and for p a distribution and q draws, or different widths.
    """
    if not isinstance(p, Distribution):
        x = _draws(p)
        if isinstance(q, Distribution):
            return mean_of(
                -q.log_prob(torch.as_tensor(p)).detach().double().reshape(len(x), -1).sum(1)
            )
        return _of_draws(_cross_entropy_of_draws, x, _draws(q))
    _both(q)
    try:
        return Estimate(float((p.entropy() + kl_divergence(p, q)).detach().sum()))
    except NotImplementedError:
        return _expectation(p, lambda x: -q.log_prob(x), draws, seed)


def kl(p: Any, q: Any, *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    r"""KL(p || q): both distributions, both draws, or p draws and q a distribution.

    From draws x_i (n, D) of p and y_j (m, D) of q, with rho_i and nu_i the distances of x_i to its
    k-th neighbour (k = 5) among the other x and among the y, after whitening by the x:

    .. math:: \widehat{KL} = \frac{D}{n} \sum_i \log\frac{\nu_i}{\rho_i} + \log\frac{m}{n - 1}

    Its se joins the spread over eight blocks of the draws with the bias that they show: the bias
    falls as n^(-1/D), so neighbours are of use in a few dimensions.

    Raises DataError as `cross_entropy`. Source: Wang, Kulkarni and Verdu (2009), equation 5.
    """
    if not isinstance(p, Distribution):
        x = _draws(p)
        if isinstance(q, Distribution):
            crossed, own = cross_entropy(p, q), entropy(p)
            return Estimate(crossed.value - own.value, math.hypot(crossed.se, own.se))
        return _of_draws(
            lambda a, b: _cross_entropy_of_draws(a, b) - _entropy_of_draws(a), x, _draws(q)
        )
    _both(q)
    try:
        return Estimate(float(kl_divergence(p, q).detach().sum()))
    except NotImplementedError:
        return _expectation(p, lambda x: p.log_prob(x) - q.log_prob(x), draws, seed)


def mutual_information(joint: Any) -> Estimate:
    """I(x; z) of a table of joint probabilities or counts (X, Z), exact for the table.

    Raises DataError for anything but a matrix of numbers >= 0 with a positive sum.
    """
    table = np.asarray(joint, dtype=float)
    if table.ndim != 2 or not np.isfinite(table).all() or (table < 0).any() or not table.sum() > 0:
        raise DataError(
            f"A joint table is a matrix of numbers >= 0 with a positive sum; this one has the shape "
            f"{table.shape}. Give probabilities or counts."
        )
    table = table / table.sum()
    product = table.sum(1, keepdims=True) * table.sum(0, keepdims=True)
    held = table > 0
    return Estimate(float((table[held] * np.log(table[held] / product[held])).sum()))


# expectations under a distribution ---------------------------------------------------------------


def _both(q: Any) -> None:
    if not isinstance(q, Distribution):
        raise DataError(
            "p is a distribution and q an array of draws, whose density is not known: give draws of "
            "both."
        )


def mean_of(values: Tensor) -> Estimate:
    """The mean of independent values (n,) with its standard error, infinite for one value."""
    values = values.double()
    se = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.inf
    return Estimate(float(values.mean()), se)


def _expectation(
    p: Distribution, function: Callable[[Tensor], Tensor], draws: int, seed: int
) -> Estimate:
    """E_p f(x), batch dimensions summed: over a finite support exactly, else over draws."""
    with torch.no_grad():
        if p.has_enumerate_support:
            support = p.enumerate_support(expand=True)
            if support.numel() <= LARGEST_SUPPORT:
                weight = p.log_prob(support).exp()
                value = function(support)
                return Estimate(float(torch.where(weight > 0, weight * value, 0.0).sum()))
        with random_state(seed):
            value = function(p.sample(torch.Size((draws,))))
        return mean_of(value.reshape(draws, -1).sum(1))


# nearest neighbours ------------------------------------------------------------------------------


def _draws(values: Any) -> np.ndarray:
    """(n, D); DataError for too few, or values that are not finite."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    array = array.astype(float).reshape(len(array), -1) if array.ndim else array
    if array.ndim != 2 or len(array) < LEAST_DRAWS or not np.isfinite(array).all():
        raise DataError(
            f"Need an array (n, D) or (n,) of at least {LEAST_DRAWS} finite draws, got the shape "
            f"{array.shape}"
            + ("." if np.isfinite(array).all() else " with values that are not finite.")
        )
    return array


def _of_draws(estimate: Callable[..., float], *samples: np.ndarray) -> Estimate:
    """The estimate from all draws; its error from BLOCKS disjoint blocks of them.

    The spread of the blocks gives the random part. The bias, which falls as n^(-1/D) (as 1/n for
    D = 1), is what separates the blocks' mean from the whole, over BLOCKS^(1/D) - 1.
    """
    if len({s.shape[1] for s in samples}) != 1:
        raise DataError(
            f"The draws have different widths, {[s.shape[1] for s in samples]} columns: give draws of "
            "the same variables."
        )
    D = samples[0].shape[1]
    order = np.random.default_rng(0)  # draws of a chain are ordered: blocks must not be
    samples = tuple(s[order.permutation(len(s))] for s in samples)
    value = estimate(*samples)
    parts = [estimate(*(s[b::BLOCKS] for s in samples)) for b in range(BLOCKS)]
    noise = float(np.std(parts, ddof=1) / math.sqrt(BLOCKS))
    bias = abs(float(np.mean(parts)) - value) / (BLOCKS ** (1 / D) - 1)
    return Estimate(value, math.hypot(noise, bias))


def _whitened(x: np.ndarray, *others: np.ndarray) -> tuple[list[np.ndarray], float]:
    """All in coordinates in which x has the identity for covariance, and log |det| of the way back."""
    covariance = np.atleast_2d(np.cov(x.T))
    try:
        root = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError as error:
        raise DataError(
            "The draws lie in fewer dimensions than they have columns, so they have no density: "
            "leave out constant or dependent columns."
        ) from error
    white = [np.linalg.solve(root, (v - x.mean(0)).T).T for v in (x, *others)]
    return white, float(np.log(np.diag(root)).sum())


def _entropy_of_draws(x: np.ndarray) -> float:
    """Kozachenko and Leonenko: psi(n) - psi(k) + log c_D + D/n sum log rho, c_D the unit ball."""
    (white,), log_det = _whitened(x)
    n, D = white.shape
    rho = cKDTree(white).query(white, NEIGHBOURS + 1)[0][:, -1]
    return float(psi(n) - psi(NEIGHBOURS) + _ball(D) + D * _log(rho).mean() + log_det)


def _cross_entropy_of_draws(x: np.ndarray, y: np.ndarray) -> float:
    """log m - psi(k) + log c_D + D/n sum log nu."""
    (white, other), log_det = _whitened(x, y)
    m, D = other.shape
    nu = cKDTree(other).query(white, NEIGHBOURS)[0][:, -1]
    return float(psi(m + 1) - psi(NEIGHBOURS) + _ball(D) + D * _log(nu).mean() + log_det)


def _ball(D: int) -> float:
    return float(D / 2 * math.log(math.pi) - gammaln(D / 2 + 1))


def _log(distance: np.ndarray) -> np.ndarray:
    if not (distance > 0).all():
        raise DataError(
            f"At least {NEIGHBOURS} draws are one point, so the draws have no density: thin the "
            "chain, or use probabilities for a discrete variable."
        )
    return np.log(distance)
