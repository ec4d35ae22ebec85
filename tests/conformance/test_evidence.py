r"""The law of the evidence: E_q[log p(x, z) - log q(z)] <= log p(x) = log E_q[p(x, z) / q(z)].

log p(x) comes from elsewhere: in closed form, by quadrature, by enumeration, or by importance sampling
from proposals of our own, written here with NumPy, SciPy or the networks themselves. Fresh draws of the
fit, five standard errors of both sides: a false alarm in two million.
"""

import copy
import itertools
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy import integrate, stats
from scipy.special import expit, gammaln, log_ndtr, logsumexp, multigammaln
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import guidebook as gb
from guidebook.diagnostics.numerics.psis import psis
from guidebook.scope import local_parameters

Known = tuple[float, float]
"""log p(x) and its standard error."""
PROPOSED = 5_000
PROPOSED_PER_ROW = 1000
LIGHT = 0.5
"""k-hat up to which weights have a variance, so that their mean has a standard error."""


def test_the_evidence_bounds_the_elbo_and_is_the_mean_weight(row: Any, dense: gb.Fit) -> None:
    amortised = dense.potential.dimension > 100
    stats_ = dense.posterior(200 if amortised else 2000, seed=2)["sample_stats"]
    log_weights = (stats_["lp"] - stats_["log_q"]).values.ravel()
    known, its_error = log_evidence_of(row, dense)
    if row.way == "exact":  # every weight is p(x)
        tolerance = 1e-8 if dense.potential.dtype is torch.float64 else 1e-4
        np.testing.assert_allclose(log_weights, known, rtol=tolerance, atol=tolerance)
        return
    assert math.isfinite(known) and its_error < 4
    rounding = 10 * torch.finfo(dense.potential.dtype).eps * abs(known)
    error = log_weights.std(ddof=1) / math.sqrt(len(log_weights))
    assert log_weights.mean() <= known + 5 * math.hypot(error, its_error) + rounding
    found = psis(log_weights)
    if found is not None and found.khat < LIGHT:
        top = log_weights.max()
        weights = np.exp(log_weights - top)
        relative = weights.std(ddof=1) / weights.mean() / math.sqrt(len(weights))
        estimate = top + math.log(weights.mean())
        assert abs(estimate - known) < 5 * math.hypot(relative, its_error) + rounding


def log_evidence_of(row: Any, fit: gb.Fit) -> Known:
    pair = gb.pair(row.pair)
    if row.pair in GLOBAL:
        return GLOBAL[row.pair](row)
    if pair.exact is not None:
        return closed_form(row, fit)
    assert fit.model is not None
    x = torch.as_tensor(row.data["x"])
    with torch.no_grad(), local_parameters():
        if "gumbel" in row.pair:
            return enumerated_categories(fit.model, x)
        return proposed_codes(fit, x)


# in closed form -----------------------------------------------------------------------------------


def closed_form(row: Any, fit: gb.Fit) -> Known:
    """By the exact guide's own formula, of the trained model where the model is trained."""
    pair = gb.pair(row.pair)
    assert pair.exact is not None
    story = row.model
    if isinstance(story, torch.nn.Module):
        story = copy.deepcopy(fit.model).double()  # a machine sums thousands of states
    guide = pair.exact(story)
    data = {k: v.double() for k, v in row.data.items()}
    log_p = guide.elbo if hasattr(guide, "elbo") and row.pair in MACHINES else guide.log_evidence
    with torch.no_grad(), local_parameters():
        return float(log_p(**data).sum()), 0.0


MACHINES = ("ising", "boltzmann-machine", "hopfield")


@cache
def schools(row: Any) -> Known:
    r"""\int N(y; 0, 25 1 1' + diag(sigma^2 + tau^2)) p(tau), tau = 5 tan t with t uniform, by quadrature."""
    y, sigma = (row.data[name].double().numpy() for name in ("y", "sigma"))

    def given(t: float) -> float:
        covariance = 25 + np.diag(sigma**2 + 25 * math.tan(t) ** 2)
        return float(stats.multivariate_normal(np.zeros(len(y)), covariance).pdf(y))

    total, error = integrate.quad(given, 0, math.pi / 2, epsabs=0, epsrel=1e-10)
    return math.log(2 / math.pi * total), error / total


