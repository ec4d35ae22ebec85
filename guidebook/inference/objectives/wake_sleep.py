r"""Reweighted wake-sleep row by row: the objective that `guidebook.inference.wake_sleep` minimises.

.. math:: -\sum_i \log \frac 1K \sum_k w_{ki} \ \text{ for the model}, \qquad
    -\sum_i \sum_k v_{ki} \log q(z_{ki} \mid x_i), \quad v_{ki} = w_{ki} / \sum_j w_{ji}
    \ \text{ for the guide},

with the draws and v held fixed in the second. Source: Bornschein & Bengio (2015), Reweighted
wake-sleep.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ReweightedWakeSleep
from torch import Tensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

from guidebook.errors import GuideError, SettingError
from guidebook.scope import replaced

PARTICLES = "num_particles_vectorized"


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
        # a recording refuses programs that set the seed; this puts it back as it was
        seeds = replaced((torch, "set_rng_state", torch.random.set_rng_state))
        with disable_proxy_modes_tracing(), seeds, torch.random.fork_rng(), torch.no_grad():
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
                "No argument of the model is the observed value of a site, so simulated data "
                "cannot replace it for a sleep update. Use insomnia=1 (wake updates only), or write the "
                "model with x=None and obs=x."
            )
        asleep = poutine.trace(poutine.replay(guide, trace=dream))
        return -asleep.get_trace(*args, **{**kwargs, **seen}).log_prob_sum()


def _sample_nodes(trace: Any) -> Iterator[Any]:
    return (node for node in trace.nodes.values() if node["type"] == "sample")


def _refuse_auxiliary(guide_trace: Any) -> None:
    for node in _sample_nodes(guide_trace):
        if node["infer"].get("is_auxiliary"):
            raise auxiliary_error(f"The guide samples '{node['name']}'")


def auxiliary_error(what: str) -> GuideError:
    """The error of a guide that samples an auxiliary site: `what` says which, and where."""
    return GuideError(
        f"{what}, with an auxiliary site, whose transform adds a reparameterisation gradient that the "
        "inclusive KL excludes. Give a guide with one pyro.sample per latent site "
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
