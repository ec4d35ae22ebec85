"""Hierarchical normal means: groups whose effects share a population."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor


def eight_schools(sigma: Tensor, y: Tensor | None = None) -> Tensor:
    r"""Eight schools in the non-centred parameterisation.

    .. math::
        \mu &\sim N(0, 5) \\
        \tau &\sim \mathrm{HalfCauchy}(5) \\
        \tilde\theta_j &\sim N(0, 1), \qquad \theta_j = \mu + \tau \tilde\theta_j \\
        y_j &\sim N(\theta_j, \sigma_j), \qquad j = 1, \dots, J

    The second argument of N is a standard deviation. Sites: `mu`, `tau` (scalars), `theta_trans`
    (J,) in plate `school`, and the deterministic `theta` (J,).

    Arguments: `sigma` (J,), the known standard errors, positive; `y` (J,), the estimated effects,
    or None to simulate them. Both in points of the test. Returns y.

    Non-centring removes the funnel between tau and theta, see Papaspiliopoulos, Roberts & Sköld
    (2007), A general framework for the parametrization of hierarchical models. Priors: posteriordb,
    eight_schools_noncentered. Data and model: Rubin (1981); Gelman et al. (2013), section 5.5.
    """
    mu, tau = _population(sigma)
    with pyro.plate("school", len(sigma), device=sigma.device):
        theta_trans = pyro.sample("theta_trans", dist.Normal(sigma.new_zeros(()), 1.0))
        theta = pyro.deterministic("theta", mu + tau * theta_trans, event_dim=0)
        return pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_centered(sigma: Tensor, y: Tensor | None = None) -> Tensor:
    r"""Eight schools in the centred parameterisation, which is hard for most guides.

    .. math::
        \mu &\sim N(0, 5), \qquad \tau \sim \mathrm{HalfCauchy}(5) \\
        \theta_j &\sim N(\mu, \tau) \\
        y_j &\sim N(\theta_j, \sigma_j), \qquad j = 1, \dots, J

    The same distribution of (mu, tau, theta, y) as `eight_schools`, with `theta` sampled directly:
    the posterior is a funnel, narrow in theta where tau is small, which no Gaussian follows.

    Sites: `mu`, `tau` (scalars), `theta` (J,) in plate `school`. Arguments, units and return value
    as for `eight_schools`.

    Priors: posteriordb, eight_schools_centered. As a test of variational inference: Yao, Vehtari,
    Simpson & Gelman (2018), Yes, but did it work?, which has wider priors.
    """
    mu, tau = _population(sigma)
    with pyro.plate("school", len(sigma), device=sigma.device):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        return pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def _population(sigma: Tensor) -> tuple[Tensor, Tensor]:
    # Parameters as tensors of the data's dtype, so that prior draws have it too.
    mu = pyro.sample("mu", dist.Normal(sigma.new_zeros(()), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(sigma.new_full((), 5.0)))
    return mu, tau