@cache
def regression(row: Any) -> Known:
    """By a multivariate t around the mode: log-concave posteriors have lighter tails than it."""
    X, y = (row.data[name].double().numpy() for name in ("X", "y"))
    X = np.column_stack([np.ones(len(X)), X])
    probit = "probit" in row.pair
    scale = 1.0 if probit else 2.5
    sign = 2 * y - 1

    def log_joint(beta: np.ndarray) -> np.ndarray:
        eta = sign * (beta @ X.T)
        rows = log_ndtr(eta) if probit else -np.logaddexp(0, -eta)
        return rows.sum(-1) + stats.norm.logpdf(beta, scale=scale).sum(-1)

    def slopes(eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and minus second derivative of a row's log likelihood by sign * eta."""
        if probit:
            ratio = np.exp(stats.norm.logpdf(eta) - log_ndtr(eta))
            return ratio, ratio * (eta + ratio)
        chance = expit(-eta)
        return chance, chance * (1 - chance)

    centre, size = np.zeros(X.shape[1]), X.shape[1]
    for _ in range(100):  # damped Newton steps of a concave function
        first, second = slopes(sign * (X @ centre))
        covariance = np.linalg.inv((X * second[:, None]).T @ X + np.eye(size) / scale**2)
        step = covariance @ (X.T @ (sign * first) - centre / scale**2)
        centre = centre + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-9:
            break
    proposal = stats.multivariate_t(centre, covariance, df=7)
    beta = proposal.rvs(PROPOSED, random_state=np.random.default_rng(0))
    log_weights = log_joint(beta) - proposal.logpdf(beta)
    return mean_of(log_weights)


def mixture(row: Any) -> Known:
    """All assignments of a few rows: Dirichlet-multinomial times normal-Wishart of every cluster."""
    model, x = row.model, row.data["x"].double().numpy()
    a, kappa, df = model.concentration, model.mean_precision, model.df
    scatter = float(model.inverse_scale) * np.eye(model.D)

    def cluster(rows: np.ndarray) -> float:
        n, D = rows.shape
        if n == 0:
            return 0.0
        mean = rows.mean(0)
        spread = (rows - mean).T @ (rows - mean) + kappa * n / (kappa + n) * np.outer(mean, mean)
        return float(
            -n * D / 2 * math.log(math.pi)
            + multigammaln((df + n) / 2, D) - multigammaln(df / 2, D)
            + df / 2 * np.linalg.slogdet(scatter)[1]
            - (df + n) / 2 * np.linalg.slogdet(scatter + spread)[1]
            + D / 2 * (math.log(kappa) - math.log(kappa + n))
        )  # fmt: skip

    terms = []
    for z in itertools.product(range(model.K), repeat=len(x)):
        counts = np.bincount(z, minlength=model.K)
        shares = gammaln(model.K * a) - gammaln(model.K * a + len(x))
        shares += (gammaln(a + counts) - gammaln(a)).sum()
        terms.append(shares + sum(cluster(x[np.array(z) == k]) for k in range(model.K)))
    return float(logsumexp(terms)), 0.0


GLOBAL: dict[str, Callable[[Any], Known]] = {
    "eight-schools": schools,
    "eight-schools-centered": schools,
    "logistic-regression": regression,
    "probit-regression": regression,
    "gaussian-mixture-full": mixture,
}


# decoders -----------------------------------------------------------------------------------------


def enumerated_categories(model: Any, x: torch.Tensor) -> Known:
    """All K^L codes of a row, equally likely; grey levels as Bernoulli averages."""
    logits = model.decoder(model.states().flatten(-2)).double()
    log_x = x.double() @ logits.mT - torch.nn.functional.softplus(logits).sum(-1)
    return float((log_x.logsumexp(-1) - math.log(len(logits))).sum()), 0.0


def proposed_codes(fit: gb.Fit, x: torch.Tensor) -> Known:
    """Row by row from half the prior, half a normal wider than the fit's own draws."""
    model: Any = fit.model
    drawn = fit.posterior(200, seed=7)["posterior"]
    layers = ["z_2", "z_1"] if "z_2" in drawn else ["z"]
    total: Any = 0.0
    above: Any = None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name in layers:
            values = torch.as_tensor(drawn[name].values[0]).to(x.dtype)
            near = Normal(values.mean(0), 1.3 * values.std(0) + 1e-3)
            prior = prior_of(model, name, above, near.loc)
            proposal = half_and_half(prior, near)
            above = proposal.sample((PROPOSED_PER_ROW,) if above is None else ())
            total = total + prior.log_prob(above).sum(-1) - proposal.log_prob(above)
    seen = model.likelihood.distribution(model.decoder(above))
    return mean_of((total + seen.log_prob(x)).double().numpy())


def prior_of(model: Any, name: str, above: Any, like: torch.Tensor) -> Normal:
    if above is None:
        return Normal(torch.zeros_like(like), 1.0)
    layer = model.layer(above).base_dist
    return Normal(layer.loc, layer.scale)


def half_and_half(prior: Normal, near: Normal) -> MixtureSameFamily:
    shape = torch.broadcast_shapes(prior.loc.shape, near.loc.shape)
    loc = torch.stack([prior.loc.expand(shape), near.loc.expand(shape)], -2)
    scale = torch.stack([prior.scale.expand(shape), near.scale.expand(shape)], -2)
    halves = Categorical(torch.ones(*shape[:-1], 2))
    return MixtureSameFamily(halves, Independent(Normal(loc, scale), 1))


def mean_of(log_weights: np.ndarray) -> Known:
    """log of the mean weight, summed over the rows (trailing dimension), and its standard error."""
    flat = log_weights.reshape(len(log_weights), -1)
    log_mean = logsumexp(flat, axis=0) - math.log(len(flat))
    relative = np.exp(flat - log_mean).std(0, ddof=1) / math.sqrt(len(flat))
    return float(log_mean.sum()), float(np.sqrt(np.square(relative).sum()))
