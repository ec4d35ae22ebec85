r"""Coordinate ascent variational inference in conjugate models.

With q(beta) = prod_s q_s in exponential families, natural parameters eta_s, prior eta0_s, and the
local latents summed out under q,

.. math:: \mathrm{ELBO}(\eta) = \sum_i \log \sum_{z} \exp E_q[\log p(x_i, z \mid \beta)]
    - \sum_s \mathrm{KL}(q_s \| p_s)

A sweep sets every eta_s to the expected natural parameter of its complete conditional,

.. math:: \eta_s = \eta^0_s + \nabla_{E_q[t_s]} \sum_i \log \sum_z \exp E_q[\log p(x_i, z \mid \beta)],

the prior plus the expected sufficient statistics. No sweep lowers the ELBO.

Sources: Ghahramani and Beal 2001, "Propagation algorithms for variational Bayesian learning"; Blei,
Kucukelbir and McAuliffe 2017, "Variational inference: a review for statisticians".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from guidebook.errors import DataError, GuideError, SettingError
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.opening import Run, opened
from guidebook.inference.fits.running import Steps, check_whole
from guidebook.inference.fits.status import Status
from guidebook.inference.protocols.conjugate import (
    REMEDY,
    START_ROWS,
    ConditionallyConjugate,
    UpdatesItself,
    observed,
    whole_pass,
)
from guidebook.inference.protocols.require import require
from guidebook.programs.data import number_of_rows
from guidebook.programs.owned import copied
from guidebook.programs.rows import chunks, some_rows

CHUNK = 8192


ROUNDING = 1e-9


def cavi(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Mapping[str, Any],
    *,
    sweeps: int = 1000,
    tolerance: float = 1e-8,
    seed: int = 0,
    restarts: int = 1,
    chunk: int = CHUNK,
    progress: bool = True,
    device: str | torch.device | None = None,
) -> Fit:
    """Fits the guide by sweeps over its complete conditionals.

    history is -ELBO before the first sweep and after each; it never rises. notes: `sweeps`, with
    restarts `restarts_objective`, the -ELBO where each of them ended.

    Arguments:
        guide: one with the structure of `ConditionallyConjugate` (gb.guides.MixtureMeanField), or
            with `coordinate_updates(data)`, which updates the guide and yields the ELBO per sweep.
        data: the model's keyword arguments; memory-mapped arrays are read by chunks.
        sweeps: the most passes over the data.
        tolerance: converged once the ELBO rises by at most this share of max(1, |ELBO|).
        seed, restarts: the start follows from the seed; the best of several starts is kept.
        chunk: rows at a time; memory does not grow with the number of rows.

    Raises:
        GuideError: the guide lacks the structure, or a sweep lowers the ELBO.
        DataError, ModelError, SettingError: as `svi`.
    """
    check_whole(sweeps=(sweeps, 1), restarts=(restarts, 1), chunk=(chunk, 1))
    if not 0 <= tolerance < 1:
        raise SettingError(f"tolerance={tolerance!r} is out of range: give 0 <= tolerance < 1.")
    if not isinstance(guide, UpdatesItself):
        require(guide, ConditionallyConjugate, "cavi", REMEDY)
    runs: list[Ascent] = []
    with opened(
        "cavi", model, guide, data, seed=seed, device=device, dtype=torch.float64, check=None
    ) as run:
        with run.steps(sweeps * restarts, shown=progress, unit="sweep") as steps:
            for restart in range(restarts):
                twins = copied(run.model, run.guide)
                elbos = _sweeps(run, twins[1], seed + restart, chunk, steps)
                runs.append(_ascend(twins, elbos, sweeps, tolerance, steps))
                if steps.stopped:
                    break
        best = max(runs, key=lambda one: one.elbo)
        run.model, run.guide = best.pair
        sites = run.sites_of_some_rows()
    notes: dict[str, Any] = {"sweeps": len(best.elbos) - 1}
    if restarts > 1:
        notes["restarts_objective"] = [-one.elbo for one in runs]
    return run.fit(best.status, -np.array(best.elbos), sites=sites, notes=notes)


@dataclass
class Ascent:
    """One run: its model and guide, the ELBO of every sweep, how it ended."""

    pair: tuple[Any, Any]
    elbos: list[float]
    status: Status

    @property
    def elbo(self) -> float:
        return self.elbos[-1]


def _sweeps(run: Run, guide: Any, seed: int, chunk: int, steps: Steps) -> Iterator[Any]:
    """Yield the ELBO of the guide as it is, then update it, and so on."""
    if isinstance(guide, UpdatesItself):
        yield from guide.coordinate_updates(run.tensors)
        return
    start = observed(some_rows(run.data, START_ROWS, seed, run.device))
    natural = guide.initial_natural(start, number_of_rows(run.data), seed)
    while True:
        found = whole_pass(guide, natural, chunks(run.data, chunk, run.device), steps)
        if found is None:
            return
        elbo, message = found
        guide.adopt(natural)
        yield elbo
        natural = {name: value + message[name] for name, value in guide.prior.items()}


def _ascend(
    pair: tuple[Any, Any], found: Iterator[Any], sweeps: int, tolerance: float, steps: Steps
) -> Ascent:
    """Run sweeps until the ELBO no longer rises; the guide is that of the last ELBO."""
    elbos: list[float] = []
    for value in found:
        elbo = float(value)
        if not np.isfinite(elbo):
            raise DataError(
                f"The ELBO is {elbo} after {len(elbos)} sweeps: the data have an extreme scale, or the "
                "prior is nearly improper. Standardise the columns, or give a proper prior."
            )
        if elbos and elbo < elbos[-1] - ROUNDING * max(1.0, abs(elbo)):
            raise GuideError(
                f"A sweep of cavi lowered the ELBO from {elbos[-1]:.10g} to {elbo:.10g}, and "
                "exact coordinate updates never do: check `prior`, `expected` and `local` (or "
                f"`coordinate_updates`) of {type(pair[1]).__name__} against each other."
            )
        elbos.append(elbo)
        steps.advance()
        steps.show(elbo=elbo)
        if len(elbos) > 1 and elbos[-1] - elbos[-2] <= tolerance * max(1.0, abs(elbo)):
            return Ascent(pair, elbos, Status.CONVERGED)
        if len(elbos) > sweeps or steps.stopped:
            break
    return Ascent(pair, elbos or [-np.inf], Status.STILL_MOVING)
