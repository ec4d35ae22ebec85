r"""Reweighted wake-sleep: the inclusive KL, KL(p(z | x) || q(z | x)), for amortised guides.

With K particles z_k ~ q(z | x) of a row x, w_k = p(x, z_k) / q(z_k | x) and v_k = w_k / sum_j w_j,

    wake, model:   maximise  log 1/K sum_k w_k                    (the importance-weighted bound)
    wake, guide:   maximise  sum_k v_k log q(z_k | x)             v_k and z_k held fixed
    sleep, guide:  maximise  log q(z | x),   z, x ~ p(z) p(x | z) drawn from the model

The wake update of the guide follows -E_{p(z | x)}[grad log q(z | x)] estimated with self-normalised
weights, biased by O(1 / K); the sleep update follows it without bias, averaged over the model's own
p(x) instead of the data. Where the exclusive KL of `svi` makes a guide too narrow, this one makes it
too wide: a diagonal normal has the posterior's marginal variances, not the conditional ones.

It is Pyro's `ReweightedWakeSleep`, with one difference: Pyro weighs a particle of all rows at once,
and those weights degenerate as rows are added. Where all sites lie in one plate over rows, each row
here has its own weights, so mini-batches are right too.

Sources: Bornschein and Bengio 2015, "Reweighted wake-sleep"; Le, Kosiorek, Siddharth, Teh and Wood
2019, "Revisiting reweighted wake-sleep for models with stochastic control flow"; Hinton, Dayan, Frey
and Neal 1995, "The wake-sleep algorithm for unsupervised neural networks".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pyro.infer.autoguide import AutoGuide

from guidebook.errors import SettingError
from guidebook.inference.fits.fit import Fit
from guidebook.inference.objectives.wake_sleep import RowWakeSleep, auxiliary_error
from guidebook.inference.svi import svi
from guidebook.programs.rows import Rows


def wake_sleep(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Mapping[str, Any] | Rows | Iterable[Mapping[str, Any]],
    *,
    steps: int | Literal["auto"] = "auto",
    batch_size: int | None = None,
    size: int | None = None,
    particles: int = 16,
    insomnia: float = 1.0,
    optim: Any = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    compile: bool | str = "auto",
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> Fit:
    """Fits the guide by the inclusive KL, and the model by the importance-weighted bound.

    It is `svi` with the objective `RowWakeSleep`: the arguments not named here are those of `svi`.
    To fit the guide of a model that is already trained, freeze it: model.requires_grad_(False). The
    history is minus the importance-weighted bound of the step's rows.

    Arguments:
        guide: a guide with one pyro.sample per latent site, such as AmortizedNormal; autoguides
            (gb.guides.full_rank, ...) sample an auxiliary site, whose transform lets gradients pass
            that the inclusive KL must not have.
        particles: K, at least 2.
        insomnia: the share of the wake update of the guide, the rest is the sleep update; 0 is the
            pure sleep phase, in which the data reach the guide through the trained model only.

    Raises:
        SettingError: particles, insomnia or a setting of svi out of range; batch_size with a model
            that has latent sites outside the plate over rows.
        GuideError: a guide with auxiliary sites.
        DataError, ModelError, FileError: as `svi`.
    """
    whole = isinstance(particles, (int, np.integer)) and not isinstance(particles, bool)
    if not whole or particles < 2:
        raise SettingError(
            f"particles={particles!r} is out of range: give a whole number of at least 2; the "
            "weights of one particle are always 1."
        )
    if not 0 <= insomnia <= 1:
        raise SettingError(f"insomnia={insomnia!r} is out of range: give a number from 0 to 1.")
    if isinstance(guide, AutoGuide):  # said here: an error while recording would only be a warning
        raise auxiliary_error(f"The guide is the autoguide {type(guide).__name__}")
    objective = RowWakeSleep(particles, insomnia)
    fit = svi(
        model, guide, data, objective=objective, optim=optim, steps=steps, batch_size=batch_size,
        size=size, device=device, seed=seed, compile=compile, progress=progress, checkpoint=checkpoint,
    )  # fmt: skip
    notes = {**fit.notes, "particles": particles, "insomnia": insomnia, "kl": "inclusive"}
    return replace(fit, engine="wake_sleep", notes=notes)
