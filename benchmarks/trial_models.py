"""Pyro models of the trial posteriors, and how their data are made.

They are what the nine reference posteriors are not: scales that differ by 10^7, correlations of
0.999, simplex and ordered parameters, skewness at a boundary, several modes, heavy tails, funnels,
and up to a hundred dimensions. Constants take the data's dtype; every model records and batches.
"""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from benchmarks.posteriors import flat, number

# Densities on a flat vector -----------------------------------------------------------------------


def gaussian(loc: Tensor, whiten: Tensor) -> None:
    """x ~ N(loc, S) with whiten S whiten' = I, stated as a factor on a flat x (D,)."""
    x = pyro.sample("x", flat(constraints.real_vector, len(loc)))
    standard = (whiten * (x - loc).unsqueeze(-2)).sum(-1)
    pyro.factor("density", -0.5 * standard.square().sum(-1))


def two_modes(loc: Tensor, log_mass: Tensor) -> None:
    """x ~ sum_k mass_k N(loc_k, I): ``loc`` is (K, D), ``log_mass`` (K,)."""
    x = pyro.sample("x", flat(constraints.real_vector, loc.shape[-1]))
    distance = (x.unsqueeze(-2) - loc).square().sum(-1)
    pyro.factor("density", (log_mass - 0.5 * distance).logsumexp(-1))


def student(scale: Tensor, df: float = 3.0) -> None:
    """x = scale * t, t multivariate Student with ``df`` degrees of freedom and identity shape."""
    x = pyro.sample("x", flat(constraints.real_vector, len(scale)))
    squared = (x / scale).square().sum(-1)
    pyro.factor("density", -0.5 * (df + len(scale)) * (squared / df).log1p())


def funnel(scale: Tensor, count: int = 9) -> None:
    """v ~ N(0, scale), x_i ~ N(0, exp(v / 2)), i = 1..count (Neal 2003, Slice sampling)."""
    v = pyro.sample("v", dist.Normal(number(scale, 0.0), scale))
    with pyro.plate("coordinate", count):
        pyro.sample("x", dist.Normal(number(scale, 0.0), (v / 2).exp()))


def banana(scale: Tensor, bend: Tensor, width: Tensor) -> None:
    """a ~ N(0, scale), b ~ N(bend a^2, width): a curved ridge with known moments."""
    a = pyro.sample("a", dist.Normal(number(scale, 0.0), scale))
    pyro.sample("b", dist.Normal(bend * a.square(), width))


# Conjugate pairs ----------------------------------------------------------------------------------


def dirichlet_counts(counts: Tensor, concentration: Tensor) -> None:
    """p ~ Dirichlet(concentration), counts ~ Multinomial(p)."""
    p = pyro.sample("p", dist.Dirichlet(concentration))
    pyro.factor("counts", (counts * p.log()).sum(-1))


def beta_binomial(successes: Tensor, trials: Tensor) -> None:
    """p ~ Beta(1, 1), successes ~ Binomial(trials, p)."""
    one = torch.ones_like(trials)
    p = pyro.sample("p", dist.Beta(one, one))
    pyro.factor("successes", successes * p.log() + (trials - successes) * (-p).log1p())


def gamma_poisson(counts: Tensor, shape: Tensor, rate: Tensor) -> None:
    """lam ~ Gamma(shape, rate), counts_i ~ Poisson(lam)."""
    lam = pyro.sample("lam", dist.Gamma(shape, rate))
    with pyro.plate("row", len(counts)):
        pyro.sample("counts", dist.Poisson(lam), obs=counts)


# Likelihoods --------------------------------------------------------------------------------------


def ordinal(x: Tensor, y: Tensor, cuts: int = 3) -> None:
    """Ordered logistic regression; slopes N(0, 2), cut-points N(0, 5) on the ordered vectors."""
    zero, two, five = number(x, 0.0), number(x, 2.0), number(x, 5.0)
    beta = pyro.sample("beta", dist.Normal(zero, two).expand([x.shape[-1]]).to_event(1))
    cut = pyro.sample("cut", flat(constraints.ordered_vector, cuts))
    pyro.factor("cut_prior", dist.Normal(zero, five).log_prob(cut).sum(-1))
    with pyro.plate("row", len(x)):
        # dist.OrderedLogistic writes in place, which torch.func.vmap refuses.
        below = (cut.unsqueeze(-2) - (x * beta).sum(-1, keepdim=True)).sigmoid()
        edge = torch.zeros_like(below[..., :1])
        probability = torch.cat([edge, below, 1 + edge], -1).diff(dim=-1)
        pyro.sample("y", dist.Categorical(probability), obs=y)


