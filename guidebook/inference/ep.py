r"""Expectation propagation: moments of one exact factor at a time.

For p(theta, x) = N(theta; prior) prod_i t_i(s_i), each t_i is replaced by a normal site. A sweep takes
every site out of q (the cavity), puts the exact factor in (the tilted distribution), and sets the
site so that q has the tilted mean and variance:

    1 / v_c = 1 / v - tau,     m_c / v_c = m / v - nu                      cavity
    Z, m', v' = moments of t(s) N(s; m_c, v_c I)                           tilted
    tau <- (1 - d) tau + d (1 / v' - 1 / v_c),   nu <- likewise with m'/v' site, damped by d

Where it comes to rest each marginal of q has the moments of its tilted distribution: that is what
convergence is measured by, whatever the damping. With F(m, v) = k/2 log v + |m|^2 / (2 v) the
estimate of log p(x) is F(q) - F(prior) + sum_i (log Z_i + F(cavity_i) - F(marginal_i)).

A site may have a negative precision, as in the clutter problem; q may not. A site whose cavity would
be improper is left as it is for that sweep (Minka 2001), and a step that would make q improper is
shortened. Sites that are still left out at the end keep the fit from being called converged.

Sources: Minka 2001, "Expectation propagation for approximate Bayesian inference"; Seeger 2005,
"Expectation propagation for exponential families"; Rasmussen and Williams 2006, "Gaussian processes
for machine learning", section 3.6; parallel updates: van Gerven, Cseke, de Lange and Heskes 2010,
"Efficient Bayesian multivariate fMRI analysis using a sparsifying spatio-temporal prior".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from guidebook.errors import GuideError, SettingError
from guidebook.guides.conjugate.sites import Sites
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.opening import Run, opened, pair_runs
from guidebook.inference.fits.running import check_whole
from guidebook.inference.protocols.propagation import propagate
from guidebook.inference.protocols.require import require
from guidebook.inference.protocols.sites import REMEDY, HasSites

FIRST_DAMPING = {"sequential": 1.0, "parallel": 0.8}
CHECKED = 8
"""Draws at which the guide's prior and sites are held against the model's log density."""


def ep(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Mapping[str, Any],
    *,
    sweeps: int = 200,
    schedule: Literal["sequential", "parallel"] = "parallel",
    damping: float | None = None,
    tolerance: float = 1e-6,
    device: str | torch.device | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Fit:
    """Fits the sites of the guide; its history is minus the estimate of log p(x), sweep by sweep.

    notes: log_evidence_ep (where no site is left out), sweeps, residual (the largest distance of a
    marginal from its tilted moments), damping (at the end), left_out (sites with an
    improper cavity), negative_sites.

    Arguments:
        guide: one that has sites: gb.guides.ProbitSites, LogisticSites, ClutterSites, or your own.
        sweeps: at most so many.
        schedule: "parallel" updates all sites from one q, vectorised; "sequential" one by one, fewer
            sweeps and steadier where factors disagree, slower by a loop over the rows.
        damping: d in (0, 1], the share of the new site; None: 1 for sequential, 0.8 for parallel. It
            is halved after 8 sweeps without a smaller residual.
        tolerance: of the residual, in standard deviations and in log variances.
        seed: of the draws at which the pair is checked; the result does not depend on it.

    Raises:
        GuideError: a guide without sites, or whose prior and sites are not the model's.
        SettingError: sweeps, schedule, damping or tolerance out of range.
        DataError, ModelError: as `svi`.
    """
    check_whole(sweeps=(sweeps, 1))
    require(guide, HasSites, "ep", REMEDY)
    if schedule not in FIRST_DAMPING:
        raise SettingError(f"schedule={schedule!r} is unknown: give 'sequential' or 'parallel'.")
    first = FIRST_DAMPING[schedule] if damping is None else damping
    if not 0 < first <= 1:
        raise SettingError(
            f"damping={damping!r} is out of range: give a number in (0, 1], or None."
        )
    if not tolerance > 0:
        raise SettingError(f"tolerance={tolerance!r} is out of range: give a positive number.")
    with (
        opened("ep", model, guide, data, seed=seed, device=device, check=_sites_run) as run,
        torch.no_grad(),
    ):
        sites, latent = run.guide.sites(**run.tensors), run.latent_sites()
        with run.steps(sweeps, shown=progress, unit="sweep") as steps:
            found = propagate(sites, steps, schedule, first, tolerance)
        q = found.q
        run.guide.hold(q.site_precision, q.site_shift, q.loc, q.covariance)
        fit = run.fit(found.status, found.history, sites=latent, notes=found.notes)
        _same_density(fit, sites)
    return fit


def _sites_run(run: Run) -> None:
    """The guide's sites see the data first: they say better than the model what is wrong with them."""
    run.guide.sites(**run.tensors)
    pair_runs(run)


# is the pair a pair ------------------------------------------------------------------------------


def _same_density(fit: Fit, sites: Sites) -> None:
    """Holds log N(theta; prior) + sum_i log t_i(s_i) against the model's log p(theta, x).

    log t_i(s) is the log mass under a cavity of next to no variance.

    Raises:
        GuideError: they differ at a draw of q.
    """
    guide: Any = fit.guide
    u, _ = fit.approximation.draw(CHECKED, fit.seed)
    log_joint, _ = fit.potential(u[0])
    theta = guide.position(fit.potential.constrain(u[0]))
    mean = torch.linalg.solve(sites.precision, sites.shift)
    prior = torch.distributions.MultivariateNormal(mean, precision_matrix=sites.precision)
    index = torch.arange(sites.number, device=theta.device)
    tiny = torch.full((sites.number,), 1e-9, dtype=theta.dtype, device=theta.device)
    factors = []
    for one in theta:
        s = one.expand(sites.number, -1) if sites.directions is None else sites.directions @ one
        factors.append(sites.tilted(index, s.reshape(sites.number, -1), tiny).log_mass.sum())
    ours = prior.log_prob(theta) + torch.stack(factors)
    gap = float((ours - log_joint).abs().max())
    size = max(1.0, float(log_joint.abs().max()))
    if not gap <= 1e-6 * size + 1e4 * torch.finfo(theta.dtype).eps * size:
        raise GuideError(
            f"The guide's prior and sites are not the model's: log p(theta, x) differs by {gap:.3g}. "
            "Give guide and model the same likelihood and the same prior (scale, variances)."
        )
