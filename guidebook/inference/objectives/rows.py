r"""Log importance weights of every row: what bounds, gaps and estimators of gradients are made of.

.. math:: \log w_{ki} = \log p(x_i, z_{ki}) - \log q(z_{ki} \mid x_i), \qquad
    z_{ki} \sim q(\cdot \mid x_i), \quad k = 1, \dots, K

The particles k are a plate to the left of the model's own plates, so that all of them are one run of
model and guide: a decoder must accept any leading dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from guidebook.errors import ModelError
from guidebook.inference.fits.running import check_whole

PLATE = "row"
PARTICLES = "guidebook_particles"


def row_log_weights(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Mapping[str, Any],
    particles: int,
    *,
    plate: str = PLATE,
    max_plate_nesting: int = 1,
) -> Tensor:
    r"""log p(x_i, z_ki) - log q(z_ki | x_i), shape (particles, n), differentiable in both.

    Summed over all latent and observed sites inside the plate `plate`, and not scaled: a mini-batch
    with `size` has the weights of the rows that are present. Their log-mean-exp over particles is the
    importance-weighted bound of each row, their mean its ELBO.

    Arguments: `data`, the keyword arguments of model and guide; `max_plate_nesting`, how many plates
    are nested in the model, the plate of the particles stands left of them.

    Raises SettingError for fewer than one particle, ModelError where a site stands outside the plate
    (latents that rows share have no weights by row).

    Source: Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders.
    """
    check_whole(particles=(particles, 1))
    drawn = traced(guide, data, particles, max_plate_nesting)
    scored = traced(model, data, particles, max_plate_nesting, at=values_of(drawn))
    log_p = row_log_density(scored, particles, plate, max_plate_nesting)
    return log_p - row_log_density(drawn, particles, plate, max_plate_nesting)


def traced(
    part: Callable[..., Any],
    data: Mapping[str, Any],
    particles: int,
    max_plate_nesting: int = 1,
    at: Mapping[str, Tensor] | None = None,
) -> Any:
    """A Pyro trace of all particles at once, its latent sites at the values `at` where given.

    A single particle has no plate: shapes are those of `part(**data)`.
    """

    def repeated(**arguments: Any) -> Any:
        if particles == 1:
            return part(**arguments)
        with pyro.plate(PARTICLES, particles, dim=-1 - max_plate_nesting):
            return part(**arguments)

    with At(at or {}):
        return poutine.trace(repeated).get_trace(**data)


class At(Messenger):
    """Latent sites take the given values, name to value, instead of being sampled."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = True


def latent_sites(trace: Any) -> dict[str, Any]:
    """The sites of a trace that are sampled, name to site."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)
    }


def values_of(trace: Any) -> dict[str, Tensor]:
    """What was sampled, name to value."""
    return {name: site["value"] for name, site in latent_sites(trace).items()}


def row_log_density(
    trace: Any, particles: int, plate: str = PLATE, max_plate_nesting: int = 1
) -> Tensor:
    """The log density of every row, unscaled, (particles, n): the sum over all sites of the trace.

    Raises ModelError for a site outside the plate.
    """
    trace.compute_log_prob()
    total: Tensor | None = None
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        if site["infer"].get("_deterministic"):
            continue
        dim = _dim(name, site, plate)
        values: Tensor = site["unscaled_log_prob"]
        outer = 1 + max_plate_nesting
        values = values.reshape((1,) * (outer - values.dim()) + values.shape)
        others = [d for d in range(-max_plate_nesting, 0) if d != dim]
        row = values.sum(others) if others else values
        total = row if total is None else total + row
    if total is None:
        raise ModelError(
            f"No site of the model lies in a plate called {plate!r}: give plate= the name of the "
            "pyro.plate over its rows."
        )
    return total.expand(particles, -1)


def row_scale(trace: Any, plate: str = PLATE) -> float:
    """What a row of a mini-batch stands for, size / n: the scale of the sites inside the plate."""
    for site in trace.nodes.values():
        if site["type"] == "sample" and any(f.name == plate for f in site["cond_indep_stack"]):
            scale: float = site["scale"]
            return scale
    return 1.0


def _dim(name: str, site: Any, plate: str) -> int:
    for frame in site["cond_indep_stack"]:
        if frame.name == plate:
            assert isinstance(frame.dim, int)
            return frame.dim
    raise ModelError(
        f"Site {name!r} is outside the plate {plate!r}, so importance weights of single rows are "
        f"undefined. Put it inside pyro.plate({plate!r}, ...), give another plate, or use an objective "
        "of the whole data such as pyro.infer.Trace_ELBO."
    )