def hidden_markov(y: Tensor, states: int = 3) -> None:
    """Hidden Markov chain, uniform first state, rows Dirichlet(2), ordered means, unit noise."""
    row = y.new_full((states,), 2.0)
    transition = pyro.sample("transition", dist.Dirichlet(row).expand([states]).to_event(1))
    mean = pyro.sample("mean", flat(constraints.ordered_vector, states))
    prior = dist.Normal(number(y, 0.0), number(y, 5.0))
    pyro.factor("mean_prior", prior.log_prob(mean).sum(-1))
    emission = dist.Normal(mean.unsqueeze(-2), number(y, 1.0)).log_prob(y.unsqueeze(-1))
    pyro.factor("y", _forward(transition.log(), emission))


def _forward(log_transition: Tensor, log_emission: Tensor) -> Tensor:
    """log p(y) by doubling: (K, K) steps are multiplied in pairs until one is left."""
    start = log_emission[..., 0, :] - np.log(log_emission.shape[-1])
    steps = log_transition.unsqueeze(-3) + log_emission[..., 1:, :].unsqueeze(-2)
    while steps.shape[-3] > 1:
        pairs = steps.shape[-3] // 2
        left, right = steps[..., : 2 * pairs : 2, :, :], steps[..., 1 : 2 * pairs : 2, :, :]
        product = (left.unsqueeze(-1) + right.unsqueeze(-3)).logsumexp(-2)
        steps = torch.cat([product, steps[..., 2 * pairs :, :, :]], -3)
    return (start.unsqueeze(-1) + steps[..., 0, :, :]).logsumexp((-1, -2))


def gp_poisson(x: Tensor, y: Tensor) -> None:
    """k ~ Poisson(exp f), f = chol(K) f_tilde, K squared exponential (posteriordb gp_pois_regr)."""
    zero, one = number(x, 0.0), number(x, 1.0)
    rho = pyro.sample("rho", dist.Gamma(number(x, 25.0), number(x, 4.0)))
    alpha = pyro.sample("alpha", dist.HalfNormal(number(x, 2.0)))
    f_tilde = pyro.sample("f_tilde", dist.Normal(zero, one).expand([len(x)]).to_event(1))
    distance = ((x.unsqueeze(-1) - x) / rho[..., None, None]).square()
    # A nugget in proportion to the variance: positive definite for every rho and alpha.
    kernel = (-0.5 * distance).exp() + 1e-8 * torch.eye(len(x), dtype=x.dtype)
    root = alpha[..., None, None] * torch.linalg.cholesky(kernel)
    f = (root * f_tilde.unsqueeze(-2)).sum(-1)
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Poisson(f.exp()), obs=y)


def unordered_mixture(y: Tensor) -> None:
    """y ~ N(mu_1, 1) / 2 + N(mu_2, 1) / 2, mu_k ~ N(0, 5), labels free to switch."""
    zero, one, five = number(y, 0.0), number(y, 1.0), number(y, 5.0)
    mu = pyro.sample("mu", dist.Normal(zero, five).expand([2]).to_event(1))
    weights = dist.Categorical(logits=torch.zeros_like(mu))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, one)), obs=y)


def cauchy_location(y: Tensor) -> None:
    """y_i ~ Cauchy(theta, 1), theta ~ N(0, 10)."""
    zero, one, ten = number(y, 0.0), number(y, 1.0), number(y, 10.0)
    theta = pyro.sample("theta", dist.Normal(zero, ten))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Cauchy(theta, one), obs=y)


def logistic(x: Tensor, y: Tensor, scale: Tensor) -> None:
    """y ~ Bernoulli(sigmoid(x beta)), beta_d ~ N(0, scale)."""
    prior = dist.Normal(number(x, 0.0), scale).expand([x.shape[-1]]).to_event(1)
    beta = pyro.sample("beta", prior)
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=(x * beta).sum(-1)), obs=y)


