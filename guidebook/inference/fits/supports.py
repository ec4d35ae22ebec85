"""Sites and their supports as plain values, for a file."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from guidebook.errors import FileError
from guidebook.models.energy.energy import plus_minus_one
from guidebook.programs.sites import Site


def encode_site(site: Site) -> dict[str, Any]:
    """The site, with None for a support that depends on other sites.

    Raises:
        FileError: a support that a file cannot hold.
    """
    return {
        "name": site.name,
        "shape": list(site.shape),
        "unconstrained_shape": list(site.unconstrained_shape),
        "event_dim": site.event_dim,
        "plates": [list(p) for p in site.plates],
        "varying": site.varying,
        "support": None if site.varying else encode_support(site.support),
    }


def decode_site(kept: dict[str, Any]) -> Site:
    """The site that `encode_site` was given."""
    support = constraints.real if kept["support"] is None else decode_support(kept["support"])
    return Site(
        kept["name"],
        torch.Size(kept["shape"]),
        torch.Size(kept["unconstrained_shape"]),
        kept["event_dim"],
        support,
        tuple((n, d, s) for n, d, s in kept["plates"]),
        kept["varying"],
    )


# supports ---------------------------------------------------------------------------------------

PLAIN = (
    "real", "real_vector", "positive", "nonnegative", "unit_interval", "simplex", "lower_cholesky",
    "corr_cholesky", "positive_definite", "ordered_vector", "positive_ordered_vector",
    "softplus_positive", "softplus_lower_cholesky", "unit_lower_cholesky", "sphere", "circular",
    "corr_matrix", "boolean", "one_hot", "nonnegative_integer", "positive_integer",
)  # fmt: skip

BOUNDED = {
    "_GreaterThan": (constraints.greater_than, ("lower_bound",)),
    "_GreaterThanEq": (constraints.greater_than_eq, ("lower_bound",)),
    "_LessThan": (constraints.less_than, ("upper_bound",)),
    "_Interval": (constraints.interval, ("lower_bound", "upper_bound")),
    "_HalfOpenInterval": (constraints.half_open_interval, ("lower_bound", "upper_bound")),
    "_IntegerInterval": (constraints.integer_interval, ("lower_bound", "upper_bound")),
}


def encode_support(support: Any) -> list[Any]:
    """The name of a support and its bounds.

    Raises:
        FileError: a support that is not one of those known here.
    """
    if isinstance(support, constraints.independent):
        inner = encode_support(support.base_constraint)
        return ["independent", inner, support.reinterpreted_batch_ndims]
    if type(support) is type(plus_minus_one):
        return ["plus_minus_one"]
    for name in PLAIN:
        known = getattr(constraints, name, None)
        same_kind = type(support) is type(known) and not vars(support)
        if known is not None and (support is known or same_kind):
            return [name]
    kind = type(support).__name__
    for name, (_, bounds) in BOUNDED.items():
        if kind == name:
            return [name, *[_plain_bound(getattr(support, b)) for b in bounds]]
    raise FileError(
        f"A site has support {support}, which a file cannot hold. Write the site with a support of "
        "torch.distributions.constraints."
    )


def _plain_bound(bound: Any) -> Any:
    """A bound as it is: a number stays one, since a tensor of it would take torch's default dtype."""
    return bound.detach().cpu() if isinstance(bound, Tensor) else bound


def decode_support(kept: list[Any]) -> Any:
    """The support that `encode_support` was given."""
    if kept[0] == "independent":
        return constraints.independent(decode_support(kept[1]), kept[2])
    if kept[0] == "plus_minus_one":
        return plus_minus_one
    if kept[0] in PLAIN:
        return getattr(constraints, kept[0])
    return BOUNDED[kept[0]][0](*kept[1:])
