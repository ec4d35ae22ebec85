r"""The ELBO of every approximation in its three forms.

.. math:: \text{ELBO} = E_q \log p(x, z) + H[q] = E_q \log p(x \mid z) - KL(q \| p(z))
    = \log p(x) - KL(q \| p(z \mid x))

`guidebook.diagnostics.measures.identities.bound` gives them where prior and likelihood are separate.
Where a model sums discrete sites out, z are its continuous sites, and log p(x | z) is what remains
of the joint density without their prior. Components that can change places are in one labelling,
whose densities are p_c = K! p and q_c (`guidebook.programs.labels`); the forms hold for those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from guidebook.diagnostics.measures.identities import Bound, bound, scored
from guidebook.diagnostics.measures.information import Estimate, mean_of
from guidebook.errors import GuidebookError
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.status import Status
from guidebook.programs.labels import log_labellings
from guidebook.programs.nodes import summed_log_joint

DRAWS = 2000


WORK = 100_000_000
"""Numbers computed for the forms of one fit: a second at most."""


def elbo_forms(
    fits: Mapping[str, Any], reference: str | None = None, seed: int = 0, draws: int = DRAWS
) -> dict[str, Bound]:
    """Name to Bound, of the fits with a density q; with the third form where `reference` is a fit
    by `exact`. Others, and fits whose density is dear to compute, are left out.
    """
    truth = fits.get(reference) if reference is not None else None
    exact, evidence = None, None
    if isinstance(truth, Fit) and truth.status is Status.EXACT:
        exact, evidence = truth.guide, truth.notes.get("log_evidence")
    found = {}
    for name, fit in fits.items():
        if not isinstance(fit, Fit) or not fit.approximation.has_joint:
            continue
        if fit.approximation.kind != "density":
            continue
        affordable = min(draws, WORK // max(1, fit.potential.cost))
        if affordable < 200:
            continue
        try:
            found[name] = _forms(fit, exact, evidence, affordable, seed)
        except GuidebookError:  # no density of its draws, or parts that cannot be told apart
            continue
    return found


def _forms(fit: Fit, exact: Any, evidence: Any, draws: int, seed: int) -> Bound:
    if fit.potential.plate_nesting is None:
        return bound(fit, exact=exact, log_evidence=evidence, draws=draws, seed=seed)
    return summed_out(fit, exact=exact, log_evidence=evidence, draws=draws, seed=seed)


def summed_out(
    fit: Fit, *, exact: Any = None, log_evidence: float | None = None, draws: int = DRAWS,
    seed: int = 0,
) -> Bound:  # fmt: skip
    """The forms for a model whose discrete sites are summed out; see the module.

    `exact` is a guide that is the posterior of the continuous sites, `log_evidence` its log p(x).
    """
    potential = fit.potential
    u, log_q = fit.approximation.draw(draws, seed)
    assert log_q is not None
    u, log_q = u[0], log_q[0].double()
    log_joint, log_det = (t.double() for t in potential(u))
    copies = log_labellings(fit.model)

    def prior_of(trace: Any) -> dict[str, Tensor]:
        kept = trace.copy()
        for name in potential.observed:
            kept.remove_node(name)
        return {"prior": summed_log_joint(kept)}

    prior = potential.replay("prior of the continuous sites", prior_of, u)["prior"].double()
    likelihood = log_joint - prior
    energy = log_joint + copies + log_det
    away = log_q - log_det - (prior + copies)
    known = Bound(
        mean_of(energy), mean_of(-log_q), mean_of(likelihood), mean_of(away), mean_of(energy - log_q),
        mean_of(likelihood - away),
    )  # fmt: skip
    if exact is None or log_evidence is None:
        return known
    log_p = scored(exact, fit, potential.constrain(u)).double() + copies
    gap = mean_of(log_q - log_det - log_p)
    return known._replace(log_evidence=Estimate(float(log_evidence)), posterior_kl=gap)


def residual(found: Bound) -> Estimate | None:
    """log p(x) - (ELBO + KL to the posterior): 0 but for the draws; None without the posterior."""
    if found.log_evidence is None or found.posterior_kl is None:
        return None
    value = found.log_evidence.value - found.energy_form.value - found.posterior_kl.value
    return Estimate(value, math.hypot(found.energy_form.se, found.posterior_kl.se))
