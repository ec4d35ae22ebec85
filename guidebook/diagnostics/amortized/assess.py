"""Amortised guides, row by row: a joint k-hat over many local latents grows with their number.

For each row i with its own latent z_i, and K draws of q(z | x_i),

    elbo_i = mean log w,   bound_i = log mean w,   w = p(x_i, z) / q(z | x_i),

and k-hat_i, the weighted moments and their distance from the raw ones, all per row. The posterior
is that of z given the decoder as it was trained; z is all latent sites of a row side by side.

Beside the verdict on each row's posterior stand those on the model and on the codes (`uses`), the gap
ledger (`gap`), whether the latent is used
(`collapse`), and what the decoder generates (`generation`).

Sources: Cremer, Li and Duvenaud 2018, "Inference suboptimality in variational autoencoders"; Burda,
Grosse and Salakhutdinov 2016, "Importance weighted autoencoders".
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidebook.diagnostics.amortized.collapse import collapse, with_collapse
from guidebook.diagnostics.amortized.gap import GapLedger, gap_ledger
from guidebook.diagnostics.amortized.generation import generation
from guidebook.diagnostics.amortized.numbers import AmortizedNumbers
from guidebook.diagnostics.amortized.rows import (
    decoded,
    has_points,
    latents_of,
    observed,
    prior_draws,
    rows_of,
    some_rows,
)
from guidebook.diagnostics.amortized.uses import uses_of
from guidebook.diagnostics.amortized.weights import Weighed, codes, weigh
from guidebook.diagnostics.evidence.subject import Effort
from guidebook.diagnostics.judging.assessment import Assessment, numbers_of
from guidebook.diagnostics.judging.findings import Findings
from guidebook.diagnostics.judging.verdict import judge, verdicts_of_rows
from guidebook.diagnostics.measures.gradients import encoder_noise
from guidebook.diagnostics.measures.similarity import warning_images
from guidebook.diagnostics.numerics.calibration import Calibration
from guidebook.diagnostics.witnesses import calibration as calibrated
from guidebook.diagnostics.witnesses.calibration import of_calibration
from guidebook.inference.fits.fit import Fit
from guidebook.programs.graphs.recorded import recording
from guidebook.programs.owned import parameters_of
from guidebook.scope import local_parameters, precision, random_state

MOST_ROWS, QUICK_ROWS, QUICK_DRAWS, QUICK_GRADIENTS = 2000, 200, 500, 50


LEDGER_ROWS, QUICK_LEDGER, LEDGER_WEIGHTS = 100, 25, 3_000_000
"""Most rows of the gap ledger; rows x weights of the decoder, some ten seconds on a core."""


WORST = 12
QUICK = (
    f"Left out for time (effort='quick'): rows beyond {QUICK_ROWS:,} (of the gaps beyond {QUICK_LEDGER}), "
    f"draws of a row beyond {QUICK_DRAWS}, gradients beyond {QUICK_GRADIENTS}, most chains annealed from the "
    "prior and most draws of their mixtures."
)


def assess_rows(
    fit: Fit,
    seed: int = 0,
    labels: np.ndarray | None = None,
    held_out: Any = None,
    calibration: Calibration | None = None,
    effort: Effort = "full",
) -> tuple[Assessment, AmortizedNumbers]:
    """Diagnoses up to 2,000 rows of the fit's data, the gaps of up to 100, and judges.

    Arguments: `labels`, one of each row of the data; `held_out`, rows like those that the guide
    reads, that were not trained on; `calibration` of the guide, where it was computed;
    `effort`, "quick" for 200 rows of 500 draws with fewer annealed chains, and the gaps of 25.
    """
    data, quick = observed(fit), effort == "quick"
    index = some_rows(len(data), QUICK_ROWS if quick else MOST_ROWS, seed)
    x = rows_of(fit, data, index)
    with local_parameters(), precision(x.dtype), random_state(seed), torch.no_grad(), recording():
        point = has_points(fit, x)
    found = codes(fit, x) if point else weigh(fit, x, seed, QUICK_DRAWS if quick else None, effort)
    numbers = replace(
        _pictures(fit, x, found, point, seed),
        index=index,
        labels=None if labels is None else np.asarray(labels)[index],
        left_out=found.left_out,
    )
    numbers = _completed(fit, numbers, seed, held_out, quick)
    if numbers.ledger is not None:
        numbers = replace(numbers, ledger=_with_unseen(numbers.ledger, found))
    findings = _findings(fit, found, point, calibration)
    judgement = judge(findings)
    if numbers.collapse is not None:
        judgement = with_collapse(judgement, numbers.collapse)
    numbers = replace(
        numbers,
        uses=uses_of(findings, found, numbers, judgement),
        row_verdicts=np.array([v.value for v in verdicts_of_rows(findings)]),
    )
    assessment = Assessment(
        judgement,
        numbers_of(findings, len(data) / len(x)),
        fit.engine,
        fit.seconds,
        None,
        {},
        [*findings.sentences(), *_words(fit, numbers), *([QUICK] if quick else [])],
        findings,
    )
    return assessment, numbers


def _findings(fit: Fit, found: Weighed, point: bool, calibration: Calibration | None) -> Findings:
    """What is judged; a calibration of the guide speaks on every row alike."""
    rows, heard = len(found.mean), found.heard
    if calibration is not None and not point:
        told = of_calibration(calibration, found.names, rows)
        heard = {**heard, calibrated.NAME: told}
    return Findings(
        names=found.names,
        kind="point" if point else "density",
        discrete=found.discrete,
        family=type(fit.guide).__name__,
        engine=fit.engine,
        draws=found.draws,
        converged=fit.status.good,
        status=fit.status.value,
        posteriors=rows,
        testimonies=heard,
        sampled=found.sampled,
    )


def _with_unseen(ledger: GapLedger, found: Weighed) -> GapLedger:
    """The ledger, and of how many of the random rows the guide leaves out an explanation, where some row of
    the ledger has no estimate that would see it.
    """
    if found.elsewhere is None or found.sampled is None:
        return ledger
    if ledger.known is not None and ledger.known.all():
        return ledger
    return replace(ledger, unseen=float((found.elsewhere[list(found.sampled)] > 0).mean()))


def _words(fit: Fit, numbers: AmortizedNumbers) -> list[str]:
    said = []
    if not numbers.point:
        gap = numbers.bound - numbers.elbo
        said.append(
            f"Importance-weighted bound above the ELBO by {np.nanmean(gap):.3g} nats a row on "
            f"average, {np.nanmax(gap):.3g} at most."
        )
    if numbers.ledger is not None:
        said.append(numbers.ledger.sentence())
    said += [one.sentence() for one in (numbers.collapse, numbers.generation) if one is not None]
    return [*said, *_training(fit), f"Rows: {len(numbers.khat)} assessed."]


def _training(fit: Fit) -> list[str]:
    """What the fit noted of rows that it held out."""
    notes, said = fit.notes, []
    if "held_out_rows" in notes:
        said.append(
            f"Bound of {notes['held_out_rows']:,} rows held out of the fit: "
            f"{notes['held_out_bound']:.4g} nats a row (standard error {notes['held_out_error']:.1g}); of "
            f"the training rows: {notes['training_bound']:.4g}."
        )
    return said + ([notes["overfitting"]] if "overfitting" in notes else [])


# pictures ----------------------------------------------------------------------------------------


def _pictures(fit: Fit, x: Tensor, found: Weighed, point: bool, seed: int) -> AmortizedNumbers:
    mean = found.mean
    d = mean.shape[1]
    steps = torch.linspace(-2.5, 2.5, 9)
    with local_parameters(), precision(x.dtype), random_state(seed), torch.no_grad(), recording():
        latents = latents_of(fit, x)
        z = torch.as_tensor(mean, dtype=x.dtype, device=x.device)
        reconstruction = decoded(fit, z, latents)
        samples = decoded(fit, prior_draws(fit, 48, latents, z), latents)
        order = np.argsort(-mean.std(0))[: min(d, 10)]
        grid = torch.zeros(len(order), len(steps), d, dtype=x.dtype, device=x.device)
        for row, dimension in enumerate(order):
            grid[row, :, dimension] = steps.to(grid)
        traversals = decoded(fit, grid.reshape(-1, d), latents)
    flat = x.reshape(len(x), -1).double().cpu().numpy()
    side = math.isqrt(flat.shape[1])
    if point:
        badness = np.square(reconstruction - flat).sum(1)
    else:
        badness = np.where(np.isfinite(found.khat), found.khat, -1.0)
        badness = badness + 1e-3 * (found.bound - found.elbo)
    finite = found.khat_se[np.isfinite(found.khat_se)]
    return AmortizedNumbers(
        data=flat,
        khat=found.khat,
        khat_se=float(np.median(finite)) if len(finite) else math.nan,
        khat_ses=found.khat_se,
        elbo=found.elbo,
        bound=found.bound,
        reconstruction=reconstruction,
        latent_mean=mean,
        latent_sd=found.sd,
        prior_samples=samples,
        traversals=traversals.reshape(len(order), len(steps), -1),
        worst=np.argsort(-badness)[:WORST],
        image_shape=(side, side) if side * side == flat.shape[1] and side > 3 else None,
        point=point,
    )


def _completed(
    fit: Fit, numbers: AmortizedNumbers, seed: int, held_out: Any, quick: bool
) -> AmortizedNumbers:
    """The numbers with the ledger, the collapse, the generation and the warning, where there are."""
    few = {"rows": QUICK_ROWS, "draws": QUICK_DRAWS // 2} if quick else {}
    made = generation(fit, held_out=held_out, seed=seed, **few)
    warned = None
    if numbers.image_shape is not None:
        some = some_rows(len(numbers.data), 200, seed)
        warned = warning_images(numbers.data[some].reshape(-1, *numbers.image_shape))
    numbers = replace(numbers, generation=made, warned=warned)
    if numbers.point:
        return numbers
    looked = {"rows": QUICK_ROWS} if quick else {}
    numbers = replace(numbers, collapse=collapse(fit, seed=seed, **looked))
    weights = sum(p.numel() for p in parameters_of(fit.model)) or 1
    most = QUICK_LEDGER if quick else LEDGER_ROWS
    rows = int(min(most, max(12, LEDGER_WEIGHTS // weights)))
    if _all_real(fit):
        numbers = replace(numbers, ledger=gap_ledger(fit, rows=rows, seed=seed, data=held_out))
        fewer = {"draws": QUICK_GRADIENTS} if quick else {}
        numbers = replace(numbers, gradients=encoder_noise(fit, seed=seed, **fewer))
    return numbers


def _all_real(fit: Fit) -> bool:
    x = rows_of(fit, observed(fit), np.zeros(1, int))
    with local_parameters(), precision(x.dtype), random_state(0), torch.no_grad(), recording():
        return all(one.real for one in latents_of(fit, x))
