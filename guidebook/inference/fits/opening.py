"""How every engine begins and ends: model, guide and data checked, copied, and one `Fit` at the end.

An engine is its algorithm between the two::

    def laplace(model, data, *, seed=0, device=None) -> Fit:
        with opened("laplace", model, FullRank(model), data, seed=seed, device=device) as run:
            climb = Climb(Potential(run.model, run.tensors, run.guide.sites))
            ...
        return run.fit(Status.CONVERGED, sites=run.guide.sites, notes={...})

Inside the block `run.model` and `run.guide` are copies in the precision and on the device of the
fit, parameters live in their modules, torch's default dtype is `run.dtype`, and torch's random
numbers follow from the seed; afterwards all of it is as the user had it. No other thread's engine
works meanwhile (`guidebook.scope`). The pair has been run once on the data, by `check`:

- `pair_runs`: model and guide on all rows (the default);
- `model_runs`: the model alone, for an engine without a guide or with one that draws nothing;
- a function of the run of the engine's own, such as one that takes a mini-batch;
- None: the engine reads the rows by chunks, and ends with `run.sites_of_some_rows()`.

A check that fails because a constant of the model is in float32 is tried again in that precision.
A loop is `with run.steps(total, shown=progress) as steps: for step in steps: ...`: it ends at Ctrl-C,
and then the fit is INTERRUPTED whatever status the engine gives; its notes say after how many steps.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.running import Steps, check_whole, counted
from guidebook.inference.fits.status import Status
from guidebook.programs.batches.source import Source, admitted
from guidebook.programs.check import check_model, check_pair
from guidebook.programs.data import as_tensors, find_device
from guidebook.programs.owned import (
    copied,
    own_parameters,
    owning,
    settled,
    working_precision,
)
from guidebook.programs.rows import some_rows
from guidebook.programs.sites import Site, latent_sites
from guidebook.programs.statements import evaluated
from guidebook.scope import alone, local_parameters, precision, random_state

CHECKED_ROWS = 100
LISTED = 5
"""Parameters that a warning names."""


@dataclass
class Run:
    """An engine at work. An engine that makes a model or a guide anew puts it in the place of ours.

    Attributes:
        engine: its name.
        model, guide: copies that are the engine's to change; guide None for engines without one.
        data: the model's keyword arguments as they were given, checked; None of rows that are read
            as the fit goes, which it does not keep.
        dtype, device, seed: of the fit.
        started: the clock at the opening, in seconds.
        interrupted: whether Ctrl-C ended a loop.
        noted: what the fit's notes will hold besides those of the engine.
    """

    engine: str
    model: Any
    guide: Any
    data: Any
    dtype: torch.dtype
    device: torch.device
    seed: int
    started: float
    interrupted: bool = False
    noted: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def tensors(self) -> dict[str, Any]:
        """All of the data as tensors in the dtype and on the device of the fit."""
        return as_tensors(self.data, self.dtype, self.device)

    def latent_sites(self, *, discrete: bool = False) -> tuple[Site, ...]:
        """The model's latent sites at the data; ModelError for a discrete one unless allowed."""
        with torch.no_grad():
            return latent_sites(self.model, self.tensors, discrete=discrete)

    def sites_of_some_rows(self) -> tuple[Site, ...]:
        """The latent sites, of a pair whose latents are global, checked on at most 100 rows.

        Raises:
            ModelError, GuideError, DataError: as `check_pair`.
        """
        with random_state(self.seed), torch.no_grad():
            rows = some_rows(self.data, CHECKED_ROWS, 0, self.device, self.dtype)
            check_pair(self.model, self.guide, rows)
            return latent_sites(self.model, rows, discrete=True)

    @contextlib.contextmanager
    def steps(
        self, total: int, *, shown: bool, unit: str = "step", done: int = 0
    ) -> Iterator[Steps]:
        """The numbers of the steps, with a progress bar where it is shown, until Ctrl-C."""
        with counted(self.engine, total, shown=shown, unit=unit, done=done) as steps:
            try:
                yield steps
            finally:
                if steps.stopped:
                    self.interrupted = True
                    self.noted["interrupted"] = f"after {steps.done:,} of {steps.total:,} {unit}s"

    def hold_parameters(self) -> None:
        """Of an engine that trains none of the model's own parameters: the fit notes their names in
        `held_parameters`. The model is in evaluation mode; a warning where it was not trained before.
        """
        names = own_parameters(self.model)
        trained = not getattr(self.model, "training", False)
        if isinstance(self.model, torch.nn.Module):
            self.model.eval()
        if not names:
            return
        if not trained:  # svi hands its models back in evaluation mode
            listed = ", ".join(f"'{name}'" for name in names[:LISTED]) + " ..." * (
                len(names) > LISTED
            )
            warnings.warn(
                f"{self.engine} holds the model's own parameters at their initial values: {listed}. To "
                "hold trained values, give it the model of a fit: "
                f"gb.{self.engine}(gb.svi(model, guide, data).model, data).",
                stacklevel=4,
            )
        self.noted["held_parameters"] = names

    def fit(
        self,
        status: Status,
        history: Sequence[float] | np.ndarray = (),
        *,
        sites: tuple[Site, ...] = (),
        draws: Tensor | None = None,
        draws_are: Literal["chains", "particles"] = "chains",
        notes: Mapping[str, Any] | None = None,
    ) -> Fit:
        """The Fit, timed from the opening to now; `history` holds the objective of every step."""
        if self.interrupted and status is not Status.STOPPED_BY_NAN:
            status = Status.INTERRUPTED
        if status is Status.INTERRUPTED:
            self.noted.setdefault("interrupted", f"after {len(history):,} steps")
        return Fit(
            self.model, self.guide, self.data, np.array(history, dtype=np.float64), status,
            self.seed, time.perf_counter() - self.started, self.engine, sites, draws,
            self.noted | dict(notes or {}), draws_are,
        )  # fmt: skip


