r"""The evidence lower bound in its three forms, for a fit or by enumeration.

    ELBO = E_q log p(x, z) + H[q]                       energy + entropy
         = E_q log p(x | z) - KL(q(z) || p(z))          data term - KL to the prior
         = log p(x) - KL(q(z) || p(z | x))              evidence - KL to the posterior

and the free energy F = -ELBO. Closed forms are used where they are known (the entropy of a normal
guide, its KL to a normal prior or posterior), so that the forms are computed in different ways and
their agreement says something; what remains is an average over draws, with its standard error.

Sources: Neal and Hinton 1998, "A view of the EM algorithm that justifies incremental, sparse, and
other variants"; Jordan, Ghahramani, Jaakkola and Saul 1999, "An introduction to variational methods
for graphical models".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import kl_divergence

from guidebook.diagnostics.measures.information import Estimate, mean_of
from guidebook.errors import DataError, GuideError, ModelError
from guidebook.inference.fits.fit import Fit
from guidebook.inference.protocols.rows import RowPosterior
from guidebook.programs.data import as_tensors
from guidebook.programs.graphs.recorded import recording
from guidebook.programs.owned import dtype_of
from guidebook.scope import local_parameters, precision, random_state

LARGEST_TABLE = 100_000


class Bound(NamedTuple):
    """The ELBO's terms, each with its standard error, and its forms.

    `entropy` and `energy` of continuous guides are on the unconstrained scale where the entropy is
    known there; their sum does not depend on the scale. `log_evidence` and `posterior_kl` are None
    where no exact posterior was given.
    """

    energy: Estimate
    entropy: Estimate
    data_term: Estimate
    prior_kl: Estimate
    energy_form: Estimate
    data_form: Estimate
    log_evidence: Estimate | None = None
    posterior_kl: Estimate | None = None

    @property
    def evidence_form(self) -> Estimate | None:
        """log p(x) - KL(q || p(z | x))."""
        if self.log_evidence is None or self.posterior_kl is None:
            return None
        se = math.hypot(self.log_evidence.se, self.posterior_kl.se)
        return Estimate(self.log_evidence.value - self.posterior_kl.value, se)

    @property
    def free_energy(self) -> Estimate:
        """F = -ELBO, from the first form."""
        return Estimate(-self.energy_form.value, self.energy_form.se)


def bound(
    fit: Fit,
    *,
    exact: Callable[..., Any] | None = None,
    log_evidence: float | None = None,
    draws: int = 4000,
    seed: int = 0,
) -> Bound:
    """The forms of the fit's ELBO, on `draws` draws of its guide.

    Arguments:
        exact: a guide that is the posterior of the fit's model (of fit.model, where that has been
            trained), such as ConjugateRegression; for the third form.
        log_evidence: log p(x), where `exact` has no method `log_evidence(**data)`.

    Raises:
        GuideError: a sampler's fit or a point, which have no log q; an exact guide that cannot score
            the fit's draws, or whose evidence is not known.
        ModelError: a model with enumerated sites, whose prior and likelihood are summed together.
    """
    if fit.approximation.kind in ("chains", "particles"):
        raise GuideError(f"A fit of {fit.engine} has draws and no density q: it has no ELBO.")
    potential = fit.potential
    if potential.plate_nesting is not None:
        raise ModelError(
            "The model sums discrete sites out, so prior and likelihood are not separate: use "
            "bound_by_enumeration, or a model without them."
        )
    u, log_q = fit.approximation.draw(draws, seed)
    if log_q is None:
        raise GuideError("A point has no density q and so no ELBO: fit a guide with a spread.")
    u, log_q = u[0], log_q[0].double()  # log q(u)
    log_det = potential.log_det(u).double()
    terms = potential.replay("prior and likelihood", prior_and_likelihood, u)
    prior, likelihood = terms["prior"].double(), terms["likelihood"].double()
    known = _forms(prior, likelihood, log_det, log_q, _closed_entropy(fit), _closed_prior_kl(fit))
    if exact is None:
        return known
    evidence = _evidence(exact, potential.data) if log_evidence is None else log_evidence
    gap = _closed_posterior_kl(fit, exact)
    if gap is None:
        log_p = scored(exact, fit, potential.constrain(u)).double()
        return known._replace(
            log_evidence=Estimate(evidence), posterior_kl=mean_of(log_q - log_det - log_p)
        )
    return known._replace(log_evidence=Estimate(evidence), posterior_kl=Estimate(gap))


def _forms(
    prior: Tensor,
    likelihood: Tensor,
    log_det: Tensor,
    log_q: Tensor,
    entropy: float | None,
    prior_kl: float | None,
) -> Bound:
    """The forms of draws with these densities (S,), closed where entropy or KL to the prior are known."""
    energy = prior + likelihood + log_det
    if entropy is None:
        energy_form, spread = mean_of(energy - log_q), mean_of(-log_q)
    else:
        spread = Estimate(entropy)
        energy_form = Estimate(mean_of(energy).value + entropy, mean_of(energy).se)
    data_term = mean_of(likelihood)
    if prior_kl is None:
        away = mean_of(log_q - log_det - prior)
        data_form = mean_of(likelihood - (log_q - log_det - prior))
    else:
        away = Estimate(prior_kl)
        data_form = Estimate(data_term.value - prior_kl, data_term.se)
    return Bound(mean_of(energy), spread, data_term, away, energy_form, data_form)


def bound_by_enumeration(
    model: Callable[..., Any], guide: Callable[..., Any], data: Mapping[str, Any]
) -> Bound:
    """The forms, exactly, where all latent sites are discrete: a sum over all their values.

    Raises ModelError for a latent site without a finite support, or more than 100,000 joint values;
    GuideError for a guide with other sites.
    """
    dtype = dtype_of(model, guide)
    data = as_tensors(data, dtype, torch.device("cpu"))
    with local_parameters(), precision(dtype), random_state(0), torch.no_grad(), recording():
        names, table = _joint_values(model, data)
        prior, likelihood, log_q = (torch.empty(len(table), dtype=torch.float64) for _ in range(3))
        for row, values in enumerate(table):
            at = dict(zip(names, values, strict=True))
            trace = poutine.trace(poutine.condition(model, data=at)).get_trace(**data)
            parts = prior_and_likelihood(trace, latent=set(names))
            prior[row], likelihood[row] = parts["prior"], parts["likelihood"]
            log_q[row] = _guide_density(guide, data, at)
    joint = prior + likelihood
    evidence = joint.logsumexp(0)
    q = log_q.exp()
    if not abs(float(q.sum()) - 1) < 1e-6:
        raise GuideError(
            f"The guide's probabilities sum to {float(q.sum()):.6g} over all values of the latent sites, "
            "and must sum to 1: give every latent site one pyro.sample with a normalised distribution."
        )

    def under_q(values: Tensor) -> Estimate:
        return Estimate(float(torch.where(q > 0, q * values, 0.0).sum()))

    energy, entropy = under_q(joint), under_q(-log_q)
    data_term, prior_kl = under_q(likelihood), under_q(log_q - prior)
    return Bound(
        energy, entropy, data_term, prior_kl, Estimate(energy.value + entropy.value),
        Estimate(data_term.value - prior_kl.value), Estimate(float(evidence)),
        under_q(log_q - (joint - evidence)),
    )  # fmt: skip


# terms -------------------------------------------------------------------------------------------


def prior_and_likelihood(trace: Any, latent: set[str] | None = None) -> dict[str, Tensor]:
    """log p(z) and log p(x | z) of a trace: latent sites, and all others."""
    sums: dict[str, Any] = {"prior": torch.zeros(()), "likelihood": torch.zeros(())}
    for name, node in trace.nodes.items():
        if node["type"] != "sample" or site_is_subsample(node):
            continue
        density = scale_and_mask(node["fn"].log_prob(node["value"]), node["scale"], node["mask"])
        hidden = not node["is_observed"] if latent is None else name in latent
        key = "prior" if hidden else "likelihood"
        sums[key] = sums[key] + density.sum()
    return sums


def _closed_entropy(fit: Fit) -> float | None:
    """H[q(u)] on the unconstrained scale, of a guide that knows it."""
    with local_parameters(), torch.no_grad():
        try:
            over_positions = fit.approximation.over_positions()
            if over_positions is not None:
                return float(over_positions.entropy())
            if isinstance(fit.guide, RowPosterior) and len(fit.sites) == 1:
                x = fit.potential.data[fit.guide.observed]
                return float(fit.guide.posterior(x).entropy().sum())
        except NotImplementedError:
            return None
    return None


def _closed_prior_kl(fit: Fit) -> float | None:
    if not isinstance(fit.guide, RowPosterior) or len(fit.sites) != 1:
        return None
    x = fit.potential.data[fit.guide.observed]
    with local_parameters(), torch.no_grad():
        q = fit.guide.posterior(x)
        model = poutine.condition(fit.model, data={fit.guide.site: q.mean})
        prior = poutine.trace(model).get_trace(**fit.potential.data).nodes[fit.guide.site]["fn"]
        return _kl(q, prior)


def _closed_posterior_kl(fit: Fit, exact: Any) -> float | None:
    if not isinstance(fit.guide, RowPosterior) or not isinstance(exact, RowPosterior):
        return None
    x = fit.potential.data[fit.guide.observed]
    with local_parameters(), torch.no_grad():
        return _kl(fit.guide.posterior(x), exact.posterior(x))


def _kl(q: Any, p: Any) -> float | None:
    """KL(q || p) summed over rows, through the full covariance where torch has no other form."""
    try:
        return float(kl_divergence(q, p).sum())
    except NotImplementedError:
        pair = [_as_multivariate(one) for one in (q, p)]
        return None if None in pair else float(kl_divergence(*pair).sum())


def _as_multivariate(q: Any) -> Any:
    if isinstance(q, torch.distributions.MultivariateNormal):
        return q
    base = getattr(q, "base_dist", None)
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    if isinstance(base, torch.distributions.Normal) and len(q.event_shape) == 1:
        scale = torch.diag_embed(q.variance.sqrt())
        return torch.distributions.MultivariateNormal(q.mean, scale_tril=scale)
    return None


def _evidence(exact: Any, data: Mapping[str, Any]) -> float:
    if not hasattr(exact, "log_evidence"):
        raise GuideError(
            "The exact guide has no method log_evidence(**data): give log_evidence= (of a fit by "
            "gb.exact it is notes['log_evidence'])."
        )
    with torch.no_grad():
        return float(exact.log_evidence(**data).sum())


def _guide_density(guide: Any, data: Mapping[str, Any], values: Mapping[str, Tensor]) -> Tensor:
    """log q at the values of the sites."""
    trace = poutine.trace(poutine.condition(guide, data=dict(values))).get_trace(**data)
    scored = [n for n in trace.nodes.values() if n["type"] == "sample" and not site_is_subsample(n)]
    if {n["name"] for n in scored} != set(values):
        raise GuideError(
            f"The guide samples {sorted(n['name'] for n in scored)}, and the model "
            f"{sorted(values)}: give a guide of the same sites, so that log q is defined."
        )
    total = [scale_and_mask(n["fn"].log_prob(n["value"]), n["scale"], n["mask"]) for n in scored]
    return torch.stack([t.sum() for t in total]).sum()


def scored(exact: Any, fit: Fit, values: Mapping[str, Tensor]) -> Tensor:
    """log p(z | x) (S,) by the exact guide at draws of the fit's sites, each (S, *shape)."""
    data, names = fit.potential.data, [site.name for site in fit.sites]
    kept = {n: values[n] for n in names}
    with local_parameters(), precision(fit.potential.dtype), torch.no_grad(), recording():
        one = torch.func.vmap(lambda at: _guide_density(exact, data, at), randomness="different")
        size = fit.potential.chunk
        count = len(kept[names[0]])
        pieces = [
            one({n: v[start : start + size] for n, v in kept.items()})
            for start in range(0, count, size)
        ]
    return torch.cat(pieces)


def _joint_values(
    model: Callable[..., Any], data: Mapping[str, Any]
) -> tuple[list[str], list[tuple[Tensor, ...]]]:
    """Names of the latent sites, and every joint value of theirs."""
    trace = poutine.trace(model).get_trace(**data)
    names, supports, count = [], [], 1
    for name, node in trace.nodes.items():
        if node["type"] != "sample" or node["is_observed"] or site_is_subsample(node):
            continue
        fn = node["fn"]
        if not fn.has_enumerate_support or fn.event_dim:
            raise ModelError(
                f"The latent site '{name}' has no finite support to sum over: use bound(fit)."
            )
        single = fn.enumerate_support(expand=False).reshape(-1)
        size = len(single) ** max(1, fn.batch_shape.numel())
        count *= size
        if count > LARGEST_TABLE:
            raise ModelError(
                f"The latent sites have more than {LARGEST_TABLE} joint values: give fewer rows."
            )
        cells = itertools.product(single, repeat=max(1, fn.batch_shape.numel()))
        names.append(name)
        supports.append([torch.stack(cell).reshape(fn.batch_shape) for cell in cells])
    if not names:
        raise DataError("The model has no latent site to sum over.")
    return names, list(itertools.product(*supports))
