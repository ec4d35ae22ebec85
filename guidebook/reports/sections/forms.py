"""The ELBO of every approximation in its three forms, as a table of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from guidebook.diagnostics.measures.forms import residual
from guidebook.diagnostics.measures.identities import Bound
from guidebook.diagnostics.measures.information import Estimate
from guidebook.reports.elements.numbers import minus, with_error
from guidebook.reports.elements.section import Section, Table

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared

HEADINGS = (
    "Energy\nE_q log p(x, z)",
    "Entropy\nH[q]",
    "Data term\nE_q log p(x | z)",
    "KL to prior\nKL(q ‖ p(z))",
    "ELBO\nenergy + entropy",
    "ELBO\ndata term − KL",
    "KL to posterior\nKL(q ‖ p(z | x))",
    "Residual\nlog p(x) − ELBO − KL",
    "Free energy\nF = −ELBO",
)


def forms(comparison: Compared) -> Section | None:
    """The section of the page; None where no approximation's forms are known."""
    if not comparison.bounds:
        return None
    return Section(
        "The ELBO in its three forms",
        "ELBO = E_q log p(x, z) + H[q] = E_q log p(x | z) − KL(q ‖ p(z)) = log p(x) − "
        "KL(q ‖ p(z | x)), in nats ± standard error over draws. The forms agree within their "
        "errors. Energy and entropy depend on the scale of the parameters, here the unconstrained "
        "one; their sum does not.",
        [forms_table(comparison.bounds)],
    )


def forms_table(bounds: Mapping[str, Bound]) -> Table:
    """A row an approximation, in nats with standard errors; no columns that no row fills."""
    rows = {
        name: (b.energy, b.entropy, b.data_term, b.prior_kl, b.energy_form, b.data_form,
               b.posterior_kl, residual(b), b.free_energy)
        for name, b in bounds.items()
    }  # fmt: skip
    kept = [i for i in range(len(HEADINGS)) if any(cells[i] is not None for cells in rows.values())]
    return Table(
        "",
        ["Approximation", *(HEADINGS[i] for i in kept)],
        [[name, *(_shown(cells[i]) for i in kept)] for name, cells in rows.items()],
    )


def _shown(one: Estimate | None) -> str:
    if one is None:
        return "–"
    value = 0.0 if abs(one.value) < 5e-7 else one.value
    if one.se < 1e-9:
        return minus(f"{value:.3f}")
    return minus(with_error(value, one.se, missing="–"))
