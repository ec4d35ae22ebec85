"""Simulation-based calibration of an engine and a guide: from the prior, given the data, or of rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from guidebook.diagnostics.numerics.calibration import Calibration
from guidebook.diagnostics.simulation.encoded import rows_ranked
from guidebook.diagnostics.simulation.ranking import names_of
from guidebook.diagnostics.simulation.refits import Ranked, ranked
from guidebook.diagnostics.simulation.study import from_posterior, from_prior
from guidebook.errors import DataError, SettingError
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.running import check_whole, counted
from guidebook.inference.fits.status import Status
from guidebook.inference.protocols.rows import RowGuide, RowPosterior
from guidebook.inference.svi import svi
from guidebook.programs.data import takes
from guidebook.programs.owned import copied
from guidebook.scope import alone

LEAST = 20
"""Replications with which a large error can be told from chance."""


@alone()
def calibrate(
    model: Callable[..., Any],
    guide: Callable[..., Any] | None,
    data: Mapping[str, Any],
    *,
    engine: Callable[..., Fit] | None = None,
    replications: int = 100,
    of: Literal["prior", "posterior"] | Fit = "prior",
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Calibration:
    """Fits the guide to data sets whose true latents are known, and says whether its draws are calibrated.

    Truths z* are drawn, data y* given each, the engine is run on y*, and z* is ranked among the draws of its
    fit. Ranks of an exact posterior are uniform; `Calibration` says which quantity's are not, and how. Draws
    that are calibrated on average over data sets need not be right for one of them, so a calibration
    contradicts an approximation and never confirms it.

    `of="prior"` averages over the data sets that the prior gives. `of="posterior"` stays near the data at
    hand: z* is a draw of the approximation given y, y* follows from z*, and the engine is run on y and y*
    together. An approximation that keeps one of two modes keeps it in both and passes: this too only
    contradicts. `of=fit` takes the draws z* of another fit to the same data, such as one by nuts.

    An amortised guide (gb.guides.AmortizedNormal, ...) is taken as it is, trained: rows are simulated from
    the model, and the truth of each is ranked among the draws of its q(z | x). `replications` are rows.

    With `gb.svi`, and no other option than `steps`, all data sets are fitted in one recorded step, with as
    many steps as `svi` plans where none are given; fits that still move then are counted, and ranked as they
    are. Other engines are called once for each. Ctrl-C keeps the data sets that are done.

    Arguments:
        model: any Pyro model without parameters of its own, observed arguments None by default.
        guide: as the engine takes it; None for engines without a guide.
        data: the model's keyword arguments: simulated data have their shapes.
        engine: gb.svi where None; any function (model, guide, data, ...) or (model, data, ...) to a Fit.
        replications: N, at least 20. Errors of the size that a verdict of trust excludes need some 1,000.
        of: where truths come from.
        seed: decides the result alone.
        options: given to the engine.

    Raises:
        ModelError: the model cannot simulate its data, or has a flat prior (with of="prior").
        DataError, GuideError: as the engine.
        SettingError: a setting out of range.
    """
    check_whole(replications=(replications, LEAST), seed=(seed, 0))
    seed = int(seed)  # NumPy's small integers wrap around
    started = time.perf_counter()
    model, guide = copied(model, guide)  # type: ignore[arg-type]
    if isinstance(guide, RowPosterior | RowGuide):
        _rows_alone(engine, of, options)
        with counted("calibrate", replications, shown=progress, unit="row") as bar:
            names, ranks, draws = rows_ranked(model, guide, data, replications, seed, bar)
        took = time.perf_counter() - started
        return Calibration("prior", "", names, ranks, draws, replications, seconds=took, seed=seed)
    fitted = svi if engine is None else engine
    _known(fitted, guide, of)
    if of == "prior":
        study = from_prior(model, guide, data, replications, seed)
    else:
        first = of if isinstance(of, Fit) else _fit_to(model, guide, data, fitted, options, seed)
        study = from_posterior(model, guide, data, first, replications, seed)
    with counted("calibrate", replications, shown=progress, unit="fit") as bar:
        found = ranked(study, fitted, options, seed, bar)
    if not found.ranks:
        _refuse_nothing(found)
    return Calibration(
        "prior" if of == "prior" else "posterior",
        getattr(fitted, "__name__", type(fitted).__name__),
        names_of(study.potential, study.truths),
        np.array(found.ranks),
        found.draws,
        replications,
        dict(found.ended),
        found.unranked,
        time.perf_counter() - started,
        seed,
    )


def _refuse_nothing(found: Ranked) -> None:
    if not found.ended:  # Ctrl-C came before the first fit
        raise KeyboardInterrupt
    reasons = ", ".join(f"{count} {reason}" for reason, count in found.ended.items())
    raise DataError(
        f"No fit to the simulated data sets gave draws ({reasons}). Fit the engine to the data at hand "
        "first; where that works, give the model priors whose data are of their size."
    )


def _fit_to(
    model: Any, guide: Any, data: Any, engine: Callable[..., Fit], options: Any, seed: int
) -> Fit:
    """The fit to the data themselves, from which truths are drawn. Ctrl-C ends the study here."""
    parts = (model, guide, data) if takes(engine, "guide") else (model, data)
    settings = {"progress": False, "seed": seed, **options}
    fit = engine(*parts, **{k: v for k, v in settings.items() if k in options or takes(engine, k)})
    if fit.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    return fit


def _known(engine: Callable[..., Fit], guide: Any, of: Any) -> None:
    if of not in ("prior", "posterior") and not isinstance(of, Fit):
        raise SettingError(f"of={of!r} is unknown: give 'prior', 'posterior' or a Fit to the data.")
    if takes(engine, "guide") and guide is None:
        raise SettingError(
            f"guide=None, and {getattr(engine, '__name__', engine)} fits a guide: give one, such as "
            "gb.guides.mean_field(model), or an engine without one, such as engine=gb.nuts."
        )


def _rows_alone(engine: Any, of: Any, options: Mapping[str, Any]) -> None:
    if of != "prior":
        raise SettingError(
            "An amortised guide reads one row, not a row and its replicate, so it is calibrated from the "
            "prior alone: leave `of` out."
        )
    if engine is not None or options:
        given = ["engine"] * (engine is not None) + sorted(options)
        raise SettingError(
            f"An amortised guide is calibrated as it was trained, without fits: leave out {', '.join(given)}."
        )