def horseshoe(x: Tensor, y: Tensor) -> None:
    """y ~ N(x (z lam tau), 1), z ~ N(0, 1), lam and tau half Student-t of 3 degrees of freedom.

    Three degrees of freedom rather than one, so that every marginal has a standard deviation.
    """
    zero, one, three = number(x, 0.0), number(x, 1.0), number(x, 3.0)
    log_tau = pyro.sample("log_tau", flat(constraints.real))
    log_lam = pyro.sample("log_lam", flat(constraints.real_vector, x.shape[-1]))
    heavy = dist.StudentT(three, zero, one)
    pyro.factor("tau_prior", heavy.log_prob(log_tau.exp() / 0.1) + log_tau)
    pyro.factor("lam_prior", (heavy.log_prob(log_lam.exp()) + log_lam).sum(-1))
    z = pyro.sample("z", dist.Normal(zero, one).expand([x.shape[-1]]).to_event(1))
    beta = z * (log_lam + log_tau.unsqueeze(-1)).exp()
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal((x * beta).sum(-1), one), obs=y)


def weak_groups(y: Tensor, sigma: Tensor) -> None:
    """y_j ~ N(theta_j, sigma), theta_j ~ N(mu, tau), mu ~ N(0, 5), tau ~ HalfNormal(2)."""
    mu = pyro.sample("mu", dist.Normal(number(y, 0.0), number(y, 5.0)))
    tau = pyro.sample("tau", dist.HalfNormal(number(y, 2.0)))
    with pyro.plate("group", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


# Data ---------------------------------------------------------------------------------------------


def tensors(**arrays: np.ndarray | list[float] | list[list[float]] | float) -> dict[str, Tensor]:
    return {name: torch.tensor(np.asarray(value, float)) for name, value in arrays.items()}


def raw_scale_rows() -> dict[str, Tensor]:
    """Sixty rows of a regression nobody centred: an intercept, years, incomes, a tiny fraction."""
    r = np.random.default_rng(1)
    year, income = r.integers(1950, 2011, 60), r.normal(45_000, 9_000, 60)
    fraction, size = r.uniform(0, 0.003, 60), r.normal(3, 1, 60)
    x = np.column_stack([np.ones(60), year, income, fraction, size])
    y = x @ np.array([-4_000.0, 2.1, 0.004, 800.0, 5.0]) + r.normal(0, 30, 60)
    return tensors(x=x, y=y)


def ordinal_rows() -> dict[str, Tensor]:
    r = np.random.default_rng(2)
    x = r.normal(size=(80, 2))
    noise = r.logistic(size=80)
    y = np.digitize(x @ np.array([1.2, -0.7]) + noise, [-1.5, 0.3, 2.5])
    return tensors(x=x, y=y)


def hidden_markov_series() -> dict[str, Tensor]:
    r = np.random.default_rng(3)
    rows = np.array([[0.85, 0.1, 0.05], [0.1, 0.8, 0.1], [0.05, 0.15, 0.8]])
    state, states = 0, []
    for _ in range(120):
        state = r.choice(3, p=rows[state])
        states.append(state)
    return tensors(y=np.array([-3.0, 0.0, 4.0])[states] + r.normal(size=120))


def nearly_separated_rows() -> dict[str, Tensor]:
    r = np.random.default_rng(4)
    x = np.column_stack([np.ones(24), r.normal(size=(24, 2))])
    y = (x @ np.array([0.3, 4.0, -2.0]) + 0.5 * r.logistic(size=24) > 0).astype(float)
    return tensors(x=x, y=y, scale=10.0)


def sparse_rows() -> dict[str, Tensor]:
    r = np.random.default_rng(5)
    x = r.normal(size=(40, 10))
    y = x @ np.array([2.0, -1.0, 0.4] + 7 * [0.0]) + r.normal(size=40)
    return tensors(x=x, y=y)


def weak_rows() -> dict[str, Tensor]:
    r = np.random.default_rng(6)
    return tensors(y=2 + r.normal(0, np.hypot(1.0, 3.0), 48), sigma=3.0)


def wide_rows() -> dict[str, Tensor]:
    r = np.random.default_rng(7)
    x = r.normal(size=(1_500, 100)) / 10
    y = (x @ r.normal(size=100) + r.logistic(size=1_500) > 0).astype(float)
    return tensors(x=x, y=y, scale=1.0)
