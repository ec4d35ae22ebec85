"""Mean and precision of a normal sample: the exact posterior, and the best factorised one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from guidebook.errors import DataError
from guidebook.guides.exact.normal_gamma import NormalGamma, NormalGammaPrior


class GaussianMeanField(NormalGammaPrior):
    r"""q(mu) q(tau) for `guidebook.models.gaussian_mean`, by its complete conditionals.

    .. math:: q(\mu) = N(m, v), \qquad q(\tau) = \mathrm{Gamma}(a_q, b_q)

    m, v, a_q and b_q are its buffers `q_loc`, `q_variance`, `q_shape`, `q_rate` (float64, scalars);
    before any update they are the prior's. With lambda_n, m_n and S(mu) = sum_i (x_i - mu)^2 +
    lambda_0 (mu - m_0)^2 the complete conditionals, and the updates that follow from them, are

    .. math::
        \mu \mid \tau, x &\sim N(m_n, 1 / (\lambda_n \tau)), &
        \tau \mid \mu, x &\sim \mathrm{Gamma}(a + \tfrac{n+1}2,\ b + \tfrac12 S(\mu)) \\
        q(\mu) &= N(m_n, 1 / (\lambda_n E \tau)), &
        q(\tau) &= \mathrm{Gamma}(a + \tfrac{n+1}2,\ b + \tfrac12 E\, S(\mu))

    Three uses: `coordinate_updates(data)` for coordinate ascent (CAVI), `solve(data)` for its fixed
    point in closed form, and `initial` and `sweep` for Gibbs sampling. Called, it samples q, whatever
    the rows. Its arguments are those of the model; SettingError for a prior that is not proper.

    Both means are those of the posterior: E mu = m_n and E tau = a_n / b_n. Both variances are
    smaller, that of tau by the factor a_n / (a_n + 1/2), that of mu by (a_n - 1) / a_n.

    Source: Bishop (2006), Pattern Recognition and Machine Learning, section 10.1.3.
    """

    sites = ("mu", "tau")
    q_loc: Tensor
    q_variance: Tensor
    q_shape: Tensor
    q_rate: Tensor

    def __init__(
        self, *, loc: float = 0.0, strength: float = 1.0, shape: float = 2.0, rate: float = 1.0
    ) -> None:
        super().__init__(loc, strength, shape, rate)
        start = {"loc": loc, "variance": rate / (strength * shape), "shape": shape, "rate": rate}
        for name, value in start.items():
            self.register_buffer(f"q_{name}", torch.tensor(value, dtype=torch.float64))

    def forward(self, x: Tensor | None = None, size: int | None = None) -> dict[str, Tensor]:
        """Sample `tau` and `mu`, independent of each other."""
        q = [self.q_shape, self.q_rate, self.q_loc, self.q_variance.sqrt()]
        shape, rate, loc, scale = [v.to(x) if x is not None else v for v in q]
        tau = pyro.sample("tau", dist.Gamma(shape, rate))
        mu = pyro.sample("mu", dist.Normal(loc, scale))
        return {"tau": tau, "mu": mu}

    # coordinate ascent --------------------------------------------------------------------------

    def coordinate_updates(self, data: Mapping[str, Any]) -> Iterator[Tensor]:
        """Update q(mu), then q(tau), in place; yield the ELBO after every sweep, without end."""
        x = self._rows(data)
        exact = self.posterior(x)
        while True:
            self.q_loc = exact.loc
            self.q_variance = self.q_rate / (exact.strength * self.q_shape)
            self.q_shape = exact.shape + 0.5
            self.q_rate = exact.rate + 0.5 * exact.strength * self.q_variance
            yield self._elbo(exact)

    def solve(self, data: Mapping[str, Any]) -> Tensor:
        """Set q to the fixed point of the updates, in closed form; return the ELBO.

        The fixed point has E tau = a_n / b_n: b_q = b_n + b_q / (2 a_q) with a_q = a_n + 1/2.
        """
        exact = self.posterior(self._rows(data))
        self.q_shape = exact.shape + 0.5
        self.q_rate = exact.rate * self.q_shape / exact.shape
        self.q_loc = exact.loc
        self.q_variance = exact.rate / (exact.strength * exact.shape)
        return self._elbo(exact)

    def elbo(self, data: Mapping[str, Any]) -> Tensor:
        """E_q[log p(x, mu, tau) - log q(mu) - log q(tau)] at the present q, a scalar."""
        return self._elbo(self.posterior(self._rows(data)))

    def _elbo(self, exact: NormalGamma) -> Tensor:
        r"""log p(x) - KL(q || p(mu, tau | x)); the posterior is a normal-gamma of `exact`.

        E log p(mu, tau | x) has E S(mu) / 2 + b = b_n + lambda_n ((m - m_n)^2 + v) / 2.
        """
        tau = self.q_shape / self.q_rate
        log_tau = torch.digamma(self.q_shape) - self.q_rate.log()
        squares = exact.rate + 0.5 * exact.strength * (
            (self.q_loc - exact.loc).square() + self.q_variance
        )
        n = 2 * (exact.shape - self.shape)
        log_joint = (
            -0.5 * (n + 1) * math.log(2 * math.pi)
            + 0.5 * math.log(self.strength)
            + self.shape * math.log(self.rate)
            - math.lgamma(self.shape)
            + (exact.shape - 0.5) * log_tau
            - squares * tau
        )
        entropy_mu = 0.5 * (math.log(2 * math.pi) + 1 + self.q_variance.log())
        entropy_tau = (
            self.q_shape
            - self.q_rate.log()
            + torch.lgamma(self.q_shape)
            + (1 - self.q_shape) * torch.digamma(self.q_shape)
        )
        return log_joint + entropy_mu + entropy_tau

    # Gibbs sampling -----------------------------------------------------------------------------

    def initial(
        self, data: Mapping[str, Any], chains: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """A state for each chain, drawn from the prior: `mu` and `tau`, each (chains,)."""
        x = self._rows(data)
        tau = _gamma(x.new_full((chains,), self.shape), x.new_full((), self.rate), generator)
        noise = torch.randn(chains, generator=generator, dtype=x.dtype, device=x.device)
        return {"mu": self.loc + noise / (self.strength * tau).sqrt(), "tau": tau}

    def sweep(
        self, state: Mapping[str, Tensor], data: Mapping[str, Any], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """mu given tau, then tau given mu, for all chains at once."""
        exact = self.posterior(self._rows(data))
        tau = state["tau"]
        noise = torch.randn(tau.shape, generator=generator, dtype=tau.dtype, device=tau.device)
        mu = exact.loc + noise / (exact.strength * tau).sqrt()
        rate = exact.rate + 0.5 * exact.strength * (mu - exact.loc).square()
        return {"mu": mu, "tau": _gamma((exact.shape + 0.5).expand(tau.shape), rate, generator)}

    def _rows(self, data: Mapping[str, Any]) -> Tensor:
        x = data.get("x")
        if not isinstance(x, Tensor):
            raise DataError("data must hold all rows as a tensor: {'x': tensor of shape (n,)}.")
        return x.double()


def _gamma(shape: Tensor, rate: Tensor, generator: torch.Generator) -> Tensor:
    """Draws of Gamma(shape, rate) from this generator, in the shape of `shape`."""
    drawn: Tensor = torch._standard_gamma(shape.contiguous(), generator=generator)
    return drawn / rate
