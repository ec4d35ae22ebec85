"""The tables of an amortised fit: from log evidence to ELBO, gradient noise, and the worst rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from guidebook.reports.elements.numbers import fixed, minus, with_error
from guidebook.reports.elements.section import Table
from guidebook.reports.elements.summaries import KHAT_LIMIT

if TYPE_CHECKING:
    from guidebook.diagnostics.amortized.numbers import AmortizedNumbers


def tables(numbers: AmortizedNumbers) -> list[Table]:
    """What the fit has of them, in this order."""
    made = [_ledger_table(numbers), _gradient_table(numbers), _worst_table(numbers)]
    return [table for table in made if table is not None]


def _ledger_table(numbers: AmortizedNumbers) -> Table | None:
    ledger = numbers.ledger
    if ledger is None:
        return None
    terms = ledger.terms()
    share = 0.0 if ledger.known is None else float(ledger.known.mean())
    said = {
        "evidence": "log evidence: midpoint of the next two estimates"
        if share < 1
        else "log evidence: mixtures adapted to each row’s posterior",
        "upper": "upper estimate: annealed importance sampling, reverse",
        "lower": "lower estimate: annealed importance sampling, forward",
        "bound": f"importance-weighted bound, {ledger.draws:,} draws",
        "approximation": f"− approximation gap: the best {ledger.family} of each row",
        "best_elbo": "= ELBO of the best q of each row",
        "amortisation": "− amortisation gap: the encoder against the best q",
        "gap": "− gap (no best q is known for this family)",
        "elbo": "= ELBO of the encoder",
    }
    left_out = {"gap"} if ledger.family else {"approximation", "best_elbo", "amortisation"}
    if share == 1:
        left_out |= {"upper", "lower"}
    n = len(ledger.rows)
    rows = [
        [words, minus(with_error(terms[k].value, terms[k].se)),
         minus(with_error(n * terms[k].value, n * terms[k].se))]
        for k, words in said.items() if k not in left_out
    ]  # fmt: skip
    start = (
        "exact draws of the posterior, so the upper estimate is a bound"
        if ledger.sandwich.exact_start
        else "the ends of the forward chains, resampled; the upper estimate is a bound only if these "
        "found every mode"
    )
    return Table(
        "From log evidence to ELBO",
        ["Term", "nats a row ± se", f"sum of {n} rows"],
        rows,
        f"{n} rows of the data. The standard error is Monte Carlo error, not the spread of rows. "
        f"{_how(share, start)} {ledger.blind()}".strip(),
    )


def _how(share: float, start: str) -> str:
    """Where the log evidence comes from; mixtures came close to the posterior of a share of the rows."""
    mixtures = (
        "The mixtures begin where chains from the prior end, so they see every explanation of a row that "
        "the prior reaches."
    )
    if share == 1:
        return mixtures
    chains = (
        f"Upper and lower estimates may cross within it. The reverse chains start from {start}."
    )
    if share == 0:
        return chains
    return (
        f"{chains} For {share:.0%} of the rows both are those of mixtures adapted to the row’s posterior. "
        f"{mixtures}"
    )


def _gradient_table(numbers: AmortizedNumbers) -> Table | None:
    found = numbers.gradients
    if not found:
        return None
    rows = [[name, fixed(n.norm), fixed(n.variance), fixed(n.snr)] for name, n in found.items()]
    draws = next(iter(found.values())).draws
    return Table(
        "Noise of the encoder’s gradient",
        ["Estimator", "norm of the mean", "variance", "signal to noise"],
        rows,
        f"At the end of the fit, on some rows, over {draws} draws of each estimator. Variance: summed "
        "over parameters. Signal to noise: |mean| / sd of a parameter, averaged; without any signal "
        f"it is about {0.8 / draws**0.5:.2f}.",
    )


def _worst_table(numbers: AmortizedNumbers) -> Table | None:
    worst = np.asarray(numbers.worst, dtype=int)
    index = numbers.index
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
            "Largest reconstruction error first. A deterministic code has no posterior and no k-hat.",
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
        f"Rows by their number in the data, the largest k-hat first; beyond {KHAT_LIMIT} the importance "
        "weights are unreliable. Bounds in nats; squared error of the reconstruction in the data’s units.",
    )


def _khat(value: float, error: float) -> str:
    if not np.isfinite(value):
        return "exact" if value < 0 else "not defined"
    return minus(f"{fixed(value)} ± {fixed(error)}" if np.isfinite(error) else fixed(value))
