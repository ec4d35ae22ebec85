r"""The ELBO of every approximation in its three forms, for a table of the page.

    ELBO = energy + entropy = data term - KL to the prior = log p(x) - KL(q || p(z | x))

`guidebook.diagnostics.measures.identities.bound` gives them where prior and likelihood are separate. Where a
model sums discrete sites out, z are its continuous sites, and log p(x | z) is what remains of the
joint density without their prior. Components that can change places are in one labelling, whose
densities are p_c = K! p and q_c (`guidebook.programs.labels`); the forms hold for those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from guidebook.diagnostics.measures.identities import Bound
from guidebook.diagnostics.measures.information import Estimate
from guidebook.reports.elements.numbers import minus, with_error

# the table ----------------------------------------------------------------------------------------


class FormsRow(NamedTuple):
    """One approximation: its name and the cells of its row."""

    name: str
    cells: list[str]


HEADINGS = (
    ("Energy", "E_q log p(x, z)"),
    ("Entropy", "H[q]"),
    ("Data term", "E_q log p(x | z)"),
    ("KL to prior", "KL(q ‖ p(z))"),
    ("ELBO", "energy + entropy"),
    ("ELBO", "data term − KL"),
    ("KL to posterior", "KL(q ‖ p(z | x))"),
    ("Residual", "log p(x) − ELBO − KL"),
    ("Free energy", "F = −ELBO"),
)


def residual(found: Bound) -> Estimate | None:
    """log p(x) - (ELBO + KL to the posterior): 0 but for the draws; None without the posterior."""
    if found.log_evidence is None or found.posterior_kl is None:
        return None
    value = found.log_evidence.value - found.energy_form.value - found.posterior_kl.value
    return Estimate(value, math.hypot(found.energy_form.se, found.posterior_kl.se))


def forms_table(bounds: Mapping[str, Bound]) -> tuple[list[tuple[str, str]], list[FormsRow]]:
    """Headings and rows in nats with standard errors; no columns that no row fills."""
    rows = []
    for name, b in bounds.items():
        cells = (b.energy, b.entropy, b.data_term, b.prior_kl, b.energy_form, b.data_form,
                 b.posterior_kl, residual(b), b.free_energy)  # fmt: skip
        rows.append((name, cells))
    kept = [i for i in range(len(HEADINGS)) if any(cells[i] is not None for _, cells in rows)]
    return [HEADINGS[i] for i in kept], [
        FormsRow(name, [_shown(cells[i]) for i in kept]) for name, cells in rows
    ]


def _shown(one: Estimate | None) -> str:
    if one is None:
        return "–"
    value = 0.0 if abs(one.value) < 5e-7 else one.value
    if one.se < 1e-9:
        return minus(f"{value:.3f}")
    return minus(with_error(value, one.se, missing="–"))
