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

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from guidebook.errors import DataError, GuideError, SettingError
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.opening import finished
from guidebook.inference.fits.running import bar_of, check_whole, stoppable
from guidebook.inference.fits.status import Status
from guidebook.inference.protocols.conjugate import START_ROWS, observed, structured, whole_pass
from guidebook.programs.data import arguments, as_tensors, check, find_device, number_of_rows
from guidebook.programs.owned import copied
from guidebook.programs.rows import some_rows
from guidebook.programs.scope import precision, random_state

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
    started = time.perf_counter()
    check_whole(sweeps=(sweeps, 1), restarts=(restarts, 1), seed=(seed, 0), chunk=(chunk, 1))
    if not 0 <= tolerance < 1:
        raise SettingError(f"tolerance={tolerance!r} is out of range: give 0 <= tolerance < 1.")
    simple = hasattr(guide, "coordinate_updates")
    if not simple:
        structured(guide, "cavi")
    where = find_device(device, data)
    data = arguments(model, data)
    check(data)
    runs: list[Ascent] = []
    with (
        random_state(seed), precision(torch.float64), stoppable() as stop,
        bar_of("cavi", sweeps * restarts, progress) as bar,
    ):  # fmt: skip
        for restart in range(restarts):
            story, family = copied(model, guide)
            for part in (story, family):
                if isinstance(part, torch.nn.Module):
                    part.double().to(where)
            if simple:
                steps = family.coordinate_updates(as_tensors(data, torch.float64, where))
            else:
                steps = _sweeps(family, data, seed + restart, chunk, where, stop)
            runs.append(_ascend(family, steps, sweeps, tolerance, stop, bar))
            if stop.is_set():
                break
    best = max(runs, key=lambda run: run.elbo)
    notes: dict[str, Any] = {"sweeps": len(best.elbos) - 1}
    if restarts > 1:
        notes["restarts_objective"] = [-run.elbo for run in runs]
    status = Status.INTERRUPTED if stop.is_set() else best.status
    history = -np.array(best.elbos)
    return finished(story, best.guide, data, where, history, status, seed, started, "cavi", notes)


@dataclass
class Ascent:
    """One run: its guide, the ELBO of every sweep, how it ended."""

    guide: Any
    elbos: list[float]
    status: Status

    @property
    def elbo(self) -> float:
        return self.elbos[-1]


def _sweeps(
    guide: Any, data: Mapping[str, Any], seed: int, chunk: int, device: torch.device,
    stop: threading.Event,
) -> Iterator[float]:  # fmt: skip
    """Yield the ELBO of the guide as it is, then update it, and so on."""
    start = observed(some_rows(data, START_ROWS, seed, device))
    natural = guide.initial_natural(start, number_of_rows(data), seed)
    while True:
        found = whole_pass(guide, natural, data, chunk, device, stop)
        if found is None:
            return
        elbo, message = found
        guide.adopt(natural)
        yield elbo
        natural = {name: value + message[name] for name, value in guide.prior.items()}


def _ascend(
    guide: Any, steps: Iterator[Any], sweeps: int, tolerance: float, stop: threading.Event,
    bar: Any,
) -> Ascent:  # fmt: skip
    """Run sweeps until the ELBO no longer rises; the guide is that of the last ELBO."""
    elbos: list[float] = []
    for found in steps:
        elbo = float(found)
        if not np.isfinite(elbo):
            raise DataError(
                f"The ELBO is {elbo} after {len(elbos)} sweeps: data of extreme scale, or a prior "
                "that is nearly improper. Standardise the columns, or give a proper prior."
            )
        if elbos and elbo < elbos[-1] - ROUNDING * max(1.0, abs(elbo)):
            raise GuideError(
                f"A sweep of cavi lowered the ELBO from {elbos[-1]:.10g} to {elbo:.10g}, which no "
                f"conjugate update does: the parts of {type(guide).__name__} do not belong together."
            )
        elbos.append(elbo)
        bar(elbo)
        if len(elbos) > 1 and elbos[-1] - elbos[-2] <= tolerance * max(1.0, abs(elbo)):
            return Ascent(guide, elbos, Status.CONVERGED)
        if len(elbos) > sweeps or stop.is_set():
            break
    return Ascent(guide, elbos or [-np.inf], Status.STILL_MOVING)
