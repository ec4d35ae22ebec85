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

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.infer import ReweightedWakeSleep
from pyro.infer.autoguide import AutoGuide
from torch import Tensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

from guidebook.errors import GuideError, SettingError
from guidebook.inference.fit import Fit
from guidebook.inference.svi import svi

PARTICLES = "num_particles_vectorized"


def wake_sleep(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Mapping[str, Any],
    *,
    steps: int | None = None,
    batch_size: int | None = None,
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
        raise _auxiliary(f"The guide is the autoguide {type(guide).__name__}")
    objective = RowWakeSleep(particles, insomnia)
    fit = svi(
        model, guide, data, objective=objective, optim=optim, steps=steps, batch_size=batch_size,
        device=device, seed=seed, compile=compile, progress=progress, checkpoint=checkpoint,
    )  # fmt: skip
    notes = {**fit.notes, "particles": particles, "insomnia": insomnia, "kl": "inclusive"}
    return replace(fit, engine="wake_sleep", notes=notes)


class RowWakeSleep(ReweightedWakeSleep):
    """Pyro's ReweightedWakeSleep with weights row by row, as an objective of `svi`.

    `differentiable_loss` has the value of the model's loss (minus the importance-weighted bound) and
    the gradients of both losses. Where latent sites lie outside the plate over rows it weighs all
    rows at once, exactly as Pyro does.

    Arguments: `num_particles` K >= 2, `insomnia` in [0, 1], as Pyro's.
    """

    def __init__(self, num_particles: int = 16, insomnia: float = 1.0) -> None:
        super().__init__(num_particles=num_particles, insomnia=insomnia, num_sleep_particles=1)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        of_model, of_guide = self._loss(model, guide, args, kwargs)
        return of_model + of_guide - of_guide.detach()

    def _guess_max_plate_nesting(self, model: Any, guide: Any, args: Any, kwargs: Any) -> None:
        """Pyro's look at the pair, outside the recorded graph and without using up random numbers."""
        with disable_proxy_modes_tracing(), torch.random.fork_rng(), torch.no_grad():
            super()._guess_max_plate_nesting(model, guide, args, kwargs)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        with torch.no_grad():
            return float(self._loss(model, guide, args, kwargs)[0])

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())

    def _loss(
        self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Minus the importance-weighted bound, and the guide's loss, both summed over all rows."""
        model_trace, guide_trace = next(self._get_traces(model, guide, args, kwargs))
        _refuse_auxiliary(guide_trace)
        row, scale = _row_plate(model_trace, guide_trace)
        log_joint = self._by_row(model_trace, row, scale)
        log_q = self._by_row(guide_trace, row, scale)
        log_w = log_joint - log_q.detach()  # (K, rows), or (K, 1) for all rows at once
        bound = log_w.logsumexp(0) - math.log(self.num_particles)
        share = log_w.detach().softmax(0)
        phi = -self.insomnia * scale * (share * log_q).sum()
        if self.insomnia < 1:
            observed = {
                n: id(node["value"]) for n, node in model_trace.nodes.items()
                if node["type"] == "sample" and node["is_observed"]
            }  # fmt: skip
            phi = phi + (1 - self.insomnia) * self._sleep(model, guide, args, kwargs, observed)
        return -scale * bound.sum(), phi

    def _by_row(self, trace: Any, row: int | None, scale: float) -> Tensor:
        """log densities summed over everything but particles and rows, one per row: (K, rows)."""
        total: Any = 0.0
        for node in _sample_nodes(trace):
            value = node["log_prob"] / scale
            if row is None:
                total = total + value.reshape(self.num_particles, -1).sum(1, keepdim=True)
            else:
                by_row = value.movedim(row, 1)  # particles are the leftmost plate
                total = total + by_row.reshape(*by_row.shape[:2], -1).sum(2)
        return total

    def _sleep(
        self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any],
        observed: Mapping[str, int],
    ) -> Tensor:  # fmt: skip
        """-log q(z | x) of one data set drawn from the model, of as many rows as were given.

        `observed` gives the identity of the value of each observed site, by which the argument is
        found that is to be replaced by simulated data.
        """
        dream = poutine.trace(poutine.uncondition(model)).get_trace(*args, **kwargs)
        dream.detach_()
        names = {value: name for name, value in observed.items()}
        seen = {
            k: dream.nodes[names[id(v)]]["value"] for k, v in kwargs.items() if id(v) in names
        }  # fmt: skip
        if not seen:
            raise GuideError(
                "No argument of the model is the observed value of a site, so the guide cannot be "
                "shown simulated data. Use insomnia=1 (wake updates only)."
            )
        asleep = poutine.trace(poutine.replay(guide, trace=dream))
        return -asleep.get_trace(*args, **{**kwargs, **seen}).log_prob_sum()


def _sample_nodes(trace: Any) -> Iterator[Any]:
    return (node for node in trace.nodes.values() if node["type"] == "sample")


def _refuse_auxiliary(guide_trace: Any) -> None:
    for node in _sample_nodes(guide_trace):
        if node["infer"].get("is_auxiliary"):
            raise _auxiliary(f"The guide samples '{node['name']}'")


def _auxiliary(what: str) -> GuideError:
    return GuideError(
        f"{what}, with an auxiliary site whose transform would let gradients pass that the inclusive "
        "KL must not have. Give a guide with one pyro.sample per latent site "
        "(gb.guides.AmortizedNormal), or use ep or nuts for global latents."
    )


def _row_plate(model_trace: Any, guide_trace: Any) -> tuple[int | None, float]:
    """The dim of the plate that all sites share, None where there is none, and rows over present.

    Raises SettingError where rows are a mini-batch and latent sites lie outside their plate: the
    weight of a batch would then be raised to the power size / present.
    """
    nodes = [*_sample_nodes(model_trace), *_sample_nodes(guide_trace)]
    frames = [
        {f.name: f for f in node["cond_indep_stack"] if f.vectorized and f.name != PARTICLES}
        for node in nodes
    ]
    shared = [f for n, f in frames[0].items() if all(n in other for other in frames)]
    if shared:
        frame = min(shared, key=lambda f: f.dim)
        return frame.dim, frame.full_size / frame.size
    if any(f.full_size != f.size for stack in frames for f in stack.values()):
        raise SettingError(
            "batch_size needs a model whose latent sites all lie in the plate over rows: the weight "
            "of a global latent is that of all rows. Leave batch_size=None."
        )
    return None, 1.0
