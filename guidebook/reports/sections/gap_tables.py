"""NEEDS A DOCSTRING: guidebook.reports.sections.gap_tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from guidebook.reports.elements.numbers import fixed, minus, with_error
from guidebook.reports.elements.section import Table
from guidebook.reports.sections.row_figures import KHAT_LIMIT

if TYPE_CHECKING:
    from guidebook.diagnostics.amortized.gap import GapLedger
    from guidebook.diagnostics.amortized.numbers import AmortizedNumbers


def tables(numbers: AmortizedNumbers) -> list[Table]:
    """The gap ledger, the noise of gradients, and the worst rows."""
    made = [_ledger_table(numbers), _gradient_table(numbers), _worst_table(numbers)]
    return [table for table in made if table is not None]


def _ledger_table(numbers: AmortizedNumbers) -> Table | None:
    ledger: GapLedger | None = getattr(numbers, "ledger", None)
    if ledger is None:
        return None
    terms = ledger.terms()
    said = {
        "evidence": "log evidence: middle of the two below",
        "upper": "annealed importance sampling, backwards (upper)",
        "lower": "annealed importance sampling, forwards (lower)",
        "bound": f"importance-weighted bound, {ledger.draws:,} draws",
        "approximation": f"− approximation gap: the best {ledger.family} of each row",
        "best_elbo": "= ELBO of the best q of each row",
        "amortisation": "− amortisation gap: what the encoder loses",
        "gap": "− gap (the best q of this family is not known)",
        "elbo": "= ELBO of the encoder",
    }
    left_out = ("gap",) if ledger.family else ("approximation", "best_elbo", "amortisation")
    n = len(ledger.rows)
    rows = [
        [words, minus(with_error(terms[k].value, terms[k].se)),
         minus(with_error(n * terms[k].value, n * terms[k].se))]
        for k, words in said.items() if k not in left_out
    ]  # fmt: skip
    start = (
        "exact draws of the posterior, so upper is a bound"
        if ledger.sandwich.exact_start
        else "the forward chains’ ends, resampled: upper is a bound only if these found every mode"
    )
    return Table(
        "Gap ledger",
        ["Term", "nats a row ± se", f"sum of {n} rows"],
        rows,
        f"{n} rows of the data. The se is Monte Carlo error, not the spread of rows; upper and lower may "
        f"cross within it. The backward chains start from {start}.",
    )


def _gradient_table(numbers: AmortizedNumbers) -> Table | None:
    found = getattr(numbers, "gradients", None)
    if not found:
        return None
    rows = [[name, fixed(n.norm), fixed(n.variance), fixed(n.snr)] for name, n in found.items()]
    draws = next(iter(found.values())).draws
    return Table(
        "The noise of the encoder’s gradient",
        ["Estimator", "length of the mean", "variance", "signal to noise"],
        rows,
        f"At the end of the fit, on some rows, over {draws} draws of each estimator. Variance: of all "
        "parameters, summed. Signal to noise: |mean| / sd of a parameter, averaged; its floor is about "
        f"{0.8 / draws**0.5:.2f}, that of no signal at all.",
    )


def _worst_table(numbers: AmortizedNumbers) -> Table | None:
    worst = np.asarray(numbers.worst, dtype=int)
    index = getattr(numbers, "index", None)
    if index is None or len(worst) == 0:
        return None
    error = np.square(numbers.reconstruction - numbers.data).sum(1)
    number = [f"#{index[i]}" for i in worst]
    if numbers.labels is not None:
        number = [f"{n} ({numbers.labels[i]})" for n, i in zip(number, worst, strict=True)]
    if numbers.point:
        rows = [[n, fixed(error[i])] for n, i in zip(number, worst, strict=True)]
        return Table(
            "The worst rows", ["Row", "squared error"], rows,
            "Largest reconstruction error first. A deterministic code: no posterior, so no k-hat.",
        )  # fmt: skip
    ses = numbers.khat_ses if numbers.khat_ses is not None else np.full(len(numbers.khat), np.nan)
    rows = [
        [n, _khat(numbers.khat[i], ses[i]), minus(fixed(numbers.elbo[i])),
         minus(fixed(numbers.bound[i])), minus(fixed(numbers.bound[i] - numbers.elbo[i])),
         fixed(error[i])]
        for n, i in zip(number, worst, strict=True)
    ]  # fmt: skip
    return Table(
        "The worst rows",
        ["Row", "k-hat ± se", "ELBO", "bound", "bound − ELBO", "squared error"],
        rows,
        f"Rows by their number in the data, the largest k-hat first; beyond {KHAT_LIMIT} weights "
        "cannot be used. Nats; squared error of the reconstruction, in the data’s units.",
    )


def _khat(value: float, error: float) -> str:
    if not np.isfinite(value):
        return "exact" if value < 0 else "not defined"
    return minus(f"{fixed(value)} ± {fixed(error)}" if np.isfinite(error) else fixed(value))
