"""Did a stochastic fit arrive? What its last fifth says, and what restarts say of each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from guidebook.inference.gradient.course import still_falls
from guidebook.inference.gradient.problem import Problem
from guidebook.inference.protocols.mode import defaults_of
from guidebook.programs.graphs.recorded import eager, recording

GRADIENT_LIMIT = 0.1
"""Of the mean gradient in standardised parameters, in nats per posterior standard deviation: near the
optimum the objective has unit curvature in them, so this is a distance of a tenth of one."""
LEAST_TO_JUDGE = 100
"""Steps below which a history is too short to be called flat."""
AWAKE = 0.01
"""The share of its highest below which a rate moves nothing any more: the default's least."""
DRAWS_OF_A_RESTART = 1000
DRAWS_TO_FIND_A_NAN = 500


def converged(guide: Any, history: Tensor, halves: Mapping[str, Tensor], gradient: Tensor) -> bool:
    """Whether the objective is flat, and parameters and gradient at rest where that can be said.

    It can of guides whose parameters are measured in posterior standard deviations. `history`
    (steps,); `halves` has the parameters' means over the two halves of the last fifth, `first` and
    `second` (P,), and `gradient` (P,) is the mean gradient over the second.
    """
    if len(history) < LEAST_TO_JUDGE or not bool(history.isfinite().all()):
        return False
    if not flat_at_the_end(history.double().cpu().numpy()):
        return False
    if defaults_of(guide).standardised:
        drift = (halves["first"] - halves["second"]).abs().max()
        return bool(drift < GRADIENT_LIMIT) and bool(gradient.abs().max() < GRADIENT_LIMIT)
    return True


def flat_at_the_end(history: np.ndarray) -> bool:
    """Whether the objective's mean over the last fifth is not clearly below that of the fifth before."""
    return not still_falls(history, max(20, len(history) // 5))


def froze(history: np.ndarray, rates: Tensor) -> str:
    """What to say where a schedule ended the descent: its rates, (steps,) or (steps, groups), were below
    `AWAKE` of their highest for good before the objective was flat. "" where they did not end it.
    """
    rates = rates[: len(history)]
    awake = (rates >= AWAKE * rates.amax(0)).reshape(len(rates), -1).any(1)
    steps = int(awake.nonzero().max()) + 1 if bool(awake.any()) else 0
    before = history[:steps]
    if steps == len(history) or (steps >= LEAST_TO_JUDGE and flat_at_the_end(before)):
        return ""
    return (
        f"The schedule of optim had let the rate fall below {AWAKE:.0%} of its highest after {steps:,} "
        "steps, before the objective was flat: let it fall more slowly."
    )


def restarts_rhat(problem: Problem, rows: Tensor, place: Callable[[Tensor], Any]) -> float:
    """The largest R-hat over sites across draws of the fitted restarts (Vehtari et al. 2021)."""
    import xarray as xr
    from arviz_stats.base import array_stats

    chains: dict[str, list[np.ndarray]] = {}
    with torch.no_grad(), recording():
        for row in rows:
            guide = place(row)

            def one(_: Tensor, guide: Any = guide) -> dict[str, Tensor]:
                trace = poutine.trace(guide).get_trace(**problem.data)
                return {
                    n: s["value"]
                    for n, s in trace.nodes.items()
                    if s["type"] == "sample"
                    and not s["is_observed"]
                    and not site_is_subsample(s)
                    and not s["infer"].get("is_auxiliary")
                }

            number = torch.zeros(DRAWS_OF_A_RESTART, device=problem.device)
            for name, value in torch.func.vmap(one, randomness="different")(number).items():
                flat = value.reshape(len(number), -1).double().cpu().numpy()
                chains.setdefault(name, []).append(flat)
    worst = 1.0
    for values in chains.values():
        stacked = xr.DataArray(np.stack(values), dims=("chain", "draw", "x")).values
        for column in range(stacked.shape[-1]):
            if not (np.ptp(stacked[..., column], axis=1) > 0).all():
                continue  # a point guide has no spread to compare with
            rhat = float(array_stats.rhat(stacked[..., column], chain_axis=0, draw_axis=1))
            worst = max(worst, rhat) if math.isfinite(rhat) else worst
    return worst


def cause_of_nan(problem: Problem, step: int, objective: float) -> str:
    """The site that gives a value or density that is not finite, with the likely cause."""
    if math.isfinite(objective):
        return (
            f"step {step}: the objective is finite and its gradient is not; probably a square root "
            "or logarithm at zero in the model. Add a small constant inside it."
        )
    data = problem.batch(step)
    with torch.no_grad(), eager():
        for _ in range(DRAWS_TO_FIND_A_NAN):
            try:
                guide = poutine.trace(problem.guide).get_trace(**data)
                model = poutine.trace(poutine.replay(problem.model, trace=guide)).get_trace(**data)
            except LinAlgError:
                return (
                    f"step {step}: a matrix is not positive definite at a draw of the guide. Add a small "
                    "number to its diagonal."
                )
            for part, trace in (("guide", guide), ("model", model)):
                found = _not_finite(part, trace)
                if found:
                    return f"step {step}: {found}"
    return (
        f"step {step}: the objective was not finite at a rare draw of the guide (none of "
        f"{DRAWS_TO_FIND_A_NAN} further draws repeats it); probably a value left the support or "
        "overflowed. Narrow the guide's first scale."
    )


def _not_finite(part: str, trace: Any) -> str:
    """The first site of a trace whose value or density is not finite, in words; "" if there is none."""
    for name, site in trace.nodes.items():
        if site["type"] != "sample":
            continue
        if not bool(torch.as_tensor(site["value"]).isfinite().all()):
            return (
                f"the value of site '{name}' in the {part} is not finite; probably a parameter "
                "diverged. Lower the step size or standardise the data."
            )
        if not bool(site["fn"].log_prob(site["value"]).isfinite().all()):
            return (
                f"log_prob of site '{name}' in the {part} is not finite; probably a scale reached "
                "zero or a value left the support. Give the scale a prior away from zero, or check "
                "the units of the data."
            )
    return ""
