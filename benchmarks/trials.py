"""Twenty trial posteriors with known truth, to try verdicts on.

    python -m benchmarks.trials          # computes and checks every truth

``TRIALS[name]`` is a ``Trial``: a Pyro model, its data, and ``truth()`` -> (means, standard
deviations), a dict of arrays per constrained site. Exact where mathematics allows, by quadrature
in one or two dimensions, else by long NUTS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import cauchy, norm

from benchmarks import trial_models as models
from benchmarks.long_nuts import Moments, long_nuts
from benchmarks.posteriors import flat_regression

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Trial:
    """A posterior with its truth; ``source`` says how the truth is known."""

    name: str
    model: Callable[..., Any]
    data: dict[str, torch.Tensor]
    truth: Callable[[], Moments]
    source: str


def _moments(**sites: tuple[Any, Any]) -> Moments:
    mean = {name: np.asarray(m, float) for name, (m, _) in sites.items()}
    return mean, {name: np.asarray(s, float) for name, (_, s) in sites.items()}


def _exact(name: str, model: Callable[..., Any], data: dict[str, torch.Tensor], **s: Any) -> Trial:
    return Trial(name, model, data, partial(_moments, **s), "exact")


def _nuts(
    name: str, model: Callable[..., Any], data: dict[str, torch.Tensor], accept: float = 0.95
) -> Trial:
    truth = partial(long_nuts, model, data, target_accept=accept)
    return Trial(name, model, data, truth, "long NUTS")


# Exact ones ---------------------------------------------------------------------------------------


def _gaussian(name: str, correlation: float, scale: Array) -> Trial:
    count = len(scale)
    shape = np.full((count, count), correlation) + (1 - correlation) * np.eye(count)
    loc = 3 * scale * (-1.0) ** np.arange(count)
    whiten = np.linalg.inv(np.linalg.cholesky(shape)) / scale
    data = models.tensors(loc=loc, whiten=whiten)
    return _exact(name, models.gaussian, data, x=(loc, scale))


def _raw_regression() -> Trial:
    """Flat beta and sigma: beta is Student-t, sigma^2 inverse gamma of shape (N - D - 1) / 2."""
    data = models.raw_scale_rows()
    x, y = data["x"].numpy(), data["y"].numpy()
    scale = np.abs(x).max(0)
    beta, rss = np.linalg.lstsq(x / scale, y, rcond=None)[:2]
    inverse = np.linalg.inv((x / scale).T @ (x / scale))
    df = len(y) - x.shape[1] - 1
    sd = np.sqrt(np.diag(inverse) * rss[0] / (df - 2)) / scale
    sigma = np.sqrt(rss[0] / 2) * np.exp(gammaln((df - 1) / 2) - gammaln(df / 2))
    spread = np.sqrt(rss[0] / (df - 2) - sigma**2)
    sites = {"beta": (beta / scale, sd), "sigma": (sigma, spread)}
    return _exact("raw-regression", flat_regression, data, **sites)


def _simplex(name: str, counts: list[float], prior: float) -> Trial:
    data = models.tensors(counts=counts, concentration=[prior] * len(counts))
    a = np.array(counts) + prior
    p = a / a.sum()
    return _exact(name, models.dirichlet_counts, data, p=(p, np.sqrt(p * (1 - p) / (a.sum() + 1))))


def _rare_event(successes: float, trials: float) -> Trial:
    a, b = 1 + successes, 1 + trials - successes
    mean, sd = a / (a + b), np.sqrt(a * b / (a + b + 1)) / (a + b)
    data = models.tensors(successes=successes, trials=trials)
    return _exact("rare-event", models.beta_binomial, data, p=(mean, sd))


def _rare_counts() -> Trial:
    counts = [0.0, 0, 1, 0, 0, 0, 0, 0]
    shape, rate = 0.5 + sum(counts), 0.1 + len(counts)
    data = models.tensors(counts=counts, shape=0.5, rate=0.1)
    return _exact(
        "rare-counts", models.gamma_poisson, data, lam=(shape / rate, np.sqrt(shape) / rate)
    )


def _two_modes(name: str, mass: float, loc: Array) -> Trial:
    masses = np.array([mass, 1 - mass])
    mean = masses @ loc
    sd = np.sqrt(1 + masses @ loc**2 - mean**2)
    data = models.tensors(loc=loc, log_mass=np.log(masses))
    return _exact(name, models.two_modes, data, x=(mean, sd))


def _banana() -> Trial:
    scale, bend, width = 2.0, 0.5, 0.7
    data = models.tensors(scale=scale, bend=bend, width=width)
    sd = np.sqrt(width**2 + 2 * bend**2 * scale**4)
    return _exact("banana", models.banana, data, a=(0.0, scale), b=(bend * scale**2, sd))


def _funnel() -> Trial:
    x = (np.zeros(9), np.full(9, np.exp(9 / 4)))
    return _exact("funnel", models.funnel, models.tensors(scale=3.0), v=(0.0, 3.0), x=x)


def _student() -> Trial:
    scale = np.array([1.0, 10.0])
    data = models.tensors(scale=scale)
    return _exact("student-t3", models.student, data, x=(np.zeros(2), np.sqrt(3.0) * scale))


# By quadrature ------------------------------------------------------------------------------------


def _weighted(values: Array, log_density: Array) -> tuple[Any, Any]:
    """Mean and sd of ``values`` (points, ...) under unnormalised log weights (points,)."""
    weights = np.exp(log_density - log_density.max())
    weights /= weights.sum()
    mean = np.tensordot(weights, values, 1)
    return mean, np.sqrt(np.tensordot(weights, (values - mean) ** 2, 1))


def _cauchy_location(name: str, observations: list[float]) -> Trial:
    y = np.array(observations)

    def truth() -> Moments:
        grid = np.linspace(-60, 60, 240_001)
        log_density = norm.logpdf(grid, 0, 10) + cauchy.logpdf(y[:, None], grid, 1).sum(0)
        return _moments(theta=_weighted(grid, log_density))

    data = models.tensors(y=y)
    return Trial(name, models.cauchy_location, data, truth, "quadrature")


def _label_switching() -> Trial:
    r = np.random.default_rng(8)
    y = np.where(r.random(60) < 0.5, -1.5, 1.5) + r.normal(size=60)

    def truth() -> Moments:
        grid = np.linspace(-4, 4, 801)
        pairs = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
        log_density = norm.logpdf(pairs, 0, 5).sum(-1)
        pdf = norm.pdf(y[:, None], grid, 1)
        for row in pdf:
            log_density += np.log((row[:, None] + row[None, :]) / 2).reshape(-1)
        return _moments(mu=_weighted(pairs, log_density))

    data = models.tensors(y=y)
    return Trial("label-switching", models.unordered_mixture, data, truth, "quadrature")


def _weak_groups() -> Trial:
    """Given tau all is Gaussian: with s^2 = tau^2 + sigma^2, y_j ~ N(mu, s), and so on."""
    data = models.weak_rows()
    y, sigma = data["y"].numpy(), float(data["sigma"])

    def truth() -> Moments:
        tau = np.linspace(1e-5, 12, 20_001)[:, None]
        total = tau**2 + sigma**2
        precision = 1 / 25 + len(y) / total[:, 0]
        mu, mu_var = y.sum() / total[:, 0] / precision, 1 / precision
        log_density = norm.logpdf(tau[:, 0], 0, 2) - 0.5 * len(y) * np.log(total[:, 0])
        log_density -= 0.5 * ((y**2).sum() / total[:, 0] - mu**2 * precision)
        log_density -= 0.5 * np.log(precision)
        keep = tau**2 / total
        theta = keep * y + (1 - keep) * mu[:, None]
        theta_var = keep * sigma**2 + (1 - keep) ** 2 * mu_var[:, None]
        mu_mean, mu_sd = _weighted(mu, log_density)
        theta_mean, theta_sd = _weighted(theta, log_density)
        mu_sd = np.sqrt(mu_sd**2 + _weighted(mu_var, log_density)[0])
        theta_sd = np.sqrt(theta_sd**2 + _weighted(theta_var, log_density)[0])
        tau_moments = _weighted(tau[:, 0], log_density)
        return _moments(mu=(mu_mean, mu_sd), tau=tau_moments, theta=(theta_mean, theta_sd))

    return Trial("weak-groups", models.weak_groups, data, truth, "quadrature")


def _gp_poisson_data() -> dict[str, torch.Tensor]:
    x = np.arange(-10.0, 11.0, 2.0)
    return models.tensors(x=x, y=[40.0, 37, 29, 12, 4, 3, 9, 19, 77, 82, 33])


def _trials() -> list[Trial]:
    far = np.array([[-4.0, 0.0], [4.0, 2.0]])
    near = np.array([[-1.5, 0.0], [1.5, 1.0]])
    return [
        _gaussian("gaussian-999", 0.999, np.geomspace(1e-3, 1e4, 5)),
        _raw_regression(),
        _simplex("simplex-small", [0.0, 1, 2, 5], 1.0),
        _simplex("simplex-large", [1200.0, 300, 45, 3], 1.0),
        _simplex("simplex-sparse", [0.0, 0, 1, 9, 2, 0], 0.5),
        _rare_event(0.0, 29.0),
        _rare_counts(),
        _nuts("ordinal", models.ordinal, models.ordinal_rows()),
        _nuts("hidden-markov", models.hidden_markov, models.hidden_markov_series()),
        _nuts("gp-poisson", models.gp_poisson, _gp_poisson_data()),
        _two_modes("two-modes-equal", 0.5, far),
        _two_modes("two-modes-unequal", 0.9, far),
        _two_modes("two-modes-near", 0.6, near),
        _label_switching(),
        _funnel(),
        _banana(),
        _student(),
        _cauchy_location("cauchy-equal", [-5.2, -4.1, -3.0, 4.6, 5.3, 6.9]),
        _cauchy_location("cauchy-minor", [-5.2, -4.1, -3.0, 4.6, 5.3]),
        _nuts("near-separation", models.logistic, models.nearly_separated_rows()),
        _nuts("horseshoe", models.horseshoe, models.sparse_rows(), accept=0.995),
        _weak_groups(),
        _nuts("logistic-100", models.logistic, models.wide_rows()),
    ]


TRIALS: dict[str, Trial] = {trial.name: trial for trial in _trials()}


def main() -> None:
    torch.set_num_threads(1)
    for trial in TRIALS.values():
        mean, sd = trial.truth()
        numbers = sum(value.size for value in mean.values())
        sds = np.concatenate([value.reshape(-1) for value in sd.values()])
        print(
            f"{trial.name:20s} {trial.source:10s} {numbers:4d} marginals, "
            f"sd {sds.min():.3g} to {sds.max():.3g}",
            flush=True,
        )


if __name__ == "__main__":
    main()