def pair_runs(run: Run) -> None:
    """Model and guide run once on all rows; builds lazy guides. Raises as `check_pair`."""
    check_pair(run.model, run.guide, run.tensors)
    _place(run.guide, run.device)  # what the guide has just built


def model_runs(run: Run) -> None:
    """The model runs once at the origin on all rows. Raises as `check_model`."""
    check_model(run.model, run.tensors)


@contextlib.contextmanager
def opened(
    engine: str,
    model: Callable[..., Any],
    guide: Callable[..., Any] | None,
    data: Mapping[str, Any] | Source,
    *,
    seed: int,
    device: str | torch.device | None,
    dtype: torch.dtype | None = None,
    check: Callable[[Run], None] | None = pair_runs,
) -> Iterator[Run]:
    """Opens an engine on a pair and its data; see the module for what holds inside the block.

    Arguments:
        data: the model's keyword arguments, or a source of batches that was admitted.
        device: None for where the data are.
        dtype: of everything in the fit; None for that of the networks, float64 where there are none.
        check: how model and guide are tried before the engine begins.

    Raises:
        SettingError: the seed or the device.
        DataError: data that do not fit the model's arguments, are empty or not finite.
        ModelError, GuideError: of the check.
    """
    started = time.perf_counter()
    check_whole(seed=(seed, 0))
    seed = int(seed)  # NumPy's integers are not taken by all, and wrap around
    source = data if isinstance(data, Source) else admitted(model, data, batch_size=None, size=None)
    place = find_device(device, source.held)

    def attempt(found: torch.dtype) -> Run:
        scopes.close()  # of an attempt in another precision
        twins = copied(model, guide)  # type: ignore[arg-type]
        for part in twins:
            _place(part, place, dtype)
        pair = twins if check is None else owning(*twins, (model, guide))
        run = Run(engine, *pair, source.held, found, place, seed, started)
        for scope in (local_parameters(), precision(run.dtype), random_state(seed)):
            scopes.enter_context(scope)
        by_rows = check is None or source.batch_size is not None
        with evaluated(*pair):  # running averages of networks move in steps alone
            source.check_not_finite(run.model, run.dtype, run.device, by_rows)
            if check is not None:
                check(run)
        if check is not None:
            run.model, run.guide = settled(*pair)
        return run

    with alone(), contextlib.ExitStack() as scopes:
        yield attempt(dtype) if dtype else working_precision(model, guide, attempt)


def _place(part: Any, device: torch.device, dtype: torch.dtype | None = None) -> None:
    if isinstance(part, nn.Module):
        part.to(device, dtype)
